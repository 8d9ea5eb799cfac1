//! Amazon's settings and listing fields, parsed once.

use std::collections::BTreeMap;

use trueup_core::ListingKey;

use crate::port::{Secret, SettingError, Settings};
use crate::settings::{Reader, listing_fields};

/// A feed names at most this many marketplaces (feeds model, `CreateFeedSpecification`).
const MARKETPLACES_MAX: usize = 25;

pub(super) const SETTING_NAMES: &[&str] = &[
    "sellerId",
    "marketplaceIds",
    "region",
    // A setting of every kind; here nothing is looked up by it.
    "defaultLocationId",
    "credentials.clientId",
    "credentials.clientSecret",
    "credentials.refreshToken",
    "credentials.refreshTokenExpiresAt",
    "credentials.webhookSecret",
];

/// The fields of a mapping's `listing`.
pub(super) const LISTING_NAMES: &[&str] = &["sellerSku", "asin"];

/// The settings of one seller account in one region.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) seller_id: String,
    pub(super) marketplace_ids: Vec<String>,
    /// `https://sellingpartnerapi-na.amazon.com`.
    pub(super) host: &'static str,
    pub(super) client_id: Secret,
    pub(super) client_secret: Secret,
    /// What a forwarder of notifications sends along; see `webhook.rs`.
    pub(super) webhook_secret: Option<Secret>,
}

impl Config {
    pub(super) fn read(settings: &Settings) -> Result<Self, Vec<SettingError>> {
        let mut reader = Reader::new(settings);
        let seller_id = reader.required_text("sellerId");
        let marketplace_ids = reader.required_texts("marketplaceIds");
        let illegal = |text: &String| !text.chars().all(|c| c.is_ascii_alphanumeric());
        if marketplace_ids.iter().any(illegal) {
            reader.fail("marketplaceIds", "must be ids such as ATVPDKIKX0DER");
        }
        if marketplace_ids.len() > MARKETPLACES_MAX {
            let detail = format!("must have at most {MARKETPLACES_MAX} entries");
            reader.fail("marketplaceIds", detail);
        }
        let region = reader.required_text("region");
        let host = host(&region);
        if host.is_none() && !region.is_empty() {
            reader.fail("region", "must be na, eu or fe");
        }
        let config = Self {
            seller_id,
            marketplace_ids,
            host: host.unwrap_or_default(),
            client_id: reader.required_secret("clientId"),
            client_secret: reader.required_secret("clientSecret"),
            webhook_secret: reader.secret("webhookSecret"),
        };
        // The newest is asked of the caller.
        reader.required_secret("refreshToken");
        reader.finish(config)
    }

    /// Returns the marketplace that FBA stock is read for: one call knows one only.
    pub(super) fn home_marketplace(&self) -> &str {
        self.marketplace_ids.first().map_or("", String::as_str)
    }
}

/// <https://developer-docs.amazon.com/sp-api/docs/sp-api-endpoints>
fn host(region: &str) -> Option<&'static str> {
    match region.to_ascii_lowercase().as_str() {
        "na" => Some("https://sellingpartnerapi-na.amazon.com"),
        "eu" => Some("https://sellingpartnerapi-eu.amazon.com"),
        "fe" => Some("https://sellingpartnerapi-fe.amazon.com"),
        _ => None,
    }
}

/// See [`crate::port::Kind::listing`].
///
/// The key is the seller SKU alone: a seller has one quantity per SKU in a region, whatever
/// marketplaces show it.
pub(super) fn listing(
    fields: BTreeMap<String, String>,
) -> Result<(ListingKey, BTreeMap<String, String>), Vec<SettingError>> {
    let mut errors = Vec::new();
    let fields = listing_fields(fields, LISTING_NAMES, &mut errors);
    let mut fail = |detail: String| {
        errors.push(SettingError { setting: "sellerSku".to_owned(), detail });
    };
    let key = match fields.get("sellerSku").map(|sku| ListingKey::new(sku)) {
        Some(Ok(key)) => Some(key),
        Some(Err(error)) => {
            fail(error.to_string());
            None
        }
        None => {
            fail("is required".to_owned());
            None
        }
    };
    match key {
        Some(key) if errors.is_empty() => Ok((key, fields)),
        Some(_) | None => Err(errors),
    }
}

/// See [`crate::port::Kind::names_listing`].
pub(super) fn names_listing(
    listing: &BTreeMap<String, String>,
    fields: &BTreeMap<String, String>,
) -> bool {
    match (listing.get("sellerSku"), fields.get("sellerSku")) {
        (Some(ours), Some(theirs)) => ours == theirs,
        (Some(_) | None, _) => false,
    }
}
