//! How a request to Shopify is unlocked.

use std::collections::BTreeMap;

use async_trait::async_trait;
use hmac::{Hmac, Mac as _};
use http::Method;
use serde::Serialize;

use super::config::{Access, Config};
use super::error;
use crate::consent::{Callback, CallbackError, Consent, ConsentAsk, ConsentCode, code_of, only};
use crate::exchange::{Outgoing, form, parse_json};
use crate::oauth::{self, Granted, wrong_settings};
use crate::port::{Caller, ChannelError, Secret, SettingError, Settings};

/// The name that the access token is kept under.
pub(super) const TOKEN: &str = "access";
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

#[derive(Serialize)]
struct CodeRequest<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    code: &'a str,
    /// Asks for tokens that expire and are renewed: others are refused to public apps.
    expiring: &'static str,
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
        let answer = ask(config, caller, &body, Repeat::Yes).await?;
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
    let answer = ask(config, caller, &body, Repeat::Yes).await?;
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

/// Whether a grant may be asked for twice.
#[derive(Clone, Copy)]
enum Repeat {
    Yes,
    No,
}

async fn ask(
    config: &Config,
    caller: &dyn Caller,
    body: &impl Serialize,
    repeat: Repeat,
) -> Result<Granted, ChannelError> {
    let url = format!("https://{}/admin/oauth/access_token", config.host);
    let request =
        Outgoing::new("oauth", Method::POST, url).header("accept", "application/json").json(body);
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

/// Returns whether asking again can bring another token.
pub(super) fn is_renewable(config: &Config) -> bool {
    match &config.access {
        Access::Token(_) => false,
        Access::Client { .. } | Access::Offline { .. } => true,
    }
}

/// What an app asks a merchant for; `write_inventory` implies `read_inventory`.
/// <https://shopify.dev/docs/api/usage/access-scopes>
pub(super) fn scopes(wants_orders: bool) -> Vec<&'static str> {
    let orders = wants_orders.then_some("read_orders");
    ["write_inventory", "read_inventory", "read_products", "read_locations"]
        .into_iter()
        .chain(orders)
        .collect()
}

/// Returns whether a scope was granted; a right to write is one to read.
pub(super) fn is_granted(granted: &[String], scope: &str) -> bool {
    let has = |wanted: &str| granted.iter().any(|known| known == wanted);
    let written = scope.strip_prefix("read_").map(|what| format!("write_{what}"));
    has(scope) || written.is_some_and(|written| has(&written))
}

/// Shopify's consent page. No PKCE is documented; the callback is signed instead.
/// <https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant>
pub(super) struct Page;

#[async_trait]
impl Consent for Page {
    fn url(&self, settings: &Settings, ask: &ConsentAsk<'_>) -> Result<String, Vec<SettingError>> {
        let config = Config::read(settings)?;
        let id = app_credential(settings, "clientId")?;
        app_credential(settings, "clientSecret")?;
        let query = form(&[
            ("client_id", id),
            ("scope", &scopes(ask.wants_orders).join(",")),
            ("redirect_uri", ask.redirect),
            ("state", ask.state),
        ]);
        Ok(format!("https://{}/admin/oauth/authorize?{query}", config.host))
    }

    fn read_callback(
        &self,
        settings: &Settings,
        query: &[(String, String)],
    ) -> Result<Callback, CallbackError> {
        // A merchant who says no is sent back without a signature.
        let code = code_of(query, "code")?;
        let config = Config::read(settings).map_err(|_| CallbackError::Malformed)?;
        let secret =
            app_credential(settings, "clientSecret").map_err(|_| CallbackError::Malformed)?;
        if !is_signed(secret, query) {
            return Err(CallbackError::Signature);
        }
        let shop = only(query, "shop").ok_or(CallbackError::Malformed)?;
        let is_ours = shop.eq_ignore_ascii_case(&config.host);
        if is_ours { Ok(Callback::of(code)) } else { Err(CallbackError::OtherAccount) }
    }

    async fn exchange(
        &self,
        settings: &Settings,
        caller: &dyn Caller,
        code: &ConsentCode,
    ) -> Result<BTreeMap<String, Secret>, ChannelError> {
        let config = Config::read(settings).map_err(|_| wrong_settings())?;
        let app = |name| app_credential(settings, name).map_err(|_| wrong_settings());
        let body = CodeRequest {
            client_id: app("clientId")?,
            client_secret: app("clientSecret")?,
            code: code.code.expose(),
            expiring: "1",
        };
        let answer = self::ask(&config, caller, &body, Repeat::No).await?;
        let now = caller.now();
        let seconds = answer.expires_in.unwrap_or(OFFLINE_SECONDS_DEFAULT);
        let refresh = answer.refresh(None, now);
        let access = answer.access(now, seconds);
        // Without a refresh token it is an access token that does not expire.
        let kept = if refresh.is_empty() { 1 } else { access.len() };
        let all = access.into_iter().take(kept).chain(refresh);
        Ok(all.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

fn app_credential<'a>(settings: &'a Settings, name: &str) -> Result<&'a str, Vec<SettingError>> {
    let secret = settings.credentials.get(name).map(Secret::expose);
    let secret = secret.filter(|secret| !secret.is_empty());
    secret.ok_or_else(|| vec![SettingError::required(&format!("credentials.{name}"))])
}

/// Checks the `hmac` of a callback: HMAC-SHA256 in hex over the other parameters, sorted, as
/// `name=value` joined by `&`. Shopify's libraries differ in how they escape values: either with
/// `%` and `&` escaped only, or encoded as a form. Both are without ambiguity, so both are taken.
fn is_signed(secret: &str, query: &[(String, String)]) -> bool {
    let Some(given) = only(query, "hmac").and_then(|text| hex::decode(text).ok()) else {
        return false;
    };
    let mut pairs: Vec<(&str, &str)> = query
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !matches!(*name, "hmac" | "signature"))
        .collect();
    pairs.sort_unstable();
    let escape = |text: &str| text.replace('%', "%25").replace('&', "%26");
    let plain: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name).replace('=', "%3D"), escape(value)))
        .collect();
    [plain.join("&"), form(&pairs)].iter().any(|text| {
        let Ok(mut mac) = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()) else {
            return false;
        };
        mac.update(text.as_bytes());
        mac.verify_slice(&given).is_ok()
    })
}
