//! Channels: connecting, pausing, removing, and how they are. Secrets go in and never come out.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use trueup_channels::Secret;
use trueup_core::{ChannelId, Quantity, RestockPolicy, Strategy, Timestamp};
use trueup_store::{Connection, ConnectionState, RuleSettings};
use trueup_sync::{
    ChannelStatus, Enable, Health, HealthState, QueueHealth, QuotaFigure, RateFigure, TokenEnds,
    Webhooks,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body::{self, Units};
use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{Listed, NoParams, PageParams, Params, seal_cursor};
use crate::api::mappings::connection;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState};

/// The most minutes between two pulls: a week.
const POLL_MINUTES_MAX: u64 = 10_080;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(enable))
        .routes(routes!(disable))
        .routes(routes!(resume))
        .routes(routes!(get, remove))
        .routes(routes!(list))
        .routes(routes!(status))
}

// --- Bodies -------------------------------------------------------------------------------

/// How to connect a channel. Beside these fields it takes the settings of the kind: `shop`,
/// `defaultLocationId`, `apiVersion` (shopify), `sellerId`, `marketplaceIds`, `region`
/// (amazon), `marketplaceId` (ebay).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "syncInventory": true, "conflictStrategy": "lower_wins", "shop": "acme.myshopify.com",
    "defaultLocationId": "gid://shopify/Location/1", "credentials": {"accessToken": "shpat_…"}
}))]
struct EnableBody {
    /// `shopify`, `amazon`, `ebay`; by default the channel's id.
    kind: Option<String>,
    /// Whether stock movements publish by themselves.
    sync_inventory: bool,
    /// Whether the channel's orders are booked; by default true.
    sync_orders: Option<bool>,
    /// What happens when master and channel disagree; by default `master_wins`.
    conflict_strategy: Option<StrategyWord>,
    /// What becomes of units that come back by cancel or refund; by default `restock`.
    restock_policy: Option<RestockWord>,
    /// Minutes between pulls; by default only when asked.
    poll_interval_minutes: Option<Units>,
    /// Units kept off the channel.
    buffer: Option<Units>,
    /// The share offered, 0 to 100.
    percent: Option<Units>,
    /// The most that is shown.
    max_quantity: Option<Units>,
    /// Below this, zero is shown.
    zero_below: Option<Units>,
    /// Only compute and report.
    dry_run: Option<bool>,
    /// Scheme and host in place of the vendor's: a sandbox or a simulator.
    endpoint: Option<String>,
    /// Credentials by name; those not given stay as they were.
    #[serde(default)]
    #[schema(value_type = Option<Object>, write_only)]
    credentials: BTreeMap<String, SecretText>,
}

/// A credential on its way in.
struct SecretText(Secret);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = SecretText;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretText, E> {
                Ok(SecretText(Secret::new(text)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// What becomes of units that come back by cancel or refund.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RestockWord {
    /// They are for sale again.
    Restock,
    /// They are on hand and held at the location `quarantine` until somebody moves them.
    Quarantine,
    /// They are not on hand.
    None,
}

impl From<RestockWord> for RestockPolicy {
    fn from(word: RestockWord) -> Self {
        match word {
            RestockWord::Restock => Self::Restock,
            RestockWord::Quarantine => Self::Quarantine,
            RestockWord::None => Self::Nothing,
        }
    }
}

impl From<RestockPolicy> for RestockWord {
    fn from(policy: RestockPolicy) -> Self {
        match policy {
            RestockPolicy::Restock => Self::Restock,
            RestockPolicy::Quarantine => Self::Quarantine,
            RestockPolicy::Nothing => Self::None,
        }
    }
}

/// What happens when master and channel disagree.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StrategyWord {
    /// Push master to the channel.
    MasterWins,
    /// Adopt the channel's change.
    ChannelWins,
    /// Adopt it when it lowers master, else push.
    LowerWins,
    /// Flag it and wait for an operator.
    Manual,
}

impl From<StrategyWord> for Strategy {
    fn from(word: StrategyWord) -> Self {
        match word {
            StrategyWord::MasterWins => Self::MasterWins,
            StrategyWord::ChannelWins => Self::ChannelWins,
            StrategyWord::LowerWins => Self::LowerWins,
            StrategyWord::Manual => Self::Manual,
        }
    }
}

impl From<Strategy> for StrategyWord {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::MasterWins => Self::MasterWins,
            Strategy::ChannelWins => Self::ChannelWins,
            Strategy::LowerWins => Self::LowerWins,
            Strategy::Manual => Self::Manual,
        }
    }
}

/// The fields that every kind has; all others are the kind's.
const COMMON: [&str; 15] = [
    "kind",
    "syncInventory",
    "syncOrders",
    "conflictStrategy",
    "restockPolicy",
    "pollIntervalMinutes",
    "buffer",
    "percent",
    "maxQuantity",
    "zeroBelow",
    "dryRun",
    "endpoint",
    "credentials",
    "unitsPerListing",
    "locationIds",
];

/// Splits a body into what all kinds have and what is the kind's own.
fn read_enable(
    channel: &ChannelId,
    incoming: &Incoming,
    confirmed: bool,
) -> Result<Enable, Problem> {
    let mut common: Map<String, Value> = incoming.json()?;
    let mut vendor = Map::new();
    for name in common.keys().cloned().collect::<Vec<_>>() {
        if !COMMON.contains(&name.as_str())
            && let Some(value) = common.shift_remove(&name)
        {
            vendor.insert(name, value);
        }
    }
    let body: EnableBody = body::from_value("", Value::Object(common))?;
    let kind = body.kind.as_deref().unwrap_or(channel.as_str());
    check_vendor_fields(kind, &vendor, body.credentials.keys())?;
    let secret = |(name, SecretText(secret))| (name, secret);
    Ok(Enable {
        kind: body.kind,
        sync_inventory: body.sync_inventory,
        sync_orders: body.sync_orders,
        strategy: body.conflict_strategy.map(Strategy::from),
        restock: body.restock_policy.map(RestockPolicy::from).unwrap_or_default(),
        rules: RuleSettings {
            buffer: body.buffer.map(Units::get),
            percent: percent("/percent", body.percent)?,
            max_quantity: body.max_quantity.map(Units::get),
            zero_below: body.zero_below.map(Units::get),
            units_per_listing: None,
            locations: None,
        },
        poll_interval_minutes: minutes(body.poll_interval_minutes)?,
        dry_run: body.dry_run.unwrap_or(false),
        endpoint: body.endpoint,
        settings: vendor.into_iter().collect(),
        credentials: body.credentials.into_iter().map(secret).collect(),
        confirmed,
    })
}

/// Refuses settings and credentials that the kind has not, all of them at once.
fn check_vendor_fields<'a>(
    kind: &str,
    vendor: &Map<String, Value>,
    credentials: impl Iterator<Item = &'a String>,
) -> Result<(), Problem> {
    // An unknown kind is refused by the engine, which knows its words for it.
    let Some(kind) = trueup_channels::kind(kind) else { return Ok(()) };
    let known = kind.setting_names();
    let credentials = credentials.map(|name| format!("credentials.{name}"));
    let unknown: Vec<String> = vendor
        .keys()
        .cloned()
        .chain(credentials)
        .filter(|name| !known.contains(&name.as_str()))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let detail = format!("{} has no setting {}", kind.name(), unknown.join(", "));
    let problem = Problem::bad("unknown_field", detail);
    Err(unknown.iter().fold(problem, |problem, name| {
        let parts: Vec<String> = name.splitn(2, '.').map(body::escape).collect();
        problem.with_error(crate::api::problem::FieldError {
            pointer: format!("/{}", parts.join("/")),
            code: "unknown_field".into(),
            detail: format!("is not a setting of {}: {}", kind.name(), known.join(", ")),
        })
    }))
}

pub(super) fn percent(pointer: &str, given: Option<Units>) -> Result<Option<u8>, Problem> {
    let Some(units) = given else { return Ok(None) };
    let percent = u8::try_from(units.get().get()).ok().filter(|percent| *percent <= 100);
    let refused = || Problem::field(pointer, "invalid_percent", "must be from 0 to 100");
    percent.map(Some).ok_or_else(refused)
}

fn minutes(given: Option<Units>) -> Result<Option<u32>, Problem> {
    let Some(units) = given else { return Ok(None) };
    let minutes = Some(units.get().get()).filter(|m| (1..=POLL_MINUTES_MAX).contains(m));
    let rule = format!("must be from 1 to {POLL_MINUTES_MAX}");
    let refused = || Problem::field("/pollIntervalMinutes", "invalid_interval", rule);
    minutes.and_then(|m| u32::try_from(m).ok()).map(Some).ok_or_else(refused)
}

// --- Views --------------------------------------------------------------------------------

/// A channel. The kind's settings stand beside these fields; secrets are never returned.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ChannelView {
    channel_id: String,
    kind: String,
    /// `active` or `paused`.
    state: &'static str,
    sync_inventory: bool,
    sync_orders: bool,
    conflict_strategy: StrategyWord,
    restock_policy: RestockWord,
    #[serde(flatten)]
    rules: RulesView,
    poll_interval_minutes: Option<u32>,
    dry_run: bool,
    endpoint: Option<String>,
    created_at: Time,
    updated_at: Time,
    last_sync: Option<Time>,
    last_error: Option<String>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    settings: BTreeMap<String, Value>,
}

/// How the published number is made; absent = not set here.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RulesView {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    buffer: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    max_quantity: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    zero_below: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    units_per_listing: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    location_ids: Option<Vec<String>>,
}

impl From<&RuleSettings> for RulesView {
    fn from(rules: &RuleSettings) -> Self {
        let name = |location: &trueup_core::Location| location.as_str().to_owned();
        Self {
            buffer: rules.buffer.map(Quantity::get),
            percent: rules.percent,
            max_quantity: rules.max_quantity.map(Quantity::get),
            zero_below: rules.zero_below.map(Quantity::get),
            units_per_listing: rules.units_per_listing.map(Quantity::get),
            location_ids: rules.locations.as_ref().map(|all| all.iter().map(name).collect()),
        }
    }
}

impl From<Connection> for ChannelView {
    fn from(row: Connection) -> Self {
        Self {
            channel_id: row.id.as_str().to_owned(),
            kind: row.kind,
            state: match row.state {
                ConnectionState::Active => "active",
                ConnectionState::Paused => "paused",
            },
            sync_inventory: row.sync_inventory,
            sync_orders: row.sync_orders,
            conflict_strategy: row.strategy.unwrap_or_default().into(),
            restock_policy: row.restock.into(),
            rules: RulesView::from(&row.rules),
            poll_interval_minutes: row.poll_interval_minutes,
            dry_run: row.dry_run,
            endpoint: row.endpoint,
            created_at: Time(row.created_at),
            updated_at: Time(row.updated_at),
            last_sync: row.last_sync.map(Time),
            last_error: row.last_error.map(|(_, words)| words),
            // `listing`-like objects are fine; a name of ours is never overwritten.
            settings: row
                .settings
                .into_iter()
                .filter(|(name, _)| !COMMON.contains(&name.as_str()))
                .collect(),
        }
    }
}

/// How a channel is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    /// `ok`, `paused` or `error`.
    status: &'static str,
    health: HealthView,
    /// Whether the last call to the vendor came through.
    connected: bool,
    last_sync: Option<Time>,
    last_error: Option<String>,
    token: TokenView,
    webhooks: WebhooksView,
    /// Up to when its orders are booked; null before the first were read.
    orders_heard_to: Option<Time>,
    /// Its queue; null for a channel without one.
    queue: Option<QueueView>,
    /// Listings that owe a push, or whose push has no outcome yet, and that may be told.
    pending: u64,
    /// Listings whose last reading is not what it should be, among the first 10 000 in question.
    drifted: u64,
    /// Conflicts that wait for an operator.
    conflicts: u64,
    /// Listings that owe a push and wait because the vendor counts revisions (eBay: 250 of a
    /// listing in a day), among the first 10 000 in question.
    postponed: u64,
    /// Whether more than 10 000 listings were in question: `drifted` and `postponed` are then the
    /// least there can be.
    at_least: bool,
    /// Rate budgets and quotas by name.
    rate_limit: BTreeMap<String, RateView>,
}

/// What a channel does, or why it does not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HealthView {
    /// `ok`; `error`: it is tried again; `paused`: nothing is sent; `waiting`: nobody has
    /// authorized it at the vendor's page yet.
    state: &'static str,
    /// Why, such as `authorization_revoked`, `transient`, `queue`, `settings` or
    /// `authorization_needed`; null while it is well, and where an operator paused it.
    code: Option<String>,
    detail: Option<String>,
    /// Since when it has not been well for this reason.
    since: Option<Time>,
}

/// When the channel's tokens end; null where the vendor does not say, or there is none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TokenView {
    /// The access token's end; a new one is asked for by itself.
    expires_at: Option<Time>,
    /// The refresh token's end: by then the account has to authorize the channel again, where
    /// the vendor does not replace it with each use.
    refresh_expires_at: Option<Time>,
}

/// What the channel tells by itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WebhooksView {
    /// When a webhook, or a message of its queue, last came since the server started.
    last_at: Option<Time>,
    /// What was subscribed when that was last looked at; null where it has not been.
    topics: Option<Vec<String>>,
    /// Why what is missing of them cannot be subscribed; orders are polled all along.
    trouble: Option<TroubleView>,
}

/// The channel's own queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct QueueView {
    /// Why it cannot be read: orders are polled meanwhile. Null while it can.
    trouble: Option<TroubleView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TroubleView {
    detail: String,
    since: Time,
}

impl TroubleView {
    fn of((since, detail): (Timestamp, String)) -> Self {
        Self { detail, since: Time(since) }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RateView {
    /// Units restored each second; null where only a quota is known.
    per_second: Option<f64>,
    /// Units left now.
    remaining: Option<f64>,
    /// Calls in a window of time, such as a day, where the vendor tells (eBay). A tenth is kept
    /// for zeroes and decreases.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    quota: Option<QuotaView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct QuotaView {
    limit: u64,
    remaining: u64,
    resets_at: Time,
}

impl From<RateFigure> for RateView {
    fn from(figure: RateFigure) -> Self {
        let quota = |quota: QuotaFigure| QuotaView {
            limit: quota.limit,
            remaining: quota.remaining,
            resets_at: Time(quota.resets_at),
        };
        Self {
            per_second: figure.per_second,
            remaining: figure.remaining,
            quota: figure.quota.map(quota),
        }
    }
}

impl From<Health> for HealthView {
    fn from(health: Health) -> Self {
        Self {
            state: match health.state {
                HealthState::Ok => "ok",
                HealthState::Paused => "paused",
                HealthState::Error => "error",
                HealthState::Waiting => "waiting",
            },
            code: health.code,
            detail: health.detail,
            since: health.since.map(Time),
        }
    }
}

impl From<TokenEnds> for TokenView {
    fn from(token: TokenEnds) -> Self {
        Self { expires_at: token.access.map(Time), refresh_expires_at: token.refresh.map(Time) }
    }
}

impl From<Webhooks> for WebhooksView {
    fn from(webhooks: Webhooks) -> Self {
        Self {
            last_at: webhooks.last_at.map(Time),
            topics: webhooks.topics,
            trouble: webhooks.trouble.map(TroubleView::of),
        }
    }
}

impl From<QueueHealth> for QueueView {
    fn from(queue: QueueHealth) -> Self {
        Self { trouble: queue.trouble.map(TroubleView::of) }
    }
}

impl From<ChannelStatus> for StatusView {
    fn from(status: ChannelStatus) -> Self {
        let rate = |(name, figure)| (name, RateView::from(figure));
        Self {
            status: status.status,
            health: status.health.into(),
            connected: status.connected,
            last_sync: status.last_sync.map(Time),
            last_error: status.last_error,
            token: status.token.into(),
            webhooks: status.webhooks.into(),
            orders_heard_to: status.orders_heard_to.map(Time),
            queue: status.queue.map(QueueView::from),
            pending: status.pending,
            drifted: status.drifted,
            conflicts: status.conflicts,
            postponed: status.postponed,
            at_least: status.at_least,
            rate_limit: status.rate.into_iter().map(rate).collect(),
        }
    }
}

fn answer(row: Connection) -> Answered {
    Ok(Reply::ok(&ChannelView::from(row)))
}

// --- Handlers -----------------------------------------------------------------------------

/// Connects a channel, or changes how it is connected. The connection is verified first.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/enable", tag = "channels",
    params(("channelId" = String, Path, description = "A name for the connection",
        example = "shopify"),
        ("confirm" = Option<bool>, Query, description = "Do it although it changes much of what \
            the channel shows")),
    request_body = EnableBody,
    responses((status = 200, description = "It is connected", body = ChannelView),
        (status = 400, description = "`invalid_settings` naming each, `connection_incomplete` \
            naming every scope, role, location and marketplace that is missing, `unknown_kind`, \
            `endpoint_not_allowed`, `channel_credentials_refused`, …"),
        (status = 409, description = "`blast_radius` with the `impact`: it would change more of \
            what the channel shows than one act may; nothing was changed"),
        (status = 502, description = "`channel_unavailable`: the vendor did not answer")))]
async fn enable(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let channel = path.new_channel()?;
    let confirmed = query.flag("confirm")?.unwrap_or(false);
    query.finish()?;
    let enable = read_enable(&channel, &incoming, confirmed)?;
    // Boxed: connecting to a vendor is a long conversation, and its future is large.
    let work = Box::pin(async {
        let credentials: Vec<String> = enable.credentials.keys().cloned().collect();
        let row = app.engine.enable(&caller.org, &channel, enable).await?;
        let deed = Deed::new("channel_enabled").on(&channel);
        audit::note(&app, &caller, deed.with("newCredentials", credentials)).await;
        answer(row)
    });
    incoming.once(&app, &caller, work).await
}

/// Pauses a channel: nothing is sent, work is kept.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/disable", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    responses((status = 200, description = "It is paused", body = ChannelView),
        (status = 404, description = "`channel_not_found`")))]
async fn disable(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let work = async {
        let row = app.engine.disable(&caller.org, &channel).await?;
        audit::note(&app, &caller, Deed::new("channel_paused").on(&channel)).await;
        answer(row)
    };
    incoming.once(&app, &caller, work).await
}

/// Lets a paused channel go on.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/resume", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    responses((status = 200, description = "It goes on", body = ChannelView),
        (status = 404, description = "`channel_not_found`")))]
async fn resume(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let work = async {
        let row = app.engine.resume(&caller.org, &channel).await?;
        audit::note(&app, &caller, Deed::new("channel_resumed").on(&channel)).await;
        answer(row)
    };
    incoming.once(&app, &caller, work).await
}

/// Returns a channel.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    responses((status = 200, description = "The channel", body = ChannelView),
        (status = 404, description = "`channel_not_found`")))]
async fn get(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let channel = path.channel()?;
    answer(connection(&app, &caller.org, &channel).await?)
}

/// Removes a channel with its mappings; the ledger and the history stay.
#[utoipa::path(delete, path = "/sales-channel/channels/{channelId}", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "`channel_not_found`")))]
async fn remove(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let channel = path.channel()?;
    app.engine.remove(&caller.org, &channel).await?;
    audit::note(&app, &caller, Deed::new("channel_removed").on(&channel)).await;
    Ok(Reply::no_content())
}

const LIST: &str = "channels";

/// Lists channels.
#[utoipa::path(get, path = "/sales-channel/channels", tag = "channels", params(PageParams),
    responses((status = 200, description = "A page", body = Listed<ChannelView>)))]
async fn list(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let after = query.cursor(LIST, |position| Some(position.to_owned()))?;
    let limit = query.limit()?;
    query.finish()?;
    let mut rows = app.store.connections(&caller.org).await?;
    if let Some(after) = after {
        rows.retain(|row| row.id.as_str() > after.as_str());
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|last| seal_cursor(LIST, last.id.as_str()));
    let items: Vec<ChannelView> = rows.into_iter().map(ChannelView::from).collect();
    Ok(Reply::ok(&Listed { items, next_cursor }))
}

/// Returns how a channel is.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}/status", tag = "channels",
    params(("channelId" = String, Path, description = "The channel")),
    responses((status = 200, description = "How it is", body = StatusView),
        (status = 404, description = "`channel_not_found`")))]
async fn status(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let status = app.engine.status(&caller.org, &path.channel()?).await?;
    Ok(Reply::ok(&StatusView::from(status)))
}
