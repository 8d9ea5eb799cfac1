//! How a request to the Selling Partner API is unlocked: Login with Amazon only, no request
//! signing since 2023.
//!
//! <https://developer-docs.amazon.com/sp-api/docs/connect-to-the-selling-partner-api>

use http::Method;

use super::config::Config;
use super::error;
use crate::exchange::{Outgoing, form, parse_json};
use crate::oauth::{self, Granted};
use crate::port::{Caller, ChannelError, Secret};

/// The name that the access token is kept under.
pub(super) const TOKEN: &str = "access";
const TOKEN_URL: &str = "https://api.amazon.com/auth/o2/token";
/// An access token is good for an hour.
/// <https://developer-docs.amazon.com/sp-api/docs/connect-to-the-selling-partner-api>
const TOKEN_SECONDS_DEFAULT: u64 = 3_600;

/// Returns a token to send, from the keep or newly granted.
pub(super) async fn token(config: &Config, caller: &dyn Caller) -> Result<Secret, ChannelError> {
    if let Some(token) = caller.token(TOKEN) {
        return Ok(token);
    }
    let _turn = caller.turn_to_renew().await;
    if let Some(token) = caller.token(TOKEN) {
        return Ok(token);
    }
    let refresh = oauth::refresh_token(caller)?;
    let body = form(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh.expose()),
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
    let answer: Granted = parse_json("the token request", &response.body)?;
    // Amazon answers the same refresh token; another one replaces it, before it is used.
    let rotated = answer.refresh(Some(&refresh), caller.now());
    if !rotated.is_empty() {
        caller.keep_credentials(rotated).await?;
    }
    let token = Secret::new(answer.access_token);
    caller.keep_token(TOKEN, token.clone(), answer.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT));
    Ok(token)
}
