//! Who stands in line for a push, and who of a lane goes first.
//!
//! A listing is due by the instant since which it has waited and what it can wait: nothing at
//! zero, [`PATIENCE_MAX`] far from it. So what is near zero overtakes what is far from it, but
//! nobody is overtaken by what came in line later than that: whatever is asked for, nobody
//! starves within a lane. A listing that changes while it stands in line keeps the instant since
//! which it has waited, whichever lane it changes to.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use trueup_core::{ListingKey, Sku};

use crate::plan::{Lane, Turn};

/// How much longer a listing can wait when it is twice as far from zero.
const PATIENCE_STEP: Duration = Duration::from_secs(4);
/// How long the listing farthest from zero can wait for others of its lane.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// A listing in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) sku: Sku,
    pub(super) key: ListingKey,
    /// Since when it has waited.
    pub(super) since: Instant,
}

/// Which listings of a lane are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    All,
    /// Near zero: what never goes the bulk way.
    Near,
    /// The others.
    Far,
}

impl Rows {
    fn indices(self) -> &'static [usize] {
        match self {
            Self::All => &[NEAR, FAR],
            Self::Near => &[NEAR],
            Self::Far => &[FAR],
        }
    }
}

const NEAR: usize = 0;
const FAR: usize = 1;

/// By when a listing is due, in milliseconds since the line began, and the number that it took.
type Due = (u64, u64);

/// Listings that owe a push.
#[derive(Debug)]
pub(super) struct Line {
    began: Instant,
    next: u64,
    /// Of each lane those near zero and the others, in the order in which they go.
    rows: [[BTreeMap<Due, (Sku, ListingKey)>; 2]; Lane::ALL.len()],
    places: FxHashMap<ListingKey, Place>,
}

/// Where a listing stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    since_ms: u64,
    number: u64,
    turn: Turn,
}

impl Place {
    fn due(&self) -> Due {
        let patience = u64::try_from(patience(self.turn.distance).as_millis()).unwrap_or(u64::MAX);
        (self.since_ms.saturating_add(patience), self.number)
    }

    fn row(&self) -> (usize, usize) {
        (self.turn.lane.index(), if self.turn.is_near { NEAR } else { FAR })
    }
}

/// Returns how long a listing so far from zero can wait for others of its lane.
fn patience(distance: u64) -> Duration {
    let doublings = u64::BITS - distance.leading_zeros();
    PATIENCE_STEP.saturating_mul(doublings).min(PATIENCE_MAX)
}

impl Line {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, next: 0, rows: Default::default(), places: FxHashMap::default() }
    }

    /// Puts a listing in line that has waited since then; one that stands in it has waited as
    /// long as it has.
    pub(super) fn put(&mut self, turn: Turn, waiting: Waiting) {
        let Waiting { sku, key, since } = waiting;
        let mut since_ms = self.millis(since);
        if let Some(place) = self.places.get(&key) {
            if place.turn == turn {
                return;
            }
            since_ms = since_ms.min(place.since_ms);
        }
        self.remove(&key);
        self.next += 1;
        let place = Place { since_ms, number: self.next, turn };
        let (lane, row) = place.row();
        self.places.insert(key.clone(), place);
        self.rows[lane][row].insert(place.due(), (sku, key));
    }

    /// Takes up to so many of a lane, in the order in which they are due.
    pub(super) fn take(&mut self, lane: Lane, rows: Rows, count: usize) -> Vec<Waiting> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let lines = &self.rows[lane.index()];
            let first = |row: &usize| Some((*lines[*row].keys().next()?, *row));
            let Some((_, row)) = rows.indices().iter().filter_map(first).min() else { break };
            let Some((_, (sku, key))) = self.rows[lane.index()][row].pop_first() else { break };
            let place = self.places.remove(&key);
            let waited = Duration::from_millis(place.map_or(0, |place| place.since_ms));
            taken.push(Waiting { sku, key, since: self.began + waited });
        }
        if self.is_empty() {
            self.clear();
        }
        taken
    }

    /// Returns how many of a lane stand in line.
    pub(super) fn count(&self, lane: Lane, rows: Rows) -> usize {
        rows.indices().iter().map(|row| self.rows[lane.index()][*row].len()).sum()
    }

    /// Returns by when the first of a lane is due that is far from zero.
    pub(super) fn first_far(&self, lane: Lane) -> Option<Instant> {
        let (due_ms, _) = self.rows[lane.index()][FAR].keys().next()?;
        Some(self.began + Duration::from_millis(*due_ms))
    }

    pub(super) fn first_lane(&self) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| self.count(*lane, Rows::All) > 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn contains(&self, key: &ListingKey) -> bool {
        self.places.contains_key(key)
    }

    /// Takes a listing out of line; returns whether it was in it.
    pub(super) fn remove(&mut self, key: &ListingKey) -> bool {
        let Some(place) = self.places.remove(key) else { return false };
        let (lane, row) = place.row();
        self.rows[lane][row].remove(&place.due());
        true
    }

    pub(super) fn clear(&mut self) {
        // The memory that very many took is given back.
        *self = Self { next: self.next, ..Self::new(self.began) };
    }

    fn millis(&self, at: Instant) -> u64 {
        let millis = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(lane: Lane, distance: u64) -> Turn {
        Turn { lane, distance, is_near: distance <= 5 }
    }

    fn waiting(name: &str, since: Instant) -> Waiting {
        Waiting { sku: Sku::new(name).unwrap(), key: ListingKey::new(name).unwrap(), since }
    }

    fn names(taken: &[Waiting]) -> Vec<&str> {
        taken.iter().map(|waiting| waiting.sku.as_str()).collect()
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn lanes_are_kept_and_each_listing_stands_once() {
        let start = Instant::now();
        let mut line = Line::new(start);
        for (lane, name) in [
            (Lane::Increase, "a"),
            (Lane::Decrease, "b"),
            (Lane::Zero, "c"),
            (Lane::Increase, "d"),
            (Lane::Zero, "d"),
        ] {
            line.put(turn(lane, 0), waiting(name, start));
        }
        assert_eq!((line.first_lane(), line.count(Lane::Zero, Rows::All)), (Some(Lane::Zero), 2));
        assert_eq!(names(&line.take(Lane::Zero, Rows::All, 10)), ["c", "d"]);
        assert_eq!(names(&line.take(Lane::Decrease, Rows::All, 10)), ["b"]);
        assert_eq!(names(&line.take(Lane::Increase, Rows::All, 10)), ["a"]);
        assert!(line.is_empty());
    }

    #[test]
    fn what_is_near_zero_goes_before_what_is_far_from_it() {
        let start = Instant::now();
        let mut line = Line::new(start);
        for (name, distance, since) in [("far", 5_000, 0), ("some", 40, 1), ("last", 1, 2)] {
            line.put(turn(Lane::Decrease, distance), waiting(name, after(start, since)));
        }
        assert_eq!(names(&line.take(Lane::Decrease, Rows::All, 3)), ["last", "some", "far"]);
    }

    #[test]
    fn nobody_starves_however_many_come_near_zero() {
        let start = Instant::now();
        let mut line = Line::new(start);
        line.put(turn(Lane::Decrease, u64::MAX), waiting("far", start));
        // Two come for each one that goes, for ten minutes.
        let mut went_after = None;
        for second in 0..600 {
            for nth in 0..2 {
                let name = format!("near-{second}-{nth}");
                line.put(turn(Lane::Decrease, 1), waiting(&name, after(start, second)));
            }
            if names(&line.take(Lane::Decrease, Rows::All, 1)) == ["far"] {
                went_after = Some(second);
                break;
            }
        }
        let went_after = went_after.expect("it has its turn");
        assert!(went_after <= 2 * PATIENCE_MAX.as_secs(), "{went_after}");
    }

    #[test]
    fn who_changes_all_the_time_keeps_since_when_it_has_waited() {
        let start = Instant::now();
        let mut line = Line::new(start);
        line.put(turn(Lane::Decrease, 40), waiting("hot", start));
        for second in 1..50 {
            let lane = if second % 2 == 0 { Lane::Decrease } else { Lane::Increase };
            line.put(turn(lane, 40 - second % 8), waiting("hot", after(start, second)));
            let name = format!("cold-{second}");
            line.put(turn(Lane::Increase, 40), waiting(&name, after(start, second)));
        }
        let taken = line.take(Lane::Increase, Rows::All, 1);
        assert_eq!(names(&taken), ["hot"]);
        assert_eq!(taken[0].since, start);
        assert!(!line.contains(&ListingKey::new("hot").unwrap()), "it stood in one lane only");
    }

    #[test]
    fn rows_are_taken_apart_and_together() {
        let start = Instant::now();
        let mut line = Line::new(start);
        for (name, distance) in [("a", 1), ("b", 100), ("c", 2), ("d", 90)] {
            line.put(turn(Lane::Decrease, distance), waiting(name, start));
        }
        let count = |line: &Line, rows| line.count(Lane::Decrease, rows);
        assert_eq!((count(&line, Rows::Near), count(&line, Rows::Far)), (2, 2));
        assert_eq!(line.first_far(Lane::Decrease), Some(start + patience(90)));
        assert_eq!(names(&line.take(Lane::Decrease, Rows::Far, 1)), ["b"]);
        assert_eq!(names(&line.take(Lane::Decrease, Rows::All, 2)), ["a", "c"]);
        assert!(line.remove(&ListingKey::new("d").unwrap()));
        assert!(line.is_empty() && line.first_far(Lane::Decrease).is_none());
    }

    #[test]
    fn patience_grows_with_the_distance_and_has_an_end() {
        let seconds = |distance| patience(distance).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 100].map(seconds), [0, 4, 8, 8, 12, 28]);
        assert_eq!(patience(u64::MAX), PATIENCE_MAX);
    }
}
