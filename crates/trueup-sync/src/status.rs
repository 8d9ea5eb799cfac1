//! How a channel is: what it does or why it does not, and what it has before it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::time::Instant;
use trueup_channels::credential::{ACCESS_TOKEN_ENDS, REFRESH_TOKEN_ENDS, instant_of};
use trueup_channels::{Caller, Secret};
use trueup_core::{ChannelId, Org, Timestamp};
use trueup_store::{Connection, ConnectionState, ListingQuery, ListingView, Pause};

use crate::engine::{Engine, EngineError, drift_of, is_waiting};
use crate::link::{Link, Trouble};
use crate::throttle::{Allowance, Figure};

/// The most listings that one status looks at to count those that drifted or are put off.
pub const STATUS_LISTINGS_MAX: usize = 10_000;

/// A connection's health.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatus {
    /// `ok`, `paused` or `error`.
    pub status: &'static str,
    /// What it does, or why it does not.
    pub health: Health,
    /// Whether the last call to the vendor came through.
    pub connected: bool,
    /// When a push or pull last came through.
    pub last_sync: Option<Timestamp>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// When its tokens end.
    pub token: TokenEnds,
    /// What it tells us by itself.
    pub webhooks: Webhooks,
    /// Up to when its orders are booked.
    pub orders_heard_to: Option<Timestamp>,
    /// Its queue, where it has one.
    pub queue: Option<QueueHealth>,
    /// Listings that owe a push, or whose push has no outcome yet, and that may be told.
    pub pending: u64,
    /// Listings whose last reading is not what it should be, of those that were looked at.
    pub drifted: u64,
    /// Open conflicts.
    pub conflicts: u64,
    /// Listings that owe a push and wait because the vendor counts revisions, of those that were
    /// looked at.
    pub postponed: u64,
    /// Whether more than [`STATUS_LISTINGS_MAX`] listings were in question, so that more of them
    /// may have drifted or be put off.
    pub at_least: bool,
    /// Rate budgets and quotas by name, as far as known.
    pub rate: BTreeMap<String, RateFigure>,
}

/// What a connection does, or why it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What it does.
    pub state: HealthState,
    /// Why, for a program; none while it is well, and where an operator paused it.
    pub code: Option<String>,
    /// Why, for a person.
    pub detail: Option<String>,
    /// Since when, where it is not well.
    pub since: Option<Timestamp>,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// It works.
    Ok,
    /// Nothing is sent: an operator paused it, or the vendor refused it for good.
    Paused,
    /// Something went wrong last time; it is tried again.
    Error,
    /// Nobody has authorized it at the vendor's page yet.
    Waiting,
}

/// When a connection's tokens end, as far as the vendor told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenEnds {
    /// The access token; a new one is asked for by itself.
    pub access: Option<Timestamp>,
    /// The refresh token: after that the account has to authorize the connection again, unless
    /// the vendor replaces it with each use.
    pub refresh: Option<Timestamp>,
}

/// What a channel tells us by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhooks {
    /// When something last came that was let in, since this server started.
    pub last_at: Option<Timestamp>,
    /// What was subscribed when that was last looked at.
    pub topics: Option<Vec<String>>,
    /// Why what is missing of them cannot be subscribed, and since when; polls are enough
    /// meanwhile.
    pub trouble: Option<(Timestamp, String)>,
}

/// How a channel's queue is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueHealth {
    /// Why it cannot be read, and since when; orders are polled meanwhile.
    pub trouble: Option<(Timestamp, String)>,
}

/// What is known of how much one kind of request may be sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateFigure {
    /// Units restored each second.
    pub per_second: Option<f64>,
    /// Units left now.
    pub remaining: Option<f64>,
    /// The quota of calls in a window of time, such as a day.
    pub quota: Option<QuotaFigure>,
}

/// A quota of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaFigure {
    /// Calls in one window.
    pub limit: u64,
    /// Calls left in this one; a tenth of the limit is kept for zeroes and decreases.
    pub remaining: u64,
    /// When this one ends.
    pub resets_at: Timestamp,
}

impl Engine {
    /// Returns a channel's health. What is owed and what is in conflict is counted by the store;
    /// what drifted or is put off has to be looked at, and no more than
    /// [`STATUS_LISTINGS_MAX`] listings are: those in question only, none while all is well.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], or the store's.
    pub async fn status(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<ChannelStatus, EngineError> {
        let shared = self.shared();
        let row = self.row(org, channel).await?;
        let link = shared.link(org, channel);
        let counts = shared.store.channel_counts(org, channel).await?;
        let now = shared.now();
        let quantity_max =
            link.as_ref().map_or(u64::MAX, |link| link.channel.capabilities().quantity_max);
        let (mut drifted, mut postponed) = (0_u64, 0_u64);
        let query = ListingQuery {
            channel: Some(channel.clone()),
            suspicious: true,
            ..ListingQuery::default()
        };
        let look = |view: ListingView| {
            let waits = view.is_dirty()
                && link.as_ref().is_some_and(|link| link.postponed(&view, now).is_some());
            postponed += u64::from(waits);
            drifted += u64::from(drift_of(&view, quantity_max).is_some());
        };
        let at_least = shared.first_listings(org, query, STATUS_LISTINGS_MAX, look).await?;
        let health = match shared.store.pause(org, None).await? {
            Some(pause) => paused_with_all(&row, &pause),
            None => health_of(&row),
        };
        let credential = |name: &str| match &link {
            Some(link) => link.transport.credential(name),
            None => {
                shared.settings_of(&row).ok().and_then(|known| known.credentials.get(name).cloned())
            }
        };
        let heard = link.as_ref().and_then(|link| link.heard_at());
        Ok(ChannelStatus {
            status: match health.state {
                HealthState::Ok => "ok",
                HealthState::Paused | HealthState::Waiting => "paused",
                HealthState::Error => "error",
            },
            connected: row.last_error.is_none() && link.is_some(),
            token: token_ends(link.as_deref(), credential),
            webhooks: link.as_ref().map(|link| webhooks_of(link)).unwrap_or_default(),
            orders_heard_to: row.orders_seen_to.max(heard),
            queue: link.as_ref().and_then(|link| queue_of(link)),
            last_sync: row.last_sync,
            last_error: row.last_error.map(|(_, words)| words),
            health,
            pending: counts.pending,
            drifted,
            conflicts: counts.conflicts,
            postponed,
            at_least,
            rate: link.map(|link| rate_figures(&link, now)).unwrap_or_default(),
        })
    }
}

/// Says that nothing of the org is sent; a connection that waits to be let in still does.
fn paused_with_all(row: &Connection, pause: &Pause) -> Health {
    let health = health_of(row);
    match health.state {
        HealthState::Paused | HealthState::Waiting => health,
        HealthState::Ok | HealthState::Error => Health {
            state: HealthState::Paused,
            code: Some("org_paused".to_owned()),
            detail: Some(format!("everything is paused by {}", pause.actor)),
            since: Some(pause.at),
        },
    }
}

fn health_of(row: &Connection) -> Health {
    let state = match (row.state, &row.last_error) {
        (ConnectionState::Paused, _) if is_waiting(row) => HealthState::Waiting,
        (ConnectionState::Paused, _) => HealthState::Paused,
        (ConnectionState::Active, Some(_)) => HealthState::Error,
        (ConnectionState::Active, None) => HealthState::Ok,
    };
    let told_at = row.last_error.as_ref().map(|(at, _)| *at);
    let since = row.reason.as_ref().map(|reason| reason.since).or(told_at);
    Health {
        state,
        code: row.reason.as_ref().map(|reason| reason.code.clone()),
        detail: row.last_error.as_ref().map(|(_, words)| words.clone()),
        since: match state {
            HealthState::Ok => None,
            HealthState::Error | HealthState::Waiting => since,
            // Pausing is the last change there was.
            HealthState::Paused => since.or(Some(row.updated_at)),
        },
    }
}

/// A kept access token has a kept end; others are known to the transport alone.
fn token_ends(link: Option<&Link>, credential: impl Fn(&str) -> Option<Secret>) -> TokenEnds {
    let kept = |name| credential(name).and_then(|text| instant_of(&text));
    let access = kept(ACCESS_TOKEN_ENDS);
    TokenEnds {
        access: access.or_else(|| link.and_then(|link| link.transport.tokens_end())),
        refresh: kept(REFRESH_TOKEN_ENDS),
    }
}

fn webhooks_of(link: &Link) -> Webhooks {
    Webhooks {
        last_at: *link.hooked_at.lock(),
        topics: link.hooks_topics.lock().clone(),
        trouble: told(&link.hooks_trouble),
    }
}

fn queue_of(link: &Link) -> Option<QueueHealth> {
    link.channel.queue()?;
    Some(QueueHealth { trouble: told(&link.queue_trouble) })
}

fn told(known: &Mutex<Option<Trouble>>) -> Option<(Timestamp, String)> {
    let known = known.lock();
    known.as_ref().map(|trouble| (trouble.since, trouble.words.clone()))
}

fn rate_figures(link: &Link, now: Timestamp) -> BTreeMap<String, RateFigure> {
    let instant = Instant::now();
    let quota = |quota: Allowance| {
        let left = quota.resets_at.saturating_duration_since(instant).as_millis();
        let resets_at = now.plus_millis(i64::try_from(left).unwrap_or(i64::MAX));
        QuotaFigure { limit: quota.limit, remaining: quota.remaining, resets_at }
    };
    let figure = |figure: Figure| RateFigure {
        per_second: figure.rate.map(|(per_second, _)| per_second),
        remaining: figure.rate.map(|(_, left)| left),
        quota: figure.quota.map(quota),
    };
    link.transport.figures().into_iter().map(|(name, known)| (name, figure(known))).collect()
}
