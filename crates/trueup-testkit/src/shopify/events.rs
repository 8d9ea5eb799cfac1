//! Shopify's webhooks: who is told what, and how a delivery is signed.
//!
//! Source: shopify.dev `verify-deliveries`, `webhooks/subscribe/https`.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;
use uuid::Uuid;

use super::state::Event;
use super::{Books, CLIENT_SECRET, SHOP};
use crate::outbox::{Parcel, Rendered};
use crate::shop::{Engine, Target};
use crate::time::millis_text;

/// Queues the webhooks of one happening: to its subscriptions and to the test's own target.
pub(super) fn tell(engine: &Engine, books: &Mutex<Books>, events: Vec<Event>) {
    if events.is_empty() {
        return;
    }
    let target = engine.target.read().clone();
    let event_id = Uuid::new_v4().to_string();
    let triggered_at = millis_text(engine.clock.now());
    for event in events {
        let mut parcels: Vec<(Target, String, Value)> = Vec::new();
        if let Some(target) = &target {
            parcels.push((target.clone(), String::new(), event.body.clone()));
        }
        for known in &books.lock().shop.subscriptions {
            let listed = target.as_ref().is_some_and(|target| target.url == known.uri);
            if known.topic == event.topic && !listed {
                let target = Target { url: known.uri.clone(), secret: CLIENT_SECRET.into() };
                parcels.push((target, known.tag(), known.cut(&event.body)));
            }
        }
        for (target, tag, body) in parcels {
            let body = body.to_string();
            let headers = headers(event.topic, &target.secret, &body, &event_id, &triggered_at);
            let render =
                Arc::new(move |_| Rendered { headers: headers.clone(), body: body.clone() });
            let parcel = Parcel { url: target.url, tag, delay: Duration::ZERO, render };
            engine.outbox.post(&parcel, &engine.faults);
        }
    }
}

fn headers(
    topic: &str,
    secret: &str,
    body: &str,
    event_id: &str,
    triggered_at: &str,
) -> Vec<(&'static str, String)> {
    vec![
        ("content-type", "application/json".into()),
        ("X-Shopify-Topic", topic_path(topic)),
        ("X-Shopify-Hmac-SHA256", sign(secret, body.as_bytes())),
        ("X-Shopify-Shop-Domain", SHOP.into()),
        ("X-Shopify-API-Version", "2026-07".into()),
        ("X-Shopify-Webhook-Id", Uuid::new_v4().to_string()),
        ("X-Shopify-Event-Id", event_id.into()),
        ("X-Shopify-Triggered-At", triggered_at.into()),
    ]
}

/// Returns a topic as the header spells it: `ORDERS_CREATE` is `orders/create`.
fn topic_path(topic: &str) -> String {
    let lower = topic.to_ascii_lowercase();
    match lower.rsplit_once('_') {
        Some((what, happened)) => format!("{what}/{happened}"),
        None => lower,
    }
}

/// Returns base64(HMAC-SHA256(secret, body)).
fn sign(secret: &str, body: &[u8]) -> String {
    STANDARD.encode(mac(secret, body))
}

/// Returns HMAC-SHA256(secret, bytes).
pub(super) fn mac(secret: &str, bytes: &[u8]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}
