//! Keeps our webhooks subscribed: vendors drop the subscriptions that they could not deliver to.
//!
//! Looked at when a connection starts, every few hours, and when a poll found orders of which no
//! webhook told. Polling is the backstop meanwhile: nothing is lost, it is only heard later.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use trueup_channels::ChannelError;
use trueup_store::{ConnectionState, StoreError};

use crate::backoff;
use crate::engine::EngineError;
use crate::link::{Link, Trouble};
use crate::plan;
use crate::shared::Shared;

/// How often subscriptions are looked at when nobody asks.
/// Shopify drops one after 8 retries within 4 hours.
/// <https://shopify.dev/docs/apps/build/webhooks/troubleshooting-webhooks>
const LOOK_PAUSE: Duration = Duration::from_secs(6 * 3_600);
/// The shortest pause between two looks that somebody asked for.
const ASKED_PAUSE: Duration = Duration::from_secs(600);
/// The first and the longest pause after a look failed, in milliseconds.
const FAILED_MS_FIRST: u64 = 60_000;
const FAILED_MS_MAX: u64 = 3_600_000;
/// How long a channel that is removed may take to let go of our webhooks.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// What is known of a connection's webhooks; held while the vendor is asked, so that two looks
/// never subscribe the same thing twice.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// When subscriptions were last seen to be there.
    seen: Option<Instant>,
    /// Whether it was told that they cannot be.
    told: bool,
}

/// Looks after a connection's subscriptions until it is stopped.
pub(crate) async fn keep(shared: Arc<Shared>, link: Arc<Link>) {
    if address(&shared, &link).is_none() {
        return;
    }
    let mut failures = 0;
    let mut asked_last: Option<Instant> = None;
    let mut next = Instant::now();
    while !link.stop.is_cancelled() {
        tokio::select! {
            () = link.stop.cancelled() => return,
            () = link.hooks_bell.notified() => {
                let now = Instant::now();
                let earliest = asked_last.map_or(now, |last| last + ASKED_PAUSE);
                asked_last = Some(earliest.max(now));
                next = next.min(earliest);
                continue;
            }
            () = tokio::time::sleep_until(next) => {}
        }
        let pause = match look(&shared, &link, Look::Due).await {
            Ok(()) => {
                failures = 0;
                LOOK_PAUSE
            }
            Err(_) => {
                failures += 1;
                Duration::from_millis(backoff::millis(failures, FAILED_MS_FIRST, FAILED_MS_MAX))
            }
        };
        next = Instant::now() + pause;
    }
}

/// Why subscriptions are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// The connection is being enabled.
    First,
    /// Somebody asked, or it was long ago; a look that is just over counts.
    Due,
}

/// Subscribes what is missing; what changed is noted, and so is the first of failures in a row.
pub(crate) async fn look(shared: &Shared, link: &Link, why: Look) -> Result<(), EngineError> {
    const JUST_NOW: Duration = Duration::from_secs(1);
    let Some(url) = address(shared, link) else { return Ok(()) };
    let mut known = link.hooks_known.lock().await;
    if why == Look::Due && known.seen.is_some_and(|seen| seen.elapsed() < JUST_NOW) {
        return Ok(());
    }
    let row = shared.store.connection(&link.org, &link.id).await?;
    if row.is_none_or(|row| row.state == ConnectionState::Paused) {
        return Ok(());
    }
    let entry = match subscribe(link, &url).await {
        Ok((topics, made)) => {
            known.seen = Some(Instant::now());
            known.told = false;
            *link.hooks_trouble.lock() = None;
            let detail = json!({ "subscribed": topics, "made": made });
            let before = link.hooks_topics.lock().replace(topics.clone());
            let changed =
                made.map_or(before.as_ref() != Some(&topics), |made: Vec<String>| !made.is_empty());
            // A channel may have nothing that could be subscribed.
            let changed = changed && !(topics.is_empty() && before.is_none());
            changed.then(|| shared.entry(&link.id, "webhook_subscription", "ok", detail))
        }
        Err(error) => {
            Trouble::note(&link.hooks_trouble, shared.now(), error.detail.clone());
            let detail = json!({
                "code": plan::error_code(error.kind),
                "detail": format!("webhooks could not be subscribed: {}", error.detail),
            });
            let is_news = !std::mem::replace(&mut known.told, true);
            let entry = shared.entry(&link.id, "webhook_subscription", "warning", detail);
            if is_news {
                shared.note(&link.org, vec![entry]).await;
            }
            return Err(EngineError::Channel(error));
        }
    };
    drop(known);
    shared.note(&link.org, entry.into_iter().collect()).await;
    Ok(())
}

/// Returns the topics that are subscribed now, and those that were not before, where the vendor
/// tells.
async fn subscribe(
    link: &Link,
    url: &str,
) -> Result<(Vec<String>, Option<Vec<String>>), ChannelError> {
    let before = link.channel.subscribed(&link.transport, url).await?;
    let topics = link.channel.subscribe(&link.transport, url).await?;
    let made = before
        .map(|before| topics.iter().filter(|topic| !before.contains(topic)).cloned().collect());
    Ok((topics, made))
}

/// Takes our webhooks back from the vendor of a connection that is being removed, as far as it
/// lets us within [`FAREWELL_MAX`].
pub(crate) async fn farewell(shared: &Shared, link: &Link) -> Result<(), StoreError> {
    let Some(url) = address(shared, link) else { return Ok(()) };
    let row = shared.store.connection(&link.org, &link.id).await?;
    if row.is_none_or(|row| row.state == ConnectionState::Paused) {
        return Ok(());
    }
    let taken_back = link.channel.unsubscribe(&link.transport, &url);
    let words = match tokio::time::timeout(FAREWELL_MAX, taken_back).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.detail,
        Err(_) => "the vendor took too long".to_owned(),
    };
    tracing::warn!(org = %link.org, channel = %link.id, words, "webhooks stay subscribed");
    Ok(())
}

/// Returns where a vendor sends a connection's webhooks, where it can reach us; empty for a vendor
/// that sends to no address.
fn address(shared: &Shared, link: &Link) -> Option<String> {
    let Some(base) = shared.options.public_url.as_deref() else {
        return (!link.channel.subscribes_address()).then(String::new);
    };
    let base = base.trim_end_matches('/');
    Some(format!("{base}/upstream/webhooks/{}/{}", link.org, link.id))
}
