//! How a request to eBay is unlocked.
//!
//! <https://developer.ebay.com/api-docs/static/oauth-refresh-token-request.html>

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;

use super::config::Config;
use super::error;
use crate::consent::{Callback, CallbackError, Consent, ConsentAsk, ConsentCode, code_of};
use crate::exchange::{Outgoing, form, parse_json};
use crate::oauth::{self, Granted, wrong_settings};
use crate::port::{Caller, ChannelError, ChannelErrorKind, Secret, SettingError, Settings};

const TOKEN_URL: &str = "https://api.ebay.com/identity/v1/oauth2/token";
/// An access token is good for two hours.
/// <https://developer.ebay.com/api-docs/static/oauth-refresh-token-request.html>
const TOKEN_SECONDS_DEFAULT: u64 = 7_200;

const APPLICATION_SCOPE: &str = "https://api.ebay.com/oauth/api_scope";
pub(super) const INVENTORY_SCOPE: &str = "https://api.ebay.com/oauth/api_scope/sell.inventory";
pub(super) const ORDERS_SCOPE: &str = "https://api.ebay.com/oauth/api_scope/sell.fulfillment";
const NOTIFICATIONS_SCOPE: &str =
    "https://api.ebay.com/oauth/api_scope/commerce.notification.subscription";

/// The scopes that a topic of notifications may ask for.
pub(super) const TOPIC_SCOPES: [&str; 4] =
    [APPLICATION_SCOPE, INVENTORY_SCOPE, ORDERS_SCOPE, NOTIFICATIONS_SCOPE];

/// In whose name a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// The seller's: inventory, orders, and subscriptions to notifications about the seller.
    User,
    /// The application's: public keys and destinations.
    Application,
}

impl Grant {
    /// The name that the token is kept under.
    pub(super) fn token_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Application => "application",
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
        // Without a scope the token is good for all that the seller consented to. A scope beyond
        // that would be refused, and with it the whole request.
        // <https://developer.ebay.com/api-docs/static/oauth-scopes.html>
        Grant::User => form(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", oauth::refresh_token(caller)?.expose()),
        ]),
        Grant::Application => {
            form(&[("grant_type", "client_credentials"), ("scope", APPLICATION_SCOPE)])
        }
    };
    let answer = ask(config, caller, body, Repeat::Yes).await?;
    // A refresh token is good for 18 months and is not rotated: the answer has none.
    let token = Secret::new(answer.access_token);
    let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT);
    caller.keep_token(grant.token_name(), token.clone(), seconds);
    Ok(token)
}

/// Whether a grant may be asked for twice.
#[derive(Clone, Copy)]
enum Repeat {
    Yes,
    No,
}

async fn ask(
    config: &Config,
    caller: &dyn Caller,
    body: String,
    repeat: Repeat,
) -> Result<Granted, ChannelError> {
    let pair = format!("{}:{}", config.client_id.expose(), config.client_secret.expose());
    let request = Outgoing::new("oauth", Method::POST, TOKEN_URL.to_owned())
        .secret_header("authorization", &format!("Basic {}", STANDARD.encode(pair)))?
        .body("application/x-www-form-urlencoded", body);
    let request = match repeat {
        Repeat::Yes => request,
        Repeat::No => request.once(),
    };
    let response = caller.call(request.build()).await?;
    if !response.status.is_success() {
        return Err(error::classify_grant(&response));
    }
    parse_json("the token request", &response.body)
}

/// Returns whether the refresh token was granted a scope: eBay refuses a token for others.
/// <https://developer.ebay.com/api-docs/static/oauth-scopes.html>
pub(super) async fn is_granted(
    config: &Config,
    caller: &dyn Caller,
    scope: &str,
) -> Result<bool, ChannelError> {
    let refresh = oauth::refresh_token(caller)?;
    let body = form(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh.expose()),
        ("scope", scope),
    ]);
    match ask(config, caller, body, Repeat::Yes).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ChannelErrorKind::Forbidden => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the scopes that a seller is asked for.
fn consent_scopes(wants_orders: bool) -> String {
    let orders = wants_orders.then_some(ORDERS_SCOPE);
    let all = [INVENTORY_SCOPE].into_iter().chain(orders).chain([NOTIFICATIONS_SCOPE]);
    all.collect::<Vec<_>>().join(" ")
}

/// eBay's consent page. The redirect is the RuName, eBay's own name for our address. No PKCE is
/// documented. <https://developer.ebay.com/api-docs/static/oauth-consent-request.html>
pub(super) struct Page;

#[async_trait]
impl Consent for Page {
    fn url(&self, settings: &Settings, ask: &ConsentAsk<'_>) -> Result<String, Vec<SettingError>> {
        let config = Config::read(settings)?;
        let Some(ru_name) = &config.ru_name else {
            return Err(vec![SettingError::required("ruName")]);
        };
        let query = form(&[
            ("client_id", config.client_id.expose()),
            ("redirect_uri", ru_name),
            ("response_type", "code"),
            ("scope", &consent_scopes(ask.wants_orders)),
            ("state", ask.state),
        ]);
        Ok(format!("https://auth.ebay.com/oauth2/authorize?{query}"))
    }

    fn read_callback(
        &self,
        _settings: &Settings,
        query: &[(String, String)],
    ) -> Result<Callback, CallbackError> {
        code_of(query, "code").map(Callback::of)
    }

    /// <https://developer.ebay.com/api-docs/static/oauth-auth-code-grant-request.html>
    async fn exchange(
        &self,
        settings: &Settings,
        caller: &dyn Caller,
        code: &ConsentCode,
    ) -> Result<BTreeMap<String, Secret>, ChannelError> {
        let config = Config::read(settings).map_err(|_| wrong_settings())?;
        let ru_name = config.ru_name.as_deref().ok_or_else(wrong_settings)?;
        let body = form(&[
            ("grant_type", "authorization_code"),
            ("code", code.code.expose()),
            ("redirect_uri", ru_name),
        ]);
        ask(&config, caller, body, Repeat::No).await?.consented(caller.now())
    }
}
