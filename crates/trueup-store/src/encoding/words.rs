//! Enumerations as words in columns.
//!
//! The words are the schema's; a change of one is a migration.

use trueup_core::{RestockPolicy, Strategy};

use super::{Corrupt, Result};
use crate::{ConnectionState, DeliveryState, Match, RunStatus};

/// An enumeration that is kept as a word.
pub(crate) trait Word: Copy + 'static {
    /// Every value.
    const ALL: &'static [Self];

    /// Returns the value's word.
    fn word(self) -> &'static str;
}

/// Returns the value of a word.
pub(crate) fn parse_word<T: Word>(text: &str) -> Result<T> {
    let found = T::ALL.iter().copied().find(|value| value.word() == text);
    found.ok_or_else(|| Corrupt(format!("the word {text:?} is unknown")))
}

impl Word for Strategy {
    const ALL: &'static [Self] =
        &[Self::MasterWins, Self::ChannelWins, Self::LowerWins, Self::Manual];

    fn word(self) -> &'static str {
        match self {
            Self::MasterWins => "master_wins",
            Self::ChannelWins => "channel_wins",
            Self::LowerWins => "lower_wins",
            Self::Manual => "manual",
        }
    }
}

impl Word for RestockPolicy {
    const ALL: &'static [Self] = &[Self::Restock, Self::Quarantine, Self::Nothing];

    fn word(self) -> &'static str {
        match self {
            Self::Restock => "restock",
            Self::Quarantine => "quarantine",
            Self::Nothing => "none",
        }
    }
}

impl Word for ConnectionState {
    const ALL: &'static [Self] = &[Self::Active, Self::Paused];

    fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
        }
    }
}

impl Word for Match {
    const ALL: &'static [Self] = &[
        Self::Matched,
        Self::NearMiss,
        Self::Duplicate,
        Self::UnknownSku,
        Self::NoSku,
        Self::Incomplete,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::NearMiss => "near_miss",
            Self::Duplicate => "duplicate",
            Self::UnknownSku => "unknown_sku",
            Self::NoSku => "no_sku",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Word for RunStatus {
    const ALL: &'static [Self] =
        &[Self::Running, Self::Completed, Self::Partial, Self::Failed, Self::Held, Self::Cancelled];

    fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Held => "held",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Word for DeliveryState {
    const ALL: &'static [Self] = &[Self::Pending, Self::Delivered, Self::Dead];

    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}
