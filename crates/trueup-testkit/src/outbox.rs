//! Webhooks on their way out: a bounded queue, and the one task that empties it.
//!
//! Delivery is at least once and unordered, as every vendor's is. A webhook is rendered anew for
//! each attempt, because eBay counts the attempts inside the signed body.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::faults::FaultDial;

/// The most webhooks that wait; more are refused and counted.
pub const OUTBOX_MAX: usize = 200_000;
/// The most deliveries under way at once.
pub const DELIVERIES_MAX: usize = 16;
/// The most attempts at one webhook (Shopify: the first and eight more).
pub const ATTEMPTS_MAX: u32 = 9;
/// The longest pause between two attempts.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long one attempt may take (Shopify allows 5 s in all).
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a webhook address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookUrlError {
    /// The text is not an http or https address.
    #[error("the webhook address must be an http or https url")]
    NotAUrl,
    /// The host is not this machine; simulators send nothing further.
    #[error("the webhook address must be on loopback (127.0.0.1, ::1 or localhost)")]
    NotLoopback,
}

/// Counts of webhooks since the simulator started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookCounts {
    /// Put into the queue.
    pub queued: u64,
    /// Answered 2xx.
    pub delivered: u64,
    /// Attempts that were not answered 2xx.
    pub failed_attempts: u64,
    /// Given up after [`ATTEMPTS_MAX`].
    pub given_up: u64,
    /// Refused because the queue was full.
    pub refused: u64,
    /// Waiting now.
    pub waiting: u64,
}

/// A webhook ready to be sent.
pub(crate) struct Rendered {
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// How the tag begins of what goes to a subscription that ends when it cannot be served.
pub(crate) const SUBSCRIPTION_TAG: &str = "subscription/";

type Render = Arc<dyn Fn(u32) -> Rendered + Send + Sync>;

/// A webhook in the queue.
pub(crate) struct Parcel {
    pub(crate) url: String,
    /// What it is about; [`Outbox::withdraw`] finds it by this, and one that begins with
    /// [`SUBSCRIPTION_TAG`] is remembered when it is given up on.
    pub(crate) tag: String,
    pub(crate) delay: Duration,
    pub(crate) render: Render,
}

struct Waiting {
    attempt: u32,
    parcel: Parcel,
}

/// What waits, by when it is due, then in the order it came.
#[derive(Default)]
struct Queue {
    waiting: BTreeMap<(Instant, u64), Waiting>,
    next: u64,
}

impl Queue {
    fn put(&mut self, due: Instant, waiting: Waiting) {
        self.next += 1;
        self.waiting.insert((due, self.next), waiting);
    }
}

/// The queue of webhooks of one simulator.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    doorbell: Notify,
    unserved: Mutex<BTreeSet<String>>,
    queued: AtomicU64,
    delivered: AtomicU64,
    failed: AtomicU64,
    given_up: AtomicU64,
    refused: AtomicU64,
    under_way: AtomicU64,
}

impl Outbox {
    /// Queues a webhook; the faults decide whether, when and how often it is sent.
    pub(crate) fn post(&self, parcel: &Parcel, faults: &FaultDial) {
        let posting = faults.posting();
        let due = Instant::now() + parcel.delay + posting.delay;
        let mut queue = self.queue.lock();
        for _ in 0..posting.copies {
            if queue.waiting.len() >= OUTBOX_MAX {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let copy = Parcel {
                url: parcel.url.clone(),
                tag: parcel.tag.clone(),
                delay: parcel.delay,
                render: Arc::clone(&parcel.render),
            };
            queue.put(due, Waiting { attempt: 1, parcel: copy });
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        drop(queue);
        self.doorbell.notify_one();
    }

    /// Takes back what waits under a tag.
    pub(crate) fn withdraw(&self, tag: &str) {
        self.queue.lock().waiting.retain(|_, waiting| waiting.parcel.tag != tag);
    }

    /// Takes the tags of subscriptions that were given up on.
    pub(crate) fn take_unserved(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.unserved.lock())
    }

    pub(crate) fn counts(&self) -> WebhookCounts {
        let waiting = u64::try_from(self.queue.lock().waiting.len()).unwrap_or(u64::MAX);
        WebhookCounts {
            queued: self.queued.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            failed_attempts: self.failed.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            waiting: waiting.saturating_add(self.under_way.load(Ordering::Relaxed)),
        }
    }

    /// Delivers until told to stop.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Ok(client) = reqwest::Client::builder().timeout(ATTEMPT_TIME_MAX).no_proxy().build()
        else {
            tracing::error!("no HTTP client for webhooks; none will be delivered");
            return;
        };
        let mut under_way = JoinSet::new();
        loop {
            let next_due = self.send_due(&client, &mut under_way);
            let full = under_way.len() >= DELIVERIES_MAX;
            tokio::select! {
                () = stop.cancelled() => break,
                _ = under_way.join_next(), if !under_way.is_empty() => {}
                () = self.doorbell.notified(), if !full => {}
                () = sleep_until(next_due), if !full && next_due.is_some() => {}
            }
        }
        under_way.shutdown().await;
    }

    /// Starts what is due; returns when the next one will be.
    fn send_due(
        self: &Arc<Self>,
        client: &reqwest::Client,
        under_way: &mut JoinSet<()>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut queue = self.queue.lock();
        while under_way.len() < DELIVERIES_MAX {
            let first = queue.waiting.first_entry()?;
            let (due, _) = *first.key();
            if due > now {
                return Some(due);
            }
            self.under_way.fetch_add(1, Ordering::Relaxed);
            under_way.spawn(Arc::clone(self).attempt(client.clone(), first.remove()));
        }
        None
    }

    async fn attempt(self: Arc<Self>, client: reqwest::Client, mut waiting: Waiting) {
        let rendered = (waiting.parcel.render)(waiting.attempt);
        let mut request = client.post(&waiting.parcel.url).body(rendered.body);
        for (name, value) in rendered.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            self.delivered.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            waiting.attempt += 1;
            if waiting.attempt > ATTEMPTS_MAX {
                self.given_up.fetch_add(1, Ordering::Relaxed);
                if waiting.parcel.tag.starts_with(SUBSCRIPTION_TAG) {
                    self.unserved.lock().insert(waiting.parcel.tag);
                }
            } else {
                let due = Instant::now() + pause(waiting.attempt);
                self.queue.lock().put(due, waiting);
                self.doorbell.notify_one();
            }
        }
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Returns the pause before an attempt: doubling, at most [`RETRY_PAUSE_MAX`], with jitter.
fn pause(attempt: u32) -> Duration {
    let doubled = Duration::from_millis(100).saturating_mul(1 << attempt.min(10));
    doubled.min(RETRY_PAUSE_MAX).mul_f64(rand::random_range(0.75..1.25))
}

/// Checks that an address is http(s) and on this machine.
pub(crate) fn check_url(text: &str) -> Result<(), WebhookUrlError> {
    let url = Url::parse(text).map_err(|_| WebhookUrlError::NotAUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(WebhookUrlError::NotAUrl);
    }
    let near = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if near { Ok(()) } else { Err(WebhookUrlError::NotLoopback) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscription_that_could_not_be_served_is_remembered_after_its_last_attempt() {
        for (attempt, given_up) in [(ATTEMPTS_MAX - 1, false), (ATTEMPTS_MAX, true)] {
            let outbox = Arc::new(Outbox::default());
            let render = Arc::new(|_| Rendered { headers: Vec::new(), body: String::new() });
            let tag = format!("{SUBSCRIPTION_TAG}7");
            // Nothing listens on port 9 (discard).
            let url = "http://127.0.0.1:9/".to_owned();
            let parcel = Parcel { url, tag: tag.clone(), delay: Duration::ZERO, render };
            let waiting = Waiting { attempt, parcel };
            let client = reqwest::Client::builder().timeout(ATTEMPT_TIME_MAX).no_proxy().build();
            Arc::clone(&outbox).attempt(client.unwrap(), waiting).await;
            assert_eq!(outbox.take_unserved().contains(&tag), given_up, "attempt {attempt}");
        }
    }
}
