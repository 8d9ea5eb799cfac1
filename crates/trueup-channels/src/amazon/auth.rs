//! How a request to the Selling Partner API is unlocked: Login with Amazon only, no request
//! signing since 2023.
//!
//! <https://developer-docs.amazon.com/sp-api/docs/connect-to-the-selling-partner-api>

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::Method;

use super::config::{self, Config};
use super::error;
use crate::consent::{Callback, CallbackError, Consent, ConsentAsk, ConsentCode, code_of, only};
use crate::exchange::{Outgoing, form, parse_json};
use crate::oauth::{self, Granted, wrong_settings};
use crate::port::{Caller, ChannelError, Secret, SettingError, Settings};

const TOKEN_URL: &str = "https://api.amazon.com/auth/o2/token";
/// An access token is good for an hour.
/// <https://developer-docs.amazon.com/sp-api/docs/connect-to-the-selling-partner-api>
const TOKEN_SECONDS_DEFAULT: u64 = 3_600;

/// On whose behalf a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// The seller's, by its authorisation.
    Seller,
    /// The application's own, for destinations of notifications.
    /// <https://developer-docs.amazon.com/sp-api/docs/grantless-operations>
    Notifications,
}

impl Grant {
    /// Returns the name that the access token is kept under.
    pub(super) fn token_name(self) -> &'static str {
        match self {
            Self::Seller => "access",
            Self::Notifications => "notifications",
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
    let refresh = match grant {
        Grant::Seller => Some(oauth::refresh_token(caller)?),
        Grant::Notifications => None,
    };
    let [kind, key] = match &refresh {
        Some(refresh) => [("grant_type", "refresh_token"), ("refresh_token", refresh.expose())],
        None => {
            [("grant_type", "client_credentials"), ("scope", "sellingpartnerapi::notifications")]
        }
    };
    let body = form(&[
        kind,
        key,
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
    let rotated = match &refresh {
        Some(before) => answer.refresh(Some(before), caller.now()),
        None => Vec::new(),
    };
    if !rotated.is_empty() {
        caller.keep_credentials(rotated).await?;
    }
    let token = Secret::new(answer.access_token);
    let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT);
    caller.keep_token(grant.token_name(), token.clone(), seconds);
    Ok(token)
}

/// Amazon's consent page: the website authorization workflow. No PKCE is documented.
/// <https://developer-docs.amazon.com/sp-api/docs/website-authorization-workflow>
pub(super) struct Page;

#[async_trait]
impl Consent for Page {
    fn url(&self, settings: &Settings, ask: &ConsentAsk<'_>) -> Result<String, Vec<SettingError>> {
        let config = Config::read(settings)?;
        let Some(application_id) = &config.application_id else {
            return Err(vec![SettingError::required("applicationId")]);
        };
        let site = config::seller_central(config.home_marketplace());
        let mut pairs = vec![
            ("application_id", application_id.as_str()),
            ("state", ask.state),
            ("redirect_uri", ask.redirect),
        ];
        if config.is_draft {
            pairs.push(("version", "beta"));
        }
        Ok(format!("{site}/apps/authorize/consent?{}", form(&pairs)))
    }

    fn read_callback(
        &self,
        settings: &Settings,
        query: &[(String, String)],
    ) -> Result<Callback, CallbackError> {
        let code = code_of(query, "spapi_oauth_code")?;
        let seller = only(query, "selling_partner_id").ok_or(CallbackError::Malformed)?;
        let config = Config::read(settings).map_err(|_| CallbackError::Malformed)?;
        if !config.seller_id.is_empty() {
            let is_ours = seller == config.seller_id;
            return if is_ours { Ok(Callback::of(code)) } else { Err(CallbackError::OtherAccount) };
        }
        if !config::is_seller_id(seller) {
            return Err(CallbackError::Malformed);
        }
        let found = BTreeMap::from([(config::SELLER_ID.to_owned(), seller.to_owned())]);
        Ok(Callback { code, found })
    }

    async fn exchange(
        &self,
        settings: &Settings,
        caller: &dyn Caller,
        code: &ConsentCode,
    ) -> Result<BTreeMap<String, Secret>, ChannelError> {
        let config = Config::read(settings).map_err(|_| wrong_settings())?;
        let body = form(&[
            ("grant_type", "authorization_code"),
            ("code", code.code.expose()),
            ("redirect_uri", &code.redirect),
            ("client_id", config.client_id.expose()),
            ("client_secret", config.client_secret.expose()),
        ]);
        let request = Outgoing::new("token", Method::POST, TOKEN_URL.to_owned())
            .once()
            .body("application/x-www-form-urlencoded;charset=UTF-8", body)
            .build();
        let response = caller.call(request).await?;
        if !response.status.is_success() {
            return Err(error::classify_grant(&response));
        }
        parse_json::<Granted>("the code's exchange", &response.body)?.consented(caller.now())
    }
}
