//! Which scopes codes, the refresh token and access tokens have.
//!
//! A refresh request may name scopes that were consented to, or none: then the token has them all.
//! <https://developer.ebay.com/api-docs/static/oauth-scopes.html>

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::TOKENS_MAX;

/// Of application tokens.
pub(super) const APPLICATION: &str = "https://api.ebay.com/oauth/api_scope";
/// Of the Inventory API.
pub(super) const INVENTORY: &str = "https://api.ebay.com/oauth/api_scope/sell.inventory";
/// Of the Fulfillment API.
pub(super) const FULFILLMENT: &str = "https://api.ebay.com/oauth/api_scope/sell.fulfillment";
/// Of subscriptions to notifications about a seller.
pub(super) const SUBSCRIPTION: &str =
    "https://api.ebay.com/oauth/api_scope/commerce.notification.subscription";

const KNOWN: [&str; 4] = [APPLICATION, INVENTORY, FULFILLMENT, SUBSCRIPTION];

type Set = BTreeSet<&'static str>;

/// The scopes of everything that was given out.
#[derive(Debug)]
pub(super) struct Scopes {
    refresh: Set,
    codes: BTreeMap<String, Set>,
    tokens: BTreeMap<String, Set>,
}

impl Default for Scopes {
    fn default() -> Self {
        Self { refresh: KNOWN.into(), codes: BTreeMap::new(), tokens: BTreeMap::new() }
    }
}

impl Scopes {
    /// Reads a list with spaces between; none where one is not known or there is none.
    pub(super) fn read(text: &str) -> Option<Set> {
        let one = |name: &str| KNOWN.into_iter().find(|known| *known == name);
        let all: Set = text.split(' ').map(one).collect::<Option<_>>()?;
        Some(all).filter(|all| !all.is_empty())
    }

    /// Takes a scope from the refresh token, by its last part.
    pub(super) fn withhold(&mut self, name: &str) {
        self.refresh.retain(|scope| !scope.ends_with(name));
    }

    /// Gives the refresh token a scope, by its last part.
    pub(super) fn grant(&mut self, name: &str) {
        self.refresh.extend(KNOWN.into_iter().filter(|scope| scope.ends_with(name)));
    }

    /// Notes what a code was given for.
    pub(super) fn note_code(&mut self, code: &str, scopes: Set) {
        if self.codes.len() >= TOKENS_MAX {
            self.codes.pop_first();
        }
        self.codes.insert(code.to_owned(), scopes);
    }

    /// Exchanges a code: the refresh token has its scopes from now on.
    pub(super) fn consent(&mut self, code: &str) -> Set {
        self.refresh = self.codes.remove(code).unwrap_or_default();
        self.refresh.clone()
    }

    /// Returns the scopes of a token that a refresh asks for; none where it asks for more than
    /// was consented to.
    pub(super) fn refresh(&self, asked: &str) -> Option<Set> {
        if asked.is_empty() {
            return Some(self.refresh.clone());
        }
        Self::read(asked).filter(|asked| asked.is_subset(&self.refresh))
    }

    /// Notes what an access token is good for.
    pub(super) fn note_token(&mut self, token: &str, scopes: Set) {
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.pop_first();
        }
        self.tokens.insert(token.to_owned(), scopes);
    }

    /// Returns whether an access token is good for a scope.
    pub(super) fn opens(&self, token: &str, scope: &str) -> bool {
        self.tokens.get(token).is_some_and(|scopes| scopes.contains(scope))
    }
}
