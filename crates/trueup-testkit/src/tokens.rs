//! Access tokens that a simulator issued, and when each ends.

use std::collections::HashMap;

use jiff::Timestamp;
use uuid::Uuid;

/// The most tokens that a simulator keeps; the one that ends first is forgotten.
pub const TOKENS_MAX: usize = 10_000;

/// The issued tokens.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    ends: HashMap<String, Timestamp>,
}

impl Tokens {
    /// Issues a token with that prefix, good until `ends`.
    pub(crate) fn issue(&mut self, prefix: &str, now: Timestamp, ends: Timestamp) -> String {
        if self.ends.len() >= TOKENS_MAX {
            self.ends.retain(|_, end| *end > now);
        }
        if self.ends.len() >= TOKENS_MAX
            && let Some(first) = self.ends.iter().min_by_key(|(_, end)| **end)
        {
            let first = first.0.clone();
            self.ends.remove(&first);
        }
        let token = format!("{prefix}{}", Uuid::new_v4().simple());
        self.ends.insert(token.clone(), ends);
        token
    }

    pub(crate) fn good(&self, token: &str, now: Timestamp) -> bool {
        self.ends.get(token).is_some_and(|end| *end > now)
    }

    pub(crate) fn expire_all(&mut self) {
        self.ends.clear();
    }
}
