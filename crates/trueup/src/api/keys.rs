//! API keys: made once, shown once, kept as a digest.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use trueup_store::ApiKey;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::audit::{self, Deed};
use crate::api::body::FreeText;
use crate::api::extract::{Admin, Caller, Segments, scope_missing};
use crate::api::idempotency::Incoming;
use crate::api::lists::{Listed, NoParams, PageParams, Params, seal_cursor};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState};
use crate::auth::{Scope, format_key, key_digest};

/// The most keys of an org, revoked ones included.
const KEYS_MAX: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"subject": "checkout", "scopes": ["reservations:write"]}))]
struct KeyBody {
    /// Whom it stands for in the history.
    subject: FreeText,
    /// What it may do; only what the maker may.
    scopes: Vec<ScopeWord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
enum ScopeWord {
    #[serde(rename = "inventory:read")]
    Read,
    #[serde(rename = "inventory:write")]
    InventoryWrite,
    #[serde(rename = "reservations:write")]
    ReservationsWrite,
    #[serde(rename = "channels:admin")]
    ChannelsAdmin,
}

impl From<ScopeWord> for Scope {
    fn from(word: ScopeWord) -> Self {
        match word {
            ScopeWord::Read => Self::Read,
            ScopeWord::InventoryWrite => Self::InventoryWrite,
            ScopeWord::ReservationsWrite => Self::ReservationsWrite,
            ScopeWord::ChannelsAdmin => Self::ChannelsAdmin,
        }
    }
}

/// A key, without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KeyView {
    id: String,
    subject: String,
    scopes: Vec<String>,
    created_at: Time,
    revoked_at: Option<Time>,
    /// The key itself, in the answer that makes it and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    key: Option<String>,
}

impl From<&ApiKey> for KeyView {
    fn from(row: &ApiKey) -> Self {
        Self {
            id: row.id.clone(),
            subject: row.subject.clone(),
            scopes: row.scopes.clone(),
            created_at: Time(row.created_at),
            revoked_at: row.revoked_at.map(Time),
            key: None,
        }
    }
}

/// Makes a key and shows it once. A repeat under the same `Idempotency-Key` does not show it.
#[utoipa::path(post, path = "/sales-channel/keys", tag = "keys", request_body = KeyBody,
    responses((status = 201, description = "The key", body = KeyView)))]
async fn create(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    _: NoParams,
    incoming: Incoming,
) -> Answered {
    let body: KeyBody = incoming.json()?;
    if body.subject.0.trim().is_empty() {
        return Err(Problem::field("/subject", "invalid_text", "must not be empty"));
    }
    let mut scopes: Vec<Scope> = Vec::new();
    for scope in body.scopes.into_iter().map(Scope::from) {
        if !caller.scopes.has(scope) {
            return Err(scope_missing(&[scope]));
        }
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    let work = async {
        if app.store.api_keys(&caller.org).await?.len() >= KEYS_MAX {
            let detail = format!("an org has at most {KEYS_MAX} keys");
            return Err(Problem::new(StatusCode::CONFLICT, "too_many_keys", detail));
        }
        let id = app.new_id().simple().to_string();
        let key = format_key(&id, &rand::random());
        let row = ApiKey {
            id,
            digest: key_digest(&key),
            subject: body.subject.0,
            scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            created_at: app.now(),
            revoked_at: None,
        };
        let kept = KeyView::from(&row);
        app.store.put_api_key(&caller.org, row).await?;
        let deed = Deed::new("key_made").with("key", kept.id.as_str());
        let deed = deed.with("subject", kept.subject.as_str()).with("scopes", kept.scopes.clone());
        audit::note(&app, &caller, deed).await;
        let shown = KeyView { key: Some(key), ..kept.clone() };
        let reply = |view: &KeyView| Reply::json(StatusCode::CREATED, view);
        Ok((reply(&shown), Some(reply(&kept))))
    };
    incoming.once_secretly(&app, &caller, work).await
}

const LIST: &str = "keys";

/// Lists keys.
#[utoipa::path(get, path = "/sales-channel/keys", tag = "keys", params(PageParams),
    responses((status = 200, description = "A page", body = Listed<KeyView>)))]
async fn list(State(app): State<AppState>, caller: Caller<Admin>, mut query: Params) -> Answered {
    let after = query.cursor(LIST, |position| Some(position.to_owned()))?;
    let limit = query.limit()?;
    query.finish()?;
    let mut rows = app.store.api_keys(&caller.org).await?;
    if let Some(after) = after {
        rows.retain(|row| row.id > after);
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|last| seal_cursor(LIST, &last.id));
    let items: Vec<KeyView> = rows.iter().map(KeyView::from).collect();
    Ok(Reply::ok(&Listed { items, next_cursor }))
}

/// Revokes a key.
#[utoipa::path(delete, path = "/sales-channel/keys/{id}", tag = "keys",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 204, description = "It opens nothing any more"),
        (status = 404, description = "`key_not_found`")))]
async fn revoke(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    _: NoParams,
) -> Answered {
    let id = path.text("id");
    let rows = app.store.api_keys(&caller.org).await?;
    let row = rows.into_iter().find(|row| row.id == id);
    let row = row.ok_or_else(|| Problem::not_found("key_not_found", "there is no such key"))?;
    let revoked_at = Some(row.revoked_at.unwrap_or_else(|| app.now()));
    app.store.put_api_key(&caller.org, ApiKey { revoked_at, ..row }).await?;
    app.auth.forget();
    audit::note(&app, &caller, Deed::new("key_revoked").with("key", id)).await;
    Ok(Reply::no_content())
}
