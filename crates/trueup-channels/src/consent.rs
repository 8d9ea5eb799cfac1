//! How a merchant lets us in at the vendor's own page: the authorization-code grant.
//!
//! Everything here but [`Consent::exchange`] is pure. The caller makes the state and checks that
//! it comes back; a kind builds its vendor's page address, and checks and reads what the vendor
//! sends the merchant back with.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::port::{Caller, ChannelError, Secret, SettingError, Settings};

/// What a vendor's consent page is asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsentAsk<'a> {
    /// What comes back unchanged, and proves that it was we who asked.
    pub state: &'a str,
    /// Where the vendor sends the merchant back to.
    pub redirect: &'a str,
    /// The PKCE challenge (`S256`), for kinds that offer it.
    pub challenge: Option<&'a str>,
    /// Whether the connection is to book orders.
    pub wants_orders: bool,
}

/// A code that a vendor gave for a consent, and what it is exchanged with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentCode {
    /// The code; good once and for a short while.
    pub code: Secret,
    /// The redirect that was asked with.
    pub redirect: String,
    /// The PKCE verifier, where a challenge was sent.
    pub verifier: Option<Secret>,
}

/// What a vendor sent a merchant back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// The code.
    pub code: Secret,
    /// Settings that it told and that the connection lacks, by name.
    pub found: BTreeMap<String, String>,
}

impl Callback {
    /// Wraps a code that came with nothing else of use.
    #[must_use]
    pub fn of(code: Secret) -> Self {
        Self { code, found: BTreeMap::new() }
    }
}

/// Why a callback is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// The merchant, or the vendor, said no.
    #[error("the consent was not given")]
    Denied,
    /// It is not signed by the vendor.
    #[error("the signature does not hold")]
    Signature,
    /// It is about another account than the connection's.
    #[error("the consent is another account's")]
    OtherAccount,
    /// It is not what the vendor documents.
    #[error("the callback is not as the vendor documents it")]
    Malformed,
}

/// A vendor's consent page and what comes after it.
#[async_trait]
pub trait Consent: Send + Sync {
    /// Returns whether the vendor offers PKCE; then a challenge is sent and a verifier asked for.
    fn pkce(&self) -> bool {
        false
    }

    /// Returns the address of the vendor's page.
    ///
    /// # Errors
    /// Every setting that is missing for it.
    fn url(&self, settings: &Settings, ask: &ConsentAsk<'_>) -> Result<String, Vec<SettingError>>;

    /// Checks what came back, decoded, and returns the code and what else it tells.
    ///
    /// # Errors
    /// [`CallbackError`]: nothing of it may be used then.
    fn read_callback(
        &self,
        settings: &Settings,
        query: &[(String, String)],
    ) -> Result<Callback, CallbackError>;

    /// Exchanges a code for credentials by name. They replace all tokens of before.
    ///
    /// # Errors
    /// When the vendor refused it or could not be reached; the code is of no use then.
    async fn exchange(
        &self,
        settings: &Settings,
        caller: &dyn Caller,
        code: &ConsentCode,
    ) -> Result<BTreeMap<String, Secret>, ChannelError>;
}

/// Returns the one value of a name; none where it is absent, empty or given twice.
pub(crate) fn only<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut found = query.iter().filter(|(known, _)| known == name);
    let (_, value) = found.next()?;
    (found.next().is_none() && !value.is_empty()).then_some(value.as_str())
}

/// Returns the code, or why there is none: OAuth tells a refusal as `error`.
/// <https://www.rfc-editor.org/rfc/rfc6749#section-4.1.2.1>
pub(crate) fn code_of(query: &[(String, String)], name: &str) -> Result<Secret, CallbackError> {
    if query.iter().any(|(known, _)| known == "error") {
        return Err(CallbackError::Denied);
    }
    only(query, name).map(Secret::new).ok_or(CallbackError::Malformed)
}
