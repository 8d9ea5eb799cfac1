//! How a request to Shopify is unlocked.

use http::Method;
use serde::{Deserialize, Serialize};

use super::config::{Access, Config};
use super::error;
use crate::exchange::{Outgoing, parse_json};
use crate::port::{Caller, ChannelError, Secret};

/// The name that the access token is kept under.
pub(super) const TOKEN: &str = "access";
/// A client-credentials token is good for a day.
/// <https://shopify.dev/docs/apps/build/authentication-authorization>, client credentials.
const TOKEN_SECONDS_DEFAULT: u64 = 86_399;

#[derive(Serialize)]
struct GrantRequest<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    grant_type: &'static str,
}

#[derive(Deserialize)]
struct GrantAnswer {
    access_token: String,
    expires_in: Option<u64>,
}

/// Returns a token to send, from the keep or newly granted.
pub(super) async fn token(config: &Config, caller: &dyn Caller) -> Result<Secret, ChannelError> {
    let (id, secret) = match &config.access {
        Access::Token(token) => return Ok(token.clone()),
        Access::Client { id, secret } => (id, secret),
    };
    if let Some(token) = caller.token(TOKEN) {
        return Ok(token);
    }
    let url = format!("https://{}/admin/oauth/access_token", config.host);
    let body = GrantRequest {
        client_id: id.expose(),
        client_secret: secret.expose(),
        grant_type: "client_credentials",
    };
    let request = Outgoing::new("oauth", Method::POST, url)
        .header("accept", "application/json")
        .json(&body)
        .build();
    let response = caller.call(request).await?;
    if !response.status.is_success() {
        return Err(error::classify_grant(&response));
    }
    let answer: GrantAnswer = parse_json("the client-credentials grant", &response.body)?;
    let token = Secret::new(answer.access_token);
    let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT);
    caller.keep_token(TOKEN, token.clone(), seconds);
    Ok(token)
}

/// Returns whether asking again can bring another token.
pub(super) fn is_renewable(config: &Config) -> bool {
    match &config.access {
        Access::Token(_) => false,
        Access::Client { .. } => true,
    }
}
