//! Keys as they come to a busy site: a few are asked for all the time.

/// The keys that each thread counts, in order.
///
/// Zipf's law with 0.99, by the inverse of the sum of 1/rank^0.99, as YCSB does.
pub fn zipf(threads: usize, updates: usize, keys: usize) -> Vec<Vec<u32>> {
    let theta = 0.99;
    let zeta: f64 = (1..=keys).map(|rank| (rank as f64).powf(-theta)).sum();
    let (alpha, half) = (1.0 / (1.0 - theta), 1.0 + 0.5f64.powf(theta));
    let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - theta)) / (1.0 - half / zeta);
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (u, uz) =
            ((state >> 11) as f64 / (1u64 << 53) as f64, (state >> 11) as f64 / (1u64 << 53) as f64 * zeta);
        let rank = match () {
            () if uz < 1.0 => 0,
            () if uz < half => 1,
            () => (keys as f64 * (eta * u - eta + 1.0).powf(alpha)) as usize,
        };
        // Scattered, so that hot keys do not stand beside each other.
        ((rank.min(keys - 1) as u64).wrapping_mul(0x9e37_79b9) % keys as u64) as u32
    };
    (0..threads).map(|_| (0..updates / threads).map(|_| next()).collect()).collect()
}
