//! Bearer tokens (JWT): the signature, the claims, and making one for the command line.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use trueup_core::{MICROS_PER_SECOND, Org, Timestamp};

use super::{Identity, KeySource, Scopes, refused};
use crate::api::problem::Problem;

/// How far clocks may differ, in seconds.
const LEEWAY_SECONDS: i64 = 5;
/// The most orgs that one token may name.
const ORGS_MAX: usize = 1_000;
/// The shortest shared secret, in bytes: as long as HS256's output.
pub const SECRET_BYTES_MIN: usize = 32;

/// How tokens are checked.
pub struct TokenSettings {
    /// The algorithms that a token may be signed with; every other is refused.
    pub algorithms: Vec<Algorithm>,
    /// The shared secret of HS256.
    pub secret: Option<Vec<u8>>,
    /// Where the public keys of the other algorithms come from.
    pub keys: Option<KeySource>,
    /// Who must have made the token, if given.
    pub issuer: Option<String>,
    /// Whom the token must be for, if given.
    pub audience: Option<String>,
}

impl std::fmt::Debug for TokenSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSettings")
            .field("algorithms", &self.algorithms)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl TokenSettings {
    /// Makes settings for tokens signed with a shared secret.
    #[must_use]
    pub fn shared_secret(secret: &[u8]) -> Self {
        Self {
            algorithms: vec![Algorithm::HS256],
            secret: Some(secret.to_vec()),
            keys: None,
            issuer: None,
            audience: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<OneOrMany>,
    org: Option<String>,
    orgs: Option<Vec<String>>,
    scope: Option<OneOrMany>,
}

/// Checks tokens.
pub(super) struct Verifier {
    settings: TokenSettings,
    secret: Option<DecodingKey>,
}

impl Verifier {
    pub(super) fn new(settings: TokenSettings) -> Self {
        let secret = settings.secret.as_deref().map(DecodingKey::from_secret);
        Self { settings, secret }
    }

    /// Returns whose token it is and until when it holds.
    pub(super) async fn verify(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<(Identity, Timestamp), Problem> {
        let invalid = || refused("token_invalid", "the token is malformed or its signature wrong");
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid())?;
        if !self.settings.algorithms.contains(&header.alg) {
            return Err(refused("token_invalid", "the token's algorithm is not allowed here"));
        }
        if header.crit.is_some() {
            return Err(refused("token_invalid", "the token has critical extensions"));
        }
        let claims = match header.alg {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let key = self.secret.as_ref().ok_or_else(invalid)?;
                decode(token, key, header.alg).ok_or_else(invalid)?
            }
            _ => {
                let source = self.settings.keys.as_ref().ok_or_else(invalid)?;
                let key = source.key(header.kid.as_deref(), header.alg, now).await;
                decode(token, &*key.ok_or_else(invalid)?, header.alg).ok_or_else(invalid)?
            }
        };
        self.admit(claims, now)
    }

    fn admit(&self, claims: Claims, now: Timestamp) -> Result<(Identity, Timestamp), Problem> {
        let leeway = LEEWAY_SECONDS * MICROS_PER_SECOND;
        let Some(expires) = claims.exp.and_then(instant) else {
            return Err(refused("token_invalid", "the token has no exp claim"));
        };
        let until = Timestamp::from_micros(expires.micros().saturating_add(leeway));
        if until <= now {
            return Err(refused("token_expired", "the token has expired"));
        }
        if let Some(from) = claims.nbf {
            let from = instant(from).unwrap_or(Timestamp::MAX);
            if from.micros().saturating_sub(leeway) > now.micros() {
                return Err(refused("token_invalid", "the token is not valid yet"));
            }
        }
        let issuer = self.settings.issuer.as_deref();
        if issuer.is_some() && issuer != claims.iss.as_deref() {
            return Err(refused("token_invalid", "the token's issuer is not trusted here"));
        }
        if let Some(audience) = &self.settings.audience
            && !claims.aud.is_some_and(|aud| aud.contains(audience))
        {
            return Err(refused("token_invalid", "the token is not for this audience"));
        }
        let names = claims.org.into_iter().chain(claims.orgs.unwrap_or_default());
        let orgs = names.take(ORGS_MAX).filter_map(|name| Org::new(&name).ok()).collect();
        let identity = Identity {
            subject: Arc::from(claims.sub.as_deref().unwrap_or("unknown")),
            orgs,
            scopes: match &claims.scope {
                None => Scopes::READ_ONLY,
                Some(OneOrMany::One(words)) => Scopes::of_words(words.split(' ')),
                Some(OneOrMany::Many(words)) => Scopes::of_words(words.iter().map(String::as_str)),
            },
        };
        Ok((identity, until))
    }
}

/// Checks the signature with exactly this algorithm; times and names are checked by `admit`,
/// by our own clock.
fn decode(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Option<Claims> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<Claims>(token, key, &validation).ok().map(|data| data.claims)
}

/// Returns the instant of a numeric date; `None` where it is not a number of years we know.
#[expect(clippy::cast_possible_truncation, reason = "the value is within the range of an i64")]
fn instant(seconds: f64) -> Option<Timestamp> {
    const SECONDS_MAX: f64 = 253_402_300_800.0;
    let within = seconds.is_finite() && (0.0..SECONDS_MAX).contains(&seconds);
    within.then(|| Timestamp::from_micros((seconds * 1_000_000.0) as i64))
}

/// What a new token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mint<'a> {
    /// Who.
    pub subject: &'a str,
    /// The orgs it is good for.
    pub orgs: &'a [Org],
    /// Its scopes, in the words of [`super::Scope`].
    pub scopes: &'a [super::Scope],
    /// From when.
    pub now: Timestamp,
    /// For how long, in seconds.
    pub ttl_seconds: u32,
    /// Who makes it, where the server wants to know.
    pub issuer: Option<&'a str>,
    /// Whom it is for, where the server wants to know.
    pub audience: Option<&'a str>,
}

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The secret is too short to sign with.
    #[error("the secret must have at least {SECRET_BYTES_MIN} bytes")]
    ShortSecret,
    /// Signing failed.
    #[error("sign the token")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct MintedClaims<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    orgs: Vec<&'a str>,
    scope: String,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Makes a token signed with the shared secret (HS256).
///
/// # Errors
/// [`MintError`] when the secret is too short.
pub fn mint(secret: &[u8], mint: &Mint<'_>) -> Result<String, MintError> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(MintError::ShortSecret);
    }
    let issued = mint.now.micros() / MICROS_PER_SECOND;
    let words: Vec<&str> = mint.scopes.iter().map(|scope| scope.as_str()).collect();
    let claims = MintedClaims {
        sub: mint.subject,
        org: if let [only] = mint.orgs { Some(only.as_str()) } else { None },
        orgs: if mint.orgs.len() == 1 {
            Vec::new()
        } else {
            mint.orgs.iter().map(Org::as_str).collect()
        },
        scope: words.join(" "),
        iat: issued,
        exp: issued + i64::from(mint.ttl_seconds),
        iss: mint.issuer,
        aud: mint.audience,
    };
    let key = EncodingKey::from_secret(secret);
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}
