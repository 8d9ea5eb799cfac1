//! Reservations: reserve, release, commit, extend, and reading them.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trueup_core::{
    Answer, Command, Item, OrderId, Rejection, Reservation, ReservationStatus, Reserve,
    ReserveOutcome, Timestamp,
};
use trueup_store::ReservationQuery;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::body::{ITEMS_MAX, LocationText, OrderText, SkuText, Strict, Units, check_len};
use crate::api::extract::{
    Caller, Hold, Read, Segments, format_reservation_id, parse_reservation_id,
    reservation_not_found,
};
use crate::api::idempotency::Incoming;
use crate::api::inventory::unexpected;
use crate::api::lists::{Listed, NoParams, PageParams, Params};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, App, AppState};

/// How long a reservation holds when nothing is said, in seconds.
const TTL_SECONDS_DEFAULT: u32 = 900;
/// The longest that a reservation holds, in seconds: a week.
const TTL_SECONDS_MAX: u64 = 604_800;
/// The most reservations in one batch.
const BATCH_MAX: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(reserve))
        .routes(routes!(reserve_batch))
        .routes(routes!(release))
        .routes(routes!(commit))
        .routes(routes!(extend))
        .routes(routes!(get))
        .routes(routes!(list))
}

// --- Bodies -------------------------------------------------------------------------------

/// What an order needs, all or none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"items": [{"sku": "SKU-100", "quantity": 2}], "orderId": "ord-abc"}))]
struct ReserveBody {
    /// The items; one SKU given twice is summed.
    #[schema(value_type = Vec<ItemBody>)]
    items: Vec<Strict<ItemBody>>,
    /// The order; it has at most one active reservation.
    order_id: OrderText,
    /// How long it holds: 1 to 604800, by default 900.
    #[schema(value_type = Option<u32>)]
    ttl_seconds: Option<Ttl>,
}

/// One item of an order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ItemBody {
    /// The SKU.
    sku: SkuText,
    /// Units, at least 1.
    quantity: Units,
    /// Where to take it from; by default wherever it stands.
    location_id: Option<LocationText>,
}

/// Many reservations, each its own outcome.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BatchBody {
    /// At most 1000.
    #[schema(value_type = Vec<ReserveBody>)]
    reservations: Vec<Strict<ReserveBody>>,
}

/// How to commit.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CommitBody {
    /// When it has expired: take the stock again, if it is there.
    reacquire: Option<bool>,
}

/// Nothing, or an empty object.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NoBody {}

/// How long to hold on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExtendBody {
    /// From now: 1 to 604800.
    #[schema(value_type = u32)]
    ttl_seconds: Ttl,
}

/// A length of time in seconds, read as a number and checked by [`ttl`].
#[derive(Debug, Clone, Copy)]
struct Ttl(f64);

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(Self)
    }
}

fn ttl(pointer: impl FnOnce() -> String, given: Option<Ttl>) -> Result<u32, Problem> {
    let Some(Ttl(seconds)) = given else { return Ok(TTL_SECONDS_DEFAULT) };
    whole_seconds(seconds).ok_or_else(|| {
        let rule = format!("must be a whole number from 1 to {TTL_SECONDS_MAX}");
        Problem::field(pointer(), "invalid_ttl", rule)
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the value is whole and within 1 to 604800"
)]
fn whole_seconds(seconds: f64) -> Option<u32> {
    let within = (1.0..=TTL_SECONDS_MAX as f64).contains(&seconds);
    (within && seconds.fract() == 0.0).then_some(seconds as u32)
}

/// Makes the command of a body that stands under a JSON pointer, which is written out only where
/// something is wrong.
fn command(app: &App, prefix: impl Fn() -> String, body: ReserveBody) -> Result<Reserve, Problem> {
    if !(1..=ITEMS_MAX).contains(&body.items.len()) {
        check_len(&format!("{}/items", prefix()), body.items.len(), ITEMS_MAX)?;
    }
    let ttl_seconds = ttl(|| format!("{}/ttlSeconds", prefix()), body.ttl_seconds)?;
    let mut items = Vec::with_capacity(body.items.len());
    for (index, Strict(item)) in body.items.into_iter().enumerate() {
        if item.quantity.get().get() == 0 {
            let pointer = format!("{}/items/{index}/quantity", prefix());
            return Err(Problem::field(pointer, "invalid_quantity", "must be at least 1"));
        }
        items.push(Item {
            sku: item.sku.0,
            location: item.location_id.map(|location| location.0),
            quantity: item.quantity.get(),
        });
    }
    Ok(Reserve { id: app.new_reservation_id(), order: body.order_id.0, items, ttl_seconds })
}

// --- Views --------------------------------------------------------------------------------

/// A hold for one order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "reservationId": "rsv_01989c1e7a5b7c3d8e9f0a1b2c3d4e5f", "orderId": "ord-abc",
    "status": "active", "items": [{"sku": "SKU-100", "quantity": 2}],
    "createdAt": "2026-04-25T10:00:00Z", "expiresAt": "2026-04-25T10:15:00Z"
}))]
pub(super) struct ReservationView<'a> {
    reservation_id: String,
    order_id: &'a str,
    /// `active`, `released`, `committed` or `expired`.
    status: &'static str,
    items: Vec<ItemView<'a>>,
    created_at: Time,
    expires_at: Time,
    /// When it was released, committed or found expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    ended_at: Option<Time>,
    /// True when the order held other items before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    replaced: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ItemView<'a> {
    sku: &'a str,
    quantity: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    location_id: Option<&'a str>,
}

impl<'a> ReservationView<'a> {
    fn of(reservation: &'a Reservation) -> Self {
        let item = |item: &'a Item| ItemView {
            sku: item.sku.as_str(),
            quantity: item.quantity.get(),
            location_id: item.location.as_ref().map(trueup_core::Location::as_str),
        };
        Self {
            reservation_id: format_reservation_id(reservation.id),
            order_id: reservation.order.as_str(),
            status: word(reservation.status),
            items: reservation.items.iter().map(item).collect(),
            created_at: Time(reservation.created_at),
            expires_at: Time(reservation.expires_at),
            ended_at: reservation.ended_at.map(Time),
            replaced: None,
        }
    }

    /// The view at an instant: what is due counts as expired before any sweeper has seen it.
    fn at(reservation: &'a Reservation, now: Timestamp) -> Self {
        let mut view = Self::of(reservation);
        let due = reservation.status == ReservationStatus::Active && reservation.expires_at <= now;
        if due {
            view.status = word(ReservationStatus::Expired);
            view.ended_at = Some(Time(reservation.expires_at));
        }
        view
    }
}

const STATUSES: [ReservationStatus; 4] = [
    ReservationStatus::Active,
    ReservationStatus::Released,
    ReservationStatus::Committed,
    ReservationStatus::Expired,
];

fn word(status: ReservationStatus) -> &'static str {
    match status {
        ReservationStatus::Active => "active",
        ReservationStatus::Released => "released",
        ReservationStatus::Committed => "committed",
        ReservationStatus::Expired => "expired",
    }
}

fn outcome_status(outcome: ReserveOutcome) -> StatusCode {
    match outcome {
        ReserveOutcome::Created => StatusCode::CREATED,
        ReserveOutcome::Unchanged | ReserveOutcome::Replaced => StatusCode::OK,
    }
}

fn reserved_view(reservation: &Reservation, outcome: ReserveOutcome) -> ReservationView<'_> {
    let mut view = ReservationView::of(reservation);
    view.replaced = (outcome == ReserveOutcome::Replaced).then_some(true);
    view
}

/// Makes the answer of everything that ends in one reservation.
fn render(decided: &Result<Answer, Rejection>) -> Reply {
    match decided {
        Ok(Answer::Reserved(reservation, outcome)) => {
            Reply::json(outcome_status(*outcome), &reserved_view(reservation, *outcome))
        }
        Ok(Answer::Reservation(reservation)) => Reply::ok(&ReservationView::of(reservation)),
        Ok(other) => unexpected(other),
        Err(rejection) => Problem::from(rejection).reply(),
    }
}

type Batched = Result<(Reservation, ReserveOutcome), Rejection>;

fn render_batch(decided: &Result<Answer, Rejection>) -> Reply {
    match decided {
        Ok(Answer::ReservedBatch(results)) => {
            Reply::ok(&BatchView { results: results.iter().map(batched).collect() })
        }
        Ok(other) => unexpected(other),
        Err(rejection) => Problem::from(rejection).reply(),
    }
}

#[derive(Debug, Serialize)]
struct BatchView<'a> {
    results: Vec<BatchedView<'a>>,
}

/// One outcome of many.
#[derive(Debug, Serialize)]
struct BatchedView<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<ReservationView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

fn batched(result: &Batched) -> BatchedView<'_> {
    match result {
        Ok((reservation, outcome)) => BatchedView {
            status: outcome_status(*outcome).as_u16(),
            reservation: Some(reserved_view(reservation, *outcome)),
            error: None,
        },
        Err(rejection) => {
            let problem = Problem::from(rejection);
            let status = problem.status().as_u16();
            BatchedView { status, reservation: None, error: Some(problem.as_item_error()) }
        }
    }
}

// --- Handlers -----------------------------------------------------------------------------

/// Holds stock for an order, all items or none.
///
/// A second reserve for an order that still holds never stacks: the same items change nothing,
/// other items replace the old ones in one step.
#[utoipa::path(post, path = "/sales-channel/inventory/reserve", tag = "reservations",
    request_body = ReserveBody,
    responses((status = 201, description = "A new hold", body = ReservationView),
        (status = 200, description = "The order held already: the same items, or replaced",
            body = ReservationView),
        (status = 404, description = "`sku_not_found`"),
        (status = 409, description = "`insufficient_stock` with `shortages`; nothing changed")))]
async fn reserve(
    State(app): State<AppState>,
    caller: Caller<Hold>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let command = Command::Reserve(command(&app, String::new, incoming.json()?)?);
    act(&app, &caller, &incoming, command).await
}

/// Holds stock for many orders, each its own outcome, in one durable write.
#[utoipa::path(post, path = "/sales-channel/inventory/reserve/batch", tag = "reservations",
    request_body = BatchBody,
    responses((status = 200, description = "`results`: for each, in order, `{status: 201 | 200, \
        reservation}` or `{status, error: {code, detail, shortages?}}`", body = Object)))]
async fn reserve_batch(
    State(app): State<AppState>,
    caller: Caller<Hold>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let body: BatchBody = incoming.json()?;
    check_len("/reservations", body.reservations.len(), BATCH_MAX)?;
    let items = body.reservations.iter().map(|Strict(one)| one.items.len()).sum();
    check_len("/reservations", items, ITEMS_MAX)?;
    let reserves: Result<Vec<Reserve>, Problem> = body
        .reservations
        .into_iter()
        .enumerate()
        .map(|(index, Strict(one))| command(&app, || format!("/reservations/{index}"), one))
        .collect();
    let command = Command::ReserveBatch(reserves?);
    let submitted = incoming.submit(&app, &caller, command, Arc::new(render_batch)).await?;
    Ok(submitted.reply)
}

/// Gives the stock back.
#[utoipa::path(post, path = "/sales-channel/inventory/reservation/{id}/release",
    tag = "reservations",
    params(("id" = String, Path, description = "The reservation")),
    request_body(content = Option<NoBody>, description = "None"),
    responses((status = 200, description = "It is free; also when it was before",
            body = ReservationView),
        (status = 404, description = "`reservation_not_found`"),
        (status = 409, description = "`reservation_committed`")))]
async fn release(
    State(app): State<AppState>,
    caller: Caller<Hold>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let id = path.reservation()?;
    let NoBody {} = incoming.json_or_default()?;
    act(&app, &caller, &incoming, Command::Release { id }).await
}

/// Makes the hold a sale: on hand and reserved fall together, and channels are told.
#[utoipa::path(post, path = "/sales-channel/inventory/reservation/{id}/commit",
    tag = "reservations",
    params(("id" = String, Path, description = "The reservation")),
    request_body(content = Option<CommitBody>, description = "None, or how"),
    responses((status = 200, description = "It is sold; also when it was before",
            body = ReservationView),
        (status = 404, description = "`reservation_not_found`"),
        (status = 409, description = "`reservation_released`, `reservation_expired`, or with \
            `reacquire` `insufficient_stock`")))]
async fn commit(
    State(app): State<AppState>,
    caller: Caller<Hold>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let id = path.reservation()?;
    let body: CommitBody = incoming.json_or_default()?;
    let reacquire = body.reacquire.unwrap_or(false);
    act(&app, &caller, &incoming, Command::Commit { id, reacquire }).await
}

/// Lets a hold live for so long from now.
#[utoipa::path(post, path = "/sales-channel/inventory/reservation/{id}/extend",
    tag = "reservations",
    params(("id" = String, Path, description = "The reservation")),
    request_body = ExtendBody,
    responses((status = 200, description = "It holds on", body = ReservationView),
        (status = 404, description = "`reservation_not_found`"),
        (status = 409, description = "`reservation_committed`, `reservation_released`, \
            `reservation_expired`")))]
async fn extend(
    State(app): State<AppState>,
    caller: Caller<Hold>,
    path: Segments,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let id = path.reservation()?;
    let body: ExtendBody = incoming.json()?;
    let ttl_seconds = ttl(|| "/ttlSeconds".to_owned(), Some(body.ttl_seconds))?;
    act(&app, &caller, &incoming, Command::Extend { id, ttl_seconds }).await
}

async fn act(app: &App, caller: &Caller<Hold>, incoming: &Incoming, command: Command) -> Answered {
    let submitted = incoming.submit(app, caller, command, Arc::new(render)).await?;
    Ok(submitted.reply)
}

/// Returns a reservation, whatever its status.
#[utoipa::path(get, path = "/sales-channel/inventory/reservation/{id}", tag = "reservations",
    params(("id" = String, Path, description = "The reservation")),
    responses((status = 200, description = "The reservation", body = ReservationView),
        (status = 404, description = "`reservation_not_found`")))]
async fn get(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let id = path.reservation()?;
    let found = app.store.reservation(&caller.org, id).await?;
    let found = found.ok_or_else(reservation_not_found)?;
    Ok(Reply::ok(&ReservationView::at(&found, app.now())))
}

const LIST: &str = "reservations";

/// Lists reservations, newest first.
#[utoipa::path(get, path = "/sales-channel/inventory/reservations", tag = "reservations",
    params(PageParams,
        ("status" = Option<String>, Query,
            description = "`active`, `released`, `committed` or `expired`"),
        ("orderId" = Option<String>, Query, description = "Only of this order"),
        ("sku" = Option<String>, Query, description = "Only with this SKU")),
    responses((status = 200, description = "A page", body = Listed<ReservationView>)))]
async fn list(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let rule = "must be active, released, committed or expired";
    let filter = ReservationQuery {
        status: query.read("status", rule, |text| {
            STATUSES.into_iter().find(|status| word(*status) == text)
        })?,
        order: query.named("orderId", "invalid_order_id", OrderId::new)?,
        sku: query.sku("sku")?,
        before: query.cursor(LIST, parse_reservation_id)?,
        limit: query.limit()?,
    };
    query.finish()?;
    let page = app.store.reservations(&caller.org, filter).await?;
    let now = app.now();
    let last = page.items.last().map(|last| format_reservation_id(last.id)).unwrap_or_default();
    let views: Vec<_> = page.items.iter().map(|row| ReservationView::at(row, now)).collect();
    let page = trueup_store::Page { items: views, more: page.more };
    Ok(Reply::ok(&Listed::page(LIST, page, |_| last.clone(), |view| view)))
}
