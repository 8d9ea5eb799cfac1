//! Public keys from a JWKS file or URL, refreshed in bounds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use trueup_core::{MICROS_PER_SECOND, Timestamp};

/// How old the keys may be before they are read again, in seconds.
const FRESH_SECONDS: i64 = 600;
/// How soon after a reading the next one may be, in seconds, whoever asks for unknown keys.
const AGAIN_SECONDS: i64 = 15;
/// The largest key set, in bytes.
const SET_BYTES_MAX: usize = 1 << 20;
/// The most keys that are kept.
const KEYS_MAX: usize = 100;
/// How long a reading may take.
const READ_SECONDS_MAX: u64 = 10;

/// Why keys could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// The HTTP client could not be made.
    #[error("make the client for the key set")]
    Client(#[source] reqwest::Error),
    /// The file could not be read.
    #[error("read the key set {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// The URL did not answer.
    #[error("fetch the key set from {0}")]
    Fetch(String, #[source] reqwest::Error),
    /// It is larger than a key set may be.
    #[error("the key set is larger than {SET_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not a key set.
    #[error("the key set is not valid JSON")]
    Json(#[from] serde_json::Error),
    /// It has no key that could be used.
    #[error("the key set has no usable key")]
    Empty,
}

enum Origin {
    File(PathBuf),
    Url(String, reqwest::Client),
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: Arc<DecodingKey>,
}

#[derive(Default)]
struct Held {
    keys: Arc<Vec<Key>>,
    read_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
}

/// Where public keys come from.
pub struct KeySource {
    origin: Origin,
    held: Mutex<Held>,
    reading: tokio::sync::Mutex<()>,
}

impl KeySource {
    /// Makes a source that reads a file.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::of(Origin::File(path))
    }

    /// Makes a source that reads a URL, without following redirects.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn url(url: String) -> Result<Self, KeySourceError> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(READ_SECONDS_MAX))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(KeySourceError::Client)?;
        Ok(Self::of(Origin::Url(url, client)))
    }

    fn of(origin: Origin) -> Self {
        Self { origin, held: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// Reads the keys now; at start, so that a wrong path is seen then.
    ///
    /// # Errors
    /// [`KeySourceError`] says what is wrong.
    pub async fn load(&self, now: Timestamp) -> Result<(), KeySourceError> {
        self.held.lock().tried_at = Some(now);
        let bytes = match &self.origin {
            Origin::File(path) => tokio::fs::read(path)
                .await
                .map_err(|error| KeySourceError::File(path.clone(), error))?,
            Origin::Url(url, client) => fetch(url, client).await?,
        };
        let keys = parse(&bytes)?;
        let mut held = self.held.lock();
        held.keys = Arc::new(keys);
        held.read_at = Some(now);
        Ok(())
    }

    /// Returns the key that a token names, reading the keys again when they are old or the key
    /// is unknown. Keys that were read stay good while the source does not answer.
    pub(super) async fn key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Option<Arc<DecodingKey>> {
        let known = self.find(id, algorithm);
        if known.is_some() && self.is_younger(FRESH_SECONDS, now, |held| held.read_at) {
            return known;
        }
        if !self.is_younger(AGAIN_SECONDS, now, |held| held.tried_at) {
            let _one_at_a_time = self.reading.lock().await;
            // Somebody may have read while this call waited.
            if !self.is_younger(AGAIN_SECONDS, now, |held| held.tried_at)
                && let Err(error) = self.load(now).await
            {
                tracing::warn!(%error, "the key set could not be read");
            }
        }
        self.find(id, algorithm)
    }

    fn is_younger(
        &self,
        seconds: i64,
        now: Timestamp,
        at: impl Fn(&Held) -> Option<Timestamp>,
    ) -> bool {
        let at = at(&self.held.lock());
        at.is_some_and(|at| now.micros_since(at) < seconds * MICROS_PER_SECOND)
    }

    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let keys = Arc::clone(&self.held.lock().keys);
        let mut fitting = keys.iter().filter(|key| {
            key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id)
        });
        let found = fitting.next()?;
        // Without an id there must be no choice.
        if id.is_none() && fitting.next().is_some() {
            return None;
        }
        Some(Arc::clone(&found.decoding))
    }
}

async fn fetch(url: &str, client: &reqwest::Client) -> Result<Vec<u8>, KeySourceError> {
    let failed = |error: reqwest::Error| KeySourceError::Fetch(url.to_owned(), error);
    let answer = client.get(url).send().await.map_err(failed)?;
    let mut answer = answer.error_for_status().map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > SET_BYTES_MAX {
            return Err(KeySourceError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads a key set, leaving out keys that are not for signatures or not of a known kind.
fn parse(bytes: &[u8]) -> Result<Vec<Key>, KeySourceError> {
    if bytes.len() > SET_BYTES_MAX {
        return Err(KeySourceError::TooLarge);
    }
    let set: JwkSet = serde_json::from_slice(bytes)?;
    let keys: Vec<Key> = set.keys.iter().filter_map(usable).take(KEYS_MAX).collect();
    if keys.is_empty() { Err(KeySourceError::Empty) } else { Ok(keys) }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            jsonwebtoken::jwk::EllipticCurve::P256 => &[Algorithm::ES256],
            jsonwebtoken::jwk::EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
        // A shared secret has no place among public keys.
        _ => return None,
    };
    let algorithms = match jwk.common.key_algorithm {
        None => fitting.to_vec(),
        Some(named) => fitting.iter().copied().filter(|one| same(*one, named)).collect(),
    };
    if algorithms.is_empty() {
        return None;
    }
    let decoding = Arc::new(DecodingKey::from_jwk(jwk).ok()?);
    Some(Key { id: jwk.common.key_id.clone(), algorithms, decoding })
}

fn same(algorithm: Algorithm, named: KeyAlgorithm) -> bool {
    let named: Result<Algorithm, _> = named.to_string().parse();
    named.is_ok_and(|named| named == algorithm)
}
