//! Errors as RFC 9457 problems: one type, one table from refusals and failures to statuses.
//!
//! `code` is stable and for programs; `detail` is for people and may change.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value, json};
use trueup_channels::{CallbackError, ChannelErrorKind, SettingError, WebhookError};
use trueup_core::{Rejection, Shortage};
use trueup_store::StoreError;
use trueup_sync::EngineError;
use utoipa::ToSchema;

use crate::api::impact::ImpactView;
use crate::api::reply::Reply;

/// What every problem's `type` begins with; the code follows.
pub const TYPE_PREFIX: &str = "urn:trueup:problem:";

/// Says that no node works for the org at the moment, and that nothing was done.
pub(super) const SHARD_MOVING: &str = "shard_moving";

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where it stands in the body, as a JSON pointer; `?name` for a query parameter.
    #[schema(example = "/items/3/quantity")]
    pub pointer: String,
    /// For programs.
    #[schema(example = "invalid_quantity")]
    pub code: Cow<'static, str>,
    /// For people.
    pub detail: String,
}

/// A problem on its way out.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone, PartialEq)]
struct Inner {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    errors: Vec<FieldError>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body of a problem, for the API description.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Names the kind of problem.
    #[schema(example = "urn:trueup:problem:sku_not_found")]
    pub r#type: String,
    /// The kind in words.
    #[schema(example = "Sku not found")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// What happened, for people.
    pub detail: String,
    /// What happened, for programs; stable.
    #[schema(example = "sku_not_found")]
    pub code: String,
    /// The fields that are wrong, where fields are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
    /// What there is too little of, with `insufficient_stock`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub shortages: Vec<ShortageView>,
}

/// An item that there is not enough of.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShortageView {
    /// The SKU as it was asked for.
    pub sku: String,
    /// Units asked for.
    pub requested: u64,
    /// Units that could be had.
    pub available: u64,
}

impl From<&Shortage> for ShortageView {
    fn from(shortage: &Shortage) -> Self {
        Self {
            sku: shortage.sku.as_str().to_owned(),
            requested: shortage.requested,
            available: shortage.available,
        }
    }
}

impl Problem {
    /// Makes a problem.
    #[must_use]
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            status,
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            members: Map::new(),
            headers: Vec::new(),
        }))
    }

    /// Makes a 400 without fields.
    #[must_use]
    pub fn bad(code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// Makes a 404.
    #[must_use]
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// Makes a 400 about one field, with the field's code.
    #[must_use]
    pub fn field(
        pointer: impl Into<String>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let (pointer, code, detail) = (pointer.into(), code.into(), detail.into());
        let whole =
            if pointer.is_empty() { detail.clone() } else { format!("{pointer}: {detail}") };
        Self::bad(code.clone(), whole).with_error(FieldError { pointer, code, detail })
    }

    /// Adds a field's error.
    #[must_use]
    pub fn with_error(mut self, error: FieldError) -> Self {
        self.0.errors.push(error);
        self
    }

    /// Adds an extension member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Adds `Retry-After`.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// Returns what happened, for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Returns the problem as an item's `error` member: code, detail and what else is told.
    #[must_use]
    pub fn as_item_error(&self) -> Value {
        let mut error = Map::new();
        error.insert("code".to_owned(), Value::from(self.0.code.as_ref()));
        error.insert("detail".to_owned(), Value::from(self.0.detail.as_str()));
        error.extend(self.0.members.clone());
        Value::Object(error)
    }

    /// Returns the answer to send.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let inner = &self.0;
        let mut body = Map::new();
        body.insert("type".to_owned(), json!(format!("{TYPE_PREFIX}{}", inner.code)));
        body.insert("title".to_owned(), json!(title(&inner.code)));
        body.insert("status".to_owned(), json!(inner.status.as_u16()));
        body.insert("detail".to_owned(), json!(inner.detail));
        body.insert("code".to_owned(), json!(inner.code));
        if !inner.errors.is_empty() {
            body.insert("errors".to_owned(), json!(inner.errors));
        }
        body.extend(inner.members.clone());
        let mut reply = Reply::bytes(
            inner.status,
            HeaderValue::from_static("application/problem+json"),
            Value::Object(body).to_string().into_bytes(),
        );
        for (name, value) in &inner.headers {
            reply = reply.with_header(name.clone(), value.clone());
        }
        reply
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.reply().into_response()
    }
}

/// Returns a code in words: `sku_not_found` → `Sku not found`.
fn title(code: &str) -> String {
    let mut words = code.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

impl From<&Rejection> for Problem {
    /// The one table from refusals to statuses.
    fn from(rejection: &Rejection) -> Self {
        let status = match rejection {
            Rejection::SkuNotFound(_)
            | Rejection::ReservationNotFound(_)
            | Rejection::ListingNotFound
            | Rejection::ConflictNotFound => StatusCode::NOT_FOUND,
            Rejection::VersionMismatch { .. } => StatusCode::PRECONDITION_FAILED,
            Rejection::ReservationCommitted
            | Rejection::ReservationReleased
            | Rejection::ReservationExpired
            | Rejection::ConflictOpen
            | Rejection::BundleHasNoStock(_)
            | Rejection::BundlePartInvalid { .. }
            | Rejection::SkuHasStock(_)
            | Rejection::InsufficientStock(_)
            | Rejection::BelowZero { .. } => StatusCode::CONFLICT,
            Rejection::TooManyLocations { .. }
            | Rejection::TooManyParts { .. }
            | Rejection::QuantityOutOfRange => StatusCode::BAD_REQUEST,
        };
        let problem = Self::new(status, rejection.code(), rejection.to_string());
        match rejection {
            Rejection::InsufficientStock(shortages) => {
                let views: Vec<Value> = shortages.iter().map(shortage_json).collect();
                problem.with("shortages", views)
            }
            Rejection::BelowZero { sku, delta, on_hand } => {
                let shortage = Shortage {
                    sku: sku.clone(),
                    requested: delta.get().unsigned_abs(),
                    available: on_hand.floored().get(),
                };
                problem.with("shortages", vec![shortage_json(&shortage)])
            }
            Rejection::VersionMismatch { actual, .. } => problem.with("currentVersion", *actual),
            Rejection::SkuNotFound(sku)
            | Rejection::BundleHasNoStock(sku)
            | Rejection::BundlePartInvalid { sku, .. }
            | Rejection::SkuHasStock(sku) => problem.with("sku", sku.as_str()),
            Rejection::ReservationNotFound(_)
            | Rejection::ListingNotFound
            | Rejection::ConflictNotFound
            | Rejection::ConflictOpen
            | Rejection::ReservationCommitted
            | Rejection::ReservationReleased
            | Rejection::ReservationExpired
            | Rejection::TooManyLocations { .. }
            | Rejection::TooManyParts { .. }
            | Rejection::QuantityOutOfRange => problem,
        }
    }
}

fn shortage_json(shortage: &Shortage) -> Value {
    json!({
        "sku": shortage.sku.as_str(),
        "requested": shortage.requested,
        "available": shortage.available,
    })
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self::from(&rejection)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match error {
            StoreError::Overloaded => overloaded(),
            StoreError::ReadOnly(why) => {
                tracing::error!(why, "the store does not acknowledge");
                let detail = "the store cannot make changes durable; nothing was done";
                Self::new(unavailable, "store_failing", detail).retry_after(30)
            }
            StoreError::Unknown(why) => {
                tracing::error!(why, "the store does not know what became of a change");
                let detail = "whether it was done is not known: the database went away in the \
                    moment of the commit; ask again with the same Idempotency-Key, or look";
                Self::new(unavailable, "outcome_unknown", detail).retry_after(5)
            }
            StoreError::Fenced => {
                let detail = "the org's work is moving to another node; nothing was done";
                Self::new(unavailable, SHARD_MOVING, detail).retry_after(1)
            }
            StoreError::Closed => {
                Self::new(unavailable, "shutting_down", "the server is shutting down")
                    .retry_after(5)
            }
            StoreError::Failed(why) => {
                tracing::error!(why, "the store failed");
                Self::internal()
            }
            StoreError::Arriving(org) => {
                let detail = format!("{org} is arriving from another store and not open yet");
                Self::new(unavailable, "org_arriving", detail).retry_after(30)
            }
            StoreError::Departed(org) => {
                let detail = format!("{org} has moved to another server; nothing was done");
                Self::new(unavailable, "org_moved", detail).retry_after(30)
            }
            StoreError::IdempotencyKeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "the Idempotency-Key was used with another request; nothing was done",
            ),
        }
    }
}

/// Makes the refusal of work that was not begun.
#[must_use]
pub fn overloaded() -> Problem {
    let detail = "more is waiting than can be taken on; nothing was begun";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retry_after(1)
}

impl Problem {
    /// Makes the answer to a failure that is ours and told to the log only.
    #[must_use]
    pub fn internal() -> Self {
        let detail = "something failed here; it is in the log under the request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail)
    }

    /// Makes the answer for a channel that is not there.
    #[must_use]
    pub fn channel_not_found(channel: &str) -> Self {
        Self::not_found("channel_not_found", format!("there is no channel {channel:?}"))
    }

    /// Makes a 400 that names every wrong setting.
    #[must_use]
    fn settings(code: &'static str, errors: Vec<(String, SettingError)>) -> Self {
        let detail = match errors.as_slice() {
            [(_, only)] => format!("{}: {}", only.setting, only.detail),
            several => format!("{} settings are wrong", several.len()),
        };
        errors.into_iter().fold(Self::bad(code, detail), |problem, (prefix, error)| {
            let pointer = format!("{prefix}/{}", error.setting.replace('.', "/"));
            let code = Cow::Borrowed("invalid_setting");
            problem.with_error(FieldError { pointer, code, detail: error.detail })
        })
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let words = error.to_string();
        match error {
            EngineError::ChannelNotFound(channel) => Self::channel_not_found(channel.as_str()),
            EngineError::UnknownKind(kind) => {
                let known: Vec<&str> =
                    trueup_channels::kinds().iter().map(|kind| kind.name()).collect();
                let detail =
                    format!("{kind:?} is not a kind of channel; there is {}", known.join(", "));
                Self::field("/kind", "unknown_kind", detail)
            }
            EngineError::Settings(errors) => {
                let errors = errors.into_iter().map(|error| (String::new(), error)).collect();
                Self::settings("invalid_settings", errors)
            }
            EngineError::Mapping(errors) => {
                let at = |(index, error)| (format!("/mappings/{index}/listing"), error);
                Self::settings("invalid_mapping", errors.into_iter().map(at).collect())
            }
            EngineError::EndpointNotAllowed(why) => Self::bad("endpoint_not_allowed", why),
            EngineError::Channel(error) => Self::channel(&error),
            EngineError::Paused => Self::new(StatusCode::CONFLICT, "channel_paused", words),
            EngineError::DiscoveryUnderWay { run } => {
                Self::new(StatusCode::CONFLICT, "discovery_running", words)
                    .with("runId", run)
                    .retry_after(5)
            }
            EngineError::DiscoveryStopped => {
                Self::new(StatusCode::CONFLICT, "discovery_stopped", words)
            }
            EngineError::Incomplete(missing) => {
                let each: Vec<&str> = missing.iter().map(|missing| &*missing.detail).collect();
                let problem = Self::bad("connection_incomplete", each.join("; "));
                missing.into_iter().fold(problem, |problem, missing| {
                    problem.with_error(FieldError {
                        pointer: format!("/{}", missing.what),
                        code: Cow::Borrowed(missing.code),
                        detail: missing.detail,
                    })
                })
            }
            EngineError::AuthorizationNeeded => {
                let detail = format!("{words}: see GET /connect/{{vendor}}/auth-url");
                Self::new(StatusCode::CONFLICT, "authorization_needed", detail)
            }
            EngineError::NoConsent(_) => Self::bad("consent_unsupported", words),
            EngineError::PublicUrlMissing => {
                Self::new(StatusCode::CONFLICT, "public_url_missing", words)
            }
            EngineError::ConsentState => Self::bad("consent_state_invalid", words),
            EngineError::Callback(error) => Self::bad(callback_code(error), words),
            EngineError::NotFound(what) => {
                let code = match what {
                    "run" => "run_not_found",
                    "conflict" => "conflict_not_found",
                    "delivery" => "delivery_not_found",
                    _ => "not_found",
                };
                Self::not_found(code, words)
            }
            EngineError::TooWide { channel, why, impact } => {
                let detail = format!("{why}; ask with confirm=true to do it all the same");
                let impact = serde_json::to_value(ImpactView::from(*impact));
                Self::new(StatusCode::CONFLICT, "blast_radius", detail)
                    .with("channelId", channel.as_str())
                    .with("impact", impact.unwrap_or_default())
            }
            EngineError::NotReopenable => {
                Self::new(StatusCode::CONFLICT, "conflict_not_reopenable", words)
            }
            EngineError::PushUnderWay => {
                Self::new(StatusCode::CONFLICT, "push_under_way", words).retry_after(1)
            }
            EngineError::NotUndoable => Self::new(StatusCode::CONFLICT, "run_not_undoable", words),
            EngineError::NotHeld => Self::new(StatusCode::CONFLICT, "run_not_held", words),
            EngineError::AlreadyResolved => {
                Self::new(StatusCode::CONFLICT, "conflict_resolved", words)
            }
            EngineError::Rejected(rejection) => Self::from(&rejection),
            EngineError::Store(error) => Self::from(error),
            EngineError::Webhook(error) => Self::webhook(&error),
        }
    }
}

fn callback_code(error: CallbackError) -> &'static str {
    match error {
        CallbackError::Denied => "consent_denied",
        CallbackError::Signature => "consent_forged",
        CallbackError::OtherAccount => "consent_other_account",
        CallbackError::Malformed => "consent_malformed",
    }
}

impl Problem {
    /// What the vendor said, as the fault of the settings (4xx) or of the vendor (502, 503).
    fn channel(error: &trueup_channels::ChannelError) -> Self {
        let (status, code) = match error.kind {
            ChannelErrorKind::Auth => (StatusCode::BAD_REQUEST, "channel_credentials_refused"),
            ChannelErrorKind::Forbidden => (StatusCode::BAD_REQUEST, "channel_forbidden"),
            ChannelErrorKind::AccountBlocked => {
                (StatusCode::BAD_REQUEST, "channel_account_blocked")
            }
            ChannelErrorKind::Config | ChannelErrorKind::InvalidValue => {
                (StatusCode::BAD_REQUEST, "invalid_settings")
            }
            ChannelErrorKind::Transient | ChannelErrorKind::UnknownOutcome => {
                (StatusCode::BAD_GATEWAY, "channel_unavailable")
            }
            ChannelErrorKind::Throttled => (StatusCode::SERVICE_UNAVAILABLE, "channel_throttled"),
            ChannelErrorKind::ListingNotFound
            | ChannelErrorKind::NotPushable
            | ChannelErrorKind::Stale
            | ChannelErrorKind::Protocol
            | ChannelErrorKind::Bug => (StatusCode::BAD_GATEWAY, "channel_error"),
        };
        let mut problem = Self::new(status, code, error.detail.clone());
        if let Some(vendor) = &error.vendor_code {
            problem = problem.with("vendorCode", vendor.as_str());
        }
        match error.retry_after_ms {
            Some(ms) => problem.retry_after(ms.div_ceil(1_000)),
            None => problem,
        }
    }

    fn webhook(error: &WebhookError) -> Self {
        let words = error.to_string();
        match error {
            WebhookError::Signature => {
                Self::new(StatusCode::UNAUTHORIZED, "invalid_signature", words)
            }
            WebhookError::NoSecret => {
                Self::new(StatusCode::UNAUTHORIZED, "no_webhook_secret", words)
            }
            WebhookError::Key(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "signing_key_unavailable", words)
                    .retry_after(10)
            }
            WebhookError::Malformed(_) => Self::bad("malformed_webhook", words),
        }
    }
}
