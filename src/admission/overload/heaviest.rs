//! Who was refused most, in a table of a fixed size (Space-Saving of Metwally, Agrawal and El Abbadi): whoever is in more
//! than a sixteenth of what it is told of is in it, and no count is too low.

/// Tenants that are kept.
const KEPT: usize = 16;

/// Refusals of each, with the fewest at the end.
#[derive(Debug, Default)]
pub(super) struct Heaviest(Vec<(u64, u64)>);

impl Heaviest {
    pub(super) fn new() -> Heaviest {
        Heaviest(Vec::with_capacity(KEPT))
    }

    /// So many more refusals of a tenant.
    pub(super) fn add(&mut self, tenant: u64, refusals: u64) {
        let kept = &mut self.0;
        let index = match kept.iter().position(|&(own, _)| own == tenant) {
            Some(index) => index,
            None if kept.len() < KEPT => {
                kept.push((tenant, 0));
                kept.len() - 1
            }
            None => {
                // It takes the place and the count of the last one: it may have been there before.
                kept[KEPT - 1].0 = tenant;
                KEPT - 1
            }
        };
        kept[index].1 += refusals;
        let count = kept[index].1;
        let place = kept[..index].partition_point(|&(_, own)| own >= count);
        kept[place..=index].rotate_right(1);
    }

    /// Each with its refusals, the most first.
    pub(super) fn list(&self) -> Vec<(u64, u64)> {
        self.0.clone()
    }
}

#[cfg(all(test, not(sawmill_loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_often_stands_first_whoever_else_comes() {
        let mut heaviest = Heaviest::new();
        for round in 0..1_000 {
            heaviest.add(7, 1);
            if round % 2 == 0 {
                heaviest.add(8, 1);
            }
            // Many that are refused once each.
            heaviest.add(1_000 + round, 1);
        }
        let list = heaviest.list();
        assert_eq!((list[0].0, list[1].0, list.len()), (7, 8, KEPT));
        assert!(list[0].1 >= 1_000 && list[1].1 >= 500, "{list:?}");
        assert!(list.windows(2).all(|pair| pair[0].1 >= pair[1].1), "{list:?}");
    }
}
