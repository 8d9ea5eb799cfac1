//! Amazon's notifications: from the seller's queue, or forwarded to us over HTTPS.
//!
//! Amazon sends to SQS and EventBridge only. A queue we read ourselves (`queue.rs`); an
//! EventBridge API destination posts them here with a header that holds the connection's secret.
//! <https://developer-docs.amazon.com/sp-api/docs/notification-type-values>

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use subtle::ConstantTimeEq as _;

use super::wire::{Stage, Standing, order_line};
use crate::exchange::{parse_json, parse_time, parse_value};
use crate::port::{
    ChannelError, Notice, OrderNotice, Secret, VerifiedWebhook, WebhookError, WebhookRequest,
};

/// The headers that may hold the secret.
const SECRET_HEADERS: [&str; 2] = ["x-trueup-webhook-secret", "x-api-key"];

/// The topic of what is no notification; [`parse`] refuses it.
pub(super) const UNREADABLE: &str = "unreadable";

/// Checks the secret, then reads the envelope's names.
pub(super) fn verify(
    secrets: &[Secret],
    request: WebhookRequest<'_>,
) -> Result<VerifiedWebhook, WebhookError> {
    if secrets.is_empty() {
        return Err(WebhookError::NoSecret);
    }
    let mut is_known = false;
    for name in SECRET_HEADERS {
        let given = request.headers.get(name).map_or(&[][..], |value| value.as_bytes());
        for secret in secrets {
            // Constant-time for texts of one length; the length is no secret. No short cut from
            // one header or secret to the next.
            is_known |= bool::from(given.ct_eq(secret.expose().as_bytes()));
        }
    }
    if !is_known {
        return Err(WebhookError::Signature);
    }
    let notification =
        parse_notification(request.body).map_err(|error| WebhookError::Malformed(error.detail))?;
    match notification.metadata.and_then(|metadata| metadata.notification_id) {
        Some(id) if !id.is_empty() => {
            Ok(VerifiedWebhook { delivery_id: id, topic: notification.kind })
        }
        Some(_) | None => Err(WebhookError::Malformed("no NotificationId".to_owned())),
    }
}

/// Older notification types spell their members in PascalCase, newer ones in camelCase.
#[derive(Deserialize)]
struct Notification {
    #[serde(rename = "NotificationType", alias = "notificationType")]
    kind: String,
    #[serde(rename = "EventTime", alias = "eventTime")]
    event_time: Option<String>,
    #[serde(rename = "Payload", alias = "payload")]
    payload: Value,
    #[serde(rename = "NotificationMetadata", alias = "notificationMetadata")]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "NotificationId", alias = "notificationId")]
    notification_id: Option<String>,
}

/// Reads a notification, bare or in EventBridge's envelope, which has it under `detail`.
fn parse_notification(body: &[u8]) -> Result<Notification, ChannelError> {
    #[derive(Deserialize)]
    struct Envelope {
        detail: Notification,
    }
    match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => Ok(envelope.detail),
        Err(_) => parse_json("a notification", body),
    }
}

/// Reads the delivery id, where there is one, and the topic of a notification.
pub(super) fn envelope(body: &[u8]) -> Option<(Option<String>, String)> {
    let notification = parse_notification(body).ok()?;
    let id = notification.metadata.and_then(|metadata| metadata.notification_id);
    Some((id.filter(|id| !id.is_empty()), notification.kind))
}

/// Reads a verified body.
pub(super) fn parse(topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
    let notification = parse_notification(body)?;
    match topic {
        "LISTINGS_ITEM_MFN_QUANTITY_CHANGE" => Ok(vec![hint(&notification, "Sku")]),
        "FBA_INVENTORY_AVAILABILITY_CHANGES" => Ok(vec![hint(&notification, "SKU")]),
        "ORDER_CHANGE" => parse_order_change(&notification),
        "FEED_PROCESSING_FINISHED" => parse_feed_ended(&notification),
        _ => Ok(vec![Notice::Ignored(format!("the topic {topic} is not for us"))]),
    }
}

/// A quantity in a notification is late and unordered: it only says what to read again, and
/// whether it is an echo of our own push.
fn hint(notification: &Notification, member: &str) -> Notice {
    let sku = notification.payload.get(member).and_then(Value::as_str);
    match sku.filter(|sku| !sku.is_empty()) {
        Some(sku) => Notice::InventoryHint {
            fields: BTreeMap::from([("sellerSku".to_owned(), sku.to_owned())]),
            shows: notification.payload.get("Quantity").and_then(Value::as_i64),
            at: notification.event_time.as_deref().and_then(parse_time),
        },
        None => Notice::Ignored("an inventory notification without a SKU".to_owned()),
    }
}

/// How it ended is asked for: a notification may be forged where it comes over HTTPS.
/// `FeedProcessingFinishedNotification.json`
fn parse_feed_ended(notification: &Notification) -> Result<Vec<Notice>, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        feed_processing_finished_notification: Ended,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Ended {
        feed_id: String,
    }
    let payload: Payload = parse_value("FEED_PROCESSING_FINISHED", notification.payload.clone())?;
    Ok(vec![Notice::BulkEnded { ticket: payload.feed_processing_finished_notification.feed_id }])
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OrderChange {
    order_change_notification: OrderChangeNotification,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OrderChangeNotification {
    amazon_order_id: String,
    summary: OrderSummary,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OrderSummary {
    purchase_date: Option<String>,
    order_status: Option<String>,
    fulfillment_type: Option<String>,
    #[serde(default)]
    order_items: Vec<OrderItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OrderItem {
    order_item_id: String,
    #[serde(rename = "SellerSKU")]
    seller_sku: Option<String>,
    quantity: u64,
}

fn parse_order_change(notification: &Notification) -> Result<Vec<Notice>, ChannelError> {
    let change: OrderChange = parse_value("ORDER_CHANGE", notification.payload.clone())?;
    let OrderChangeNotification { amazon_order_id, summary } = change.order_change_notification;
    // A buyer's request to cancel (`BuyerRequestedChange`) names the status as it still is, and a
    // line has no cancelled status of its own (OrderChangeNotification.json).
    let stage = Stage::of(summary.order_status.as_deref());
    let channel_fulfilled = summary.fulfillment_type.as_deref() == Some("AFN");
    let line = |item: OrderItem| {
        let standing = Standing { stage, channel_fulfilled };
        order_line(item.order_item_id, item.seller_sku, None, item.quantity, standing)
    };
    Ok(vec![Notice::Order(OrderNotice {
        order_id: amazon_order_id,
        placed_at: summary.purchase_date.as_deref().and_then(parse_time),
        updated_at: notification.event_time.as_deref().and_then(parse_time),
        lines: summary.order_items.into_iter().map(line).collect(),
    })])
}
