//! What eBay's refusals mean.

use serde::Deserialize;
use serde_json::Value;

use crate::exchange::{classify_status, clip};
use crate::port::{ChannelError, ChannelErrorKind, Response};

/// One entry of `errors` in the REST APIs.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RestError {
    pub(super) error_id: i64,
    #[serde(default)]
    message: String,
    long_message: Option<String>,
}

#[derive(Deserialize)]
struct RestErrors {
    #[serde(default)]
    errors: Vec<RestError>,
}

/// Classifies an answer that is not a success.
pub(super) fn classify(response: &Response) -> ChannelError {
    let status = response.status.as_u16();
    let parsed = serde_json::from_slice::<RestErrors>(&response.body);
    let errors = parsed.map(|body| body.errors).unwrap_or_default();
    let known = errors.iter().find_map(|error| Some((kind_of(error.error_id)?, error)));
    let Some((kind, error)) = known else {
        let words = errors.first().map(|error| format!(": {}", words(error))).unwrap_or_default();
        let mut error = classify_status(response, format!("eBay answered {status}{words}"));
        error.kind = match status {
            400 | 409 | 422 => ChannelErrorKind::InvalidValue,
            404 => ChannelErrorKind::ListingNotFound,
            _ => error.kind,
        };
        return match errors.first() {
            Some(first) => error.with_code(first.error_id.to_string()),
            None => error,
        };
    };
    let mut classified = classify_status(response, format!("eBay: {}", words(error)));
    classified.kind = kind;
    classified.with_code(error.error_id.to_string())
}

/// Classifies one entry of a bulk answer by its own status and errors.
pub(super) fn classify_entry(status: u16, errors: &[RestError]) -> ChannelError {
    let known = errors.iter().find_map(|error| Some((kind_of(error.error_id)?, error)));
    let (kind, error) = match known {
        Some((kind, error)) => (kind, Some(error)),
        None => {
            let kind = match status {
                401 => ChannelErrorKind::Auth,
                403 => ChannelErrorKind::Forbidden,
                404 => ChannelErrorKind::ListingNotFound,
                429 => ChannelErrorKind::Throttled,
                // It broke in the middle of this item.
                500..=599 => ChannelErrorKind::UnknownOutcome,
                _ => ChannelErrorKind::InvalidValue,
            };
            (kind, errors.first())
        }
    };
    match error {
        Some(error) => ChannelError::new(kind, format!("eBay: {}", words(error)))
            .with_code(error.error_id.to_string()),
        None => ChannelError::new(kind, format!("eBay answered {status} for this item")),
    }
}

fn words(error: &RestError) -> String {
    clip(error.long_message.as_deref().unwrap_or(&error.message))
}

/// The ids of the Inventory API that we know the meaning of, and those of every API. None is
/// published for a listing that was revised 250 times in a day.
/// <https://developer.ebay.com/api-docs/sell/inventory/overview.html>, bulkUpdatePriceQuantity.
fn kind_of(error_id: i64) -> Option<ChannelErrorKind> {
    match error_id {
        // System error; concurrent access to the same item.
        25_001 | 25_025 => Some(ChannelErrorKind::Transient),
        // Unknown SKU; unknown resource; no such offer.
        25_702 | 25_710 | 25_713 => Some(ChannelErrorKind::ListingNotFound),
        // User error; invalid value; less than what auctions have; over the selling limit.
        25_002 | 25_709 | 25_759 | 25_026 => Some(ChannelErrorKind::InvalidValue),
        // With a bid or a best offer; on hold.
        25_038..=25_040 | 25_097 | 25_098 => Some(ChannelErrorKind::NotPushable),
        // Invalid or missing token; insufficient permissions; too many requests.
        1_001 | 1_002 => Some(ChannelErrorKind::Auth),
        1_100 => Some(ChannelErrorKind::Forbidden),
        2_001 => Some(ChannelErrorKind::Throttled),
        _ => None,
    }
}

/// One `Errors` node of the Trading API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TradingError {
    pub(super) code: String,
    /// `RequestError` or `SystemError`.
    pub(super) classification: String,
    pub(super) message: String,
}

/// Classifies a Trading error; a code that we do not know is about the item.
///
/// eBay publishes no code for a listing that was revised too often: neither the error messages
/// nor the pages that name the limit have one. So nothing here depends on it: such a refusal is
/// one of the item, which is parked, and is kept from happening by the engine's own count.
/// <https://developer.ebay.com/devzone/xml/docs/reference/ebay/errors/errormessages.htm>
pub(super) fn classify_trading(error: &TradingError) -> ChannelError {
    let kind = match error.code.as_str() {
        // The item cannot be accessed: deleted, or somebody else's.
        "17" => ChannelErrorKind::ListingNotFound,
        // The listing has ended.
        "291" | "21916750" => ChannelErrorKind::NotPushable,
        "518" => ChannelErrorKind::Throttled,
        code if refuses_token(code) => ChannelErrorKind::Auth,
        _ if error.classification == "SystemError" => ChannelErrorKind::Transient,
        // Among them 21916583: a listing with variations wants the SKU.
        _ => ChannelErrorKind::InvalidValue,
    };
    ChannelError::new(kind, format!("eBay: {}", clip(&error.message))).with_code(error.code.clone())
}

/// Invalid or expired token, also as an OAuth token in the IAF header.
pub(super) fn refuses_token(trading_code: &str) -> bool {
    matches!(trading_code, "931" | "932" | "16110" | "17470" | "21916984" | "21917053")
}

/// Classifies a refused grant: `{"error":"invalid_grant", …}`. Only the code is quoted.
pub(super) fn classify_grant(response: &Response) -> ChannelError {
    let code = serde_json::from_slice::<Value>(&response.body)
        .ok()
        .and_then(|body| body.get("error").and_then(Value::as_str).map(clip))
        .unwrap_or_default();
    let status = response.status.as_u16();
    let detail = format!("eBay's token service answered {status} {code}").trim_end().to_owned();
    let error = match (status, code.as_str()) {
        (_, "invalid_scope") => ChannelError::new(ChannelErrorKind::Forbidden, detail),
        (400 | 401 | 403, _) => ChannelError::new(ChannelErrorKind::Auth, detail),
        (_, _) => classify_status(response, detail),
    };
    if code.is_empty() { error } else { error.with_code(code) }
}
