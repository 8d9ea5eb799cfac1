//! Amazon's notifications: sent to the seller's queue, or posted as an EventBridge API
//! destination posts them.
//!
//! At Amazon `ORDER_CHANGE` goes to an SQS queue only. Without one, the simulator posts the same
//! JSON straight to the webhook with the secret in a header, as a rule on that queue would.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::notifications::QUEUE_TYPES;
use super::state::Feed;
use super::{QUEUE_REGION, SECRET_HEADER, Simulator, wire};
use crate::outbox::{Parcel, Rendered};
use crate::shop::{FulfilledBy, Shop, SimOrder};
use crate::time::plus_ms;

/// Tells of a sale: pending now, unshipped when it no longer is.
pub(super) fn sold(sim: &Simulator, order: &SimOrder) {
    let pending_ms = sim.0.settings.pending_ms;
    let by = sim.fulfilled_by(&order.sku);
    if pending_ms > 0 {
        let pending = wire::order_change(order, by, "Pending", order.created_at);
        post(sim, &order.order_id, 0, &pending);
    }
    let at = plus_ms(order.created_at, pending_ms);
    let unshipped = wire::order_change(order, by, "Unshipped", at);
    post(sim, &order.order_id, pending_ms, &unshipped);
    quantity(sim, &order.sku);
}

/// Tells of an order that nobody has paid for.
pub(super) fn ordered(sim: &Simulator, order: &SimOrder) {
    let pending =
        wire::order_change(order, sim.fulfilled_by(&order.sku), "Pending", order.created_at);
    post(sim, &order.order_id, 0, &pending);
    quantity(sim, &order.sku);
}

/// Tells that an order has been paid for.
pub(super) fn paid(sim: &Simulator, order: &SimOrder) {
    let unshipped =
        wire::order_change(order, sim.fulfilled_by(&order.sku), "Unshipped", order.updated_at);
    post(sim, &order.order_id, 0, &unshipped);
}

/// Tells of a cancellation, and takes back what has not been told of the order.
pub(super) fn cancelled(sim: &Simulator, order: &SimOrder) {
    let by = sim.fulfilled_by(&order.sku);
    sim.0.engine.outbox.withdraw(&order.order_id);
    let notification = wire::order_change(order, by, "Canceled", order.updated_at);
    post(sim, &order.order_id, 0, &notification);
    quantity(sim, &order.sku);
}

/// Tells that a feed has ended.
pub(super) fn feed_ended(sim: &Simulator, id: u64, feed: &Feed) {
    post(sim, "", 0, &wire::feed_ended(id, feed));
}

/// Tells what a listing shows now, if that is wanted.
pub(super) fn quantity(sim: &Simulator, sku: &str) {
    if sim.fulfilled_by(sku) == FulfilledBy::Channel {
        let told = sim.0.state.lock().listings.get(sku).cloned();
        if let Some(listing) = told {
            post(sim, "", 0, &wire::fba_change(sku, &listing, sim.now()));
        }
        return;
    }
    if let Some(shown) = sim.quantity(sku) {
        quantity_later(sim, sku, shown, 0);
    }
}

/// Tells what a listing will show once an accepted write is applied, if that is wanted.
pub(super) fn quantity_later(sim: &Simulator, sku: &str, shown: i64, delay_ms: u64) {
    let merchant = sim.fulfilled_by(sku) == FulfilledBy::Merchant;
    if sim.0.settings.notify_quantities && merchant {
        let at = plus_ms(sim.now(), delay_ms);
        post(sim, "", delay_ms, &wire::quantity_change(sku, shown, at));
    }
}

fn post(sim: &Simulator, tag: &str, delay_ms: u64, notification: &Value) {
    let engine = &sim.0.engine;
    let kind = notification.get("NotificationType").or(notification.get("notificationType"));
    let kind = kind.and_then(Value::as_str).unwrap_or_default();
    let body = notification.to_string();
    let goes_to_queue = sim.0.settings.queue_url.is_some() && QUEUE_TYPES.contains(&kind);
    let sent = if goes_to_queue {
        sim.queue_for(kind).map(|queue_url| message(&queue_url, &body))
    } else {
        let target = engine.target.read().clone();
        target.map(|target| {
            let headers = vec![
                ("content-type", "application/json; charset=utf-8".into()),
                (SECRET_HEADER, target.secret),
            ];
            (target.url, headers, body)
        })
    };
    let Some((url, headers, body)) = sent else { return };
    let render = Arc::new(move |_| Rendered { headers: headers.clone(), body: body.clone() });
    let delay = Duration::from_millis(delay_ms);
    let parcel = Parcel { url, tag: tag.to_owned(), delay, render };
    engine.outbox.post(&parcel, &engine.faults);
}

type Message = (String, Vec<(&'static str, String)>, String);

/// Returns an SQS SendMessage. It is not signed: a stand-in for SQS on this machine takes it, and
/// knows the service by the scope in the header.
fn message(queue_url: &str, body: &str) -> Message {
    let path = queue_url.match_indices('/').nth(2).map_or(queue_url.len(), |(at, _)| at);
    let endpoint = format!("{}/", &queue_url[..path]);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=sim/20260101/{QUEUE_REGION}/sqs/aws4_request, \
         SignedHeaders=host, Signature=unsigned"
    );
    let headers = vec![
        ("content-type", "application/x-amz-json-1.0".to_owned()),
        ("x-amz-target", "AmazonSQS.SendMessage".to_owned()),
        ("authorization", authorization),
    ];
    let sent = serde_json::json!({"QueueUrl": queue_url, "MessageBody": body});
    (endpoint, headers, sent.to_string())
}
