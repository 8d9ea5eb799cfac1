//! Many counts in one call.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trueup_core::{Answer, Command, Rejection, SetOnHand, Sku};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::body::{
    FreeText, LocationText, SkuText, Strict, TimeText, Units, check_len, nullable,
};
use crate::api::extract::{Caller, Stock};
use crate::api::idempotency::{Incoming, Render};
use crate::api::inventory::{ITEMS_MAX, counted_at, location, reason, settings, unexpected};
use crate::api::lists::NoParams;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::runs::{self, SyncView};
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(bulk_update))
}

/// Counts of many SKUs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"items": [{"sku": "SKU-100", "quantity": 42}], "atomic": true}))]
struct BulkBody {
    /// The counts, at most 10 000.
    #[schema(value_type = Vec<BulkItem>)]
    items: Vec<Strict<BulkItem>>,
    /// Whether to push the SKUs to every connected channel now.
    sync_to_channels: Option<bool>,
    /// Why, where an item says nothing.
    reason: Option<FreeText>,
    /// All or nothing.
    atomic: Option<bool>,
}

/// A count of one SKU.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BulkItem {
    sku: SkuText,
    quantity: Units,
    reason: Option<FreeText>,
    location_id: Option<LocationText>,
    safety_stock: Option<Units>,
    /// Null = never low.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Units>)]
    low_stock_threshold: Option<Option<Units>>,
    backorder_limit: Option<Units>,
    counted_at: Option<TimeText>,
}

/// What became of the counts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BulkView<'a> {
    updated: usize,
    failed: usize,
    /// `{sku, status: "updated", version}` or `{sku, status: "error", error: {code, detail}}`,
    /// in the order of the request.
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    sync: Option<SyncView<'a>>,
}

/// Sets many SKUs.
///
/// A body of the wrong shape, a quantity or SKU that cannot be: 400 for the whole, nothing
/// changed. What the ledger refuses is said per item and keeps no other item from being set,
/// unless `atomic` is true: then the first refusal is the answer, and nothing changed.
#[utoipa::path(put, path = "/sales-channel/inventory/bulk/update", tag = "inventory",
    request_body = BulkBody,
    responses((status = 200, description = "What became of each", body = BulkView),
        (status = 409, description = "With `atomic`: what stood in the way")))]
async fn bulk_update(
    State(app): State<AppState>,
    caller: Caller<Stock>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let body: BulkBody = incoming.json()?;
    check_len("/items", body.items.len(), ITEMS_MAX)?;
    let (now, publish) = (app.now(), body.sync_to_channels.unwrap_or(false));
    let common = reason(body.reason);
    let mut items = Vec::with_capacity(body.items.len());
    for (index, Strict(item)) in body.items.into_iter().enumerate() {
        let pointer = format!("/items/{index}/countedAt");
        let (low, backorder) = (item.low_stock_threshold, item.backorder_limit);
        items.push(SetOnHand {
            sku: item.sku.0,
            quantity: item.quantity.get(),
            location: location(item.location_id),
            reason: reason(item.reason).or_else(|| common.clone()),
            settings: settings(item.safety_stock, low, backorder),
            counted_at: counted_at(&pointer, item.counted_at, now)?,
            if_version: None,
            publish,
        });
    }
    let skus: Vec<Sku> = items.iter().map(|item| item.sku.clone()).collect();
    let run: Option<Arc<str>> = publish.then(|| Arc::from(runs::new_fan_out_id(&app)));
    let command = Command::Bulk { items, atomic: body.atomic.unwrap_or(false) };
    let submitted = incoming.submit(&app, &caller, command, render(run.clone())).await?;
    if publish && submitted.reply.status().is_success() {
        let skus = match &submitted.decided {
            Some(Ok(Answer::Bulk(results))) => updated(results),
            Some(_) | None => skus,
        };
        runs::fan_out_after(&app, &caller.org, &submitted, run, skus).await;
    }
    Ok(submitted.reply)
}

fn updated(results: &[(Sku, Result<u64, Rejection>)]) -> Vec<Sku> {
    let updated = results.iter().filter(|(_, result)| result.is_ok());
    updated.map(|(sku, _)| sku.clone()).collect()
}

fn render(run: Option<Arc<str>>) -> Render {
    Arc::new(move |decided| match decided {
        Ok(Answer::Bulk(results)) => {
            let updated = results.iter().filter(|(_, result)| result.is_ok()).count();
            let sync = run.as_deref().map(SyncView::of);
            Reply::ok(&BulkView {
                updated,
                failed: results.len() - updated,
                items: results.iter().map(item).collect(),
                sync,
            })
        }
        Ok(other) => unexpected(other),
        Err(rejection) => Problem::from(rejection).reply(),
    })
}

fn item((sku, result): &(Sku, Result<u64, Rejection>)) -> Value {
    match result {
        Ok(version) => json!({"sku": sku.as_str(), "status": "updated", "version": version}),
        Err(rejection) => {
            let error = Problem::from(rejection).as_item_error();
            json!({"sku": sku.as_str(), "status": "error", "error": error})
        }
    }
}
