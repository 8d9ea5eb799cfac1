//! What the vendors' ways of OAuth 2.0 have in common.

use std::collections::BTreeMap;

use serde::Deserialize;
use trueup_core::Timestamp;

use crate::credential::{
    ACCESS_TOKEN, ACCESS_TOKEN_ENDS, REFRESH_TOKEN, REFRESH_TOKEN_ENDS, instant_of,
};
use crate::exchange::format_time;
use crate::port::{Caller, ChannelError, ChannelErrorKind, Secret, Settings};
use crate::settings::Reader;

/// What a connection is told that nobody has authorized yet.
pub(crate) const AUTHORIZATION_NEEDED: &str = "authorization_needed";
/// How long a kept access token must still be good to be used.
const SECONDS_LEFT_MIN: i64 = 60;

/// The answer of a token endpoint.
#[derive(Deserialize)]
pub(crate) struct Granted {
    pub(crate) access_token: String,
    pub(crate) expires_in: Option<u64>,
    pub(crate) refresh_token: Option<String>,
    pub(crate) refresh_token_expires_in: Option<u64>,
}

impl Granted {
    /// Returns the refresh token, where there is another than before, with its end.
    pub(crate) fn refresh(
        &self,
        before: Option<&Secret>,
        now: Timestamp,
    ) -> Vec<(&'static str, Secret)> {
        let Some(token) = &self.refresh_token else { return Vec::new() };
        if before.is_some_and(|before| before.expose() == token) {
            return Vec::new();
        }
        let ends = self.refresh_token_expires_in.map(|seconds| ends(now, seconds));
        let ends = ends.map(|ends| (REFRESH_TOKEN_ENDS, ends));
        [(REFRESH_TOKEN, Secret::new(token.as_str()))].into_iter().chain(ends).collect()
    }

    /// Returns what a consent brought: the refresh token with its end.
    ///
    /// # Errors
    /// `Protocol` where the answer has none.
    pub(crate) fn consented(
        &self,
        now: Timestamp,
    ) -> Result<BTreeMap<String, Secret>, ChannelError> {
        let refresh = self.refresh(None, now);
        if refresh.is_empty() {
            let detail = "the answer to the code's exchange has no refresh token";
            return Err(ChannelError::new(ChannelErrorKind::Protocol, detail));
        }
        Ok(refresh.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Returns the access token with its end, for vendors whose tokens are kept durably.
    pub(crate) fn access(&self, now: Timestamp, seconds: u64) -> [(&'static str, Secret); 2] {
        let token = Secret::new(self.access_token.as_str());
        [(ACCESS_TOKEN, token), (ACCESS_TOKEN_ENDS, ends(now, seconds))]
    }
}

fn ends(now: Timestamp, seconds: u64) -> Secret {
    let millis = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    Secret::new(format_time(now.plus_millis(millis)))
}

/// Reads the token that a connection works with; where a page can be asked for consent, it may
/// come later.
pub(crate) fn require_refresh_token(reader: &mut Reader<'_>, page: &str, has_page: bool) {
    if reader.secret(REFRESH_TOKEN).is_none() && !has_page {
        let detail = format!("is required, or {page} to ask for it at the vendor's page");
        reader.fail(&format!("credentials.{REFRESH_TOKEN}"), detail);
    }
}

/// Returns the error of settings that were right when the connection was made.
pub(crate) fn wrong_settings() -> ChannelError {
    ChannelError::new(ChannelErrorKind::Config, "the connection's settings are wrong")
}

/// Returns whether settings have a credential.
pub(crate) fn has_credential(settings: &Settings, name: &str) -> bool {
    settings.credentials.get(name).is_some_and(|secret| !secret.expose().is_empty())
}

/// Returns the newest refresh token.
///
/// # Errors
/// `Auth` with [`AUTHORIZATION_NEEDED`] where there is none: nobody has authorized us yet.
pub(crate) fn refresh_token(caller: &dyn Caller) -> Result<Secret, ChannelError> {
    let token = caller.credential(REFRESH_TOKEN).filter(|token| !token.expose().is_empty());
    token.ok_or_else(|| {
        let detail = "the account has not authorized this connection yet";
        ChannelError::new(ChannelErrorKind::Auth, detail).with_code(AUTHORIZATION_NEEDED)
    })
}

/// Returns the durably kept access token and the seconds it is still good for, where its end is
/// known and not near.
pub(crate) fn kept_access_token(caller: &dyn Caller) -> Option<(Secret, u64)> {
    let token = caller.credential(ACCESS_TOKEN)?;
    let ends = instant_of(&caller.credential(ACCESS_TOKEN_ENDS)?)?;
    let seconds = ends.micros_since(caller.now()) / 1_000_000;
    let seconds = u64::try_from(seconds).ok().filter(|_| seconds > SECONDS_LEFT_MIN)?;
    Some((token, seconds))
}
