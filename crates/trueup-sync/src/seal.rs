//! Secrets at rest: sealed before the store sees them, opened only to be used.
//!
//! XChaCha20-Poly1305 with a random nonce. A sealed text is a format byte, the id of its key, 24
//! bytes of nonce and the ciphertext; what it is for and the header are bound to it as associated
//! data, so that a sealed signing secret cannot be passed off as credentials. The key's id says
//! which key of the ring opens it. Format 1 had no key id: each key of the ring is tried.

use std::collections::BTreeMap;
use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::RngCore;
use trueup_channels::Secret;
use trueup_core::Org;
use trueup_store::{SealedPlace, SealedText, Store, StoreError};

/// The format that is written.
const FORMAT: u8 = 2;
/// The format without a key id, which is still read.
const FORMAT_PLAIN: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;

/// A key that secrets are encrypted with; `Debug` shows its id only.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Wraps 32 bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a new one.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// Reads 64 hex digits; space around them is let go. `None` = it is something else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Returns the key as 64 hex digits, for the file that keeps it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Derives a secret of its own for a purpose from a text.
    #[must_use]
    pub fn derive(&self, context: &str, text: &[u8]) -> [u8; 32] {
        let key = blake3::derive_key(context, &self.0);
        *blake3::keyed_hash(&key, text).as_bytes()
    }

    /// Returns the name of the key: the first bytes of its BLAKE3 hash. Tells nothing of it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = blake3::hash(&self.0);
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&hash.as_bytes()[..KEY_ID_BYTES]);
        KeyId(id)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.id())
    }
}

/// The name of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The keys of a server: one that seals, and earlier ones that still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// What is sealed from now on is sealed with it.
    pub active: SecretKey,
    /// What was sealed before may need one of them.
    pub older: Vec<SecretKey>,
}

impl From<SecretKey> for KeyRing {
    fn from(active: SecretKey) -> Self {
        Self { active, older: Vec::new() }
    }
}

/// What a sealed text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A connection's credentials.
    Credentials,
    /// A subscription's signing secret.
    SigningSecret,
    /// A token for a channel's checks, which is handed out and not kept.
    CheckToken,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Credentials => b"trueup credentials v1",
            Self::SigningSecret => b"trueup signing secret v1",
            Self::CheckToken => b"trueup check token v1",
        }
    }

    fn of(place: &SealedPlace) -> Self {
        match place {
            SealedPlace::Connection(_) => Self::Credentials,
            SealedPlace::Subscription(_) => Self::SigningSecret,
        }
    }
}

/// A sealed text could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsealable {
    /// No key of the ring has its id.
    #[error("the secret was sealed with the key {0}, which is not among the configured keys")]
    OtherKey(KeyId),
    /// The keys do not open it: it is of another key or purpose, or damaged.
    #[error("the secret cannot be opened with the configured keys")]
    Closed,
}

struct RingKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

impl RingKey {
    fn new(key: &SecretKey) -> Self {
        Self { id: key.id(), cipher: XChaCha20Poly1305::new(&Key::from(key.0)) }
    }
}

/// Seals with one key and opens with all of a ring.
pub(crate) struct Sealer {
    active: RingKey,
    older: Vec<RingKey>,
}

impl Sealer {
    pub(crate) fn new(ring: &KeyRing) -> Self {
        let older = ring.older.iter().map(RingKey::new).collect();
        Self { active: RingKey::new(&ring.active), older }
    }

    pub(crate) fn seal(&self, purpose: Purpose, text: &[u8]) -> Vec<u8> {
        let mut nonce = [0_u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let header = header(self.active.id);
        let aad = aad(purpose, &header);
        let payload = Payload { msg: text, aad: &aad };
        let sealed = self
            .active
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("texts are far below the cipher's limit of 256 GiB");
        [&header[..], &nonce[..], &sealed[..]].concat()
    }

    pub(crate) fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        match sealed.split_first() {
            Some((&FORMAT, rest)) => {
                let (id, rest) =
                    rest.split_first_chunk::<KEY_ID_BYTES>().ok_or(Unsealable::Closed)?;
                let id = KeyId(*id);
                let aad = aad(purpose, &header(id));
                let mut keys = self.keys().filter(|key| key.id == id).peekable();
                if keys.peek().is_none() {
                    return Err(Unsealable::OtherKey(id));
                }
                open_with(keys, rest, &aad)
            }
            Some((&FORMAT_PLAIN, rest)) => open_with(self.keys(), rest, purpose.label()),
            Some(_) | None => Err(Unsealable::Closed),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.active).chain(&self.older)
    }

    /// Returns whether a text is sealed as [`Sealer::seal`] does it now.
    fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.starts_with(&header(self.active.id))
    }

    /// Seals credentials by name.
    pub(crate) fn seal_credentials(&self, credentials: &BTreeMap<String, Secret>) -> Vec<u8> {
        let plain: BTreeMap<&str, &str> =
            credentials.iter().map(|(name, secret)| (name.as_str(), secret.expose())).collect();
        let bytes = serde_json::to_vec(&plain).expect("a map of texts serializes");
        self.seal(Purpose::Credentials, &bytes)
    }

    /// Opens credentials; an empty text holds none.
    pub(crate) fn open_credentials(
        &self,
        sealed: &[u8],
    ) -> Result<BTreeMap<String, Secret>, Unsealable> {
        if sealed.is_empty() {
            return Ok(BTreeMap::new());
        }
        let bytes = self.open(Purpose::Credentials, sealed)?;
        let plain: BTreeMap<String, String> =
            serde_json::from_slice(&bytes).map_err(|_| Unsealable::Closed)?;
        Ok(plain.into_iter().map(|(name, text)| (name, Secret::new(text))).collect())
    }
}

fn header(id: KeyId) -> [u8; 1 + KEY_ID_BYTES] {
    let mut header = [FORMAT; 1 + KEY_ID_BYTES];
    header[1..].copy_from_slice(&id.0);
    header
}

fn aad(purpose: Purpose, header: &[u8]) -> Vec<u8> {
    [purpose.label(), header].concat()
}

fn open_with<'a>(
    mut keys: impl Iterator<Item = &'a RingKey>,
    sealed: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, Unsealable> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Unsealable::Closed)?;
    let nonce = XNonce::from(*nonce);
    keys.find_map(|key| key.cipher.decrypt(&nonce, Payload { msg: text, aad }).ok())
        .ok_or(Unsealable::Closed)
}

/// What [`rekey`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Texts that are now sealed with the active key.
    pub resealed: usize,
    /// Texts that were so before.
    pub current: usize,
}

/// Why [`rekey`] did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// Something cannot be opened with any key of the ring; nothing was changed.
    #[error("{} of {all} secrets cannot be opened, the first is {}: {why}", places.len(), first(places))]
    Closed {
        /// Whose secrets, such as `credentials of acme/shopify`.
        places: Vec<String>,
        /// How many secrets there are.
        all: usize,
        /// Why the first of them cannot be opened.
        why: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn first(places: &[String]) -> &str {
    places.first().map_or("", String::as_str)
}

/// Seals everything in a store with the active key of a ring, one text at a time: it may be
/// interrupted and run again, and a server whose ring has all the keys reads it at any moment.
///
/// # Errors
/// [`RekeyError::Closed`] before anything is changed, or the store's.
pub async fn rekey(store: &dyn Store, ring: &KeyRing) -> Result<Rekeyed, RekeyError> {
    let sealer = Sealer::new(ring);
    let texts = store.sealed().await?;
    check(&sealer, &texts)?;
    let mut done = Rekeyed::default();
    for sealed in texts {
        if sealer.is_current(&sealed.text) {
            done.current += 1;
            continue;
        }
        let purpose = Purpose::of(&sealed.place);
        let Ok(plain) = sealer.open(purpose, &sealed.text) else { continue };
        let again = sealer.seal(purpose, &plain);
        if store.reseal(sealed, again).await? {
            done.resealed += 1;
        }
    }
    Ok(done)
}

/// Looks whether sealed texts can be opened with the keys of a ring; changes nothing.
///
/// # Errors
/// [`RekeyError::Closed`] where one cannot.
pub fn check_sealed(ring: &KeyRing, texts: &[SealedText]) -> Result<(), RekeyError> {
    check(&Sealer::new(ring), texts)
}

fn check(sealer: &Sealer, texts: &[SealedText]) -> Result<(), RekeyError> {
    let mut closed = Vec::new();
    let mut why = None;
    for SealedText { org, place, text } in texts {
        if let Err(error) = sealer.open(Purpose::of(place), text) {
            closed.push(words(org, place));
            why.get_or_insert(error);
        }
    }
    match why {
        Some(why) => {
            let (all, why) = (texts.len(), why.to_string());
            Err(RekeyError::Closed { places: closed, all, why })
        }
        None => Ok(()),
    }
}

fn words(org: &Org, place: &SealedPlace) -> String {
    match place {
        SealedPlace::Connection(channel) => format!("the credentials of {org}/{channel}"),
        SealedPlace::Subscription(id) => format!("the signing secret of {org}'s webhook {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::new([byte; 32])
    }

    fn ring(active: u8, older: &[u8]) -> Sealer {
        Sealer::new(&KeyRing {
            active: key(active),
            older: older.iter().map(|byte| key(*byte)).collect(),
        })
    }

    /// Seals as format 1 did.
    fn plain(sealer: &Sealer, purpose: Purpose, text: &[u8]) -> Vec<u8> {
        let nonce = [5; NONCE_BYTES];
        let payload = Payload { msg: text, aad: purpose.label() };
        let sealed = sealer.active.cipher.encrypt(&XNonce::from(nonce), payload).unwrap();
        [&[FORMAT_PLAIN], &nonce[..], &sealed[..]].concat()
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_purpose_only() {
        let sealer = ring(7, &[]);
        for sealed in [
            sealer.seal(Purpose::SigningSecret, b"whsec_x"),
            plain(&sealer, Purpose::SigningSecret, b"whsec_x"),
        ] {
            assert_eq!(sealer.open(Purpose::SigningSecret, &sealed).unwrap(), b"whsec_x");
            assert_eq!(sealer.open(Purpose::Credentials, &sealed), Err(Unsealable::Closed));
            assert!(ring(8, &[]).open(Purpose::SigningSecret, &sealed).is_err());
            for at in 0..sealed.len() {
                let mut bent = sealed.clone();
                bent[at] ^= 1;
                assert!(sealer.open(Purpose::SigningSecret, &bent).is_err(), "{at}");
            }
            for length in 0..sealed.len() {
                assert!(sealer.open(Purpose::SigningSecret, &sealed[..length]).is_err());
            }
        }
    }

    #[test]
    fn an_older_key_of_the_ring_opens_and_only_the_active_one_seals() {
        let (old, both, new) = (ring(7, &[]), ring(8, &[7]), ring(8, &[]));
        for sealed in
            [old.seal(Purpose::Credentials, b"x"), plain(&old, Purpose::Credentials, b"x")]
        {
            assert_eq!(both.open(Purpose::Credentials, &sealed).unwrap(), b"x");
            assert!(new.open(Purpose::Credentials, &sealed).is_err());
        }
        let sealed = both.seal(Purpose::Credentials, b"y");
        assert_eq!(new.open(Purpose::Credentials, &sealed).unwrap(), b"y");
        assert_eq!(
            old.open(Purpose::Credentials, &sealed),
            Err(Unsealable::OtherKey(key(8).id())),
            "the missing key is named"
        );
    }

    #[test]
    fn a_key_says_its_id_and_never_itself() {
        let shown = format!("{:?}", key(7));
        assert_eq!(shown, format!("SecretKey({})", key(7).id()));
        assert_eq!(key(7).id().to_string().len(), 2 * KEY_ID_BYTES);
        assert_ne!(key(7).id(), key(8).id());
        assert_eq!(SecretKey::from_hex(&format!(" {}\n", key(7).to_hex())), Some(key(7)));
        for wrong in ["", "00", &"0".repeat(63), &"g".repeat(64), &"+1".repeat(32)] {
            assert_eq!(SecretKey::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        let sealer = ring(7, &[]);
        let seal = || sealer.seal(Purpose::Credentials, b"x");
        assert_ne!(seal(), seal());
    }

    #[test]
    fn credentials_round_trip() {
        let sealer = ring(7, &[]);
        let credentials = BTreeMap::from([("accessToken".to_owned(), Secret::new("shpat_1"))]);
        let sealed = sealer.seal_credentials(&credentials);
        assert_eq!(sealer.open_credentials(&sealed).unwrap(), credentials);
        assert!(sealer.open_credentials(&[]).unwrap().is_empty());
    }
}
