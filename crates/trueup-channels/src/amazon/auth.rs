//! How a request to the Selling Partner API is unlocked: Login with Amazon only, no request
//! signing since 2023.
//!
//! <https://developer-docs.amazon.com/sp-api/docs/connect-to-the-selling-partner-api>

use http::Method;
use serde::Deserialize;

use super::config::Config;
use super::error;
use crate::exchange::{Outgoing, form, parse_json};
use crate::port::{Caller, ChannelError, Secret};

/// The name that the access token is kept under.
pub(super) const TOKEN: &str = "access";
const TOKEN_URL: &str = "https://api.amazon.com/auth/o2/token";

#[derive(Deserialize)]
struct GrantAnswer {
    access_token: String,
    expires_in: u64,
    refresh_token: Option<String>,
}

/// Returns a token to send, from the keep or newly granted.
pub(super) async fn token(config: &Config, caller: &dyn Caller) -> Result<Secret, ChannelError> {
    if let Some(token) = caller.token(TOKEN) {
        return Ok(token);
    }
    let body = form(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", config.refresh_token.expose()),
        ("client_id", config.client_id.expose()),
        ("client_secret", config.client_secret.expose()),
    ]);
    let request = Outgoing::new("token", Method::POST, TOKEN_URL.to_owned())
        .body("application/x-www-form-urlencoded;charset=UTF-8", body)
        .build();
    let response = caller.call(request).await?;
    if !response.status.is_success() {
        return Err(error::classify_grant(&response));
    }
    let answer: GrantAnswer = parse_json("the token request", &response.body)?;
    // Amazon answers the same refresh token; another one replaces it, before it is used.
    if let Some(refresh) = answer.refresh_token.filter(|t| t != config.refresh_token.expose()) {
        caller.keep_credential("refreshToken", Secret::new(refresh)).await?;
    }
    let token = Secret::new(answer.access_token);
    caller.keep_token(TOKEN, token.clone(), answer.expires_in);
    Ok(token)
}
