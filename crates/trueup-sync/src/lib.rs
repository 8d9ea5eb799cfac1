//! Push, pull, inbox and schedules: state looked at and made true, again and again.
//!
//! [`Engine`] is the door. Behind it, each connection has one worker (`worker`) that pushes and
//! pulls, one listener (`orders`) that books its orders, and one (`queue`) that empties its own
//! queue; one inbox (`inbox`) takes webhooks in and one sender (`deliver`) brings events out. What
//! is owed is in the store: a doorbell only says that there may be something to look at.
//!
//! Of several nodes on one store, one works for an org (`holding`), and what it sends goes through
//! a barrier (`barrier`) that shuts when it no longer does.

pub mod address;
pub mod engine;

mod backoff;
mod backtest;
mod barrier;
mod caller;
mod check;
mod consent;
mod deliver;
mod discover;
mod holding;
mod impact;
mod inbox;
mod limits;
mod link;
mod orders;
mod pause;
mod plan;
mod queue;
mod rehearse;
mod reopen;
mod request;
mod revise;
mod scopes;
mod seal;
mod shared;
mod status;
mod throttle;
mod undo;
mod unmapped;
mod upkeep;
mod what_if;
mod worker;

pub use backtest::{BACKTEST_LINES_MAX, Backtest, BacktestRequest};
pub use caller::{ANSWER_BYTES_MAX, REQUEST_TRIES_MAX};
pub use check::{CHECK_ITEMS_MAX, CHECK_TIME_MAX, CHECK_TOKEN_SECONDS};
pub use consent::{AUTHORIZATION_NEEDED, CONSENT_SECONDS, ConsentPage};
pub use deliver::{DELIVERY_TRIES_MAX, sign};
pub use discover::{CATALOGUE_PAGES_MAX, match_word};
pub use engine::*;
pub use impact::{
    CHANGE_PERCENT_MAX, CHANGES_FREE_MAX, EFFECTS_MAX, Effect, Impact, ZERO_PERCENT_MAX,
    ZEROES_FREE_MAX, shown,
};
pub use pause::Pauses;
pub use reopen::Reopened;
pub use seal::{KeyId, KeyRing, RekeyError, Rekeyed, SecretKey, check_sealed, rekey};
pub use shared::{KindFinder, REFUSALS_MAX};
pub use status::{
    ChannelStatus, Health, HealthState, QueueHealth, QuotaFigure, RateFigure, STATUS_LISTINGS_MAX,
    TokenEnds, Webhooks,
};
pub use what_if::WhatIf;
pub use worker::{RUN_ITEMS_MAX, VERIFY_TRIES_MAX};
