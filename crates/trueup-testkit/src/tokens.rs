//! Tokens that a simulator issued, and when each ends.

use std::collections::{BTreeMap, HashMap};

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

/// The most refresh tokens that a simulator keeps.
pub const REFRESH_TOKENS_MAX: usize = 10_000;

/// Refresh tokens that are replaced with each use; the one before is good until its
/// replacement is used.
#[derive(Debug, Default)]
pub(crate) struct RefreshTokens {
    known: BTreeMap<String, Refresh>,
}

#[derive(Debug)]
struct Refresh {
    ends: Timestamp,
    /// The tokens that end when this one is first used.
    replaces: Vec<String>,
}

impl RefreshTokens {
    /// Lets a token be good until `ends`.
    pub(crate) fn add(&mut self, token: &str, ends: Timestamp) {
        self.known.insert(token.to_owned(), Refresh { ends, replaces: Vec::new() });
    }

    /// Issues the first token of a new consent, which ends all others.
    pub(crate) fn begin(&mut self, prefix: &str, ends: Timestamp) -> String {
        self.known.clear();
        let first = format!("{prefix}{}", Uuid::new_v4().simple());
        self.add(&first, ends);
        first
    }

    /// Takes a token and issues its replacement; nothing where the token is not good.
    pub(crate) fn replace(
        &mut self,
        token: &str,
        prefix: &str,
        now: Timestamp,
        ends: Timestamp,
    ) -> Option<String> {
        let known = self.known.get_mut(token).filter(|known| known.ends > now)?;
        for before in std::mem::take(&mut known.replaces) {
            self.known.remove(&before);
        }
        let next = format!("{prefix}{}", Uuid::new_v4().simple());
        if self.known.len() < REFRESH_TOKENS_MAX {
            self.known.insert(next.clone(), Refresh { ends, replaces: vec![token.to_owned()] });
        }
        Some(next)
    }

    /// Takes all of them back.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}

/// How long the code of a consent is good.
pub const CODE_SECONDS: u32 = 60;
/// The most codes that a simulator keeps.
pub const CODES_MAX: usize = 10_000;

/// Codes of consents; each is good once, with the redirect that it was given for.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    known: BTreeMap<String, (Timestamp, String)>,
}

impl Codes {
    /// Gives a code for a redirect.
    pub(crate) fn give(&mut self, redirect: &str, now: Timestamp, ends: Timestamp) -> String {
        if self.known.len() >= CODES_MAX {
            self.known.retain(|_, (ends, _)| *ends > now);
        }
        let code = Uuid::new_v4().simple().to_string();
        if self.known.len() < CODES_MAX {
            self.known.insert(code.clone(), (ends, redirect.to_owned()));
        }
        code
    }

    /// Takes a code; vendors that are told the redirect again compare it.
    pub(crate) fn take(&mut self, code: &str, redirect: Option<&str>, now: Timestamp) -> bool {
        let found = self.known.remove(code);
        found.is_some_and(|(ends, given)| {
            ends > now && redirect.is_none_or(|redirect| redirect == given)
        })
    }
}
