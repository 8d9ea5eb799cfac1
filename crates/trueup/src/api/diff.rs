//! What has changed between two instants, from the ledger.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use trueup_core::{Org, Sku};
use trueup_store::{MovementQuery, SkuQuery};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Caller, Read, Segments};
use crate::api::inventory::{Numbers, sku_not_found};
use crate::api::lists::{Listed, PageParams, Params, seal_cursor};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::{Time, Window};
use crate::api::{Answered, App, AppState};

/// The most ledger lines that are added up by kind.
const LINES_MAX: usize = 10_000;
/// How many are read at once.
const PAGE_LINES: usize = 1_000;

/// How far apart the instants are when nothing is said, in milliseconds.
const WINDOW_MS_DEFAULT: i64 = 24 * 3_600 * 1_000;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(of_sku)).routes(routes!(of_all))
}

/// How a SKU stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
struct ThenView {
    quantity: i64,
    reserved: u64,
    available: u64,
}

/// How a SKU differs between two instants.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DiffView {
    sku: String,
    /// How it stood at the first instant; null where it did not exist yet.
    from: Option<ThenView>,
    /// How it stood at the second.
    to: Option<ThenView>,
    /// Change of what is on hand.
    delta: i64,
    /// Change of what is reserved.
    reserved_delta: i64,
    /// Change of what is available.
    available_delta: i64,
}

/// What the ledger's lines of one kind made of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KindView {
    lines: u64,
    delta: i64,
    reserved_delta: i64,
}

/// How one SKU differs between two instants, and by what.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WhyDiffView {
    since: Time,
    until: Time,
    #[serde(flatten)]
    diff: DiffView,
    /// By the kind of ledger line.
    kinds: BTreeMap<&'static str, KindView>,
    /// Whether there were more than 10 000 lines: `kinds` are then of the newest.
    cut: bool,
}

/// Takes `from` and `to`; without them, a day up to now.
fn window(app: &App, query: &mut Params) -> Result<Window, Problem> {
    let to = query.time("to")?.unwrap_or_else(|| app.now());
    Window::new("?from", query.time("from")?, to, WINDOW_MS_DEFAULT)
}

async fn diff(app: &App, org: &Org, sku: &Sku, window: Window) -> Result<DiffView, Problem> {
    let then = async |at| {
        let then = app.store.sku_at(org, sku, at).await?;
        Ok::<_, Problem>(then.map(|then| {
            let Numbers { quantity, reserved, available } = Numbers::of(&then.answer);
            ThenView { quantity, reserved, available }
        }))
    };
    let (from, to) = (then(window.from).await?, then(window.to).await?);
    let none = ThenView { quantity: 0, reserved: 0, available: 0 };
    let (before, after) = (from.unwrap_or(none), to.unwrap_or(none));
    let units = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
    Ok(DiffView {
        sku: sku.as_str().to_owned(),
        from,
        to,
        delta: after.quantity.saturating_sub(before.quantity),
        reserved_delta: units(after.reserved) - units(before.reserved),
        available_delta: units(after.available) - units(before.available),
    })
}

/// Adds up a SKU's lines of a window by kind; the newest of them.
async fn by_kind(
    app: &App,
    org: &Org,
    sku: &Sku,
    window: Window,
) -> Result<(BTreeMap<&'static str, KindView>, bool), Problem> {
    let mut kinds: BTreeMap<&'static str, KindView> = BTreeMap::new();
    let (mut read, mut before_seq) = (0, None);
    loop {
        let query = MovementQuery {
            from: Some(window.from.just_after()),
            to: Some(window.to.just_after()),
            before_seq,
            limit: PAGE_LINES,
            ..MovementQuery::default()
        };
        let page = app.store.movements(org, sku, query).await?;
        for line in &page.items {
            let kind = kinds.entry(line.kind.as_str()).or_default();
            kind.lines += 1;
            kind.delta = kind.delta.saturating_add(line.delta.get());
            kind.reserved_delta = kind.reserved_delta.saturating_add(line.reserved_delta.get());
        }
        read += page.items.len();
        before_seq = page.items.last().map(|line| line.seq);
        if !page.more || before_seq.is_none() || read >= LINES_MAX {
            return Ok((kinds, page.more));
        }
    }
}

/// Says how a SKU differs between two instants, and by which kinds of ledger lines.
#[utoipa::path(get, path = "/sales-channel/inventory/{sku}/diff", operation_id = "diff",
    tag = "inventory",
    params(("sku" = String, Path, description = "The SKU, percent-encoded", example = "SKU-100"),
        ("from" = Option<String>, Query, description = "The first instant; by default a day \
            before the second"),
        ("to" = Option<String>, Query, description = "The second; by default now")),
    responses((status = 200, description = "The difference", body = WhyDiffView),
        (status = 400, description = "`invalid_window`"),
        (status = 404, description = "`sku_not_found`")))]
async fn of_sku(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let sku = path.sku()?;
    let window = window(&app, &mut query)?;
    query.finish()?;
    let org = &caller.org;
    app.store.sku(org, &sku).await?.ok_or_else(|| sku_not_found(&sku))?;
    let diff = diff(&app, org, &sku, window).await?;
    let (kinds, cut) = by_kind(&app, org, &sku, window).await?;
    let (since, until) = (Time(window.from), Time(window.to));
    Ok(Reply::ok(&WhyDiffView { since, until, diff, kinds, cut }))
}

const LIST: &str = "diff";

/// Lists SKUs that differ between two instants, by SKU.
///
/// A page looks at as many SKUs as its limit says and lists those that differ: it may be
/// short, or empty, while there are more.
#[utoipa::path(get, path = "/sales-channel/inventory/diff/skus", operation_id = "diffs",
    tag = "inventory",
    params(PageParams,
        ("from" = Option<String>, Query, description = "The first instant; by default a day \
            before the second"),
        ("to" = Option<String>, Query, description = "The second; by default now"),
        ("search" = Option<String>, Query, description = "Only SKUs that contain this text")),
    responses((status = 200, description = "A page", body = Listed<DiffView>),
        (status = 400, description = "`invalid_window`")))]
async fn of_all(State(app): State<AppState>, caller: Caller<Read>, mut query: Params) -> Answered {
    let window = window(&app, &mut query)?;
    let filter = SkuQuery {
        search: query.text("search")?,
        after: query.cursor(LIST, |position| Sku::new(position).ok())?,
        limit: query.limit()?,
        ..SkuQuery::default()
    };
    query.finish()?;
    let page = app.store.skus(&caller.org, filter).await?;
    let last = page.items.last().filter(|_| page.more);
    let next_cursor = last.map(|last| seal_cursor(LIST, last.sku.as_str()));
    let mut items = Vec::new();
    for known in &page.items {
        // What has not changed since is as it was.
        if known.state.updated_at < window.from && !known.state.is_bundle() {
            continue;
        }
        let diff = diff(&app, &caller.org, &known.sku, window).await?;
        if diff.from != diff.to {
            items.push(diff);
        }
    }
    Ok(Reply::ok(&Listed { items, next_cursor }))
}
