//! The simulators' clock: the one edge at which they learn what time it is.
//!
//! A manual clock lets a test jump over late applies and token lifetimes without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// A clock that is either the machine's or moved by hand; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Option<Arc<AtomicI64>>);

impl SimClock {
    /// Returns the machine's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// Returns a clock that stands still until [`SimClock::advance`].
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(start.as_microsecond()))))
    }

    /// Moves a manual clock on; the machine's clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(micros) = &self.0 {
            micros.fetch_add(micros_of(by), Ordering::SeqCst);
        }
    }

    /// Returns the present instant, in whole microseconds as cursors write it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => from_micros(Timestamp::now().as_microsecond()),
            Some(micros) => from_micros(micros.load(Ordering::SeqCst)),
        }
    }
}

/// Returns a length of time in microseconds, at most `i64::MAX`.
pub(crate) fn micros_of(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

/// Returns the instant that many milliseconds later, or the latest one there is.
pub(crate) fn plus_ms(at: Timestamp, ms: u64) -> Timestamp {
    let micros = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000);
    from_micros(at.as_microsecond().saturating_add(micros))
}

/// Returns an instant with milliseconds, as Amazon and eBay write it.
pub(crate) fn millis_text(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Returns an instant with whole seconds, as Shopify writes it.
pub(crate) fn seconds_text(at: Timestamp) -> String {
    format!("{at:.0}")
}

fn from_micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}
