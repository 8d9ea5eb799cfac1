//! What a request says before its body: who calls for which org, and the path's names.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use trueup_core::{ChannelId, NameError, Org, ReservationId, Sku};

use crate::api::AppState;
use crate::api::problem::Problem;
use crate::auth::{Scope, Scopes};

/// What a route asks of its caller: any one of these scopes.
pub trait Need: Send + std::marker::Sync + 'static {
    /// The scopes that open the route.
    const SCOPES: &'static [Scope];
}

/// Reads: every token may.
pub struct Read;
/// Changes stock.
pub struct Stock;
/// Reserves, releases, commits, extends.
pub struct Hold;
/// Connects, maps, subscribes, makes keys, resolves.
pub struct Admin;
/// Starts push and pull runs.
pub struct Sync;

impl Need for Read {
    const SCOPES: &'static [Scope] = &[Scope::Read];
}
impl Need for Stock {
    const SCOPES: &'static [Scope] = &[Scope::InventoryWrite];
}
impl Need for Hold {
    const SCOPES: &'static [Scope] = &[Scope::ReservationsWrite];
}
impl Need for Admin {
    const SCOPES: &'static [Scope] = &[Scope::ChannelsAdmin];
}
impl Need for Sync {
    const SCOPES: &'static [Scope] = &[Scope::InventoryWrite, Scope::ChannelsAdmin];
}

/// Somebody who may do what the route does, for one org.
pub struct Caller<N: Need> {
    /// The tenant.
    pub org: Org,
    /// Who, for the audit trail.
    pub actor: Arc<str>,
    /// What the credential may do.
    pub scopes: Scopes,
    need: PhantomData<N>,
}

impl<N: Need> FromRequestParts<AppState> for Caller<N> {
    type Rejection = Problem;

    /// In this order: credential (401), org given (400), org allowed (403), scope (403).
    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let identity = app.auth.identify(&parts.headers, app.now()).await?;
        let org = allowed_org(parts, &identity.orgs)?;
        if !N::SCOPES.iter().any(|scope| identity.scopes.has(*scope)) {
            return Err(scope_missing(N::SCOPES));
        }
        let actor = Arc::clone(&identity.subject);
        Ok(Self { org, actor, scopes: identity.scopes, need: PhantomData })
    }
}

fn allowed_org(parts: &Parts, orgs: &[Org]) -> Result<Org, Problem> {
    let mut values = parts.headers.get_all("orgid").iter();
    let named = values.next().filter(|value| !value.is_empty());
    let Some(named) = named else {
        return Err(Problem::bad("org_missing", "the header orgid is required"));
    };
    if values.next().is_some() {
        return Err(Problem::bad("org_missing", "the header orgid must be given once"));
    }
    let found = orgs.iter().find(|org| org.as_str().as_bytes() == named.as_bytes());
    found.cloned().ok_or_else(|| {
        let detail = "the credential is not good for this org";
        Problem::new(StatusCode::FORBIDDEN, "org_forbidden", detail)
    })
}

/// Makes the 403 of a credential without the right.
pub fn scope_missing(scopes: &[Scope]) -> Problem {
    let words: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let detail = format!("the credential needs the scope {}", words.join(" or "));
    let challenge = format!(
        "Bearer realm=\"trueup\", error=\"insufficient_scope\", scope=\"{}\"",
        words.join(" ")
    );
    let problem = Problem::new(StatusCode::FORBIDDEN, "scope_missing", detail);
    match HeaderValue::try_from(challenge) {
        Ok(challenge) => problem.with_header(header::WWW_AUTHENTICATE, challenge),
        Err(_) => problem,
    }
}

/// The names in the path, percent-decoded.
pub struct Segments(RawPathParams);

impl<S: Send + std::marker::Sync> FromRequestParts<S> for Segments {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = RawPathParams::from_request_parts(parts, state).await;
        read.map(Self)
            .map_err(|_| Problem::bad("invalid_path", "the path is not percent-encoded UTF-8"))
    }
}

impl Segments {
    /// Returns a segment's text.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, text)| text)
    }

    /// Returns the path's SKU.
    ///
    /// # Errors
    /// 400 `invalid_sku`.
    pub fn sku(&self) -> Result<Sku, Problem> {
        Sku::new(self.text("sku")).map_err(|error| named("SKU", "invalid_sku", error))
    }

    /// Returns the path's channel.
    ///
    /// # Errors
    /// 404: an id that cannot be is not there.
    pub fn channel(&self) -> Result<ChannelId, Problem> {
        let text = self.text("channelId");
        ChannelId::new(text).map_err(|_| Problem::channel_not_found(text))
    }

    /// Returns the path's channel, to be made.
    ///
    /// # Errors
    /// 400 `invalid_channel_id`.
    pub fn new_channel(&self) -> Result<ChannelId, Problem> {
        let parsed = ChannelId::new(self.text("channelId"));
        parsed.map_err(|error| named("channel id", "invalid_channel_id", error))
    }

    /// Returns the path's org.
    ///
    /// # Errors
    /// 404: an org that cannot be has no channel.
    pub fn org(&self) -> Result<Org, Problem> {
        let parsed = Org::new(self.text("orgId"));
        parsed.map_err(|_| Problem::channel_not_found(self.text("channelId")))
    }

    /// Returns the path's reservation.
    ///
    /// # Errors
    /// 404: an id that cannot be is not there.
    pub fn reservation(&self) -> Result<ReservationId, Problem> {
        parse_reservation_id(self.text("id")).ok_or_else(reservation_not_found)
    }
}

fn named(what: &str, code: &'static str, error: NameError) -> Problem {
    Problem::bad(code, format!("the {what} in the path {error}"))
}

/// Makes the 404 of a reservation.
pub fn reservation_not_found() -> Problem {
    Problem::not_found("reservation_not_found", "there is no such reservation")
}

/// Reads a reservation's id, with or without its prefix.
#[must_use]
pub fn parse_reservation_id(text: &str) -> Option<ReservationId> {
    let bare = text.strip_prefix(ReservationId::PREFIX).unwrap_or(text);
    // Only the two plain forms: `uuid` would also take braces and `urn:uuid:`.
    let plain = matches!(bare.len(), 32 | 36);
    let id = plain.then(|| uuid::Uuid::try_parse(bare).ok()).flatten()?;
    Some(ReservationId(id.as_u128()))
}

/// Writes a reservation's id.
#[must_use]
pub fn format_reservation_id(id: ReservationId) -> String {
    id.to_string()
}
