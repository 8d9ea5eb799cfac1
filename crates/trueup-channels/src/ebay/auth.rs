//! How a request to eBay is unlocked.
//!
//! <https://developer.ebay.com/api-docs/static/oauth-refresh-token-request.html>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;

use super::config::Config;
use super::error;
use crate::exchange::{Outgoing, form, parse_json};
use crate::oauth::{self, Granted};
use crate::port::{Caller, ChannelError, Secret};

const TOKEN_URL: &str = "https://api.ebay.com/identity/v1/oauth2/token";
/// An access token is good for two hours.
/// <https://developer.ebay.com/api-docs/static/oauth-refresh-token-request.html>
const TOKEN_SECONDS_DEFAULT: u64 = 7_200;

/// In whose name a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// The seller's: inventory and orders.
    User,
    /// The seller's: subscriptions to notifications about the seller. A scope of its own, so
    /// that a refresh token without it still does the rest.
    Notifications,
    /// The application's: public keys and destinations.
    Application,
}

impl Grant {
    /// The name that the token is kept under.
    pub(super) fn token_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Notifications => "notifications",
            Self::Application => "application",
        }
    }

    fn scope(self) -> &'static str {
        match self {
            Self::User => {
                "https://api.ebay.com/oauth/api_scope/sell.inventory \
                 https://api.ebay.com/oauth/api_scope/sell.fulfillment"
            }
            Self::Notifications => {
                "https://api.ebay.com/oauth/api_scope/commerce.notification.subscription"
            }
            Self::Application => "https://api.ebay.com/oauth/api_scope",
        }
    }
}

/// Returns a token to send, from the keep or newly granted.
pub(super) async fn token(
    config: &Config,
    caller: &dyn Caller,
    grant: Grant,
) -> Result<Secret, ChannelError> {
    if let Some(token) = caller.token(grant.token_name()) {
        return Ok(token);
    }
    let _turn = caller.turn_to_renew().await;
    if let Some(token) = caller.token(grant.token_name()) {
        return Ok(token);
    }
    let body = match grant {
        Grant::User | Grant::Notifications => form(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", oauth::refresh_token(caller)?.expose()),
            ("scope", grant.scope()),
        ]),
        Grant::Application => {
            form(&[("grant_type", "client_credentials"), ("scope", grant.scope())])
        }
    };
    let pair = format!("{}:{}", config.client_id.expose(), config.client_secret.expose());
    let request = Outgoing::new("oauth", Method::POST, TOKEN_URL.to_owned())
        .secret_header("authorization", &format!("Basic {}", STANDARD.encode(pair)))?
        .body("application/x-www-form-urlencoded", body)
        .build();
    let response = caller.call(request).await?;
    if !response.status.is_success() {
        return Err(error::classify_grant(&response));
    }
    let answer: Granted = parse_json("the token request", &response.body)?;
    // A refresh token is good for 18 months and is not rotated: the answer has none.
    let token = Secret::new(answer.access_token);
    let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT);
    caller.keep_token(grant.token_name(), token.clone(), seconds);
    Ok(token)
}
