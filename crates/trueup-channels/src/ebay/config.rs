//! eBay's settings and listing fields, parsed once.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use trueup_core::ListingKey;

use crate::oauth;
use crate::port::{Secret, SettingError, Settings};
use crate::settings::{Reader, listing_fields};

/// `bulk_update_price_quantity` takes "up to 25 inventory items"; its operation text says one.
/// `bulkItemsMax` goes down to 1 where the account meets the latter.
/// <https://developer.ebay.com/api-docs/sell/static/inventory/bulk-updates.html>
pub(super) const BULK_ITEMS_MAX: usize = 25;

pub(super) const SETTING_NAMES: &[&str] = &[
    "marketplaceId",
    "bulkItemsMax",
    "ruName",
    "defaultLocationId",
    "credentials.clientId",
    "credentials.clientSecret",
    "credentials.refreshToken",
    "credentials.refreshTokenExpiresAt",
    "credentials.verificationToken",
    "credentials.checkUser",
    "credentials.checkPassword",
];

/// The listing field that says what became of the offer's own quantity, and its one value: the
/// offer shows what the inventory item has, so that reading the item is enough.
pub(super) const OFFER_QUANTITY: &str = "offerQuantity";
pub(super) const OFFER_SHARES: &str = "shared";
/// The listing field that names the SKU's offers on other marketplaces, with commas between.
pub(super) const OTHER_OFFERS: &str = "otherOfferIds";
/// The listing field that names eBay's listing of the offer, which variations have in common.
pub(super) const LISTING_ID: &str = "listingId";

/// The fields of a mapping's `listing`.
pub(super) const LISTING_NAMES: &[&str] =
    &["sku", "offerId", OTHER_OFFERS, LISTING_ID, "itemId", "variationId", OFFER_QUANTITY];

/// <https://developer.ebay.com/api-docs/sell/inventory/types/slr:MarketplaceEnum>
const MARKETPLACES: [&str; 41] = [
    "EBAY_AT",
    "EBAY_AU",
    "EBAY_BE",
    "EBAY_CA",
    "EBAY_CH",
    "EBAY_CN",
    "EBAY_CZ",
    "EBAY_DE",
    "EBAY_DK",
    "EBAY_ES",
    "EBAY_FI",
    "EBAY_FR",
    "EBAY_GB",
    "EBAY_GR",
    "EBAY_HALF_US",
    "EBAY_HK",
    "EBAY_HU",
    "EBAY_ID",
    "EBAY_IE",
    "EBAY_IL",
    "EBAY_IN",
    "EBAY_IT",
    "EBAY_JP",
    "EBAY_MOTORS_US",
    "EBAY_MY",
    "EBAY_NL",
    "EBAY_NO",
    "EBAY_NZ",
    "EBAY_PE",
    "EBAY_PH",
    "EBAY_PL",
    "EBAY_PR",
    "EBAY_PT",
    "EBAY_RU",
    "EBAY_SE",
    "EBAY_SG",
    "EBAY_TH",
    "EBAY_TW",
    "EBAY_US",
    "EBAY_VN",
    "EBAY_ZA",
];

/// The settings of one eBay account.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// `EBAY_US`.
    pub(super) marketplace_id: String,
    /// A location's `merchantLocationKey`, checked when the connection is made.
    pub(super) location: Option<String>,
    pub(super) bulk_items_max: usize,
    pub(super) client_id: Secret,
    pub(super) client_secret: Secret,
    /// eBay's name for the address that merchants are sent back to after their consent.
    pub(super) ru_name: Option<String>,
    /// What eBay's endpoint validation is answered with.
    pub(super) verification_token: Option<Secret>,
}

impl Config {
    pub(super) fn read(settings: &Settings) -> Result<Self, Vec<SettingError>> {
        let mut reader = Reader::new(settings);
        let marketplace_id = reader.required_text("marketplaceId");
        if !marketplace_id.is_empty() && !MARKETPLACES.contains(&marketplace_id.as_str()) {
            let known = MARKETPLACES.join(", ");
            reader.fail("marketplaceId", format!("must be one of eBay's: {known}"));
        }
        let bulk_items_max = match reader.text("bulkItemsMax") {
            None => BULK_ITEMS_MAX,
            Some(text) => match text.parse() {
                Ok(items) if (1..=BULK_ITEMS_MAX).contains(&items) => items,
                Ok(_) | Err(_) => {
                    reader.fail("bulkItemsMax", format!("must be 1 to {BULK_ITEMS_MAX}"));
                    BULK_ITEMS_MAX
                }
            },
        };
        let verification_token = reader.secret("verificationToken");
        if verification_token.as_ref().is_some_and(|token| !is_verification_token(token)) {
            let detail = "must be 32 to 80 letters, digits, _ or -";
            reader.fail("credentials.verificationToken", detail);
        }
        check_credentials(&mut reader);
        let config = Self {
            marketplace_id,
            location: reader.text("defaultLocationId"),
            bulk_items_max,
            client_id: reader.required_secret("clientId"),
            client_secret: reader.required_secret("clientSecret"),
            ru_name: reader.text("ruName"),
            verification_token,
        };
        let has_page = config.ru_name.is_some();
        // The newest is asked of the caller.
        oauth::require_refresh_token(&mut reader, "ruName", has_page);
        reader.finish(config)
    }

    /// Returns the site number that the Trading API wants.
    /// <https://developer.ebay.com/devzone/merchandising/docs/concepts/siteidtoglobalid.html>
    pub(super) fn trading_site(&self) -> &'static str {
        match self.marketplace_id.as_str() {
            "EBAY_CA" => "2",
            "EBAY_GB" => "3",
            "EBAY_AU" => "15",
            "EBAY_AT" => "16",
            "EBAY_FR" => "71",
            "EBAY_DE" => "77",
            "EBAY_IT" => "101",
            "EBAY_NL" => "146",
            "EBAY_ES" => "186",
            "EBAY_CH" => "193",
            "EBAY_HK" => "201",
            "EBAY_IE" => "205",
            "EBAY_MY" => "207",
            "EBAY_PH" => "211",
            "EBAY_PL" => "212",
            "EBAY_SG" => "216",
            // EBAY_US, and where we know none: the number chooses the language of messages.
            _ => "0",
        }
    }
}

/// The shortest password that checks are let in by.
const CHECK_PASSWORD_BYTES_MIN: usize = 16;

/// User and password of the Real-time Inventory Check are ours to choose; the server lets eBay in
/// by them, and this connector only says whether they can be sent.
fn check_credentials(reader: &mut Reader<'_>) {
    let (user, password) = (reader.secret("checkUser"), reader.secret("checkPassword"));
    let visible = |secret: &Secret| secret.expose().bytes().all(|b| b.is_ascii_graphic());
    if user.as_ref().is_some_and(|user| !visible(user) || user.expose().contains(':')) {
        reader.fail("credentials.checkUser", "must be visible ASCII without a colon");
    }
    let is_long = |secret: &Secret| secret.expose().len() >= CHECK_PASSWORD_BYTES_MIN;
    if password.as_ref().is_some_and(|password| !visible(password) || !is_long(password)) {
        let detail =
            format!("must be at least {CHECK_PASSWORD_BYTES_MIN} visible ASCII characters");
        reader.fail("credentials.checkPassword", detail);
    }
    match (user, password) {
        (Some(_), None) => reader.fail("credentials.checkPassword", "is required with checkUser"),
        (None, Some(_)) => reader.fail("credentials.checkUser", "is required with checkPassword"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// <https://developer.ebay.com/api-docs/commerce/notification/overview.html>, createDestination.
fn is_verification_token(token: &Secret) -> bool {
    let text = token.expose();
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (32..=80).contains(&text.len()) && text.chars().all(legal)
}

/// How many bytes of a digest tell accounts apart.
const ACCOUNT_BYTES: usize = 8;

/// See [`crate::port::Kind::account`].
///
/// No setting names the account; connections that were given one refresh token are of one. A
/// part of its digest tells nothing of the token.
pub(super) fn account(settings: &Settings) -> Option<String> {
    let token = Reader::new(settings).secret("refreshToken")?;
    let digest = Sha256::digest(token.expose().as_bytes());
    Some(digest.iter().take(ACCOUNT_BYTES).map(|byte| format!("{byte:02x}")).collect())
}

/// See [`crate::port::Kind::scope`].
///
/// The offers of a SKU on several marketplaces share the inventory item's quantity, "the total
/// quantity of the item that is available for sale across all marketplaces": told by two
/// connections, the later one would overwrite the other's. So the SKU is one scope, and who
/// tells it tells all of its offers. A Trading listing is one, wherever it is seen.
/// <https://developer.ebay.com/api-docs/sell/static/inventory/bulk-updates.html>
pub(super) fn scope(settings: &Settings, key: &ListingKey) -> Option<String> {
    Some(format!("{}/{key}", account(settings)?))
}

/// See [`crate::port::Kind::listing`].
///
/// All offers of a SKU share the quantity of its inventory item, so the SKU is the key where
/// there is one. A Trading listing is the item number, with a SKU where it has variations.
pub(super) fn listing(
    fields: BTreeMap<String, String>,
) -> Result<(ListingKey, BTreeMap<String, String>), Vec<SettingError>> {
    let mut errors = Vec::new();
    let fields = listing_fields(fields, LISTING_NAMES, &mut errors);
    let mut fail = |setting: &str, detail: String| {
        errors.push(SettingError { setting: setting.to_owned(), detail });
    };
    for name in ["offerId", LISTING_ID, "itemId", "variationId"] {
        if fields.get(name).is_some_and(|id| !id.chars().all(|c| c.is_ascii_digit())) {
            fail(name, "must be a number".to_owned());
        }
    }
    if fields.contains_key("variationId") && !fields.contains_key("itemId") {
        fail("variationId", "needs the itemId of the listing that it is of".to_owned());
    }
    let is_number = |id: &str| !id.is_empty() && id.chars().all(|c| c.is_ascii_digit());
    if fields.get(OTHER_OFFERS).is_some_and(|ids| !ids.split(',').all(is_number)) {
        fail(OTHER_OFFERS, "must be numbers with commas between".to_owned());
    }
    if fields.get(OFFER_QUANTITY).is_some_and(|word| word != OFFER_SHARES) {
        fail(OFFER_QUANTITY, format!("must be {OFFER_SHARES}, or left out"));
    }
    let (sku, offer, item) = (fields.get("sku"), fields.get("offerId"), fields.get("itemId"));
    let key = match (item, sku, offer) {
        (Some(_), _, Some(_)) => {
            // What one API made, the other cannot revise.
            fail("itemId", "and offerId name listings of two APIs: give one of them".to_owned());
            None
        }
        (Some(item), Some(sku), None) => Some(format!("item:{item}/{sku}")),
        (Some(item), None, None) => Some(format!("item:{item}")),
        (None, Some(sku), _) => Some(format!("sku:{sku}")),
        (None, None, Some(offer)) => Some(format!("offer:{offer}")),
        (None, None, None) => {
            fail("sku", "or offerId or itemId is required".to_owned());
            None
        }
    };
    let key = key.and_then(|key| match ListingKey::new(&key) {
        Ok(key) => Some(key),
        Err(error) => {
            fail("sku", error.to_string());
            None
        }
    });
    match key {
        Some(key) if errors.is_empty() => Ok((key, fields)),
        Some(_) | None => Err(errors),
    }
}

/// See [`crate::port::Kind::names_listing`].
///
/// Orders name the item number and, where there is one, the SKU; of a variation without a SKU,
/// its number.
pub(super) fn names_listing(
    listing: &BTreeMap<String, String>,
    fields: &BTreeMap<String, String>,
) -> bool {
    let same = |name: &str| match (listing.get(name), fields.get(name)) {
        (Some(ours), Some(theirs)) => Some(ours == theirs),
        (Some(_) | None, _) => None,
    };
    // One item number holds a listing for each of its variations: of which of them a notice is
    // that names none by SKU, only the variation's number says.
    let is_one_of_many = listing.contains_key("sku") && fields.contains_key("variationId");
    match (same("itemId"), same("sku"), same("offerId")) {
        (Some(item), Some(sku), _) => item && sku,
        (Some(item), None, _) => item && same("variationId").unwrap_or(!is_one_of_many),
        (None, Some(sku), _) => sku && !listing.contains_key("itemId"),
        (None, None, offer) => offer.unwrap_or(false),
    }
}
