//! eBay's notifications: payloads, the ECDSA signature, and the challenge of a destination.
//!
//! Sources: eBay Notification API 1.6.2 and its SDKs; the public key is written on one line, as
//! eBay's `getPublicKey` does.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey, LineEnding};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Simulator;
use crate::outbox::{Parcel, Rendered, WebhookUrlError, check_url};
use crate::shop::{Shop, SimOrder};
use crate::time::millis_text;

/// The id of the one key that signs notifications.
pub const KEY_ID: &str = "9936261a-7d7b-4621-a0f1-96ccb428af49";
/// How long a destination has to answer the challenge.
const CHALLENGE_TIME_MAX: Duration = Duration::from_secs(5);

/// Returns the signing key: the same in every run, so that vectors can be kept.
pub(super) fn signing_key() -> SigningKey {
    let seed = Sha256::digest(b"trueup simulated ebay notification key");
    SigningKey::from_slice(&seed).expect("a fixed hash that is a valid scalar")
}

/// Returns the public key as eBay's `getPublicKey` writes it.
pub(super) fn public_key(key: &SigningKey) -> String {
    let pem = key.verifying_key().to_public_key_pem(LineEnding::LF);
    pem.expect("a P-256 key has a PEM form").replace('\n', "")
}

/// Returns the `X-EBAY-SIGNATURE` of a body.
pub(super) fn signature(key: &SigningKey, body: &[u8]) -> String {
    let digest = Sha1::digest(body);
    let signature: Signature =
        key.sign_prehash(&digest).expect("a SHA-1 digest is long enough to sign");
    let signature = STANDARD.encode(signature.to_der().as_bytes());
    let header = json!({
        "alg": "ecdsa", "kid": KEY_ID, "signature": signature, "digest": "SHA1",
    });
    STANDARD.encode(header.to_string())
}

/// Tells of a sale: that it is confirmed, and the availability if it ended.
pub(super) fn sold(sim: &Simulator, order: &SimOrder) {
    confirmed(sim, order);
    availability(sim, &order.sku, Some(order.quantity));
}

/// Tells that an order was paid for: `ORDER_CONFIRMATION`, one per line item.
pub(super) fn confirmed(sim: &Simulator, order: &SimOrder) {
    let data = json!({
        "orderId": order.order_id,
        "lineItemId": order.line_id,
        "legacyItemId": order.listing_id,
        "sku": order.sku,
        "quantity": order.quantity,
        "sellerId": "sim-seller",
    });
    post(sim, "ORDER_CONFIRMATION", &data);
}

/// Tells when a listing became available or unavailable; `sold` is how the quantity just moved.
pub(super) fn availability(sim: &Simulator, sku: &str, sold: Option<i64>) {
    let Some(shown) = sim.quantity(sku) else { return };
    let before = shown + sold.unwrap_or(0);
    if sold.is_some() && (before > 0) == (shown > 0) {
        return;
    }
    let listing = sim.0.state.lock().items.get(sku).map(super::state::Item::listing_id);
    let data = json!({
        "itemId": listing.map(|id| format!("v1|{id}|0")),
        "sku": sku,
        "availability": if shown > 0 { "AVAILABLE" } else { "TEMPORARILY_UNAVAILABLE" },
    });
    post(sim, "ITEM_AVAILABILITY", &data);
}

fn post(sim: &Simulator, topic: &'static str, data: &Value) {
    let engine = &sim.0.engine;
    let mut urls: Vec<String> =
        engine.target.read().iter().map(|target| target.url.clone()).collect();
    {
        let state = sim.0.state.lock();
        let subscribed = state.subscriptions.iter().filter(|(known, _)| known == topic);
        for (_, destination) in subscribed {
            if let Some(url) = state.destinations.get(destination)
                && !urls.contains(url)
            {
                urls.push(url.clone());
            }
        }
    }
    let at = millis_text(engine.clock.now());
    for url in urls {
        let (key, data, at) = (sim.0.key.clone(), data.clone(), at.clone());
        let id = Uuid::new_v4().to_string();
        let render = Arc::new(move |attempt: u32| {
            let body = json!({
                "metadata": {"topic": topic, "schemaVersion": "1.0", "deprecated": false},
                "notification": {
                    "notificationId": id, "eventDate": at, "publishDate": at,
                    "publishAttemptCount": attempt, "data": data,
                },
            })
            .to_string();
            let headers = vec![
                ("content-type", "application/json".into()),
                ("X-EBAY-SIGNATURE", signature(&key, body.as_bytes())),
            ];
            Rendered { headers, body }
        });
        let parcel = Parcel { url, tag: String::new(), delay: Duration::ZERO, render };
        engine.outbox.post(&parcel, &engine.faults);
    }
}

/// How long a checkout waits for the merchant.
const CHECK_TIME_MAX: Duration = Duration::from_millis(500);

/// Where a checkout asks the merchant, and how it is let in.
#[derive(Clone)]
pub struct Check {
    /// The merchant's endpoint.
    pub url: String,
    /// The user name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// Asks the merchant; returns what it says of availability and quantity.
pub(super) async fn ask(check: &Check, sku: &str, quantity: i64) -> Option<(bool, i64)> {
    let client = reqwest::Client::builder().timeout(CHECK_TIME_MAX).no_proxy().build().ok()?;
    let body = json!({
        "merchantLocationKey": "sim-warehouse", "SKU": sku, "fulfillmentType": "SHIP_TO_HOME",
        "requestedQuantity": quantity,
    });
    let request = client.post(&check.url).basic_auth(&check.user, Some(&check.password));
    let answer = request.header("accept", "application/json").json(&body).send().await.ok()?;
    let answer: Value = answer.error_for_status().ok()?.json().await.ok()?;
    let shown = answer.get("totalAvailableQuantity")?.as_i64()?;
    answer.get("lastUpdated")?.as_i64()?;
    Some((answer.get("isAvailable")?.as_bool()?, shown))
}

/// Why a destination was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// The address is not allowed.
    #[error(transparent)]
    Url(#[from] WebhookUrlError),
    /// The destination did not answer.
    #[error("the destination did not answer the challenge")]
    NoAnswer(#[from] reqwest::Error),
    /// The destination answered something else.
    #[error("the destination answered the challenge wrongly")]
    WrongAnswer,
}

/// Asks a destination to prove that it knows the verification token, as eBay does before use.
///
/// # Errors
/// [`ChallengeError`] says how the destination failed.
pub async fn challenge(url: &str, verification_token: &str) -> Result<(), ChallengeError> {
    check_url(url)?;
    let code = Uuid::new_v4().simple().to_string();
    let mut asked = url::Url::parse(url).map_err(|_| WebhookUrlError::NotAUrl)?;
    asked.query_pairs_mut().append_pair("challenge_code", &code);
    let client = reqwest::Client::builder().timeout(CHALLENGE_TIME_MAX).no_proxy().build()?;
    let answer: Value = client.get(asked).send().await?.error_for_status()?.json().await?;
    let wanted = hex::encode(
        Sha256::new()
            .chain_update(&code)
            .chain_update(verification_token)
            .chain_update(url)
            .finalize(),
    );
    let given = answer.get("challengeResponse").and_then(Value::as_str);
    if given == Some(wanted.as_str()) { Ok(()) } else { Err(ChallengeError::WrongAnswer) }
}
