//! Token buckets in whole numbers: a level in millionths and a rate in thousandths per second.

use jiff::Timestamp;

const MICRO: i64 = 1_000_000;

/// How fast a bucket refills and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Thousandths of a token per second (5 a second is 5000).
    pub milli_per_second: i64,
    /// Tokens that the bucket holds.
    pub burst: i64,
}

impl Rate {
    /// Returns the rate with both numbers multiplied.
    #[must_use]
    pub const fn times(self, scale: u32) -> Self {
        Self {
            milli_per_second: self.milli_per_second.saturating_mul(scale as i64),
            burst: self.burst.saturating_mul(scale as i64),
        }
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    level_micro: i64,
    at: Timestamp,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, at: Timestamp) -> Self {
        Self { rate, level_micro: rate.burst.saturating_mul(MICRO), at }
    }

    /// Takes that many tokens, or none when there are fewer.
    pub(crate) fn take(&mut self, now: Timestamp, tokens: i64) -> bool {
        self.refill(now);
        let wanted = tokens.saturating_mul(MICRO);
        let enough = self.level_micro >= wanted;
        if enough {
            self.level_micro -= wanted;
        }
        enough
    }

    /// Returns the whole tokens left.
    pub(crate) fn level(&mut self, now: Timestamp) -> i64 {
        self.refill(now);
        self.level_micro / MICRO
    }

    fn refill(&mut self, now: Timestamp) {
        let elapsed = now.as_microsecond().saturating_sub(self.at.as_microsecond()).max(0);
        let gained = elapsed.saturating_mul(self.rate.milli_per_second) / 1_000;
        if gained > 0 {
            let capacity = self.rate.burst.saturating_mul(MICRO);
            self.level_micro = self.level_micro.saturating_add(gained).min(capacity);
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refuses_when_empty_and_refills() {
        let start = Timestamp::UNIX_EPOCH;
        let mut bucket = Bucket::full(Rate { milli_per_second: 500, burst: 2 }, start);
        assert!(bucket.take(start, 1) && bucket.take(start, 1) && !bucket.take(start, 1));
        let later = crate::time::plus_ms(start, 1_900);
        assert!(!bucket.take(later, 1));
        let later = crate::time::plus_ms(start, 2_000);
        assert!(bucket.take(later, 1));
        assert_eq!(bucket.level(crate::time::plus_ms(start, 60_000)), 2);
    }
}
