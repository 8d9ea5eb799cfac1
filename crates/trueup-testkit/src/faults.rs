//! What can go wrong on purpose, how often, and how often it did.
//!
//! Every fault is decided by one seeded generator, so a run with one client repeats exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// The seed of the fault generator unless one is given.
pub const FAULT_SEED: u64 = 0x7472_7565_7570;
/// The longest response or webhook lag, in milliseconds.
pub const LAG_MS_MAX: u64 = 600_000;
/// How long a held-back (reordered) webhook waits, in milliseconds.
const REORDER_MS_MAX: u64 = 400;

/// How often a fault strikes: the next so many times, then by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Chance {
    /// Strikes in a thousand.
    pub per_mille: u16,
    /// Strikes for certain before chance is asked.
    pub next: u32,
}

impl Chance {
    /// Returns a chance of so many in a thousand.
    #[must_use]
    pub const fn per_mille(per_mille: u16) -> Self {
        Self { per_mille, next: 0 }
    }

    /// Returns a fault that strikes the next so many times and then no more.
    #[must_use]
    pub const fn next(next: u32) -> Self {
        Self { per_mille: 0, next }
    }

    fn strikes(&mut self, random: &mut StdRng) -> bool {
        if self.next > 0 {
            self.next -= 1;
            return true;
        }
        self.per_mille > 0 && random.random_range(0..1_000) < self.per_mille
    }
}

/// How a vendor that is down answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Down {
    /// Every request is answered 503.
    Unavailable,
    /// Every connection is closed without an answer.
    Refused,
}

/// The faults of one simulator; the default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Faults {
    /// Starts the generator anew from this seed.
    pub seed: Option<u64>,
    /// Every answer waits that long, in milliseconds.
    pub response_lag_ms: u64,
    /// Every webhook waits that long, in milliseconds.
    pub webhook_lag_ms: u64,
    /// A webhook is never sent.
    pub webhook_lost: Chance,
    /// A webhook is sent twice with the same id.
    pub webhook_duplicated: Chance,
    /// A webhook is held back so that later ones overtake it.
    pub webhook_reordered: Chance,
    /// The vendor's own "too many requests"; nothing is applied.
    pub throttled: Chance,
    /// HTTP 500; nothing is applied.
    pub server_error: Chance,
    /// The token is refused although it is good.
    pub unauthorized: Chance,
    /// The write is applied, then the connection closes without an answer.
    pub dropped_after: Chance,
    /// The write is applied, then no answer comes for [`Faults::hang_ms`].
    pub hung_after: Chance,
    /// How long a hanging answer hangs, in milliseconds (0 means 60 s).
    pub hang_ms: u64,
    /// The write is answered as a success and not applied.
    pub lie: Chance,
    /// The vendor says that somebody else is writing (a transient refusal of one write).
    pub busy: Chance,
    /// Amazon: a feed breaks off half-way, without a report.
    pub feed_fatal: Chance,
    /// Writes to these SKUs are refused for good.
    pub poison: BTreeSet<String>,
    /// The vendor is down.
    pub down: Option<Down>,
    /// Takes back every issued access token, once.
    pub expire_tokens: bool,
}

/// A kind of fault, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each has the words of its field in Faults")]
pub enum FaultKind {
    ResponseLag,
    WebhookLag,
    WebhookLost,
    WebhookDuplicated,
    WebhookReordered,
    Throttled,
    ServerError,
    Unauthorized,
    DroppedAfter,
    HungAfter,
    Lie,
    Busy,
    FeedFatal,
    Poison,
    Down,
    ExpireTokens,
}

/// What happens to a request before it reaches the simulated shop.
pub(crate) enum Before {
    Pass,
    Answer(Trouble),
    Cut,
}

/// What happens to an answer after its write was applied.
pub(crate) enum After {
    Pass,
    Cut,
    Hang(Duration),
}

/// What happens to a webhook.
pub(crate) struct Posting {
    pub(crate) copies: u8,
    pub(crate) delay: Duration,
}

/// A refusal of a whole request, to be put in the vendor's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Too many requests.
    Throttled,
    /// An internal error.
    ServerError,
    /// The access token is not (or no longer) good.
    Unauthorized,
    /// The service is down.
    Unavailable,
}

/// The faults of one simulator with their generator and their counts.
#[derive(Debug)]
pub struct FaultDial(Mutex<Dial>);

#[derive(Debug)]
struct Dial {
    faults: Faults,
    random: StdRng,
    hits: BTreeMap<FaultKind, u64>,
}

impl Default for FaultDial {
    fn default() -> Self {
        Self(Mutex::new(Dial {
            faults: Faults::default(),
            random: StdRng::seed_from_u64(FAULT_SEED),
            hits: BTreeMap::new(),
        }))
    }
}

impl FaultDial {
    /// Replaces all faults; a seed in them restarts the generator.
    pub fn set(&self, faults: Faults) {
        let mut dial = self.0.lock();
        if let Some(seed) = faults.seed {
            dial.random = StdRng::seed_from_u64(seed);
        }
        dial.faults = faults;
        dial.faults.response_lag_ms = dial.faults.response_lag_ms.min(LAG_MS_MAX);
        dial.faults.webhook_lag_ms = dial.faults.webhook_lag_ms.min(LAG_MS_MAX);
        dial.faults.hang_ms = dial.faults.hang_ms.min(LAG_MS_MAX);
    }

    /// Changes some faults and keeps the others.
    pub fn update(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = self.get();
        faults.seed = None;
        change(&mut faults);
        self.set(faults);
    }

    /// Returns the faults as they now stand (`next` counts down).
    #[must_use]
    pub fn get(&self) -> Faults {
        self.0.lock().faults.clone()
    }

    /// Returns how often each fault struck.
    #[must_use]
    pub fn hits(&self) -> BTreeMap<FaultKind, u64> {
        self.0.lock().hits.clone()
    }

    /// Takes the one-off order to take back all tokens.
    pub(crate) fn take_expire_tokens(&self) -> bool {
        let mut dial = self.0.lock();
        let wanted = std::mem::take(&mut dial.faults.expire_tokens);
        wanted && dial.hit(FaultKind::ExpireTokens)
    }

    pub(crate) fn lag(&self) -> Duration {
        let mut dial = self.0.lock();
        let lag = Duration::from_millis(dial.faults.response_lag_ms);
        if !lag.is_zero() {
            dial.hit(FaultKind::ResponseLag);
        }
        lag
    }

    pub(crate) fn before(&self, asks_for_token: bool) -> Before {
        let mut dial = self.0.lock();
        match dial.faults.down {
            Some(Down::Unavailable) => {
                dial.hit(FaultKind::Down);
                return Before::Answer(Trouble::Unavailable);
            }
            Some(Down::Refused) => {
                dial.hit(FaultKind::Down);
                return Before::Cut;
            }
            None => {}
        }
        if dial.roll(FaultKind::Throttled, |faults| &mut faults.throttled) {
            return Before::Answer(Trouble::Throttled);
        }
        if dial.roll(FaultKind::ServerError, |faults| &mut faults.server_error) {
            return Before::Answer(Trouble::ServerError);
        }
        if !asks_for_token && dial.roll(FaultKind::Unauthorized, |faults| &mut faults.unauthorized)
        {
            return Before::Answer(Trouble::Unauthorized);
        }
        Before::Pass
    }

    pub(crate) fn after_write(&self) -> After {
        let mut dial = self.0.lock();
        if dial.roll(FaultKind::DroppedAfter, |faults| &mut faults.dropped_after) {
            return After::Cut;
        }
        if dial.roll(FaultKind::HungAfter, |faults| &mut faults.hung_after) {
            let ms = if dial.faults.hang_ms == 0 { 60_000 } else { dial.faults.hang_ms };
            return After::Hang(Duration::from_millis(ms));
        }
        After::Pass
    }

    pub(crate) fn lies(&self) -> bool {
        self.0.lock().roll(FaultKind::Lie, |faults| &mut faults.lie)
    }

    pub(crate) fn busy(&self) -> bool {
        self.0.lock().roll(FaultKind::Busy, |faults| &mut faults.busy)
    }

    pub(crate) fn breaks_feed(&self) -> bool {
        self.0.lock().roll(FaultKind::FeedFatal, |faults| &mut faults.feed_fatal)
    }

    pub(crate) fn poisons(&self, sku: &str) -> bool {
        let mut dial = self.0.lock();
        dial.faults.poison.contains(sku) && dial.hit(FaultKind::Poison)
    }

    pub(crate) fn posting(&self) -> Posting {
        let mut dial = self.0.lock();
        if dial.roll(FaultKind::WebhookLost, |faults| &mut faults.webhook_lost) {
            return Posting { copies: 0, delay: Duration::ZERO };
        }
        let twice =
            dial.roll(FaultKind::WebhookDuplicated, |faults| &mut faults.webhook_duplicated);
        let mut delay_ms = dial.faults.webhook_lag_ms;
        if delay_ms > 0 {
            dial.hit(FaultKind::WebhookLag);
        }
        if dial.roll(FaultKind::WebhookReordered, |faults| &mut faults.webhook_reordered) {
            delay_ms += dial.random.random_range(REORDER_MS_MAX / 4..=REORDER_MS_MAX);
        }
        Posting { copies: if twice { 2 } else { 1 }, delay: Duration::from_millis(delay_ms) }
    }
}

impl Dial {
    /// Counts a strike; always true, to end a condition with.
    fn hit(&mut self, kind: FaultKind) -> bool {
        *self.hits.entry(kind).or_default() += 1;
        true
    }

    fn roll(&mut self, kind: FaultKind, which: fn(&mut Faults) -> &mut Chance) -> bool {
        which(&mut self.faults).strikes(&mut self.random) && self.hit(kind)
    }
}
