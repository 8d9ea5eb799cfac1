//! Outgoing webhooks: signed as Standard Webhooks, retried with backoff, dead-lettered.
//!
//! <https://www.standardwebhooks.com>: the signature is over `id.timestamp.body`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use trueup_core::{Org, Timestamp};
use trueup_store::{Delivery, DeliveryState, StoreError, Subscription};

use crate::address;
use crate::backoff;
use crate::seal::Purpose;
use crate::shared::Shared;

/// The most deliveries taken at once.
const BATCH_MAX: usize = 64;
/// The most deliveries under way at once.
const CONCURRENT_MAX: usize = 16;
/// How often an event is sent before it is dead: over about a day and a half.
pub const DELIVERY_TRIES_MAX: u32 = 12;
/// The first and the longest pause before an event is sent again, in milliseconds.
const AGAIN_MS_FIRST: u64 = 5_000;
const AGAIN_MS_MAX: u64 = 8 * 3_600_000;
/// How long a subscriber may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// How often deliveries are looked for when nobody rings.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long at least between two looks that find nothing, however often somebody rings: every
/// commit of the ledger does.
const RUNG_PAUSE: Duration = Duration::from_millis(50);
/// What a signing secret starts with.
const SECRET_PREFIX: &str = "whsec_";

/// Returns the value of the `webhook-signature` header.
#[must_use]
pub fn sign(secret: &str, id: &str, timestamp: i64, body: &str) -> String {
    let coded = secret.strip_prefix(SECRET_PREFIX).unwrap_or(secret);
    let key = STANDARD.decode(coded).unwrap_or_else(|_| secret.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Sends what is due until it is stopped.
pub(crate) async fn work(shared: Arc<Shared>) {
    while !shared.stop.is_cancelled() {
        let looked = tokio::time::Instant::now();
        let due = shared.store.deliveries_due(shared.now(), BATCH_MAX).await;
        let due = due.unwrap_or_else(|error| {
            tracing::warn!(%error, "the deliveries could not be read");
            Vec::new()
        });
        if !due.is_empty() {
            match send_all(&shared, due).await {
                Ok(()) => continue,
                Err(error) => tracing::warn!(%error, "deliveries could not be settled"),
            }
        }
        let rung = async {
            shared.deliveries_bell.notified().await;
            tokio::time::sleep_until(looked + RUNG_PAUSE).await;
        };
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = rung => {}
            () = tokio::time::sleep(LOOK_PAUSE) => {}
        }
    }
}

async fn send_all(shared: &Shared, due: Vec<(Org, Delivery)>) -> Result<(), StoreError> {
    let mut subscriptions: BTreeMap<(Org, String), Subscription> = BTreeMap::new();
    let mut orgs: Vec<&Org> = due.iter().map(|(org, _)| org).collect();
    orgs.dedup();
    for org in orgs {
        for row in shared.store.subscriptions(org).await? {
            subscriptions.insert((org.clone(), row.id.clone()), row);
        }
    }
    let subscriptions = &subscriptions;
    let sends = due.into_iter().map(|(org, delivery)| async move {
        if !shared.store.holds(&org) {
            // Another node sends it.
            return Ok(());
        }
        let subscription = subscriptions.get(&(org.clone(), delivery.subscription.clone()));
        let result = match subscription {
            Some(row) if row.enabled => send(shared, row, &delivery).await,
            Some(_) | None => Err("the subscription is switched off or gone".to_owned()),
        };
        let row = settled(delivery, result, shared.now());
        shared.store.put_delivery(&org, row).await
    });
    let mut results = futures::stream::iter(sends).buffer_unordered(CONCURRENT_MAX);
    let mut outcome = Ok(());
    while let Some(result) = results.next().await {
        outcome = outcome.and(result);
    }
    outcome
}

/// Sends one event; the error is what is shown to people.
async fn send(
    shared: &Shared,
    subscription: &Subscription,
    delivery: &Delivery,
) -> Result<String, String> {
    let url = address::parse(&subscription.url, shared.reach).map_err(|error| error.to_string())?;
    let secret = shared.sealer.open(Purpose::SigningSecret, &subscription.sealed_secret);
    let secret = secret.map_err(|error| error.to_string())?;
    let secret = String::from_utf8(secret).map_err(|_| "the secret is damaged".to_owned())?;
    let timestamp = shared.now().micros().div_euclid(1_000_000);
    let body = payload(delivery);
    let signature = sign(&secret, &delivery.id, timestamp, &body);
    let answer = shared
        .client
        .post(url)
        .timeout(ANSWER_TIME_MAX)
        .header("content-type", "application/json")
        .header("webhook-id", &delivery.id)
        .header("webhook-timestamp", timestamp.to_string())
        .header("webhook-signature", signature)
        .body(body)
        .send()
        .await;
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(answer.status().as_str().to_owned()),
        Ok(answer) => Err(answer.status().as_str().to_owned()),
        Err(error) if error.is_timeout() => Err("no answer in time".to_owned()),
        Err(error) if error.is_connect() => Err("the connection failed".to_owned()),
        Err(_) => Err("the connection broke".to_owned()),
    }
}

/// Makes what is signed and sent, the same for every try: `{"type", "timestamp", "data"}`.
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
fn payload(delivery: &Delivery) -> String {
    let at = jiff::Timestamp::from_microsecond(delivery.created_at.micros()).unwrap_or_default();
    let (event, data) = (serde_json::Value::from(delivery.event.as_str()), &delivery.body);
    format!(r#"{{"type":{event},"timestamp":"{at}","data":{data}}}"#)
}

/// Returns a delivery as it stands after a try.
fn settled(delivery: Delivery, result: Result<String, String>, now: Timestamp) -> Delivery {
    let attempts = delivery.attempts.saturating_add(1);
    let (state, next_at, last_result) = match result {
        Ok(status) => (DeliveryState::Delivered, now, status),
        Err(why) if attempts >= DELIVERY_TRIES_MAX => (DeliveryState::Dead, now, why),
        Err(why) => {
            let millis = backoff::millis(attempts, AGAIN_MS_FIRST, AGAIN_MS_MAX);
            let pause = i64::try_from(millis).unwrap_or(i64::MAX);
            (DeliveryState::Pending, now.plus_millis(pause), why)
        }
    };
    let word = match state {
        DeliveryState::Delivered => "delivered",
        DeliveryState::Pending => "failed",
        DeliveryState::Dead => "dead",
    };
    metrics::counter!("trueup_deliveries_total", "outcome" => word).increment(1);
    Delivery { state, attempts, next_at, last_result: Some(last_result), ..delivery }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The public vector of the specification's own libraries.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let signed = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    fn delivery(attempts: u32) -> Delivery {
        Delivery {
            id: "msg_1".to_owned(),
            subscription: "sub".to_owned(),
            event: "inventory.updated".to_owned(),
            body: "{}".to_owned(),
            state: DeliveryState::Pending,
            attempts,
            next_at: Timestamp::EPOCH,
            last_result: None,
            created_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn a_payload_says_what_happened_and_when() {
        let created_at = Timestamp::from_micros(1_795_500_304_908_161);
        let body = r#"{"sku":"A"}"#.to_owned();
        let sent = payload(&Delivery { created_at, body, ..delivery(0) });
        assert_eq!(
            sent,
            r#"{"type":"inventory.updated","timestamp":"2026-11-24T06:05:04.908161Z","data":{"sku":"A"}}"#
        );
    }

    #[test]
    fn a_failed_delivery_waits_longer_each_time_and_dies_in_the_end() {
        let now = Timestamp::from_micros(1);
        let failed = |attempts| settled(delivery(attempts), Err("500".to_owned()), now);
        let first = failed(0);
        assert_eq!((first.state, first.attempts), (DeliveryState::Pending, 1));
        let pause = first.next_at.micros_since(now);
        assert!((2_500_000..=5_000_000).contains(&pause), "{pause}");
        let last = failed(DELIVERY_TRIES_MAX - 1);
        assert_eq!(last.state, DeliveryState::Dead);
        assert_eq!(last.last_result.as_deref(), Some("500"));
        let done = settled(delivery(3), Ok("204".to_owned()), now);
        assert_eq!(done.state, DeliveryState::Delivered);
    }
}
