//! What time it is: the database's time, so that nodes with different clocks agree.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::Instant;
use trueup_core::Timestamp;

pub use crate::embedded::Now;

/// Where a store learns the time from.
#[derive(Clone)]
pub enum Clock {
    /// The database says it.
    Database,
    /// This says it.
    Given(Now),
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database => f.write_str("Database"),
            Self::Given(_) => f.write_str("Given"),
        }
    }
}

/// A clock that is read without asking the database, and never goes back.
pub(super) struct Time {
    clock: Clock,
    began: Instant,
    /// What the database's clock was when this one began.
    offset: AtomicI64,
    last: AtomicI64,
}

impl Time {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, began: Instant::now(), offset: AtomicI64::new(0), last: AtomicI64::new(0) }
    }

    /// Returns the instant, never before one that was returned.
    pub(super) fn now(&self) -> Timestamp {
        let now = match &self.clock {
            Clock::Given(now) => now().micros(),
            Clock::Database => self.elapsed().saturating_add(self.offset.load(Ordering::Acquire)),
        };
        Timestamp::from_micros(now.max(self.last.fetch_max(now, Ordering::AcqRel)))
    }

    /// Returns the instant where the database does not say it itself.
    pub(super) fn given(&self) -> Option<Timestamp> {
        match &self.clock {
            Clock::Given(_) => Some(self.now()),
            Clock::Database => None,
        }
    }

    /// Returns the instant of decisions: what the database's clock said just now, in microseconds,
    /// and never before what is decided on.
    pub(super) fn at(&self, said: i64, newest: Timestamp) -> Timestamp {
        self.note(said);
        self.now().max(newest)
    }

    /// Takes over what the database's clock said just now, in microseconds.
    pub(super) fn note(&self, said: i64) {
        self.offset.store(said.saturating_sub(self.elapsed()), Ordering::Release);
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}
