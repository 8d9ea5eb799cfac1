//! CSV out, page by page: a big ledger is never in memory whole. What comes out goes in again.

use std::future::Future;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::header;
use trueup_core::{Org, Quantity, Sku, SkuAnswer};
use trueup_store::SkuQuery;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::AppState;
use crate::api::extract::{Caller, Read};
use crate::api::lists::NoParams;
use crate::api::problem::Problem;

/// SKUs read at once.
const PAGE_SKUS: usize = 1_000;

/// The columns; the last two are for people and ignored by the import.
pub const COLUMNS: [&str; 8] = [
    "sku",
    "quantity",
    "location",
    "low_stock_threshold",
    "safety_stock",
    "backorder_limit",
    "reserved",
    "available",
];

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(export))
}

/// Returns the whole inventory as CSV: a line per SKU and location; bundles are left out, since
/// their stock is that of their parts.
#[utoipa::path(get, path = "/sales-channel/inventory/export", tag = "inventory",
    responses((status = 200, description = "The inventory", content_type = "text/csv",
        body = String)))]
async fn export(
    State(app): State<AppState>,
    caller: Caller<Read>,
    _: NoParams,
) -> Result<Response, Problem> {
    let next = move |after| {
        let (app, org) = (app.clone(), caller.org.clone());
        async move { page(&app, &org, after).await }
    };
    stream(&COLUMNS, "inventory.csv", next).await
}

type Chunk = Result<Bytes, std::io::Error>;

/// Answers with a file of CSV, page by page; `next` returns the lines of the page that begins
/// after a position, and where the next one begins.
///
/// # Errors
/// When the first page cannot be had: it is read before the answer begins.
pub(super) async fn stream<P, F>(
    columns: &[impl AsRef<str>],
    name: &str,
    next: impl Fn(Option<P>) -> F + Send + 'static,
) -> Result<Response, Problem>
where
    P: Send + 'static,
    F: Future<Output = Result<(Vec<u8>, Option<P>), Problem>> + Send,
{
    let (first, after) = next(None).await?;
    let mut text = line(columns);
    text.extend(first);
    let begin = stream::iter([Chunk::Ok(Bytes::from(text))]);
    let rest = stream::unfold((next, after), |(next, after)| async move {
        match next(Some(after?)).await {
            Ok((text, after)) => Some((Ok(Bytes::from(text)), (next, after))),
            // The answer breaks off, so that nobody takes a part for the whole.
            Err(problem) => {
                let broken = std::io::Error::other(problem.detail().to_owned());
                Some((Err(broken), (next, None)))
            }
        }
    });
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, Body::from_stream(begin.chain(rest))).into_response())
}

/// Returns a page's lines, and the SKU that the next page comes after.
async fn page(
    app: &AppState,
    org: &Org,
    after: Option<Sku>,
) -> Result<(Vec<u8>, Option<Sku>), Problem> {
    let query = SkuQuery { after, limit: PAGE_SKUS, ..SkuQuery::default() };
    let page = app.store.skus(org, query).await?;
    let next = page.items.last().filter(|_| page.more).map(|last| last.sku.clone());
    Ok((page.items.iter().flat_map(lines).collect(), next))
}

/// Returns a SKU's lines.
#[must_use]
pub fn lines(answer: &SkuAnswer) -> Vec<u8> {
    let state = &answer.state;
    if state.is_bundle() {
        return Vec::new();
    }
    let sku = answer.sku.as_str();
    let threshold = state.low_stock_threshold.map_or_else(String::new, |units| units.to_string());
    let row = |location: &str, on_hand: i64, reserved: u64| {
        let available = on_hand.saturating_sub_unsigned(reserved).max(0);
        line(&[
            sku.to_owned(),
            on_hand.to_string(),
            location.to_owned(),
            threshold.clone(),
            state.safety_stock.to_string(),
            state.backorder_limit.to_string(),
            reserved.to_string(),
            available.to_string(),
        ])
    };
    if state.levels.is_empty() {
        return row(trueup_core::ids::MAIN_LOCATION, 0, Quantity::ZERO.get());
    }
    let levels = state.levels.iter();
    levels
        .flat_map(|level| row(level.location.as_str(), level.on_hand.get(), level.reserved.get()))
        .collect()
}

/// Returns a line of cells.
pub(super) fn line(cells: &[impl AsRef<str>]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::with_capacity(96));
    // Writing to memory cannot fail.
    writer.write_record(cells.iter().map(AsRef::as_ref)).expect("a line in memory");
    writer.into_inner().expect("a line in memory")
}
