//! Lines of channels' orders that are not simply sold: pending ones hold stock, and those that
//! nothing answers to wait for a mapping.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use trueup_store::{HeldLine, OrderLineId, UnmappedLine};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Caller, Read, Segments};
use crate::api::lists::{Listed, PageParams, Params};
use crate::api::mappings::connection;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_orders))
}

/// A line of a channel's order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderLineView {
    /// The vendor's id of the order.
    order_id: String,
    /// The vendor's id of the line.
    line_id: String,
    /// `unmapped`: neither a mapping nor a SKU answers to it, and nothing is booked of it;
    /// `pending`: it is ordered and not paid for, and its stock is held.
    status: &'static str,
    /// The SKU: ours of a pending line, the channel's of an unmapped one.
    sku: Option<String>,
    /// The vendor's identifiers of an unmapped line's listing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    listing: BTreeMap<String, String>,
    /// Units of the listing that the line is about.
    quantity: u64,
    /// Since when it stands like this.
    since: Time,
}

impl From<UnmappedLine> for OrderLineView {
    fn from(line: UnmappedLine) -> Self {
        Self {
            order_id: line.order_id,
            line_id: line.line_id,
            status: "unmapped",
            sku: line.sku,
            listing: line.fields,
            quantity: line.sold.max(line.held),
            since: Time(line.since),
        }
    }
}

impl From<HeldLine> for OrderLineView {
    fn from(line: HeldLine) -> Self {
        Self {
            order_id: line.order_id,
            line_id: line.line_id,
            status: "pending",
            sku: Some(line.sku.as_str().to_owned()),
            listing: BTreeMap::new(),
            quantity: line.held,
            since: Time(line.since),
        }
    }
}

/// Which lines to list.
#[derive(Clone, Copy)]
enum Wanted {
    Unmapped,
    Pending,
}

const LIST: &str = "order lines";

/// Lists lines of a channel's orders that wait: for a mapping, or to be paid for.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}/orders", tag = "channels",
    params(PageParams,
        ("channelId" = String, Path, description = "The channel"),
        ("status" = Option<String>, Query, description = "`unmapped` (default) or `pending`")),
    responses((status = 200, description = "A page", body = Listed<OrderLineView>),
        (status = 404, description = "`channel_not_found`")))]
async fn list_orders(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut query: Params,
) -> Answered {
    let channel = path.channel()?;
    let wanted = query.read("status", "must be unmapped or pending", |text| match text {
        "unmapped" => Some(Wanted::Unmapped),
        "pending" => Some(Wanted::Pending),
        _ => None,
    })?;
    let after: Option<OrderLineId> =
        query.cursor(LIST, |position| serde_json::from_str(position).ok())?;
    let limit = query.limit()?;
    query.finish()?;
    let (store, org) = (&app.store, &caller.org);
    connection(&app, org, &channel).await?;
    let position = |order: &str, line: &str| serde_json::json!([order, line]).to_string();
    let listed: Listed<OrderLineView> = match wanted.unwrap_or(Wanted::Unmapped) {
        Wanted::Unmapped => {
            let page = store.unmapped_lines(org, &channel, after, limit).await?;
            let at = |line: &UnmappedLine| position(&line.order_id, &line.line_id);
            Listed::page(LIST, page, at, OrderLineView::from)
        }
        Wanted::Pending => {
            let page = store.held_lines(org, &channel, after, limit).await?;
            let at = |line: &HeldLine| position(&line.order_id, &line.line_id);
            Listed::page(LIST, page, at, OrderLineView::from)
        }
    };
    Ok(Reply::ok(&listed))
}
