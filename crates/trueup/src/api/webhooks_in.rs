//! What vendors send us. The signature is the credential; the engine checks it over the raw
//! bytes before anything is parsed, and keeps the delivery before we answer.

use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, Uri, header};
use serde_json::json;
use trueup_sync::Received;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::Segments;
use crate::api::idempotency::read_body;
use crate::api::lists::Params;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::{Answered, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(receive, challenge))
}

/// Takes a vendor's webhook.
#[utoipa::path(post, path = "/upstream/webhooks/{orgId}/{channelId}", tag = "webhooks in",
    params(("orgId" = String, Path, description = "The org"),
        ("channelId" = String, Path, description = "The channel")),
    request_body(content = String, description = "The vendor's body, as it signed it"),
    responses((status = 200, description = "It is kept; also when it was before"),
        (status = 401, description = "The signature does not hold; nothing was kept"),
        (status = 404, description = "`channel_not_found`"),
        (status = 503, description = "It could not be kept: send it again")))]
async fn receive(
    State(app): State<AppState>,
    path: Segments,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let (org, channel) = (path.org()?, path.channel()?);
    let body = read_body(&headers, body).await?;
    let status = match app.engine.receive(&org, &channel, &headers, &body).await? {
        Received::New => "accepted",
        Received::Repeated => "repeated",
    };
    Ok(Reply::ok(&json!({ "status": status })))
}

/// Answers a vendor's challenge (eBay).
#[utoipa::path(get, path = "/upstream/webhooks/{orgId}/{channelId}", tag = "webhooks in",
    params(("orgId" = String, Path, description = "The org"),
        ("channelId" = String, Path, description = "The channel"),
        ("challenge_code" = String, Query, description = "The vendor's code")),
    responses((status = 200, description = "`{challengeResponse}`", body = Object),
        (status = 404, description = "`channel_not_found`")))]
async fn challenge(
    State(app): State<AppState>,
    path: Segments,
    mut query: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Answered {
    let (org, channel) = (path.org()?, path.channel()?);
    let code = query
        .text("challenge_code")?
        .ok_or_else(|| Problem::field("?challenge_code", "missing_parameter", "is required"))?;
    query.finish()?;
    let url = format!("{}{}", outside(&app.options.public_url, &headers), uri.path());
    let response = app.engine.challenge(&org, &channel, &code, &url).await?;
    Ok(Reply::ok(&json!({ "challengeResponse": response })))
}

/// Returns scheme and host as the vendor knows them.
fn outside(public_url: &Option<String>, headers: &HeaderMap) -> String {
    match public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            format!("https://{}", host.unwrap_or("localhost"))
        }
    }
}
