//! The three-way comparison of a pull: base, expected, observed.
//!
//! The comparison is with what was published, never with the raw master: only the *difference*
//! that the channel made by itself is carried back, so a buffer cannot ratchet stock down.

use crate::{ListingState, Sent, Timestamp};

/// How a difference between master and channel is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// Push master to the channel.
    #[default]
    MasterWins,
    /// Adopt the channel's change into master.
    ChannelWins,
    /// Adopt the channel's change when it lowers master, else push.
    LowerWins,
    /// Flag the conflict; neither push nor adopt until an operator decides.
    Manual,
}

/// What a reading calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The channel shows what it should.
    Matched,
    /// The channel shows what it was told last; it is merely behind. Push, no conflict.
    Behind,
    /// The channel moved by itself and master stands: push.
    PushOver {
        /// By how many units of the listing the channel moved.
        moved: i64,
    },
    /// The channel moved by itself and the difference is carried into master.
    Adopt {
        /// By how many units of the listing the channel moved.
        moved: i64,
    },
    /// The channel moved by itself and an operator decides.
    Conflict {
        /// By how many units of the listing the channel moved.
        moved: i64,
    },
    /// The reading may be older than what the channel was told: read again later.
    TooEarly,
}

/// A reading and the circumstances it was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// What the channel should show now.
    pub expected: i64,
    /// What it shows.
    pub observed: i64,
    /// When the reading was asked for.
    pub read_at: Timestamp,
    /// How long after an acknowledgement a reading may still show the number before it.
    pub settle_ms: i64,
    /// How a difference is settled.
    pub strategy: Strategy,
}

/// Compares a reading with what was published and says what to do.
#[must_use]
pub fn compare(listing: &ListingState, seen: Circumstances) -> Verdict {
    if seen.observed == seen.expected {
        return Verdict::Matched;
    }
    if is_settling(listing, seen) {
        let told = listing.in_flight.is_none() && listing.base == Some(seen.observed);
        return if told { Verdict::Behind } else { Verdict::TooEarly };
    }
    let base = base_of(listing, seen);
    let moved = seen.observed - base;
    if moved == 0 {
        return Verdict::Behind;
    }
    match seen.strategy {
        Strategy::MasterWins => Verdict::PushOver { moved },
        Strategy::ChannelWins => Verdict::Adopt { moved },
        Strategy::LowerWins if moved < 0 => Verdict::Adopt { moved },
        Strategy::LowerWins => Verdict::PushOver { moved },
        Strategy::Manual => Verdict::Conflict { moved },
    }
}

/// Returns whether the reading may show the number before the newest push.
fn is_settling(listing: &ListingState, seen: Circumstances) -> bool {
    let within = |at: Timestamp| seen.read_at < at.plus_millis(seen.settle_ms);
    listing.acked_at.is_some_and(within) || listing.in_flight.is_some_and(|sent| within(sent.at))
}

/// Returns what the channel is taken to have shown before it moved by itself.
///
/// After a push whose outcome stayed unclear it is either the number before or the one sent:
/// the one nearer to the reading, and the acknowledged one when both are as near.
fn base_of(listing: &ListingState, seen: Circumstances) -> i64 {
    match (listing.base, listing.in_flight) {
        (None, None) => seen.expected,
        (Some(base), None) => base,
        (None, Some(Sent { quantity, .. })) => quantity,
        (Some(base), Some(Sent { quantity, .. })) => {
            let off = |from: i64| seen.observed.abs_diff(from);
            if off(quantity) < off(base) { quantity } else { base }
        }
    }
}
