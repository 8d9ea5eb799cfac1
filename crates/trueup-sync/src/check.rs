//! A channel that asks, while a shopper pays, whether there is enough (eBay's Real-time
//! Inventory Check).
//!
//! The answer is what the listing should show by the ledger as it stands, whether or not the
//! channel has been told yet. It comes within [`CHECK_TIME_MAX`]: where the store is slower, the
//! answer is what was last told, and nothing that is waited for.
//! <https://developer.ebay.com/api-docs/sell/static/inventory/realtime-inventory-check.html>

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use trueup_channels::Secret;
use trueup_core::{ChannelId, ListingKey, Org, Timestamp};
use trueup_store::{ListingQuery, ListingView};

use crate::engine::{CheckAnswer, CheckCredential, EngineError};
use crate::link::Link;
use crate::plan;
use crate::seal::Purpose;
use crate::shared::Shared;

/// The most SKUs in one check.
pub const CHECK_ITEMS_MAX: usize = 1_000;
/// How long a check may look into the store. eBay wants its answer within 500 ms.
pub const CHECK_TIME_MAX: Duration = Duration::from_millis(300);
/// How long a token for checks is good, in seconds.
pub const CHECK_TOKEN_SECONDS: u64 = 3_600;
/// The most numbers that a connection remembers to have told.
pub(crate) const TOLD_MAX: usize = 200_000;

/// The credentials of a connection that checks are let in by.
const USER: &str = "checkUser";
const PASSWORD: &str = "checkPassword";

/// What was told of listings, for answers that cannot wait.
pub(crate) type Told = BTreeMap<ListingKey, (i64, Timestamp)>;

/// Returns whether a connection lets checks in.
pub(crate) fn is_open(link: &Link) -> bool {
    let credentials = &link.settings.credentials;
    credentials.contains_key(USER) && credentials.contains_key(PASSWORD)
}

/// Checks user and password of a connection, in constant time.
fn knows(link: &Link, user: &str, password: &str) -> bool {
    let credentials = &link.settings.credentials;
    let (Some(own_user), Some(own)) = (credentials.get(USER), credentials.get(PASSWORD)) else {
        return false;
    };
    let same = |ours: &str, theirs: &str| digest(ours).ct_eq(&digest(theirs));
    bool::from(same(own_user.expose(), user) & same(own.expose(), password))
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

impl Shared {
    /// Makes a token for a connection's checks; `None` where user or password are wrong.
    pub(crate) fn check_token(&self, link: &Link, user: &str, password: &str) -> Option<Secret> {
        if !knows(link, user, password) {
            return None;
        }
        let seconds = i64::try_from(CHECK_TOKEN_SECONDS).unwrap_or(i64::MAX);
        let good_until = self.now().plus_millis(seconds.saturating_mul(1_000));
        let text = token_text(link, good_until, password);
        let sealed = self.sealer.seal(Purpose::CheckToken, text.as_bytes());
        Some(Secret::new(URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Returns whether a credential lets a check in.
    pub(crate) fn may_check(&self, link: &Link, credential: CheckCredential<'_>) -> bool {
        match credential {
            CheckCredential::Password { user, password } => knows(link, user, password),
            CheckCredential::Token(token) => self.is_token_good(link, token).unwrap_or(false),
        }
    }

    fn is_token_good(&self, link: &Link, token: &str) -> Option<bool> {
        let password = link.settings.credentials.get(PASSWORD)?;
        let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        let text = self.sealer.open(Purpose::CheckToken, &sealed).ok()?;
        let text = String::from_utf8(text).ok()?;
        let good_until = Timestamp::from_micros(text.split('\n').next()?.parse().ok()?);
        // A token of another connection, or from before the password changed, is none.
        let is_ours = text == token_text(link, good_until, password.expose());
        Some(is_ours && self.now() < good_until)
    }

    /// Returns what there is of these SKUs, as the channel names them, in their order.
    pub(crate) async fn check(&self, link: &Link, skus: &[String]) -> Vec<CheckAnswer> {
        let keys: Vec<Option<ListingKey>> = skus.iter().map(|sku| key_of(link, sku)).collect();
        let query = ListingQuery {
            channel: Some(link.id.clone()),
            keys: Some(keys.iter().flatten().cloned().collect()),
            limit: CHECK_ITEMS_MAX,
            ..ListingQuery::default()
        };
        let looked_up =
            tokio::time::timeout(CHECK_TIME_MAX, self.store.listings(&link.org, query)).await;
        let now = self.now();
        let answers: Vec<CheckAnswer> = match looked_up {
            Ok(Ok(page)) => {
                let quantity_max = link.channel.capabilities().quantity_max;
                let by_key: BTreeMap<&ListingKey, &ListingView> =
                    page.items.iter().map(|view| (&view.mapping.key, view)).collect();
                let answer = |key: &Option<ListingKey>| {
                    let view = key.as_ref().and_then(|key| by_key.get(key));
                    let number = view.and_then(|view| plan::expected(view, quantity_max));
                    if let (Some(key), Some(number)) = (key, number) {
                        link.note_told(key, number, now);
                    }
                    answer_of(number.map(|number| (number, now)), now)
                };
                keys.iter().map(answer).collect()
            }
            Ok(Err(_)) | Err(_) => {
                let (org, channel) = (&link.org, &link.id);
                tracing::warn!(%org, %channel, "a check is answered with what was last told");
                let told = link.told.lock();
                let last = |key: &Option<ListingKey>| {
                    answer_of(key.as_ref().and_then(|key| told.get(key)).copied(), now)
                };
                keys.iter().map(last).collect()
            }
        };
        answers
    }
}

/// Says what a number means for a shopper: what is not known is not there.
fn answer_of(known: Option<(i64, Timestamp)>, now: Timestamp) -> CheckAnswer {
    let (number, at) = known.unwrap_or((0, now));
    CheckAnswer { is_known: known.is_some(), quantity: u64::try_from(number).unwrap_or(0), at }
}

fn key_of(link: &Link, sku: &str) -> Option<ListingKey> {
    let fields = BTreeMap::from([("sku".to_owned(), sku.to_owned())]);
    link.kind.listing(&link.settings, fields).ok().map(|(key, _)| key)
}

fn token_text(link: &Link, good_until: Timestamp, password: &str) -> String {
    let password = hex::encode(digest(password));
    format!("{}\n{}\n{}\n{password}", good_until.micros(), link.org, link.id)
}

impl crate::engine::Engine {
    fn check_link(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<std::sync::Arc<Link>, EngineError> {
        let link = self.shared().link(org, channel).filter(|link| is_open(link));
        link.ok_or_else(|| EngineError::ChannelNotFound(channel.clone()))
    }

    /// Makes a token for the checks of a connection, good for [`CHECK_TOKEN_SECONDS`]; `None`
    /// where user or password are wrong.
    #[must_use]
    pub fn check_token(
        &self,
        org: &Org,
        channel: &ChannelId,
        user: &str,
        password: &str,
    ) -> Option<Secret> {
        let link = self.check_link(org, channel).ok()?;
        self.shared().check_token(&link, user, password)
    }

    /// Returns whether a credential lets checks of a connection in; no store is asked.
    #[must_use]
    pub fn may_check(
        &self,
        org: &Org,
        channel: &ChannelId,
        credential: CheckCredential<'_>,
    ) -> bool {
        self.check_link(org, channel).is_ok_and(|link| self.shared().may_check(&link, credential))
    }

    /// Returns what there is of these SKUs, as the channel names them, in their order; within
    /// [`CHECK_TIME_MAX`]. At most [`CHECK_ITEMS_MAX`] of them.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`].
    pub async fn check_inventory(
        &self,
        org: &Org,
        channel: &ChannelId,
        skus: &[String],
    ) -> Result<Vec<CheckAnswer>, EngineError> {
        let link = self.check_link(org, channel)?;
        Ok(self.shared().check(&link, skus.get(..CHECK_ITEMS_MAX).unwrap_or(skus)).await)
    }
}
