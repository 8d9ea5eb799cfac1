//! What Shopify's refusals mean.

use serde::Deserialize;
use serde_json::Value;

use crate::exchange::{classify_status, clip, millis};
use crate::port::{ChannelError, ChannelErrorKind, Response};

/// One entry of the top-level `errors`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct GraphqlError {
    #[serde(default)]
    message: String,
    #[serde(default)]
    extensions: Value,
}

/// What every answer says of the cost bucket.
/// <https://shopify.dev/docs/api/usage/limits#graphql-admin-api-rate-limits>
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cost {
    pub(super) requested_query_cost: Option<f64>,
    pub(super) throttle_status: Option<ThrottleStatus>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ThrottleStatus {
    pub(super) maximum_available: f64,
    pub(super) currently_available: f64,
    pub(super) restore_rate: f64,
}

/// Classifies an answer whose status is not 200.
///
/// 402 is a frozen shop and 423 a locked one; 404 means that there is no such shop or version.
/// <https://shopify.dev/docs/api/usage/response-codes>
pub(super) fn classify(response: &Response) -> ChannelError {
    let text = errors_text(&response.body);
    let detail = format!("Shopify answered {}{text}", response.status.as_u16());
    match response.status.as_u16() {
        402 | 423 => ChannelError::new(ChannelErrorKind::AccountBlocked, detail),
        404 => ChannelError::new(ChannelErrorKind::Config, detail),
        _ => classify_status(response, detail),
    }
}

/// Classifies a refused grant; its body is never quoted, for it echoes credentials.
pub(super) fn classify_grant(response: &Response) -> ChannelError {
    let detail = format!("Shopify refused the client credentials ({})", response.status.as_u16());
    match response.status.as_u16() {
        400 | 401 | 403 => ChannelError::new(ChannelErrorKind::Auth, detail),
        402 | 423 => ChannelError::new(ChannelErrorKind::AccountBlocked, detail),
        404 => ChannelError::new(ChannelErrorKind::Config, detail),
        _ => classify_status(response, detail),
    }
}

/// Classifies the top-level `errors` of a 200 answer.
/// <https://shopify.dev/docs/api/admin-graphql#status_and_error_codes>
pub(super) fn classify_graphql(errors: &[GraphqlError], cost: Option<&Cost>) -> ChannelError {
    let code = |error: &GraphqlError| {
        error.extensions.get("code").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    // A throttle is told beside other things; it decides.
    let chosen = errors.iter().find(|error| code(error) == "THROTTLED").or(errors.first());
    let Some(chosen) = chosen else {
        return ChannelError::new(ChannelErrorKind::Protocol, "an answer without data or errors");
    };
    let code = code(chosen);
    let kind = match code.as_str() {
        "THROTTLED" => ChannelErrorKind::Throttled,
        "ACCESS_DENIED" => ChannelErrorKind::Forbidden,
        "SHOP_INACTIVE" => ChannelErrorKind::AccountBlocked,
        // The server stopped half-way: what it did is not known.
        "INTERNAL_SERVER_ERROR" | "TIMEOUT" => ChannelErrorKind::Transient,
        // Everything else is about the document or its variables, which are ours:
        // BAD_REQUEST (no @idempotent), INVALID_FIELD_ARGUMENTS (no changeFromQuantity),
        // INVALID_VARIABLE, MAX_COST_EXCEEDED, undefinedField, argumentLiteralsIncompatible …
        _ => ChannelErrorKind::Bug,
    };
    let mut error = ChannelError::new(kind, format!("Shopify: {}", clip(&chosen.message)));
    if kind == ChannelErrorKind::Throttled {
        error.retry_after_ms = cost.and_then(wait_ms);
    }
    if code.is_empty() { error } else { error.with_code(code) }
}

/// Returns whether a query was refused for what it would cost at most, whatever is in the bucket.
pub(super) fn is_too_dear(error: &ChannelError) -> bool {
    error.vendor_code.as_deref() == Some("MAX_COST_EXCEEDED")
}

/// Returns how long the bucket needs to hold the request:
/// (requested − available) ÷ restore rate.
fn wait_ms(cost: &Cost) -> Option<u64> {
    let status = cost.throttle_status.as_ref()?;
    let missing = cost.requested_query_cost? - status.currently_available;
    if status.restore_rate <= 0.0 {
        return None;
    }
    millis((missing / status.restore_rate).max(0.0))
}

/// A request with the same key is still running: what became of it is not known yet.
/// <https://shopify.dev/docs/api/usage/idempotent-requests>
pub(super) const CONCURRENT: &str = "IDEMPOTENCY_CONCURRENT_REQUEST";

/// Classifies a `userErrors` code of `inventorySetQuantities`.
/// <https://shopify.dev/docs/api/admin-graphql/2026-07/enums/InventorySetQuantitiesUserErrorCode>
pub(super) fn classify_user_error(code: &str, message: &str) -> ChannelError {
    let kind = match code {
        "CHANGE_FROM_QUANTITY_STALE" | "COMPARE_QUANTITY_STALE" => ChannelErrorKind::Stale,
        "INVALID_INVENTORY_ITEM" => ChannelErrorKind::ListingNotFound,
        "INVALID_LOCATION" | "NON_MUTABLE_INVENTORY_ITEM" | "ITEM_NOT_STOCKED_AT_LOCATION" => {
            ChannelErrorKind::NotPushable
        }
        "INVALID_QUANTITY_NEGATIVE" | "INVALID_QUANTITY_TOO_HIGH" | "INVALID_QUANTITY_TOO_LOW" => {
            ChannelErrorKind::InvalidValue
        }
        // Another request with this key is under way: the same key again, later.
        CONCURRENT => ChannelErrorKind::Throttled,
        // The attempt under this key failed: a new key.
        "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED" | "SERVICE_UNAVAILABLE" => {
            ChannelErrorKind::Transient
        }
        "IDEMPOTENCY_KEY_PARAMETER_MISMATCH"
        | "INVALID_NAME"
        | "INVALID_REASON"
        | "INVALID_REFERENCE_DOCUMENT"
        | "COMPARE_QUANTITY_REQUIRED"
        | "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR" => ChannelErrorKind::Bug,
        // A code that is newer than this table.
        _ => ChannelErrorKind::InvalidValue,
    };
    let error = ChannelError::new(kind, format!("Shopify: {}", clip(message)));
    if code.is_empty() { error } else { error.with_code(code) }
}

/// Returns `: …` with the words of a REST-style error body (`errors` is a text or an object).
fn errors_text(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return String::new() };
    match value.get("errors") {
        Some(Value::String(text)) => format!(": {}", clip(text)),
        Some(Value::Array(list)) => match list.first().and_then(|e| e.get("message")) {
            Some(Value::String(text)) => format!(": {}", clip(text)),
            Some(_) | None => String::new(),
        },
        Some(_) | None => String::new(),
    }
}
