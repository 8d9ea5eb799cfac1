//! How long to wait before the next try: twice as long each time, bounded, never quite the same.

use rand::Rng;

/// Returns the milliseconds before try `tries + 1`: between half and all of
/// `first × 2^(tries − 1)`, at most `max`.
pub(crate) fn millis(tries: u32, first: u64, max: u64) -> u64 {
    let whole = whole(tries, first, max);
    rand::rng().random_range(whole / 2..=whole)
}

fn whole(tries: u32, first: u64, max: u64) -> u64 {
    let doubled = 2_u64.saturating_pow(tries.saturating_sub(1));
    first.saturating_mul(doubled).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_jitters_below() {
        let table = [(0, 200), (1, 200), (2, 400), (3, 800), (5, 3_200), (6, 5_000), (99, 5_000)];
        for (tries, expected) in table {
            assert_eq!(whole(tries, 200, 5_000), expected, "{tries}");
            let millis = millis(tries, 200, 5_000);
            assert!(millis >= expected / 2 && millis <= expected);
        }
    }
}
