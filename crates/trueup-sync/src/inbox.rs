//! The inbox: webhooks that were let in and kept, then worked on, many at once.
//!
//! Their order does not matter: orders are told and booked as totals, everything else is a hint.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde_json::json;
use trueup_channels::{Notice, VerifiedWebhook, WebhookRequest};
use trueup_core::Org;
use trueup_store::{InboxItem, InboxSettled};

use crate::backoff;
use crate::engine::{EngineError, Received};
use crate::link::Link;
use crate::plan;
use crate::shared::Shared;

/// The most webhooks taken at once.
pub(crate) const BATCH_MAX: usize = 1_000;
/// How many of them are under way together, so that one commit serves many.
const TOGETHER_MAX: usize = 64;
/// How often a webhook is tried before it is given up on: for about a day.
const TRIES_MAX: u32 = 110;
/// The first and the longest pause before a webhook is tried again, in milliseconds.
const LATER_MS_FIRST: u64 = 2_000;
const LATER_MS_MAX: u64 = 900_000;
/// How often the inbox is looked into when nobody rings.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Checks a webhook and keeps it durably.
pub(crate) async fn receive(
    shared: &Shared,
    link: &Link,
    headers: &http::HeaderMap,
    body: &[u8],
) -> Result<Received, EngineError> {
    let request = WebhookRequest { headers, body };
    let verified = link.channel.verify_webhook(&link.transport, request).await;
    let VerifiedWebhook { delivery_id, topic } = verified.map_err(EngineError::Webhook)?;
    let item = InboxItem {
        id: 0,
        channel: link.id.clone(),
        delivery_id,
        topic,
        body: body.to_vec(),
        received_at: shared.now(),
        attempts: 0,
    };
    // Whoever works for the org does the rest.
    let is_new = shared.desk.inbox_put(&link.org, item).await?;
    *link.hooked_at.lock() = Some(shared.now());
    count(link, is_new);
    if !is_new {
        return Ok(Received::Repeated);
    }
    shared.inbox_bell.notify_one();
    Ok(Received::New)
}

/// Counts a webhook that was let in.
pub(crate) fn count(link: &Link, is_new: bool) {
    let word = if is_new { "new" } else { "repeated" };
    metrics::counter!("trueup_webhooks_total", "kind" => link.kind.name(), "outcome" => word)
        .increment(1);
}

/// Works on the inbox until it is stopped.
pub(crate) async fn work(shared: Arc<Shared>) {
    while !shared.stop.is_cancelled() {
        let waiting = shared.store.inbox_waiting(shared.now(), BATCH_MAX).await;
        let waiting = waiting.unwrap_or_else(|error| {
            tracing::warn!(%error, "the inbox could not be read");
            Vec::new()
        });
        let is_empty = waiting.is_empty();
        let each = async |(org, item): (Org, InboxItem)| {
            if shared.stop.is_cancelled() || !shared.is_working_for(&org) {
                return;
            }
            let Err(error) = Box::pin(work_on(&shared, &org, item.clone())).await else { return };
            tracing::warn!(%org, %error, "a webhook could not be settled");
            // Others come first next time.
            if later(&shared, &org, &item, &error.to_string()).await.is_err() {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        stream::iter(waiting).for_each_concurrent(TOGETHER_MAX, each).await;
        if is_empty {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = shared.inbox_bell.notified() => {}
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
        }
    }
}

async fn work_on(shared: &Shared, org: &Org, item: InboxItem) -> Result<(), EngineError> {
    let Some(link) = shared.link(org, &item.channel) else {
        return later(shared, org, &item, "the channel is not connected").await;
    };
    let notices = match link.channel.parse_webhook(&item.topic, &item.body) {
        Ok(notices) => notices,
        Err(error) => return dead(shared, org, &item, &error.detail).await,
    };
    let mut words = Vec::new();
    let row = shared.store.connection(org, &item.channel).await?;
    let books = row.is_some_and(|row| row.sync_orders);
    for notice in notices {
        match notice {
            Notice::Order(order) if books => {
                words.push(format!("order {}", order.order_id));
                let booking = shared.book(&link, &order).await?;
                if booking.wants_totals {
                    // The cursor of the polls stands before this notice, so that a poll after
                    // a crash hears of it, too.
                    link.want_poll(shared.now());
                }
            }
            Notice::Order(_) => words.push("orders are not booked here".to_owned()),
            Notice::InventoryHint { fields, shows, .. } => {
                let found = shared.find_listing(&link, None, &fields).await?;
                let is_echo = found.as_ref().is_some_and(|view| plan::is_echo(view, shows));
                words.push(if is_echo { "echo of our push" } else { "inventory hint" }.to_owned());
                if let Some(view) = found.filter(|_| !is_echo) {
                    link.ring_hint(view.mapping.key, view.mapping.sku);
                }
            }
            Notice::BulkEnded { ticket } => {
                words.push("a bulk batch has ended".to_owned());
                link.ring_ended(ticket);
            }
            Notice::Disconnected => {
                words.push("disconnected".to_owned());
                if let Some(error) = shared.check_access(&link).await? {
                    return later(shared, org, &item, &error.detail).await;
                }
            }
            Notice::Ignored(why) => words.push(why),
        }
    }
    if item.attempts == 0 {
        let detail = json!({
            "deliveryId": item.delivery_id, "topic": item.topic, "notices": words,
        });
        shared.note(org, vec![shared.entry(&item.channel, "webhook", "ok", detail)]).await;
    }
    shared.store.inbox_settle(org, item.id, InboxSettled::Done).await?;
    Ok(())
}

async fn later(shared: &Shared, org: &Org, item: &InboxItem, why: &str) -> Result<(), EngineError> {
    let attempts = item.attempts.saturating_add(1);
    if attempts >= TRIES_MAX {
        return dead(shared, org, item, why).await;
    }
    let millis = backoff::millis(attempts, LATER_MS_FIRST, LATER_MS_MAX);
    let at = shared.now().plus_millis(i64::try_from(millis).unwrap_or(i64::MAX));
    let settled = InboxSettled::Later { at, why: why.to_owned() };
    shared.store.inbox_settle(org, item.id, settled).await?;
    Ok(())
}

async fn dead(shared: &Shared, org: &Org, item: &InboxItem, why: &str) -> Result<(), EngineError> {
    let detail = json!({
        "deliveryId": item.delivery_id, "topic": item.topic, "detail": why, "dead": true,
    });
    shared.note(org, vec![shared.entry(&item.channel, "webhook", "error", detail)]).await;
    let settled = InboxSettled::Dead { why: why.to_owned() };
    shared.store.inbox_settle(org, item.id, settled).await?;
    Ok(())
}
