//! Who calls, for which orgs, with which rights: bearer tokens and API keys.
//!
//! Verified tokens are remembered by digest until they expire, so that the signature of a token
//! is checked once and not with every request.

mod cache;
mod jwks;
mod token;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use trueup_core::{MICROS_PER_SECOND, Org, Timestamp};
use trueup_store::Store;

pub use jwks::{KeySource, KeySourceError};
pub use token::{Mint, MintError, SECRET_BYTES_MIN, TokenSettings, mint};

use crate::api::problem::Problem;
use cache::Cache;
use token::Verifier;

/// How long a key that was looked up is believed, so that a revocation made by another node is
/// seen within that time. One made here is seen at once.
const KEY_SECONDS: i64 = 5;
/// The longest credential that is looked at, in bytes.
const CREDENTIAL_BYTES_MAX: usize = 16_384;
/// What an API key begins with.
const KEY_PREFIX: &str = "tu_";

/// A right that a token or key may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Reads; every token has it.
    Read,
    /// Changes stock.
    InventoryWrite,
    /// Reserves, releases, commits, extends.
    ReservationsWrite,
    /// Connects channels, maps, subscribes, makes keys, resolves conflicts.
    ChannelsAdmin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] =
        [Self::Read, Self::InventoryWrite, Self::ReservationsWrite, Self::ChannelsAdmin];

    /// Returns the word in a token's `scope`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "inventory:read",
            Self::InventoryWrite => "inventory:write",
            Self::ReservationsWrite => "reservations:write",
            Self::ChannelsAdmin => "channels:admin",
        }
    }

    /// Returns the scope of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::InventoryWrite => 2,
            Self::ReservationsWrite => 4,
            Self::ChannelsAdmin => 8,
        }
    }
}

/// A set of scopes; reading is always in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Nothing but reading.
    pub const READ_ONLY: Self = Self(1);

    /// Collects the words that are scopes of ours; others are of somebody else.
    #[must_use]
    pub fn of_words<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let bits = words.filter_map(Scope::parse).map(Scope::bit);
        Self(bits.fold(Self::READ_ONLY.0, |all, bit| all | bit))
    }

    /// Returns whether a scope is in it.
    #[must_use]
    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

/// Somebody whose credential holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who, for the audit trail.
    pub subject: Arc<str>,
    /// The orgs that the credential is good for.
    pub orgs: Vec<Org>,
    /// What it may do.
    pub scopes: Scopes,
}

/// Checks credentials.
pub struct Auth {
    verifier: Option<Verifier>,
    store: Arc<dyn Store>,
    cache: Cache,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

impl Auth {
    /// Makes a checker; without token settings, API keys are the only way in.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, tokens: Option<TokenSettings>) -> Self {
        Self { verifier: tokens.map(Verifier::new), store, cache: Cache::default() }
    }

    /// Returns whose credential the headers carry.
    ///
    /// # Errors
    /// 401 with `WWW-Authenticate`; 503 when the store cannot say.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Arc<Identity>, Problem> {
        let credential = Credential::of(headers)?;
        let digest = credential.digest();
        if let Some(identity) = self.cache.get(&digest, now) {
            return Ok(identity);
        }
        let (identity, until) = match &credential {
            Credential::Token(token) => self.verify_token(token, now).await?,
            Credential::Key(key) => self.verify_key(key, &digest, now).await?,
        };
        let identity = Arc::new(identity);
        self.cache.put(digest, Arc::clone(&identity), until, now);
        Ok(identity)
    }

    async fn verify_token(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<(Identity, Timestamp), Problem> {
        match &self.verifier {
            Some(verifier) => verifier.verify(token, now).await,
            None => Err(refused("token_invalid", "this server takes API keys only")),
        }
    }

    async fn verify_key(
        &self,
        key: &str,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<(Identity, Timestamp), Problem> {
        let wrong = || refused("key_invalid", "the API key is unknown, wrong or revoked");
        let id = key.strip_prefix(KEY_PREFIX).and_then(|rest| rest.split_once('.'));
        let (id, _) = id.ok_or_else(wrong)?;
        let (org, row) = self.store.api_key(id).await?.ok_or_else(wrong)?;
        let same: bool = row.digest.ct_eq(digest).into();
        if !same || row.revoked_at.is_some() {
            return Err(wrong());
        }
        let identity = Identity {
            subject: Arc::from(row.subject.as_str()),
            orgs: vec![org],
            scopes: Scopes::of_words(row.scopes.iter().map(String::as_str)),
        };
        let until = Timestamp::from_micros(now.micros() + KEY_SECONDS * MICROS_PER_SECOND);
        Ok((identity, until))
    }

    /// Forgets everybody who was let in; called when a key is revoked.
    pub fn forget(&self) {
        self.cache.clear();
    }

    /// Returns how many credentials are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.cache.len()
    }
}

/// A credential as it came.
enum Credential<'a> {
    Token(&'a str),
    Key(&'a str),
}

impl<'a> Credential<'a> {
    fn of(headers: &'a HeaderMap) -> Result<Self, Problem> {
        if let Some(value) = single(headers, header::AUTHORIZATION.as_str())? {
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            let token = token.trim();
            if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
                return Err(refused("token_invalid", "use: Authorization: Bearer <token>"));
            }
            return Ok(Self::Token(token));
        }
        match single(headers, "x-api-key")? {
            Some(key) => Ok(Self::Key(key)),
            None => {
                let detail = "send Authorization: Bearer <token>, or x-api-key";
                Err(unauthorized("token_missing", detail, None))
            }
        }
    }

    fn digest(&self) -> [u8; 32] {
        match self {
            // Tokens and keys cannot be taken for one another: a key begins with `tu_`, and a
            // key's digest is what its row holds.
            Self::Token(token) => {
                Sha256::new().chain_update(b"token\n").chain_update(token).finalize().into()
            }
            Self::Key(key) => key_digest(key),
        }
    }
}

/// Returns what is kept of an API key.
#[must_use]
pub fn key_digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Makes an API key out of an id and random bytes: `tu_<id>.<secret>`.
#[must_use]
pub fn format_key(id: &str, secret: &[u8; 32]) -> String {
    use base64::Engine as _;
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret);
    format!("{KEY_PREFIX}{id}.{secret}")
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() || first.len() > CREDENTIAL_BYTES_MAX {
        return Err(refused("token_invalid", "the credential is repeated or too long"));
    }
    match first.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(refused("token_invalid", "the credential is not visible ASCII")),
    }
}

/// Makes the 401 of a credential that does not hold.
pub(crate) fn refused(code: &'static str, detail: &str) -> Problem {
    unauthorized(code, detail, Some("invalid_token"))
}

fn unauthorized(code: &'static str, detail: &str, error: Option<&str>) -> Problem {
    let challenge = match error {
        Some(error) => {
            format!("Bearer realm=\"trueup\", error=\"{error}\", error_description=\"{detail}\"")
        }
        None => "Bearer realm=\"trueup\"".to_owned(),
    };
    let challenge = HeaderValue::try_from(challenge)
        .unwrap_or_else(|_| HeaderValue::from_static("Bearer realm=\"trueup\""));
    Problem::new(StatusCode::UNAUTHORIZED, code, detail)
        .with_header(header::WWW_AUTHENTICATE, challenge)
}
