//! Pages of runs that are kept in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::format::INDEX_PAGE_BYTES;
use crate::sync::lock;

/// Which page: the number that was drawn for its run, and its own. That of the run's file may be another's one day, and a
/// page that is kept is not checked again.
type Name = (u64, u32);

/// Pages that were read, up to a number of them; those that were not asked for since they came go first.
#[derive(Debug)]
pub(crate) struct PageCache {
    most: usize,
    held: Mutex<Held>,
    #[cfg(test)]
    reads: std::sync::atomic::AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    pages: HashMap<Name, Cached>,
    /// In the order in which they came, or were last passed over.
    order: VecDeque<Name>,
}

#[derive(Debug)]
struct Cached {
    page: Arc<[u8]>,
    is_used: bool,
}

impl PageCache {
    /// With room for so many bytes of pages, and for one page at least.
    pub(crate) fn new(bytes: usize) -> PageCache {
        PageCache {
            most: (bytes / INDEX_PAGE_BYTES).max(1),
            held: Mutex::default(),
            #[cfg(test)]
            reads: Default::default(),
        }
    }

    pub(super) fn get(&self, name: Name) -> Option<Arc<[u8]>> {
        let mut held = lock(&self.held);
        let cached = held.pages.get_mut(&name)?;
        cached.is_used = true;
        Some(cached.page.clone())
    }

    pub(super) fn put(&self, name: Name, page: &Arc<[u8]>) {
        #[cfg(test)]
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut held = lock(&self.held);
        let Held { pages, order } = &mut *held;
        while pages.len() >= self.most && !pages.contains_key(&name) {
            let oldest = order.pop_front().expect("each page has a place in the order");
            match pages.get_mut(&oldest) {
                // A second chance; all that were used in between have theirs only once.
                Some(cached) if cached.is_used => {
                    cached.is_used = false;
                    order.push_back(oldest);
                }
                _ => drop(pages.remove(&oldest)),
            }
        }
        if pages.insert(name, Cached { page: page.clone(), is_used: false }).is_none() {
            order.push_back(name);
        }
    }

    /// How many pages were read.
    #[cfg(test)]
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Forgets the pages of the run with this nonce, which is not asked any more.
    pub(crate) fn forget(&self, nonce: u64) {
        let mut held = lock(&self.held);
        held.pages.retain(|(of, _), _| *of != nonce);
        held.order.retain(|(of, _)| *of != nonce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays() {
        let cache = PageCache::new(4 * INDEX_PAGE_BYTES);
        let page: Arc<[u8]> = vec![0; 8].into();
        for number in 0..100 {
            cache.put((1, number), &page);
            assert!(cache.get((1, 0)).is_some(), "after page {number}");
        }
        let kept = (0..100).filter(|number| cache.get((1, *number)).is_some()).count();
        assert_eq!((kept, lock(&cache.held).order.len()), (4, 4));
        cache.put((2, 0), &page);
        cache.forget(1);
        assert!(cache.get((1, 0)).is_none() && cache.get((2, 0)).is_some());
        let held = lock(&cache.held);
        assert_eq!((held.pages.len(), held.order.len()), (1, 1));
    }
}
