//! What an act would change of what a channel shows, and whether that is more than it may change
//! without an operator being asked (its blast radius).
//!
//! What the ledger owes anyway is not counted: a sale is never held back.

use std::collections::BTreeMap;

use trueup_core::{ListingKey, Sku};
use trueup_store::{BlastRadius, ListingView, Run};

/// The share of a channel's listings that one act may zero, in percent, unless the connection
/// says otherwise.
pub const ZERO_PERCENT_MAX: u8 = 20;
/// The share of a channel's listings that one act may tell another number, in percent, unless the
/// connection says otherwise.
pub const CHANGE_PERCENT_MAX: u8 = 80;
/// So many listings may be zeroed whatever their share, so that small catalogues do not ask.
pub const ZEROES_FREE_MAX: u64 = 50;
/// So many listings may be told another number whatever their share.
pub const CHANGES_FREE_MAX: u64 = 1_000;
/// The most effects that are kept one by one; all are counted.
pub const EFFECTS_MAX: usize = 10_000;

/// What an act would change of what a channel shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Impact {
    /// The channel's listings that take part.
    pub listings: u64,
    /// Listings that would be told zero and are not known to show it.
    pub zeroes: u64,
    /// Listings that would be told more than they show.
    pub raises: u64,
    /// Listings that would be told less than they show, but not zero.
    pub lowers: u64,
    /// Listings that would be told more than zero and of which it is not known what they show.
    pub unknown: u64,
    /// Channels' own changes that would be carried into master.
    pub adopted: u64,
    /// Differences that wait, or would wait, for an operator.
    pub conflicts: u64,
    /// Changes of listings that have been told a number before.
    retold: u64,
    /// The first [`EFFECTS_MAX`] changes.
    pub effects: Vec<Effect>,
}

/// What an act would change of one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The SKU.
    pub sku: Sku,
    /// The listing.
    pub key: ListingKey,
    /// What it shows, as far as known.
    pub shows: Option<i64>,
    /// What it would be told.
    pub would: i64,
}

/// What an operator has agreed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Agreed {
    zeroes: u64,
    changes: u64,
}

/// The counters that a held run keeps.
const ZEROES: &str = "zeroes";
const RETOLD: &str = "retold";

impl Agreed {
    /// Returns what agreeing to a held run agrees to.
    pub(crate) fn to(run: &Run) -> Self {
        let count = |name: &str| run.counters.get(name).copied().unwrap_or(0);
        Self { zeroes: count(ZEROES), changes: count(RETOLD) }
    }
}

impl Impact {
    /// Returns how many listings would be told another number.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.zeroes + self.raises + self.lowers + self.unknown
    }

    /// Returns its counts by the names that runs and reports have for them.
    #[must_use]
    pub(crate) fn counts(&self) -> [(&'static str, u64); 8] {
        [
            ("listings", self.listings),
            ("changes", self.changes()),
            (ZEROES, self.zeroes),
            ("raises", self.raises),
            ("lowers", self.lowers),
            ("unknown", self.unknown),
            ("conflicts", self.conflicts),
            (RETOLD, self.retold),
        ]
    }

    /// Puts its counts among counters.
    pub(crate) fn count_into(&self, counters: &mut BTreeMap<String, u64>) {
        counters.extend(self.counts().map(|(name, count)| (name.to_owned(), count)));
    }

    /// Counts what telling a listing a number would change.
    pub(crate) fn tell(&mut self, view: &ListingView, number: i64) {
        self.tell_over(view, believed(view), number);
    }

    /// Counts what telling a listing a number would change, where it was just seen what it shows.
    pub(crate) fn tell_over(&mut self, view: &ListingView, shows: Option<i64>, number: i64) {
        if shows != Some(number) {
            self.retold += u64::from(view.state.acked_at.is_some());
        }
        let (sku, key) = (view.mapping.sku.clone(), view.mapping.key.clone());
        self.note(Effect { sku, key, shows, would: number });
    }

    /// Counts a change of a listing that was never told a number.
    pub(crate) fn note(&mut self, effect: Effect) {
        let Effect { shows, would: number, .. } = effect;
        if shows == Some(number) {
            return;
        }
        match shows {
            _ if number == 0 => self.zeroes += 1,
            None => self.unknown += 1,
            Some(shows) if number < shows => self.lowers += 1,
            Some(_) => self.raises += 1,
        }
        if self.effects.len() < EFFECTS_MAX {
            self.effects.push(effect);
        }
    }

    /// Returns whether it is so little that it is never asked about for its share.
    pub(crate) fn is_free(&self, limits: &BlastRadius) -> bool {
        let zeroes = limits.zero_number.unwrap_or(ZEROES_FREE_MAX).min(ZEROES_FREE_MAX);
        let changes = limits.change_number.unwrap_or(CHANGES_FREE_MAX).min(CHANGES_FREE_MAX);
        self.zeroes <= zeroes && self.retold <= changes
    }

    /// Says in words why an operator is to be asked first; `None` = it may go ahead.
    ///
    /// A listing that was never told a number does not count as changed: enabling its channel was
    /// the word that it be told. Telling it zero counts.
    #[must_use]
    pub(crate) fn excess(&self, limits: &BlastRadius, agreed: Agreed) -> Option<String> {
        let zeroes_max = Bound {
            percent: limits.zero_percent.unwrap_or(ZERO_PERCENT_MAX),
            free: ZEROES_FREE_MAX,
            number: limits.zero_number,
            agreed: agreed.zeroes,
        };
        let changes_max = Bound {
            percent: limits.change_percent.unwrap_or(CHANGE_PERCENT_MAX),
            free: CHANGES_FREE_MAX,
            number: limits.change_number,
            agreed: agreed.changes,
        };
        let over = |what: &str, count: u64, bound: &Bound| {
            let max = bound.of(self.listings);
            (count > max).then(|| {
                let of = self.listings;
                format!(
                    "it would {what} {count} of {of} listings; without being asked {max} may be"
                )
            })
        };
        over("zero", self.zeroes, &zeroes_max).or_else(|| over("change", self.retold, &changes_max))
    }
}

/// How many listings an act may concern.
struct Bound {
    percent: u8,
    free: u64,
    number: Option<u64>,
    agreed: u64,
}

impl Bound {
    fn of(&self, listings: u64) -> u64 {
        let share = u128::from(listings) * u128::from(self.percent) / 100;
        let share = u64::try_from(share).unwrap_or(u64::MAX).max(self.free);
        let max = self.number.map_or(share, |number| number.min(share));
        // What is sold between asking and agreeing must not ask again.
        let agreed = if self.agreed == 0 { 0 } else { self.agreed.saturating_add(self.free) };
        max.max(agreed)
    }
}

/// Returns what a listing shows, as far as known: the newer of the last reading and the last
/// acknowledgement.
#[must_use]
pub fn shown(view: &ListingView) -> Option<i64> {
    let is_newest = |at| view.state.acked_at.is_none_or(|acked_at| at >= acked_at);
    let newest = view.state.observed.filter(|seen| is_newest(seen.at));
    newest.map(|seen| seen.quantity).or(view.state.base)
}

/// Returns what a listing is believed to show: what was read before an order was booked may not
/// have the order in it, and what is known since has.
pub(crate) fn believed(view: &ListingView) -> Option<i64> {
    let state = &view.state;
    let is_old = |at| state.booked_at.is_some_and(|booked_at| at < booked_at);
    match state.observed {
        Some(seen) if is_old(seen.at) => state.base,
        Some(_) | None => shown(view),
    }
}

/// Returns whether a listing takes part in what its channel shows.
pub(crate) fn takes_part(view: &ListingView) -> bool {
    view.mapping.enabled && !view.mapping.channel_fulfilled && !view.state.follows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excess(listings: u64, zeroes: u64, retold: u64, limits: BlastRadius) -> bool {
        let impact = Impact { listings, zeroes, retold, ..Impact::default() };
        impact.excess(&limits, Agreed::default()).is_some()
    }

    #[test]
    fn an_act_asks_beyond_a_share_and_a_number() {
        let default = BlastRadius::default();
        let number = BlastRadius { zero_number: Some(3), change_number: Some(4), ..default };
        let percent = BlastRadius { zero_percent: Some(50), change_percent: Some(100), ..default };
        let none = BlastRadius { zero_percent: Some(0), change_percent: Some(0), ..default };
        let table = [
            // Small catalogues do not ask.
            (40, 40, 40, default, false),
            (50, 50, 50, default, false),
            (51, 51, 51, default, true),
            // A fifth of many may be zeroed, four fifths changed.
            (1_000, 200, 0, default, false),
            (1_000, 201, 0, default, true),
            (2_000, 0, 1_600, default, false),
            (2_000, 0, 1_601, default, true),
            // A number counts whatever the share is.
            (1_000, 3, 4, number, false),
            (1_000, 4, 0, number, true),
            (1_000, 0, 5, number, true),
            (1_000, 500, 1_000, percent, false),
            (1_000, 501, 0, percent, true),
            (9_000, 0, 9_000, percent, false),
            // A share of nothing still leaves a few.
            (9_000, 50, 1_000, none, false),
            (9_000, 51, 0, none, true),
            (0, 0, 0, none, false),
        ];
        for (listings, zeroes, retold, limits, asks) in table {
            let case = (listings, zeroes, retold, limits);
            assert_eq!(excess(listings, zeroes, retold, limits), asks, "{case:?}");
        }
    }

    #[test]
    fn what_was_agreed_to_is_not_asked_again_until_it_grows() {
        let limits = BlastRadius::default();
        let of = |zeroes| Impact { listings: 1_000, zeroes, ..Impact::default() };
        let agreed = Agreed { zeroes: 300, changes: 0 };
        assert_eq!(of(300 + ZEROES_FREE_MAX).excess(&limits, agreed), None);
        let words = of(351).excess(&limits, agreed).unwrap();
        assert_eq!(words, "it would zero 351 of 1000 listings; without being asked 350 may be");
    }
}
