//! A channel's own queue: notices are received, kept durably in the inbox, and only then deleted
//! from the queue. What is lost on the way, the queue gives out again.
//!
//! A queue that was seen empty, with an empty inbox behind it, says that orders are heard up to
//! then; see [`Link::hear_up_to`].

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use serde_json::json;
use tokio::time::Instant;
use trueup_channels::{Queue, QueuedNotice};
use trueup_core::Timestamp;
use trueup_store::{Connection, ConnectionState, InboxItem};

use crate::backoff;
use crate::engine::EngineError;
use crate::inbox;
use crate::link::{Link, Trouble};
use crate::shared::Shared;

/// How long one receipt waits for the first notice when nobody asks, in milliseconds: short
/// enough that who asks meanwhile does not wait long.
const WAIT_MS_IDLE: u64 = 5_000;
/// The same when somebody waits to hear that there is none.
const WAIT_MS_ASKED: u64 = 1_000;
/// The first and the longest pause after the queue could not be worked on, in milliseconds.
const FAILED_MS_FIRST: u64 = 1_000;
const FAILED_MS_MAX: u64 = 120_000;
/// The reason code of a connection whose queue cannot be read.
const QUEUE_TROUBLE: &str = "queue";
/// How many receive at once where the queue holds more than one receipt brings: one after the
/// other, each would wait for the network three times.
const RECEIVERS: usize = 8;
/// How often in a row each of them receives before the connection is looked at again.
const RECEIPTS_MAX: usize = 100;
/// How often a paused connection is looked at.
const PAUSED_LOOK: Duration = Duration::from_secs(1);

/// Empties a connection's queue until it is stopped; does nothing where there is none.
pub(crate) async fn consume(shared: Arc<Shared>, link: Arc<Link>) {
    let Some(queue) = link.channel.queue() else { return };
    let hidden = Duration::from_millis(queue.hidden_ms);
    // What the process before this one received and did not delete is not seen yet.
    let mut sure_from = Instant::now() + hidden;
    let mut failures = 0;
    while !link.stop.is_cancelled() {
        let pause = match turn(&shared, &link, queue, sure_from).await {
            Ok(Turn::Done) => {
                failures = 0;
                note_recovery(&shared, &link).await;
                continue;
            }
            Ok(Turn::Paused) => PAUSED_LOOK,
            Err(error) => {
                failures += 1;
                // What the queue gave out and did not arrive comes again only then.
                sure_from = Instant::now() + hidden;
                link.hear_by_polls();
                if !link.stop.is_cancelled() {
                    Trouble::note(&link.queue_trouble, shared.now(), error.to_string());
                    tell_deaf(&shared, &link, &error, failures).await;
                }
                Duration::from_millis(backoff::millis(failures, FAILED_MS_FIRST, FAILED_MS_MAX))
            }
        };
        tokio::select! {
            () = link.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

enum Turn {
    Done,
    Paused,
}

/// Receives once, or while there is more; what came is kept, then deleted from the queue.
async fn turn(
    shared: &Shared,
    link: &Link,
    queue: Queue,
    sure_from: Instant,
) -> Result<Turn, EngineError> {
    if !is_active(shared, link).await? {
        return Ok(Turn::Paused);
    }
    let wait_ms = if link.is_orders_wanted() { WAIT_MS_ASKED } else { WAIT_MS_IDLE };
    let wait_ms = wait_ms.min(queue.wait_ms_max);
    let asked_at = shared.now();
    let received = tokio::select! {
        () = link.stop.cancelled() => return Ok(Turn::Done),
        received = link.channel.receive(&link.transport, wait_ms) => received,
    };
    let notices = received.map_err(EngineError::Channel)?;
    if notices.is_empty() {
        let wait_ms = i64::try_from(wait_ms).unwrap_or(i64::MAX);
        let empty_at = asked_at.plus_millis(wait_ms).min(shared.now());
        if Instant::now() >= sure_from && !is_waiting(shared, link).await? {
            link.hear_up_to(empty_at);
        }
        return Ok(Turn::Done);
    }
    let is_full = notices.len() >= queue.notices_max;
    take(shared, link, notices).await?;
    if is_full {
        // None of them is under way any more when the queue is next seen empty.
        try_join_all((0..RECEIVERS).map(|_| drain(shared, link, queue))).await?;
    }
    Ok(Turn::Done)
}

/// Receives until the queue gives less than it can.
async fn drain(shared: &Shared, link: &Link, queue: Queue) -> Result<(), EngineError> {
    for _ in 0..RECEIPTS_MAX {
        if link.stop.is_cancelled() {
            return Ok(());
        }
        let received = link.channel.receive(&link.transport, 0).await;
        let notices = received.map_err(EngineError::Channel)?;
        let is_full = notices.len() >= queue.notices_max;
        if !notices.is_empty() {
            take(shared, link, notices).await?;
        }
        if !is_full {
            return Ok(());
        }
    }
    Ok(())
}

/// Keeps what came, then deletes it from the queue.
async fn take(shared: &Shared, link: &Link, notices: Vec<QueuedNotice>) -> Result<(), EngineError> {
    let receipts: Vec<String> = notices.iter().map(|notice| notice.receipt.clone()).collect();
    keep(shared, link, notices).await?;
    link.channel.delete(&link.transport, &receipts).await.map_err(EngineError::Channel)
}

async fn is_active(shared: &Shared, link: &Link) -> Result<bool, EngineError> {
    let row = shared.store.connection(&link.org, &link.id).await?;
    Ok(row.is_some_and(|row| row.state == ConnectionState::Active))
}

/// Returns whether notices of this connection are still to be worked on.
async fn is_waiting(shared: &Shared, link: &Link) -> Result<bool, EngineError> {
    let waiting = shared.store.inbox_waiting(shared.now(), inbox::BATCH_MAX).await?;
    Ok(waiting.iter().any(|(org, item)| *org == link.org && item.channel == link.id))
}

/// Keeps notices in the inbox, all in one commit; those that were there already stay once.
async fn keep(shared: &Shared, link: &Link, notices: Vec<QueuedNotice>) -> Result<(), EngineError> {
    let received_at: Timestamp = shared.now();
    let item = |notice: QueuedNotice| InboxItem {
        id: 0,
        channel: link.id.clone(),
        delivery_id: notice.delivery_id,
        topic: notice.topic,
        body: notice.body.to_vec(),
        received_at,
        attempts: 0,
    };
    let items = notices.into_iter().map(item).collect();
    for is_new in shared.store.inbox_put_many(&link.org, items).await? {
        inbox::count(link, is_new);
    }
    *link.hooked_at.lock() = Some(received_at);
    shared.inbox_bell.notify_one();
    Ok(())
}

/// Forgets what was wrong, also in the connection's row where nothing else is.
async fn note_recovery(shared: &Shared, link: &Link) {
    if link.queue_trouble.lock().take().is_none() {
        return;
    }
    let (org, channel) = (&link.org, &link.id);
    let recover = |row: &mut Connection| {
        if row.reason.as_ref().is_some_and(|reason| reason.code == QUEUE_TROUBLE) {
            row.note_recovery();
        }
    };
    if let Err(error) = shared.edit_connection(org, channel, recover).await {
        tracing::warn!(%org, %channel, %error, "the connection could not be noted");
    }
}

/// Notes that the queue cannot be worked on; subscribers are told the second time in a row.
async fn tell_deaf(shared: &Shared, link: &Link, error: &EngineError, failures: u32) {
    const TOLD_AT: u32 = 2;
    if failures < TOLD_AT {
        return;
    }
    let (org, channel) = (&link.org, &link.id);
    let words = format!("the queue cannot be read, orders are polled: {error}");
    let (at, kept) = (shared.now(), words.clone());
    let edited =
        shared.edit_connection(org, channel, |row| row.note_trouble(at, QUEUE_TROUBLE, kept)).await;
    if let Err(error) = edited {
        tracing::warn!(%org, %channel, %error, "the connection could not be noted");
    }
    if failures > TOLD_AT {
        return;
    }
    tracing::warn!(%org, %channel, %error, "the channel's queue cannot be read");
    let body = json!({ "channelId": channel.as_str(), "code": QUEUE_TROUBLE, "detail": words });
    shared.note(org, vec![shared.entry(channel, "channel", "error", body.clone())]).await;
    shared.tell(org, "channel.error", body).await;
}
