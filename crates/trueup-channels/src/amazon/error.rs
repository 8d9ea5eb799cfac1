//! What Amazon's refusals mean.

use serde::Deserialize;
use serde_json::Value;

use crate::exchange::{classify_status, clip};
use crate::port::{ChannelError, ChannelErrorKind, Response};

#[derive(Deserialize)]
struct ErrorList {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Option<String>,
}

fn first_error(body: &[u8]) -> Option<ErrorEntry> {
    let list: ErrorList = serde_json::from_slice(body).ok()?;
    list.errors.into_iter().next()
}

/// Classifies an answer that is not a success: `{"errors":[{code, message, details}]}`.
/// <https://developer-docs.amazon.com/sp-api/docs/response-format>
pub(super) fn classify(response: &Response) -> ChannelError {
    let status = response.status.as_u16();
    let entry = first_error(&response.body);
    let words = match &entry {
        Some(entry) => format!(": {} {}", clip(&entry.code), clip(&entry.message)),
        None => String::new(),
    };
    let detail = format!("Amazon answered {status}{words}");
    let code = entry.map(|entry| entry.code).unwrap_or_default();
    let error = match (status, code.as_str()) {
        (_, "QuotaExceeded") => ChannelError::new(ChannelErrorKind::Throttled, detail),
        (404, _) | (_, "NotFound") => ChannelError::new(ChannelErrorKind::ListingNotFound, detail),
        (400 | 413 | 415 | 422, _) => ChannelError::new(ChannelErrorKind::InvalidValue, detail),
        (_, _) => classify_status(response, detail),
    };
    if code.is_empty() { error } else { error.with_code(code) }
}

/// Returns whether the access token is refused: 401, or 403 with words about the token.
///
/// An expired token answers 403 `Unauthorized`, "The access token you provided has expired";
/// a missing role answers 403 `Unauthorized` with other details. (From practice; the models give
/// the status only, so the words decide.)
pub(super) fn refuses_token(response: &Response) -> bool {
    match response.status.as_u16() {
        401 => true,
        403 => first_error(&response.body).is_some_and(|entry| {
            let words = format!("{} {}", entry.message, entry.details.unwrap_or_default());
            let words = words.to_ascii_lowercase();
            words.contains("access token")
                && (words.contains("expired") || words.contains("revoked"))
        }),
        _ => false,
    }
}

/// Classifies a refused token after a renewal: it is the account's permission that is gone.
pub(super) fn classify_refused_token(response: &Response) -> ChannelError {
    let mut error = classify(response);
    error.kind = ChannelErrorKind::Auth;
    error
}

/// Classifies a refused grant: `{"error":"invalid_grant", …}`. Only the code is quoted.
/// <https://developer.amazon.com/docs/login-with-amazon/authorization-code-grant.html>
pub(super) fn classify_grant(response: &Response) -> ChannelError {
    let code = serde_json::from_slice::<Value>(&response.body)
        .ok()
        .and_then(|body| body.get("error").and_then(Value::as_str).map(clip))
        .unwrap_or_default();
    let status = response.status.as_u16();
    let detail = format!("Login with Amazon answered {status} {code}").trim_end().to_owned();
    let error = match status {
        400 | 401 | 403 => ChannelError::new(ChannelErrorKind::Auth, detail),
        _ => classify_status(response, detail),
    };
    if code.is_empty() { error } else { error.with_code(code) }
}

/// Classifies a refusal of the queue: `{"__type":"com.amazonaws.sqs#QueueDoesNotExist", …}`.
///
/// The JSON protocol says the code in `__type`, a gateway before it may say it in XML.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-json-api-responses.html>,
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>
pub(super) fn classify_queue(response: &Response) -> ChannelError {
    let status = response.status.as_u16();
    let code = queue_code(&response.body).unwrap_or_default();
    let detail = format!("the queue answered {status} {code}").trim_end().to_owned();
    let bare = code.strip_suffix("Exception").unwrap_or(&code);
    let error = match bare {
        "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "InvalidSignature"
        | "IncompleteSignature"
        | "UnrecognizedClient"
        | "MissingAuthenticationToken"
        | "ExpiredToken"
        | "InvalidSecurity"
        | "OptInRequired" => ChannelError::new(ChannelErrorKind::Auth, detail),
        "AccessDenied" | "NotAuthorized" | "KmsAccessDenied" => {
            ChannelError::new(ChannelErrorKind::Forbidden, detail)
        }
        "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue" | "InvalidAddress" => {
            ChannelError::new(ChannelErrorKind::Config, detail)
        }
        "RequestThrottled" | "Throttling" | "ThrottlingException" | "OverLimit" => {
            ChannelError::new(ChannelErrorKind::Throttled, detail)
        }
        _ => classify_status(response, detail),
    };
    if code.is_empty() { error } else { error.with_code(code) }
}

fn queue_code(body: &[u8]) -> Option<String> {
    if let Ok(body) = serde_json::from_slice::<Value>(body) {
        let kind = body.get("__type")?.as_str()?;
        return Some(clip(kind.rsplit('#').next().unwrap_or(kind)));
    }
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    Some(clip(code))
}

/// Classifies a listing that Amazon calls INVALID or a feed message with an ERROR issue: the
/// item is refused for good, whatever the status of the call.
pub(super) fn classify_issue(code: &str, message: &str) -> ChannelError {
    let error =
        ChannelError::new(ChannelErrorKind::InvalidValue, format!("Amazon: {}", clip(message)));
    if code.is_empty() { error } else { error.with_code(code) }
}
