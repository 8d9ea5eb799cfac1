//! How a request to Shopify is unlocked.

use http::Method;
use serde::Serialize;

use super::config::{Access, Config};
use super::error;
use crate::exchange::{Outgoing, parse_json};
use crate::oauth::{self, Granted};
use crate::port::{Caller, ChannelError, Secret};

/// The name that the access token is kept under.
const TOKEN: &str = "access";
/// A client-credentials token is good for a day.
/// <https://shopify.dev/docs/apps/build/authentication-authorization>, client credentials.
const TOKEN_SECONDS_DEFAULT: u64 = 86_399;
/// An expiring offline token is good for an hour.
/// <https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens>
const OFFLINE_SECONDS_DEFAULT: u64 = 3_600;

#[derive(Serialize)]
struct GrantRequest<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    grant_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// Returns a token to send, from the keep or newly granted; never the one that was refused.
pub(super) async fn token(
    config: &Config,
    caller: &dyn Caller,
    refused: Option<&Secret>,
) -> Result<Secret, ChannelError> {
    let (id, secret, is_offline) = match &config.access {
        Access::Token(token) => return Ok(token.clone()),
        Access::Client { id, secret } => (id, secret, false),
        Access::Offline { id, secret } => (id, secret, true),
    };
    if let Some(token) = caller.token(TOKEN) {
        return Ok(token);
    }
    let _turn = caller.turn_to_renew().await;
    if let Some(token) = caller.token(TOKEN) {
        return Ok(token);
    }
    let (client_id, client_secret) = (id.expose(), secret.expose());
    if !is_offline {
        let grant_type = "client_credentials";
        let body = GrantRequest { client_id, client_secret, grant_type, refresh_token: None };
        let answer = ask(config, caller, &body).await?;
        let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT);
        let token = Secret::new(answer.access_token);
        caller.keep_token(TOKEN, token.clone(), seconds);
        return Ok(token);
    }
    let kept = oauth::kept_access_token(caller).filter(|(token, _)| Some(token) != refused);
    if let Some((token, seconds)) = kept {
        caller.keep_token(TOKEN, token.clone(), seconds);
        return Ok(token);
    }
    let refresh = oauth::refresh_token(caller)?;
    let refresh_token = Some(refresh.expose());
    let grant_type = "refresh_token";
    let body = GrantRequest { client_id, client_secret, grant_type, refresh_token };
    let answer = ask(config, caller, &body).await?;
    let seconds = answer.expires_in.unwrap_or(OFFLINE_SECONDS_DEFAULT);
    // The refresh token before stays good until one of the new tokens is used, so both are
    // kept first. <https://shopify.dev/changelog>, 28 August 2026.
    let mut kept = answer.refresh(Some(&refresh), caller.now());
    kept.extend(answer.access(caller.now(), seconds));
    caller.keep_credentials(kept).await?;
    let token = Secret::new(answer.access_token);
    caller.keep_token(TOKEN, token.clone(), seconds);
    Ok(token)
}

async fn ask(
    config: &Config,
    caller: &dyn Caller,
    body: &GrantRequest<'_>,
) -> Result<Granted, ChannelError> {
    let url = format!("https://{}/admin/oauth/access_token", config.host);
    let request = Outgoing::new("oauth", Method::POST, url)
        .header("accept", "application/json")
        .json(body)
        .build();
    let response = caller.call(request).await?;
    if !response.status.is_success() {
        return Err(error::classify_grant(&response));
    }
    parse_json("the token request", &response.body)
}

/// Forgets a token that was refused, unless it has been replaced meanwhile.
pub(super) fn forget(caller: &dyn Caller, refused: &Secret) {
    if caller.token(TOKEN).as_ref() == Some(refused) {
        caller.drop_token(TOKEN);
    }
}

/// Returns whether asking again can bring another token.
pub(super) fn is_renewable(config: &Config) -> bool {
    match &config.access {
        Access::Token(_) => false,
        Access::Client { .. } | Access::Offline { .. } => true,
    }
}
