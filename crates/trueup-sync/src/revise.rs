//! How often a listing may be told another number in one of its vendor's days.
//!
//! A vendor that counts revisions blocks a listing for the rest of the day when they are used
//! up, whatever would have to be told then. So the first ones are free, the next ones keep a
//! pause in which changes come together, and the last ones are kept for what could be oversold.
//! A zero is never held up.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use trueup_core::{ListingKey, Timestamp};
use trueup_store::Revised;

use crate::plan::Lane;

/// How much of a day's revisions is used without a pause, in percent.
const FREE_PERCENT: u64 = 60;
/// The pause between two revisions after that, in milliseconds.
const PAUSE_MS: i64 = 60_000;
/// How many of a day's revisions are kept for zeroes and decreases at most.
const KEPT_MAX: u32 = 10;

/// What a listing has used of its day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// How often it may be revised in one day of the vendor.
    pub(crate) per_day: u32,
    /// How often it was revised today.
    pub(crate) used: u32,
    /// When it was last revised.
    pub(crate) last_at: Option<Timestamp>,
    /// When the vendor's day ends.
    pub(crate) day_ends: Timestamp,
}

impl Budget {
    /// Returns until when a push must wait; `None` = it may go now.
    pub(crate) fn postpones(&self, lane: Lane, now: Timestamp) -> Option<Timestamp> {
        let free = u64::from(self.per_day) * FREE_PERCENT / 100;
        // A small budget keeps a half.
        let kept = KEPT_MAX.min(self.per_day / 2);
        let open_to_all = self.per_day - kept;
        match lane {
            Lane::Zero => return None,
            Lane::Decrease if self.used >= self.per_day => return Some(self.day_ends),
            Lane::Increase if self.used >= open_to_all => return Some(self.day_ends),
            Lane::Decrease | Lane::Increase if u64::from(self.used) < free => return None,
            Lane::Decrease | Lane::Increase => {}
        }
        let next = self.last_at?.plus_millis(PAUSE_MS);
        // A clock that was put back must not hold a listing up for longer than the pause.
        let latest = now.plus_millis(PAUSE_MS);
        (next > now).then(|| next.min(latest).min(self.day_ends))
    }
}

/// What listings that are parts of one at the vendor have used of its day, as far as they were
/// looked at since the start.
#[derive(Debug, Default)]
pub(crate) struct Together {
    day_began: Option<Timestamp>,
    parts: FxHashMap<String, BTreeMap<ListingKey, Revised>>,
}

impl Together {
    /// Takes what one part has used today by itself; returns what all of them have.
    pub(crate) fn used(
        &mut self,
        day_began: Timestamp,
        whole: String,
        key: &ListingKey,
        own: Option<Revised>,
    ) -> Option<Revised> {
        let parts = match own {
            Some(own) => {
                let parts = self.parts_of(day_began, whole);
                let known = parts.entry(key.clone()).or_insert(own);
                if own.count >= known.count {
                    *known = own;
                }
                parts
            }
            None if self.day_began == Some(day_began) => self.parts.get_mut(&whole)?,
            None => return None,
        };
        let add = |sum: Revised, part: &Revised| Revised {
            count: sum.count.saturating_add(part.count),
            at: sum.at.max(part.at),
        };
        let mut parts = parts.values();
        let first = *parts.next()?;
        Some(parts.fold(first, add))
    }

    /// Counts one revision of a part.
    pub(crate) fn revise(
        &mut self,
        day_began: Timestamp,
        whole: String,
        key: &ListingKey,
        at: Timestamp,
    ) {
        let parts = self.parts_of(day_began, whole);
        let part = parts.entry(key.clone()).or_insert(Revised { count: 0, at });
        *part = Revised { count: part.count.saturating_add(1), at };
    }

    fn parts_of(
        &mut self,
        day_began: Timestamp,
        whole: String,
    ) -> &mut BTreeMap<ListingKey, Revised> {
        if self.day_began != Some(day_began) {
            self.day_began = Some(day_began);
            self.parts.clear();
        }
        self.parts.entry(whole).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;
    const DAY_ENDS: i64 = 5_000_000;

    fn second(at: i64) -> Timestamp {
        Timestamp::from_micros(at * 1_000_000)
    }

    #[test]
    fn a_listing_is_revised_freely_then_slowly_then_downwards_only() {
        use Lane::{Decrease, Increase, Zero};
        let (minute, ends) = (Some(NOW + 30), Some(DAY_ENDS));
        // What was used today, how many seconds ago, the lane, until when it waits.
        let table = [
            (0, None, Increase, None),
            (149, Some(0), Increase, None),
            (149, Some(0), Decrease, None),
            (150, Some(30), Increase, minute),
            (150, Some(30), Decrease, minute),
            (150, Some(30), Zero, None),
            (150, Some(60), Increase, None),
            (150, Some(61), Decrease, None),
            (239, Some(30), Increase, minute),
            (239, Some(60), Increase, None),
            (240, Some(3_600), Increase, ends),
            (240, Some(30), Decrease, minute),
            (240, Some(60), Decrease, None),
            (249, Some(60), Decrease, None),
            (250, Some(3_600), Decrease, ends),
            (250, Some(0), Zero, None),
            (u32::MAX, Some(0), Zero, None),
            (u32::MAX, Some(0), Increase, ends),
            // The clock was put back by an hour.
            (200, Some(-3_600), Increase, Some(NOW + 60)),
        ];
        for (used, ago, lane, until) in table {
            let budget = Budget {
                per_day: 250,
                used,
                last_at: ago.map(|ago| second(NOW - ago)),
                day_ends: second(DAY_ENDS),
            };
            let given = budget.postpones(lane, second(NOW));
            assert_eq!(given, until.map(second), "{used} used, {ago:?} s ago, {lane:?}");
        }
    }

    #[test]
    fn parts_of_one_listing_use_one_day_together() {
        let (a, b) = (ListingKey::new("sku:A").unwrap(), ListingKey::new("sku:B").unwrap());
        let of = |count, at| Some(Revised { count, at: second(at) });
        let mut together = Together::default();
        let day = second(0);
        let mut used = |day, whole: &str, key, own| together.used(day, whole.to_owned(), key, own);
        assert_eq!(used(day, "1", &a, None), None);
        assert_eq!(used(day, "1", &a, of(3, 50)), of(3, 50));
        assert_eq!(used(day, "1", &b, of(2, 40)), of(5, 50));
        assert_eq!(used(day, "2", &b, None), None, "another listing");
        together.revise(day, "1".to_owned(), &b, second(60));
        // What the store says late, or again, is not counted twice.
        let mut used = |day, own| together.used(day, "1".to_owned(), &b, own);
        assert_eq!(used(day, of(2, 40)), of(6, 60));
        assert_eq!(used(day, of(3, 60)), of(6, 60));
        assert_eq!(used(second(86_400), None), None, "a new day");
    }

    #[test]
    fn no_pause_outlasts_the_day_and_a_small_budget_keeps_a_half() {
        let budget = |per_day, used, last_at| Budget {
            per_day,
            used,
            last_at: Some(second(last_at)),
            day_ends: second(NOW + 20),
        };
        let increase = |budget: Budget| budget.postpones(Lane::Increase, second(NOW));
        assert_eq!(increase(budget(250, 200, NOW)), Some(second(NOW + 20)));
        assert_eq!(increase(budget(4, 1, NOW)), None);
        assert_eq!(increase(budget(4, 2, NOW - 100)), Some(second(NOW + 20)));
        assert_eq!(budget(4, 3, NOW - 100).postpones(Lane::Decrease, second(NOW)), None);
        assert_eq!(increase(budget(0, 0, NOW)), Some(second(NOW + 20)));
    }

    #[test]
    fn a_day_of_constant_change_stays_within_the_vendors_limit() {
        let day_ends = second(86_400);
        let (mut used, mut last_at) = (0, None);
        // Every ten seconds the number goes up or down by one.
        for step in 0..8_640 {
            let now = second(step * 10);
            let lane = if step % 2 == 0 { Lane::Increase } else { Lane::Decrease };
            let budget = Budget { per_day: 250, used, last_at, day_ends };
            if budget.postpones(lane, now).is_none() {
                used += 1;
                last_at = Some(now);
            }
        }
        assert_eq!(used, 250);
    }
}
