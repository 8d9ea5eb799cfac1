//! How a merchant lets a connection in at the vendor's own page: the state that goes out and
//! comes back, and what is done with the code that comes with it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use trueup_channels::credential::{
    ACCESS_TOKEN, ACCESS_TOKEN_ENDS, REFRESH_TOKEN, REFRESH_TOKEN_ENDS,
};
use trueup_channels::{Callback, ConsentAsk, ConsentCode, Secret};
use trueup_core::{ChannelId, Org, Timestamp};
use trueup_store::{Connection, ConnectionState, Consent, Shard};

use crate::caller::{Vault, rebase};
use crate::engine::{Engine, EngineError};
use crate::shared::not_allowed;

/// How long a merchant has from asking for a vendor's page to coming back from it, in seconds.
pub const CONSENT_SECONDS: u32 = 600;
/// The reason code of a connection that nobody has authorized yet.
pub const AUTHORIZATION_NEEDED: &str = "authorization_needed";
/// How much chance a state holds.
const STATE_BYTES: usize = 32;
/// What PKCE verifiers are derived for.
const VERIFIER_CONTEXT: &str = "trueup 2026-11-24 PKCE verifier of a consent";

/// A vendor's page that a merchant is to be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentPage {
    /// Its address; it holds the state and is as good as a credential until it is used.
    pub url: String,
    /// Until when the merchant may come back.
    pub expires_at: Timestamp,
}

impl Engine {
    /// Returns the vendor's page where a merchant lets a connection in.
    ///
    /// # Errors
    /// That there is no such connection of that kind, that the kind has no such page
    /// ([`EngineError::NoConsent`]), that this server has no public URL, or every setting that
    /// is missing.
    pub async fn consent_page(
        &self,
        org: &Org,
        channel: &ChannelId,
        kind: &str,
    ) -> Result<ConsentPage, EngineError> {
        let shared = self.shared();
        let known = (shared.find_kind)(kind);
        let known = known.ok_or_else(|| EngineError::UnknownKind(kind.to_owned()))?;
        let page = known.consent().ok_or_else(|| EngineError::NoConsent(kind.to_owned()))?;
        let row = shared.store.connection(org, channel).await?.filter(|row| row.kind == kind);
        let row = row.ok_or_else(|| EngineError::ChannelNotFound(channel.clone()))?;
        let base = shared.options.public_url.as_deref().ok_or(EngineError::PublicUrlMissing)?;
        let redirect = format!("{}/connect/{kind}/callback", base.trim_end_matches('/'));
        let settings = shared.settings_of(&row)?;
        let state = new_state(Shard::of(org));
        let challenge = page.pkce().then(|| challenge(&self.verifier(&state)));
        let ask = ConsentAsk {
            state: &state,
            redirect: &redirect,
            challenge: challenge.as_deref(),
            wants_orders: row.sync_orders,
        };
        let url = page.url(&settings, &ask).map_err(EngineError::Settings)?;
        let endpoint = row.endpoint.as_deref().map(|endpoint| {
            crate::address::parse(endpoint, shared.reach).map_err(|error| not_allowed(&error))
        });
        let url = rebase(&url, endpoint.transpose()?.as_ref(), shared.reach)
            .map_err(|error| not_allowed(&error))?;
        let created_at = shared.now();
        let expires_at = created_at.plus_seconds(CONSENT_SECONDS);
        let consent = Consent {
            state_digest: digest(&state),
            channel: channel.clone(),
            kind: kind.to_owned(),
            redirect,
            created_at,
            expires_at,
        };
        shared.desk.put_consent(org, consent).await?;
        Ok(ConsentPage { url: url.into(), expires_at })
    }

    /// Takes what a vendor sent a merchant back with: checks it, exchanges its code, verifies the
    /// connection with what that brought, keeps it and lets it work, also where it was paused.
    ///
    /// # Errors
    /// [`EngineError::ConsentState`] for a state that is not known, was used or has run out;
    /// [`EngineError::Callback`] for what the vendor did not send; else as [`Engine::enable`].
    /// The connection stays as it was then, and the state is used up.
    pub async fn finish_consent(
        &self,
        kind: &str,
        query: &[(String, String)],
    ) -> Result<(Org, Connection), EngineError> {
        let shared = self.shared();
        let mut states = query.iter().filter(|(name, _)| name == "state");
        let (Some((_, state)), None) = (states.next(), states.next()) else {
            return Err(EngineError::ConsentState);
        };
        let now = shared.now();
        let taken = shared.desk.take_consent(digest(state)).await?;
        let is_good = |consent: &Consent| consent.kind == kind && consent.expires_at > now;
        let (org, consent) =
            taken.filter(|(_, consent)| is_good(consent)).ok_or(EngineError::ConsentState)?;
        self.must_hold(&org)?;
        let channel = consent.channel;
        let row = shared.store.connection(&org, &channel).await?.filter(|row| row.kind == kind);
        let row = row.ok_or(EngineError::ConsentState)?;
        let page = (shared.find_kind)(kind).and_then(|kind| kind.consent());
        let page = page.ok_or_else(|| EngineError::NoConsent(kind.to_owned()))?;
        let mut settings = shared.settings_of(&row)?;
        let Callback { code, found } =
            page.read_callback(&settings, query).map_err(EngineError::Callback)?;
        for (name, value) in found {
            settings.fields.entry(name).or_insert(Value::String(value));
        }
        let row = Connection { settings: settings.fields.clone(), ..row };
        let verifier = page.pkce().then(|| self.verifier(state));
        let code = ConsentCode { code, redirect: consent.redirect, verifier };
        let link = shared.open(&org, &row, settings.clone(), Vault::of_draft())?;
        let granted = page.exchange(&settings, &link.transport, &code).await;
        let granted = granted.map_err(EngineError::Channel)?;
        for token in [ACCESS_TOKEN, ACCESS_TOKEN_ENDS, REFRESH_TOKEN, REFRESH_TOKEN_ENDS] {
            settings.credentials.remove(token);
        }
        settings.credentials.extend(granted);
        let mut row = Connection { state: ConnectionState::Active, updated_at: now, ..row };
        row.note_recovery();
        let row = self.establish(&org, &channel, row, settings).await?;
        let entry = shared.entry(&channel, "channel", "ok", json!({ "authorized": true }));
        shared.note(&org, vec![entry]).await;
        if let Some(link) = shared.link(&org, &channel).filter(|_| row.sync_orders) {
            link.want_orders(now);
        }
        Ok((org, row))
    }

    /// Returns the shard of the org that a state was made for, where it may have been made here.
    #[must_use]
    pub fn shard_of_state(state: &str) -> Option<Shard> {
        let bytes = URL_SAFE_NO_PAD.decode(state).ok()?;
        Shard::numbered(u16::from(*bytes.first()?))
    }

    /// Returns the PKCE verifier of a state. It is derived with the server's key, so that it
    /// need not be kept and the state, which passes through the browser, does not tell it.
    fn verifier(&self, state: &str) -> Secret {
        let key = self.shared().options.keys.active.derive(VERIFIER_CONTEXT, state.as_bytes());
        Secret::new(URL_SAFE_NO_PAD.encode(key))
    }
}

/// Makes a state. It says which shard it is of, for it may come back to any node.
fn new_state(shard: Shard) -> String {
    let mut bytes = [0; STATE_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    // There are fewer shards than a byte has values.
    bytes[0] = u8::try_from(shard.number()).unwrap_or(0);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn digest(state: &str) -> [u8; 32] {
    Sha256::digest(state.as_bytes()).into()
}

/// Returns the challenge of a verifier: `S256`.
/// <https://www.rfc-editor.org/rfc/rfc7636#section-4.2>
fn challenge(verifier: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_rfc() {
        // RFC 7636, appendix B.
        let verifier = Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn states_are_long_and_never_the_same() {
        let shard = Shard::all().nth(63).unwrap();
        let (first, second) = (new_state(shard), new_state(shard));
        assert_eq!(Engine::shard_of_state(&first), Some(shard));
        assert_eq!(Engine::shard_of_state(""), None);
        assert_eq!(first.len(), 43);
        assert_ne!(first, second);
        assert_ne!(digest(&first), digest(&second));
    }
}
