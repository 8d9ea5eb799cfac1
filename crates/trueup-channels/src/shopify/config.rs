//! Shopify's settings and listing fields, parsed once.

use std::collections::BTreeMap;

use serde_json::Value;
use trueup_core::ListingKey;

use crate::credential::{ACCESS_TOKEN, REFRESH_TOKEN};
use crate::oauth;
use crate::port::{Secret, SettingError, Settings};
use crate::settings::{Reader, listing_fields};

/// The stable Admin API version that the documents in `wire.rs` are written for.
/// <https://shopify.dev/docs/api/usage/versioning>
pub(super) const API_VERSION_DEFAULT: &str = "2026-07";
/// `@idempotent` and `changeFromQuantity` came with 2026-01 and are required since 2026-04.
/// <https://shopify.dev/changelog/concurrency-protection-features>
const API_VERSION_MIN: &str = "2026-01";

/// The setting that says how an app without a token gets one.
const GRANT: &str = "grant";
const BY_CONSENT: &str = "authorization_code";

pub(super) const SETTING_NAMES: &[&str] = &[
    "shop",
    "defaultLocationId",
    "apiVersion",
    "grant",
    "credentials.accessToken",
    "credentials.accessTokenExpiresAt",
    "credentials.refreshToken",
    "credentials.refreshTokenExpiresAt",
    "credentials.clientId",
    "credentials.clientSecret",
    "credentials.webhookSecret",
    "credentials.webhookSecretPrevious",
];

/// How the Admin API is unlocked.
#[derive(Debug, Clone)]
pub(super) enum Access {
    /// A token that does not expire (`shpat_…` of a custom app).
    Token(Secret),
    /// The client-credentials grant of an app of the same organisation.
    Client { id: Secret, secret: Secret },
    /// Expiring offline tokens: a refresh token that is replaced with each use.
    Offline { id: Secret, secret: Secret },
}

/// The fields of a mapping's `listing`.
pub(super) const LISTING_NAMES: &[&str] = &["inventoryItemId", "variantId", "locationId"];

/// The settings of one Shopify connection.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// `acme.myshopify.com`.
    pub(super) host: String,
    /// `gid://shopify/Location/…`.
    pub(super) default_location: Option<String>,
    pub(super) api_version: String,
    pub(super) access: Access,
    /// The secrets that webhooks may be signed with, the current one first.
    pub(super) webhook_secrets: Vec<Secret>,
}

impl Config {
    pub(super) fn read(settings: &Settings) -> Result<Self, Vec<SettingError>> {
        let mut reader = Reader::new(settings);
        let shop = reader.required_text("shop");
        let host = shop_host(&shop);
        if host.is_none() && !shop.is_empty() {
            reader.fail("shop", "must be the shop's myshopify name, such as acme.myshopify.com");
        }
        let default_location = read_location(&mut reader);
        let api_version =
            reader.text("apiVersion").unwrap_or_else(|| API_VERSION_DEFAULT.to_owned());
        if !is_version(&api_version) {
            let detail = format!("must be a quarterly version, {API_VERSION_MIN} or later");
            reader.fail("apiVersion", detail);
        }
        let access = read_access(&mut reader);
        let webhook_secrets = read_webhook_secrets(&mut reader, access.as_ref());
        match (host, access) {
            (Some(host), Some(access)) => {
                let config = Self { host, default_location, api_version, access, webhook_secrets };
                reader.finish(config)
            }
            (None, _) | (_, None) => Err(reader.finish(()).err().unwrap_or_default()),
        }
    }
}

fn read_location(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text("defaultLocationId")?;
    let location = gid("Location", &text);
    if location.is_none() {
        reader.fail("defaultLocationId", "must be a location's number or gid");
    }
    location
}

fn read_access(reader: &mut Reader<'_>) -> Option<Access> {
    let token = reader.secret("accessToken");
    let id = reader.secret("clientId");
    let secret = reader.secret("clientSecret");
    let refresh = reader.secret("refreshToken");
    let by_consent = read_grant(reader);
    if refresh.is_some() || (by_consent && token.is_none()) {
        return match (id, secret) {
            (Some(id), Some(secret)) => Some(Access::Offline { id, secret }),
            (id, secret) => {
                for (name, given) in [("clientId", id), ("clientSecret", secret)] {
                    if given.is_none() {
                        let setting = format!("credentials.{name}");
                        reader.fail(&setting, "is required to ask for tokens");
                    }
                }
                None
            }
        };
    }
    match (token, id, secret) {
        // A clientSecret beside a token is only there to check webhooks with.
        (Some(token), _, _) => Some(Access::Token(token)),
        (None, Some(id), Some(secret)) => Some(Access::Client { id, secret }),
        (None, Some(_), None) => {
            reader.fail("credentials.clientSecret", "is required beside clientId");
            None
        }
        (None, None, Some(_)) => {
            reader.fail("credentials.clientId", "is required beside clientSecret");
            None
        }
        (None, None, None) => {
            reader.fail("credentials.accessToken", "or clientId and clientSecret are required");
            None
        }
    }
}

/// Reads how an app without a token gets one; returns whether by the merchant's consent.
fn read_grant(reader: &mut Reader<'_>) -> bool {
    match reader.text(GRANT).as_deref() {
        None | Some("client_credentials") => false,
        Some(BY_CONSENT) => true,
        Some(_) => {
            reader.fail(GRANT, "must be client_credentials or authorization_code");
            false
        }
    }
}

/// See [`crate::port::Kind::awaits_consent`].
pub(super) fn awaits_consent(settings: &Settings) -> bool {
    settings.fields.get(GRANT).and_then(Value::as_str).map(str::trim) == Some(BY_CONSENT)
        && !oauth::has_credential(settings, REFRESH_TOKEN)
        && !oauth::has_credential(settings, ACCESS_TOKEN)
}

/// Deliveries are signed with the app's client secret; after a rotation the old one is used
/// for up to an hour, so both are accepted.
/// <https://shopify.dev/docs/apps/build/webhooks/subscribe/https>
fn read_webhook_secrets(reader: &mut Reader<'_>, access: Option<&Access>) -> Vec<Secret> {
    let given = reader.secret("webhookSecret");
    let client = match access {
        Some(Access::Client { secret, .. } | Access::Offline { secret, .. }) => {
            Some(secret.clone())
        }
        Some(Access::Token(_)) => reader.secret("clientSecret"),
        None => None,
    };
    let previous = reader.secret("webhookSecretPrevious");
    given.or(client).into_iter().chain(previous).collect()
}

/// Returns `acme.myshopify.com` for `acme`, `acme.myshopify.com` or its URL.
fn shop_host(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_prefix("https://").unwrap_or(&lower).trim_end_matches('/');
    let name = bare.strip_suffix(".myshopify.com").unwrap_or(bare);
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first_is_legal = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    // 63 is DNS's limit of one label.
    (first_is_legal && name.len() <= 63 && name.chars().all(legal))
        .then(|| format!("{name}.myshopify.com"))
}

fn is_version(text: &str) -> bool {
    let Some((year, month)) = text.split_once('-') else { return false };
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    year.len() == 4
        && digits(year)
        && matches!(month, "01" | "04" | "07" | "10")
        && text >= API_VERSION_MIN
}

/// Returns the gid for a number or for the gid itself: webhooks say numbers, GraphQL says gids,
/// and the last path segment is the same.
pub(super) fn gid(kind: &str, text: &str) -> Option<String> {
    let prefix = format!("gid://shopify/{kind}/");
    let number = text.trim().strip_prefix(&prefix).unwrap_or(text.trim());
    // 20 digits hold every unsigned 64-bit number.
    let legal =
        !number.is_empty() && number.len() <= 20 && number.chars().all(|c| c.is_ascii_digit());
    legal.then(|| format!("{prefix}{number}"))
}

/// Returns the number at the end of a gid.
pub(super) fn gid_number(gid: &str) -> &str {
    gid.rsplit('/').next().unwrap_or(gid)
}

/// See [`crate::port::Kind::account`]: the shop.
pub(super) fn account(settings: &Settings) -> Option<String> {
    shop_host(&Reader::new(settings).text("shop")?)
}

/// See [`crate::port::Kind::listing`].
pub(super) fn listing(
    settings: &Settings,
    fields: BTreeMap<String, String>,
) -> Result<(ListingKey, BTreeMap<String, String>), Vec<SettingError>> {
    let mut errors = Vec::new();
    let mut fields = listing_fields(fields, LISTING_NAMES, &mut errors);
    if !fields.contains_key("locationId")
        && let Some(location) = Reader::new(settings).text("defaultLocationId")
    {
        fields.insert("locationId".to_owned(), location);
    }
    normalise(&mut fields, "inventoryItemId", "InventoryItem", &mut errors);
    normalise(&mut fields, "variantId", "ProductVariant", &mut errors);
    normalise(&mut fields, "locationId", "Location", &mut errors);
    for name in ["inventoryItemId", "locationId"] {
        if !fields.contains_key(name) && !errors.iter().any(|error| error.setting == name) {
            let detail = match name {
                "locationId" => "is required, here or as the connection's defaultLocationId",
                _ => "is required",
            };
            let error = SettingError { setting: name.to_owned(), detail: detail.to_owned() };
            errors.push(error);
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let key =
        format!("{}@{}", gid_number(&fields["inventoryItemId"]), gid_number(&fields["locationId"]));
    match ListingKey::new(&key) {
        Ok(key) => Ok((key, fields)),
        Err(error) => Err(vec![SettingError {
            setting: "inventoryItemId".to_owned(),
            detail: error.to_string(),
        }]),
    }
}

fn normalise(
    fields: &mut BTreeMap<String, String>,
    name: &str,
    kind: &str,
    errors: &mut Vec<SettingError>,
) {
    let Some(text) = fields.get(name) else { return };
    match gid(kind, text) {
        Some(gid) => {
            fields.insert(name.to_owned(), gid);
        }
        None => {
            fields.remove(name);
            let detail = format!("must be a number or gid://shopify/{kind}/…");
            errors.push(SettingError { setting: name.to_owned(), detail });
        }
    }
}

/// See [`crate::port::Kind::names_listing`].
///
/// Inventory notices name the item and the location; order lines name the variant only.
pub(super) fn names_listing(
    listing: &BTreeMap<String, String>,
    fields: &BTreeMap<String, String>,
) -> bool {
    let same = |name: &str, kind: &str| match (listing.get(name), fields.get(name)) {
        (Some(ours), Some(theirs)) => Some(gid(kind, ours) == gid(kind, theirs)),
        (Some(_) | None, _) => None,
    };
    if same("locationId", "Location") == Some(false) {
        return false;
    }
    same("inventoryItemId", "InventoryItem")
        .or_else(|| same("variantId", "ProductVariant"))
        .unwrap_or(false)
}
