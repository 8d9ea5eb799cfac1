//! Amazon's settings and listing fields, parsed once.

use std::collections::BTreeMap;

use trueup_core::ListingKey;

use crate::credential::REFRESH_TOKEN;
use crate::oauth;
use crate::port::{Secret, SettingError, Settings};
use crate::settings::{Reader, listing_fields};

/// A feed names at most this many marketplaces (feeds model, `CreateFeedSpecification`).
const MARKETPLACES_MAX: usize = 25;

/// The setting that names the seller.
pub(super) const SELLER_ID: &str = "sellerId";
/// The longest seller id, in bytes; they are about 14.
const SELLER_ID_BYTES_MAX: usize = 64;

pub(super) const SETTING_NAMES: &[&str] = &[
    SELLER_ID,
    "marketplaceIds",
    "region",
    "applicationId",
    "draftApplication",
    // A setting of every kind; here nothing is looked up by it.
    "defaultLocationId",
    "credentials.clientId",
    "credentials.clientSecret",
    "credentials.refreshToken",
    "credentials.refreshTokenExpiresAt",
    "credentials.webhookSecret",
    "credentials.webhookSecretPrevious",
    "queueUrl",
    "awsRegion",
    "credentials.awsAccessKeyId",
    "credentials.awsSecretAccessKey",
    "credentials.awsSessionToken",
    "eventBridgeAccountId",
    "eventBridgeRegion",
];

/// The fields of a mapping's `listing`.
pub(super) const LISTING_NAMES: &[&str] = &["sellerSku", "asin"];

/// The settings of one seller account in one region.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Empty until the seller has given its consent, where it is told by that only.
    pub(super) seller_id: String,
    pub(super) marketplace_ids: Vec<String>,
    /// `https://sellingpartnerapi-na.amazon.com`.
    pub(super) host: &'static str,
    pub(super) client_id: Secret,
    pub(super) client_secret: Secret,
    /// `amzn1.sp.solution.…`, whose consent page is asked.
    pub(super) application_id: Option<String>,
    /// Whether the application is a draft, which its own seller may try out.
    pub(super) is_draft: bool,
    /// What a forwarder of notifications sends along, one of them; two while the secret is being
    /// changed. See `webhook.rs`.
    pub(super) webhook_secrets: Vec<Secret>,
    /// Where notifications are received from; see `queue.rs`.
    pub(super) queue: Option<QueueAddress>,
    /// Where notifications of changed quantities are sent to.
    pub(super) event_bus: Option<EventBus>,
}

/// The seller's own queue and what opens it.
#[derive(Debug, Clone)]
pub(super) struct QueueAddress {
    /// `https://sqs.eu-west-1.amazonaws.com/123456789012/trueup`.
    pub(super) url: String,
    /// Where requests go: scheme and host of the URL.
    pub(super) endpoint: String,
    /// `eu-west-1`.
    pub(super) region: String,
    /// `arn:aws:sqs:eu-west-1:123456789012:trueup`.
    pub(super) arn: String,
    pub(super) keys: AwsKeys,
}

/// An access key of the seller's AWS account.
#[derive(Debug, Clone)]
pub(super) struct AwsKeys {
    pub(super) access_key_id: Secret,
    pub(super) secret_access_key: Secret,
    /// Of temporary keys.
    pub(super) session_token: Option<Secret>,
}

/// An event bus of the seller's AWS account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventBus {
    /// Twelve digits.
    pub(super) account_id: String,
    /// `eu-west-1`.
    pub(super) region: String,
}

impl Config {
    pub(super) fn read(settings: &Settings) -> Result<Self, Vec<SettingError>> {
        let mut reader = Reader::new(settings);
        let application_id = reader.text("applicationId");
        let has_page = application_id.is_some();
        // Who gives the consent says who it is; nothing is sent before.
        let seller_id = if has_page && !oauth::has_credential(settings, REFRESH_TOKEN) {
            reader.text(SELLER_ID).unwrap_or_default()
        } else {
            reader.required_text(SELLER_ID)
        };
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
            webhook_secrets: ["webhookSecret", "webhookSecretPrevious"]
                .into_iter()
                .filter_map(|name| reader.secret(name))
                .collect(),
            queue: queue(&mut reader),
            event_bus: event_bus(&mut reader),
            application_id,
            is_draft: reader.flag("draftApplication"),
        };
        // The newest is asked of the caller.
        oauth::require_refresh_token(&mut reader, "applicationId", has_page);
        reader.finish(config)
    }

    /// Returns the marketplace in whose Seller Central the seller gives its consent.
    pub(super) fn home_marketplace(&self) -> &str {
        self.marketplace_ids.first().map_or("", String::as_str)
    }
}

/// Returns whether a text can be a seller's id: letters and digits.
pub(super) fn is_seller_id(text: &str) -> bool {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric());
    is_plain && !text.is_empty() && text.len() <= SELLER_ID_BYTES_MAX
}

/// Reads the queue; its keys are needed only with it.
fn queue(reader: &mut Reader<'_>) -> Option<QueueAddress> {
    let text = reader.text("queueUrl")?;
    let keys = AwsKeys {
        access_key_id: reader.required_secret("awsAccessKeyId"),
        secret_access_key: reader.required_secret("awsSecretAccessKey"),
        session_token: reader.secret("awsSessionToken"),
    };
    let known = reader.text("awsRegion");
    let Some((url, account, name)) = queue_path(&text) else {
        let detail = "must be the URL of a standard SQS queue, such as \
                      https://sqs.eu-west-1.amazonaws.com/123456789012/trueup";
        reader.fail("queueUrl", detail);
        return None;
    };
    let host = url.host_str().unwrap_or_default();
    let Some(region) = known.or_else(|| region_of(host)).filter(|region| is_region(region)) else {
        reader.fail("awsRegion", "is required where the queue's URL does not name it");
        return None;
    };
    let arn = format!("arn:aws:sqs:{region}:{account}:{name}");
    let endpoint = format!("{}/", url.origin().ascii_serialization());
    Some(QueueAddress { url: text, endpoint, region, arn, keys })
}

/// Takes a queue's URL apart. Amazon does not send to FIFO queues.
/// <https://developer-docs.amazon.com/sp-api/docs/set-up-notifications-with-amazon-sqs>
fn queue_path(text: &str) -> Option<(url::Url, String, String)> {
    let url = url::Url::parse(text).ok()?;
    let (account, name) = url.path().strip_prefix('/')?.split_once('/')?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_queue = is_account(account) && !name.is_empty() && name.chars().all(legal);
    let is_plain = matches!(url.scheme(), "http" | "https") && url.query().is_none();
    let (account, name) = (account.to_owned(), name.to_owned());
    (is_queue && is_plain && url.has_host()).then_some((url, account, name))
}

/// Reads the region out of `sqs.<region>.amazonaws.com` or `<region>.queue.amazonaws.com`.
/// <https://docs.aws.amazon.com/general/latest/gr/sqs-service.html>
fn region_of(host: &str) -> Option<String> {
    let name = host.strip_suffix(".amazonaws.com")?;
    let region = name.strip_prefix("sqs.").or_else(|| name.strip_suffix(".queue"))?;
    Some(region.to_owned())
}

fn event_bus(reader: &mut Reader<'_>) -> Option<EventBus> {
    let account_id = reader.text("eventBridgeAccountId");
    let region = reader.text("eventBridgeRegion");
    if account_id.is_none() && region.is_none() {
        return None;
    }
    let bus =
        EventBus { account_id: account_id.unwrap_or_default(), region: region.unwrap_or_default() };
    if !is_account(&bus.account_id) {
        reader.fail("eventBridgeAccountId", "must be the twelve digits of an AWS account");
    }
    if !is_region(&bus.region) {
        reader.fail("eventBridgeRegion", "must be a region such as eu-west-1");
    }
    Some(bus)
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.chars().all(|c| c.is_ascii_digit())
}

fn is_region(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Returns the Seller Central site of a marketplace: sellers consent where they sell.
/// <https://developer-docs.amazon.com/sp-api/docs/seller-central-urls>
pub(super) fn seller_central(marketplace_id: &str) -> &'static str {
    match marketplace_id {
        "A2EUQ1WTGCTBG2" => "https://sellercentral.amazon.ca",
        "A1AM78C64UM0Y8" => "https://sellercentral.amazon.com.mx",
        "A2Q3Y263D00KWC" => "https://sellercentral.amazon.com.br",
        "A28R8C7NBKEWEA" => "https://sellercentral.amazon.ie",
        "A1RKKUPIHCS9HS" | "A1F83G8C2ARO7P" | "A13V1IB3VIYZZH" | "A1PA6795UKMFR9"
        | "APJ6JRA9NG5V4" => "https://sellercentral-europe.amazon.com",
        "AMEN7PMS3EDWL" => "https://sellercentral.amazon.com.be",
        "A1805IZSGTT6HS" => "https://sellercentral.amazon.nl",
        "A2NODRKZP88ZB9" => "https://sellercentral.amazon.se",
        "AE08WJ6YKNBMC" => "https://sellercentral.amazon.co.za",
        "A1C3SOZRARQ6R3" => "https://sellercentral.amazon.pl",
        "ARBP9OOSHTCHU" => "https://sellercentral.amazon.eg",
        "A33AVAJ2PDY3EV" => "https://sellercentral.amazon.com.tr",
        "A17E79C6D8DWNP" => "https://sellercentral.amazon.sa",
        "A2VIGQ35RCS4UG" => "https://sellercentral.amazon.ae",
        "A21TJRUUN4KGV" => "https://sellercentral.amazon.in",
        "A19VAU5U5O7RUS" => "https://sellercentral.amazon.sg",
        "A39IBJ37TRP1C6" => "https://sellercentral.amazon.com.au",
        "A1VC38T7YXB528" => "https://sellercentral.amazon.co.jp",
        _ => "https://sellercentral.amazon.com",
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

/// See [`crate::port::Kind::account`]: a seller in a region, whatever the marketplaces.
pub(super) fn account(settings: &Settings) -> Option<String> {
    let mut reader = Reader::new(settings);
    let (region, seller) = (reader.text("region")?, reader.text(SELLER_ID)?);
    Some(format!("{}/{seller}", region.to_ascii_lowercase()))
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
