//! A small picture of how much there was of something, minute by minute.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// How many minutes a picture shows.
pub(crate) const MINUTES: i64 = 30;
/// The height of a picture; the width of a minute is 4, with a gap of 1.
const HEIGHT: u64 = 32;

/// Units by minute, the present minute last.
pub(crate) struct Spark {
    now: i64,
    by_minute: BTreeMap<i64, u64>,
    /// The first minute that is known whole.
    since: i64,
}

/// Returns the number of the minute that an instant is in.
fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

/// A bar of the picture.
pub(crate) struct Bar {
    pub(crate) x: i64,
    pub(crate) y: u64,
    pub(crate) height: u64,
}

impl Spark {
    /// Begins a picture that ends now; what was before `since` is not known, where it is given.
    pub(crate) fn new(now: Timestamp, since: Option<Timestamp>) -> Self {
        let now = minute(now);
        let begin = now - MINUTES + 1;
        let since = since.map_or(begin, |since| begin.max(minute(since) + 1));
        Self { now, by_minute: BTreeMap::new(), since }
    }

    /// Adds units at an instant; those of other times are left out.
    pub(crate) fn add(&mut self, at: Timestamp, units: u64) {
        let minute = minute(at);
        if (self.since..=self.now).contains(&minute) {
            *self.by_minute.entry(minute).or_default() += units;
        }
    }

    /// Returns the units of the last whole minute.
    pub(crate) fn last(&self) -> u64 {
        self.by_minute.get(&(self.now - 1)).copied().unwrap_or_default()
    }

    /// Returns the most units of a minute.
    pub(crate) fn most(&self) -> u64 {
        self.by_minute.values().copied().max().unwrap_or_default()
    }

    /// Returns how many minutes it tells of, the present one among them.
    pub(crate) fn minutes(&self) -> i64 {
        (self.now - self.since + 1).max(0)
    }

    /// Returns the bars; a minute without any has none.
    pub(crate) fn bars(&self) -> impl Iterator<Item = Bar> {
        let most = self.most().max(1);
        self.by_minute.iter().map(move |(minute, units)| {
            let height = units.saturating_mul(HEIGHT).div_ceil(most).min(HEIGHT);
            Bar { x: (minute - (self.now - MINUTES + 1)) * 5, y: HEIGHT - height, height }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn units_stand_at_their_minute() {
        let mut spark = Spark::new(at("2026-11-24T10:00:30Z"), None);
        spark.add(at("2026-11-24T10:00:00Z"), 1);
        spark.add(at("2026-11-24T09:59:00Z"), 2);
        spark.add(at("2026-11-24T09:59:59Z"), 6);
        spark.add(at("2026-11-24T09:30:59Z"), 900);
        assert_eq!((spark.last(), spark.most(), spark.minutes()), (8, 8, 30));
        let bars: Vec<_> = spark.bars().map(|bar| (bar.x, bar.y, bar.height)).collect();
        assert_eq!(bars, [(140, 0, 32), (145, 28, 4)]);
    }

    #[test]
    fn a_minute_that_is_known_in_part_is_left_out() {
        let mut spark = Spark::new(at("2026-11-24T10:00:30Z"), Some(at("2026-11-24T09:57:10Z")));
        spark.add(at("2026-11-24T09:57:20Z"), 5);
        spark.add(at("2026-11-24T09:58:00Z"), 3);
        assert_eq!((spark.most(), spark.minutes()), (3, 3));
    }
}
