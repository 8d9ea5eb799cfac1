//! Low stock.

use axum::extract::State;
use serde::Serialize;
use trueup_core::{Sku, SkuAnswer};
use trueup_store::SkuQuery;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Caller, Read};
use crate::api::inventory::Numbers;
use crate::api::lists::{Listed, PageParams, Params};
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(low_stock))
}

/// A SKU below its threshold.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LowStockView {
    sku: String,
    quantity: i64,
    available: u64,
    low_stock_threshold: Option<u64>,
    /// Since when it is low.
    since: Option<Time>,
}

impl From<SkuAnswer> for LowStockView {
    fn from(answer: SkuAnswer) -> Self {
        let numbers = Numbers::of(&answer);
        let state = &answer.state;
        Self {
            sku: answer.sku.as_str().to_owned(),
            quantity: numbers.quantity,
            available: numbers.available,
            low_stock_threshold: state.low_stock_threshold.map(trueup_core::Quantity::get),
            since: state.low_since.map(Time),
        }
    }
}

const LIST: &str = "low-stock";

/// Lists SKUs whose quantity has fallen below their threshold.
#[utoipa::path(get, path = "/sales-channel/inventory/alerts/low-stock", tag = "inventory",
    params(PageParams),
    responses((status = 200, description = "A page", body = Listed<LowStockView>)))]
async fn low_stock(
    State(app): State<AppState>,
    caller: Caller<Read>,
    mut query: Params,
) -> Answered {
    let filter = SkuQuery {
        low_stock: Some(true),
        after: query.cursor(LIST, |position| Sku::new(position).ok())?,
        limit: query.limit()?,
        ..SkuQuery::default()
    };
    query.finish()?;
    let page = app.store.skus(&caller.org, filter).await?;
    let position = |answer: &SkuAnswer| answer.sku.to_string();
    Ok(Reply::ok(&Listed::page(LIST, page, position, LowStockView::from)))
}
