//! Shopify's webhooks: the signature over the raw bytes, then the body into notices.
//!
//! <https://shopify.dev/docs/apps/build/webhooks/subscribe/https>

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde::Deserialize;
use sha2::Sha256;

use super::config::{Config, gid};
use crate::exchange::{parse_json, parse_time};
use crate::port::{
    ChannelError, LineState, Notice, OrderLine, OrderNotice, PartId, Secret, VerifiedWebhook,
    WebhookError, WebhookRequest,
};

/// Checks `X-Shopify-Hmac-SHA256`: base64 of HMAC-SHA256 over the raw body; and that the delivery
/// is of this shop, for one app's secret signs the deliveries of all its shops.
///
/// The headers are not signed: id, topic and shop are the sender's word. So nothing rests on
/// them but what harms nobody: orders are booked as totals, everything else is a hint.
pub(super) fn verify(
    config: &Config,
    request: WebhookRequest<'_>,
) -> Result<VerifiedWebhook, WebhookError> {
    let secrets = &config.webhook_secrets;
    if secrets.is_empty() {
        return Err(WebhookError::NoSecret);
    }
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let signature = header("x-shopify-hmac-sha256").ok_or(WebhookError::Signature)?;
    let signature = STANDARD.decode(signature.trim()).map_err(|_| WebhookError::Signature)?;
    if !secrets.iter().any(|secret| is_signed(secret, request.body, &signature)) {
        return Err(WebhookError::Signature);
    }
    let shop = header("x-shopify-shop-domain").filter(|shop| !shop.is_empty());
    match shop {
        Some(shop) if shop.eq_ignore_ascii_case(&config.host) => {}
        Some(_) => return Err(WebhookError::Signature),
        None => return Err(WebhookError::Malformed("no X-Shopify-Shop-Domain".to_owned())),
    }
    // The same on every retry of a delivery.
    let delivery_id = header("x-shopify-webhook-id").filter(|id| !id.is_empty());
    let topic = header("x-shopify-topic").filter(|topic| !topic.is_empty());
    match (delivery_id, topic) {
        (Some(id), Some(topic)) => {
            Ok(VerifiedWebhook { delivery_id: id.to_owned(), topic: topic.to_owned() })
        }
        (None, _) => Err(WebhookError::Malformed("no X-Shopify-Webhook-Id".to_owned())),
        (_, None) => Err(WebhookError::Malformed("no X-Shopify-Topic".to_owned())),
    }
}

fn is_signed(secret: &Secret, body: &[u8], signature: &[u8]) -> bool {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else {
        return false;
    };
    mac.update(body);
    // Constant-time.
    mac.verify_slice(signature).is_ok()
}

/// Reads a verified body.
pub(super) fn parse(topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
    match topic {
        "orders/create"
        | "orders/updated"
        | "orders/cancelled"
        | "orders/paid"
        | "orders/fulfilled"
        | "orders/partially_fulfilled" => parse_order(body),
        // The body is an `order_edit` with what was added and removed, not the order; an
        // `orders/updated` comes with it, and the poll sees the order as it stands.
        "orders/edited" => {
            Ok(vec![Notice::Ignored("orders/edited: orders/updated tells the totals".to_owned())])
        }
        "refunds/create" => parse_refund(body),
        "inventory_levels/update" | "inventory_levels/connect" | "inventory_levels/disconnect" => {
            parse_level(body)
        }
        "app/uninstalled" => Ok(vec![Notice::Disconnected]),
        _ => Ok(vec![Notice::Ignored(format!("the topic {topic} is not for us"))]),
    }
}

#[derive(Deserialize)]
struct Order {
    id: u64,
    created_at: Option<String>,
    updated_at: Option<String>,
    #[serde(default)]
    line_items: Vec<LineItem>,
    #[serde(default)]
    refunds: Vec<Refund>,
}

#[derive(Deserialize)]
struct LineItem {
    id: u64,
    sku: Option<String>,
    variant_id: Option<u64>,
    quantity: u64,
    /// What is left after removals and refunds; absent in old bodies, which then say nothing
    /// of them.
    current_quantity: Option<u64>,
}

#[derive(Deserialize)]
struct Refund {
    id: u64,
    order_id: Option<u64>,
    created_at: Option<String>,
    #[serde(default)]
    refund_line_items: Vec<RefundLineItem>,
}

#[derive(Deserialize)]
struct RefundLineItem {
    line_item_id: u64,
    quantity: u64,
    restock_type: Option<String>,
    line_item: Option<RefundedLine>,
}

#[derive(Deserialize)]
struct RefundedLine {
    sku: Option<String>,
    variant_id: Option<u64>,
}

impl RefundLineItem {
    /// `no_restock`, `cancel`, `return` or `legacy_restock`; only what is said to come back
    /// comes back.
    /// <https://shopify.dev/docs/api/admin-rest/latest/resources/refund>
    fn restocked(&self) -> u64 {
        match self.restock_type.as_deref() {
            Some("cancel" | "return" | "legacy_restock") => self.quantity,
            Some(_) | None => 0,
        }
    }
}

fn parse_order(body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
    let order: Order = parse_json("an order webhook", body)?;
    let mut lost: BTreeMap<u64, u64> = BTreeMap::new();
    for line in order.refunds.iter().flat_map(|refund| &refund.refund_line_items) {
        if line.restock_type.as_deref() == Some("no_restock") {
            *lost.entry(line.line_item_id).or_default() += line.quantity;
        }
    }
    let line = |line: LineItem| {
        let current = line.current_quantity.unwrap_or(line.quantity);
        let gone = line.quantity.saturating_sub(current);
        let restocked = gone.saturating_sub(lost.get(&line.id).copied().unwrap_or(0));
        let state = LineState { sold: line.quantity, restocked, ..LineState::default() };
        order_line(line.id, line.sku, line.variant_id, state)
    };
    Ok(vec![Notice::Order(OrderNotice {
        order_id: order.id.to_string(),
        placed_at: order.created_at.as_deref().and_then(parse_time),
        updated_at: order.updated_at.as_deref().and_then(parse_time),
        lines: order.line_items.into_iter().map(line).collect(),
    })])
}

/// A refund tells its own units only: a part, never the totals of the order.
fn parse_refund(body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
    let refund: Refund = parse_json("a refund webhook", body)?;
    let Some(order_id) = refund.order_id else {
        return Ok(vec![Notice::Ignored("a refund without an order".to_owned())]);
    };
    let part = Some(PartId(refund.id));
    let mut lines: BTreeMap<u64, OrderLine> = BTreeMap::new();
    for refunded in refund.refund_line_items {
        let restocked = refunded.restocked();
        if restocked == 0 {
            continue;
        }
        let (id, of) = (refunded.line_item_id, refunded.line_item);
        let line = lines.entry(id).or_insert_with(|| {
            let state = LineState { part, ..LineState::default() };
            let (sku, variant) = of.map_or((None, None), |of| (of.sku, of.variant_id));
            order_line(id, sku, variant, state)
        });
        // One refund may name a line twice, as cancelled and as returned.
        line.state.restocked = line.state.restocked.saturating_add(restocked);
    }
    if lines.is_empty() {
        return Ok(vec![Notice::Ignored("a refund that brings nothing back".to_owned())]);
    }
    Ok(vec![Notice::Order(OrderNotice {
        order_id: order_id.to_string(),
        placed_at: None,
        updated_at: refund.created_at.as_deref().and_then(parse_time),
        lines: lines.into_values().collect(),
    })])
}

fn order_line(id: u64, sku: Option<String>, variant: Option<u64>, state: LineState) -> OrderLine {
    let variant = variant.and_then(|id| gid("ProductVariant", &id.to_string()));
    OrderLine {
        line_id: id.to_string(),
        sku: sku.filter(|sku| !sku.is_empty()),
        fields: variant.into_iter().map(|gid| ("variantId".to_owned(), gid)).collect(),
        state,
    }
}

/// The body's `available` only tells an echo of our own set from news: deliveries are late,
/// coalesced and out of order.
fn parse_level(body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
    #[derive(Deserialize)]
    struct Level {
        inventory_item_id: u64,
        location_id: Option<u64>,
        available: Option<i64>,
        updated_at: Option<String>,
    }
    let level: Level = parse_json("an inventory webhook", body)?;
    let item = gid("InventoryItem", &level.inventory_item_id.to_string());
    let location = level.location_id.and_then(|id| gid("Location", &id.to_string()));
    let names = [("inventoryItemId", item), ("locationId", location)];
    let fields = names.into_iter().filter_map(|(name, gid)| Some((name.to_owned(), gid?)));
    Ok(vec![Notice::InventoryHint {
        fields: fields.collect(),
        shows: level.available,
        at: level.updated_at.as_deref().and_then(parse_time),
    }])
}
