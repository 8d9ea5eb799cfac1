//! eBay's notifications: endpoint validation, the signature, then the body into notices.
//!
//! <https://developer.ebay.com/api-docs/commerce/notification/overview.html>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use serde::Deserialize;
use serde_json::Value;
use sha1::Digest as _;

use super::wire::{Paid, listing_names, order_line};
use crate::exchange::{parse_json, parse_time};
use crate::port::{ChannelError, Notice, OrderNotice, VerifiedWebhook, WebhookError};

/// The topics that tell of stock and sales. ITEM_AVAILABILITY is open to partners only.
/// <https://developer.ebay.com/develop/api/buy/notification_events>
pub(super) const TOPICS: [&str; 2] = ["ORDER_CONFIRMATION", "ITEM_AVAILABILITY"];
/// The longest key id, which is a UUID in practice.
const KEY_ID_BYTES_MAX: usize = 64;

/// Answers eBay's validation of an endpoint (`GET ?challenge_code=…`): the hex SHA-256 of code,
/// verification token and endpoint URL, in that order.
/// <https://developer.ebay.com/marketplace-account-deletion>
#[must_use]
pub fn challenge_response(code: &str, verification_token: &str, url: &str) -> String {
    let mut hash = sha2::Sha256::new();
    for part in [code, verification_token, url] {
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

/// What `X-EBAY-SIGNATURE` holds, base64-encoded JSON.
#[derive(Debug, Deserialize)]
pub(super) struct SignatureHeader {
    pub(super) kid: String,
    signature: String,
    #[serde(default)]
    digest: String,
}

/// Reads the header; a key id that is not one is not asked for.
pub(super) fn parse_header(headers: &http::HeaderMap) -> Result<SignatureHeader, WebhookError> {
    let text = headers.get("x-ebay-signature").ok_or(WebhookError::Signature)?;
    let json = STANDARD.decode(text.as_bytes()).map_err(|_| WebhookError::Signature)?;
    let header: SignatureHeader =
        serde_json::from_slice(&json).map_err(|_| WebhookError::Signature)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_id = !header.kid.is_empty()
        && header.kid.len() <= KEY_ID_BYTES_MAX
        && header.kid.chars().all(legal);
    // eBay says SHA1; anything else is not what is checked below.
    let is_sha1 = matches!(header.digest.to_ascii_uppercase().as_str(), "" | "SHA1" | "SHA-1");
    if is_id && is_sha1 { Ok(header) } else { Err(WebhookError::Signature) }
}

/// Checks ECDSA P-256 over SHA-1 of the raw body, signature in DER.
pub(super) fn is_signed(header: &SignatureHeader, pem: &str, body: &[u8]) -> bool {
    let Some(key) = public_key(pem) else { return false };
    let Ok(der) = STANDARD.decode(header.signature.trim()) else { return false };
    let Ok(signature) = Signature::from_der(&der) else { return false };
    key.verify_prehash(&sha1::Sha1::digest(body), &signature).is_ok()
}

/// Reads a key in PEM, which eBay sends without line breaks.
fn public_key(pem: &str) -> Option<VerifyingKey> {
    let inner = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?;
    let inner = inner.strip_suffix("-----END PUBLIC KEY-----")?;
    let base64: String = inner.chars().filter(|c| !c.is_whitespace()).collect();
    VerifyingKey::from_public_key_der(&STANDARD.decode(base64).ok()?).ok()
}

#[derive(Deserialize)]
struct Envelope {
    metadata: Metadata,
    notification: Notification,
}

#[derive(Deserialize)]
struct Metadata {
    topic: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    notification_id: String,
    event_date: Option<String>,
    #[serde(default)]
    data: Value,
}

/// Reads the names of a delivery whose signature holds; its id is the same on every attempt.
pub(super) fn parse_names(body: &[u8]) -> Result<VerifiedWebhook, WebhookError> {
    let envelope: Envelope = parse_json("a notification", body)
        .map_err(|error| WebhookError::Malformed(error.detail))?;
    let delivery_id = envelope.notification.notification_id;
    if delivery_id.is_empty() {
        return Err(WebhookError::Malformed("no notificationId".to_owned()));
    }
    Ok(VerifiedWebhook { delivery_id, topic: envelope.metadata.topic })
}

/// Reads a verified body.
pub(super) fn parse(topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
    let envelope: Envelope = parse_json("a notification", body)?;
    match topic {
        "ORDER_CONFIRMATION" => Ok(order_notices(&envelope.notification)),
        "ITEM_AVAILABILITY" => Ok(vec![hint(&envelope.notification, &envelope.notification.data)]),
        _ => Ok(vec![Notice::Ignored(format!("the topic {topic} is not for us"))]),
    }
}

/// A confirmation comes once for each line item and names the order to read; where it says a
/// line whole (id of the Fulfillment API, quantity), that line counts at once. Where it does
/// not, the listing is read again and the poll brings the order.
/// <https://developer.ebay.com/develop/api/buy/notification_events>, `order_confirmation.yaml`.
fn order_notices(notification: &Notification) -> Vec<Notice> {
    let data = &notification.data;
    let order = data.get("order").unwrap_or(data);
    let lines: Vec<&Value> = match order.get("lineItems").or_else(|| order.get("orderLineItems")) {
        Some(Value::Array(lines)) => lines.iter().collect(),
        Some(_) | None => vec![order],
    };
    let order_id = text(order, &["orderId"]);
    let mut whole = Vec::new();
    let mut notices = Vec::new();
    for line in lines {
        // `orderLineItemId` is another id than the poll's: counting it would count twice.
        let line_id = text(line, &["lineItemId"]);
        let quantity = line.get("quantity").and_then(Value::as_u64);
        match (&order_id, line_id, quantity) {
            (Some(_), Some(line_id), Some(quantity)) => {
                let (sku, item_id) = names(line);
                whole.push(order_line(line_id, sku, item_id.as_deref(), quantity, Paid::Yes));
            }
            (_, _, _) => notices.push(hint(notification, line)),
        }
    }
    if let Some(order_id) = order_id.filter(|_| !whole.is_empty()) {
        let updated_at = notification.event_date.as_deref().and_then(parse_time);
        // It is told of once, when it is placed.
        let placed_at = updated_at;
        let order = OrderNotice { order_id, placed_at, updated_at, lines: whole };
        notices.insert(0, Notice::Order(order));
    }
    notices
}

fn hint(notification: &Notification, value: &Value) -> Notice {
    let (sku, item_id) = names(value);
    let fields = listing_names(sku.as_deref(), item_id.as_deref());
    if fields.is_empty() {
        return Notice::Ignored("names no listing; the poll reads what changed".to_owned());
    }
    let at = notification.event_date.as_deref().and_then(parse_time);
    Notice::InventoryHint { fields, shows: None, at }
}

fn names(value: &Value) -> (Option<String>, Option<String>) {
    let listing = value.get("listing").unwrap_or(value);
    let either = |names: &[&str]| text(value, names).or_else(|| text(listing, names));
    let item_id = either(&["legacyItemId", "itemId", "listingId"]);
    (either(&["sku"]), item_id.map(|id| legacy_item_id(&id).to_owned()))
}

/// Returns the item number of a RESTful id such as `v1|110043671232|0`, which newer APIs say.
/// <https://developer.ebay.com/api-docs/buy/static/api-browse.html#Legacy>
fn legacy_item_id(id: &str) -> &str {
    id.strip_prefix("v1|").and_then(|rest| rest.split('|').next()).unwrap_or(id)
}

/// Returns the first of these members that is a text or a number.
fn text(value: &Value, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| match value.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    })
}
