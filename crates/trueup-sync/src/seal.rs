//! Secrets at rest: sealed before the store sees them, opened only to be used.
//!
//! XChaCha20-Poly1305 with a random nonce. A sealed text is one byte of key id, 24 bytes of
//! nonce and the ciphertext; what it is for is bound to it as associated data, so that a
//! sealed signing secret cannot be passed off as credentials.

use std::collections::BTreeMap;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::RngCore;
use trueup_channels::Secret;

/// The id of the one key there is.
const KEY_ID: u8 = 1;
const NONCE_BYTES: usize = 24;

/// What a sealed text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A connection's credentials.
    Credentials,
    /// A subscription's signing secret.
    SigningSecret,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Credentials => b"trueup credentials v1",
            Self::SigningSecret => b"trueup signing secret v1",
        }
    }
}

/// A sealed text could not be opened: another key, or not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret cannot be opened with this key")]
pub(crate) struct Unsealable;

/// Seals and opens with one key.
pub(crate) struct Sealer {
    cipher: XChaCha20Poly1305,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&Key::from(*key)) }
    }

    pub(crate) fn seal(&self, purpose: Purpose, text: &[u8]) -> Vec<u8> {
        let mut nonce = [0_u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: text, aad: purpose.label() };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("texts are far below the cipher's limit of 256 GiB");
        let mut bytes = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        bytes.push(KEY_ID);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        bytes
    }

    pub(crate) fn open(&self, purpose: Purpose, sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (id, rest) = sealed.split_first().ok_or(Unsealable)?;
        if *id != KEY_ID {
            return Err(Unsealable);
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Unsealable)?;
        let payload = Payload { msg: text, aad: purpose.label() };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| Unsealable)
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
            serde_json::from_slice(&bytes).map_err(|_| Unsealable)?;
        Ok(plain.into_iter().map(|(name, text)| (name, Secret::new(text))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_purpose_only() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal(Purpose::SigningSecret, b"whsec_x");
        assert_eq!(sealer.open(Purpose::SigningSecret, &sealed).unwrap(), b"whsec_x");
        assert_eq!(sealer.open(Purpose::Credentials, &sealed), Err(Unsealable));
        let other = Sealer::new(&[8; 32]);
        assert_eq!(other.open(Purpose::SigningSecret, &sealed), Err(Unsealable));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(sealer.open(Purpose::SigningSecret, &bent), Err(Unsealable), "{at}");
        }
        for length in 0..sealed.len() {
            assert_eq!(sealer.open(Purpose::SigningSecret, &sealed[..length]), Err(Unsealable));
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        let sealer = Sealer::new(&[7; 32]);
        let seal = || sealer.seal(Purpose::Credentials, b"x");
        assert_ne!(seal(), seal());
    }

    #[test]
    fn credentials_round_trip() {
        let sealer = Sealer::new(&[7; 32]);
        let credentials = BTreeMap::from([("accessToken".to_owned(), Secret::new("shpat_1"))]);
        let sealed = sealer.seal_credentials(&credentials);
        assert_eq!(sealer.open_credentials(&sealed).unwrap(), credentials);
        assert!(sealer.open_credentials(&[]).unwrap().is_empty());
    }
}
