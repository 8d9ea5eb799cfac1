//! Credentials that were checked a moment ago.

use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use trueup_core::Timestamp;

use super::Identity;

/// The most credentials that are remembered; beyond it the expired go, then all.
pub(super) const REMEMBERED_MAX: usize = 10_000;

/// An identity and until when it holds.
type Remembered = (Arc<Identity>, Timestamp);

/// Identities by the digest of their credential. The keys are SHA-256, so that a quick hash of
/// them cannot be steered by a caller.
#[derive(Default)]
pub(super) struct Cache {
    known: RwLock<FxHashMap<[u8; 32], Remembered>>,
}

impl Cache {
    /// Returns the identity while it holds.
    pub(super) fn get(&self, digest: &[u8; 32], now: Timestamp) -> Option<Arc<Identity>> {
        let known = self.known.read();
        let (identity, until) = known.get(digest)?;
        (now < *until).then(|| Arc::clone(identity))
    }

    /// Remembers one until an instant.
    pub(super) fn put(
        &self,
        digest: [u8; 32],
        identity: Arc<Identity>,
        until: Timestamp,
        now: Timestamp,
    ) {
        let mut known = self.known.write();
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(digest, (identity, until));
    }

    pub(super) fn clear(&self) {
        self.known.write().clear();
    }

    pub(super) fn len(&self) -> usize {
        self.known.read().len()
    }
}
