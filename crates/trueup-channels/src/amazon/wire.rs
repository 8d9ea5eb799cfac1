//! The Selling Partner API's shapes, as Amazon spells them; pure builders and parsers.
//!
//! From the models at <https://github.com/amzn/selling-partner-api-models>: Listings Items
//! 2021-08-01, Feeds 2021-06-30, FBA Inventory v1, Orders 2026-01-01.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::{Deserialize, Serialize, Serializer};

use super::config::Config;
use super::error::classify_issue;
use crate::exchange::{clip, encode, encode_list, format_time, parse_json, parse_time};
use crate::port::{
    BulkItem, CatalogueEntry, ChannelError, ChannelErrorKind, LineState, OrderLine, OrderNotice,
    Page, PushOutcome, Reading,
};
use trueup_core::Timestamp;

/// `identifiers` of searchListingsItems (and its `pageSize`).
pub(super) const IDENTIFIERS_MAX: usize = 20;
/// `sellerSkus` of getInventorySummaries.
pub(super) const FBA_SKUS_MAX: usize = 50;
/// Messages in one JSON_LISTINGS_FEED since 6 May 2025.
/// <https://developer-docs.amazon.com/sp-api/changelog>
pub(super) const FEED_MESSAGES_MAX: usize = 25_000;
const LISTINGS_FEED: &str = "JSON_LISTINGS_FEED";
/// The most bytes that a processing report may unfold to.
const REPORT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The channel code of what the merchant ships; `AMAZON_…` is what Amazon ships.
const MERCHANT: &str = "DEFAULT";

/// One JSON Patch operation of Listings Items.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PatchOperation {
    op: &'static str,
    path: &'static str,
    value: [FulfillmentAvailabilityValue; 1],
}

#[derive(Debug, Clone, Serialize)]
struct FulfillmentAvailabilityValue {
    fulfillment_channel_code: &'static str,
    quantity: u64,
}

/// `merge` keeps `lead_time_to_ship_max_days` and `restock_date`, which `replace` wipes.
/// <https://github.com/amzn/selling-partner-api-models/issues/4406>
/// <https://github.com/amzn/selling-partner-api-models/issues/4841>
fn quantity_patch(quantity: u64) -> PatchOperation {
    PatchOperation {
        op: "merge",
        path: "/attributes/fulfillment_availability",
        value: [FulfillmentAvailabilityValue { fulfillment_channel_code: MERCHANT, quantity }],
    }
}

/// The body of patchListingsItem. `PRODUCT` does for offer-only changes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListingsItemPatchRequest {
    product_type: &'static str,
    patches: [PatchOperation; 1],
}

pub(super) fn build_patch(quantity: u64) -> ListingsItemPatchRequest {
    ListingsItemPatchRequest { product_type: "PRODUCT", patches: [quantity_patch(quantity)] }
}

fn marketplaces(config: &Config) -> String {
    encode_list(config.marketplace_ids.iter().map(String::as_str))
}

pub(super) fn build_patch_url(config: &Config, sku: &str) -> String {
    format!(
        "{}/listings/2021-08-01/items/{}/{}?marketplaceIds={}&issueLocale=en_US",
        config.host,
        encode(&config.seller_id),
        encode(sku),
        marketplaces(config)
    )
}

/// Searches for up to [`IDENTIFIERS_MAX`] seller SKUs.
pub(super) fn build_search_url(config: &Config, skus: &[&str], page: Option<&str>) -> String {
    let mut url = format!(
        "{}/listings/2021-08-01/items/{}?marketplaceIds={}&identifiersType=SKU&identifiers={}\
         &includedData=summaries,fulfillmentAvailability&pageSize={IDENTIFIERS_MAX}",
        config.host,
        encode(&config.seller_id),
        marketplaces(config),
        encode_list(skus.iter().copied()),
    );
    push_page(&mut url, "pageToken", page);
    url
}

/// Reads one listing: for SKUs with a comma, which a list of identifiers cannot hold.
pub(super) fn build_item_url(config: &Config, sku: &str) -> String {
    format!(
        "{}/listings/2021-08-01/items/{}/{}?marketplaceIds={}\
         &includedData=summaries,fulfillmentAvailability",
        config.host,
        encode(&config.seller_id),
        encode(sku),
        marketplaces(config)
    )
}

/// Searches for everything, in an order that writes do not disturb.
///
/// `made` narrows it to listings that were made from the first instant to the second, both
/// included.
pub(super) fn build_catalogue_url(
    config: &Config,
    made: Option<(Timestamp, Timestamp)>,
    page: Option<&str>,
) -> String {
    let mut url = format!(
        "{}/listings/2021-08-01/items/{}?marketplaceIds={}\
         &includedData=summaries,fulfillmentAvailability&sortBy=sku&sortOrder=ASC\
         &pageSize={IDENTIFIERS_MAX}",
        config.host,
        encode(&config.seller_id),
        marketplaces(config),
    );
    if let Some((from, to)) = made {
        let (from, to) = (encode(&format_time(from)), encode(&format_time(to)));
        url.push_str(&format!("&createdAfter={from}&createdBefore={to}"));
    }
    push_page(&mut url, "pageToken", page);
    url
}

/// Asks for one listing in one marketplace, to see whether that can be asked.
pub(super) fn build_probe_url(config: &Config, marketplace_id: &str) -> String {
    format!(
        "{}/listings/2021-08-01/items/{}?marketplaceIds={}&pageSize=1",
        config.host,
        encode(&config.seller_id),
        encode(marketplace_id),
    )
}

/// Reads what Amazon itself holds of up to [`FBA_SKUS_MAX`] SKUs, for one marketplace: a call
/// takes no more.
pub(super) fn build_fba_url(
    config: &Config,
    marketplace: &str,
    skus: &[&str],
    page: Option<&str>,
) -> String {
    let home = encode(marketplace);
    // `sellerSku` takes one SKU whole; a list would be split at its commas.
    let skus = match skus {
        [sku] => format!("sellerSku={}", encode(sku)),
        skus => format!("sellerSkus={}", encode_list(skus.iter().copied())),
    };
    let mut url = format!(
        "{}/fba/inventory/v1/summaries?details=true&granularityType=Marketplace\
         &granularityId={home}&marketplaceIds={home}&{skus}",
        config.host
    );
    push_page(&mut url, "nextToken", page);
    url
}

/// Searches for the merchant's own orders; what Amazon ships is no movement of ours.
pub(super) fn build_orders_url(config: &Config, since: Timestamp, page: Option<&str>) -> String {
    let mut url = format!(
        "{}/orders/2026-01-01/orders?lastUpdatedAfter={}&marketplaceIds={}\
         &fulfilledBy=MERCHANT&includedData=FULFILLMENT,CANCELLATION&maxResultsPerPage=100",
        config.host,
        encode(&format_time(since)),
        marketplaces(config)
    );
    push_page(&mut url, "paginationToken", page);
    url
}

/// Writes an instant as `x-amz-date` wants it: `20261123T093046Z`.
/// <https://developer-docs.amazon.com/sp-api/docs/connect-to-the-selling-partner-api>
pub(super) fn amz_date(at: Timestamp) -> String {
    let text: String = format_time(at).chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let seconds = text.split('.').next().unwrap_or(&text);
    format!("{seconds}Z")
}

fn push_page(url: &mut String, name: &str, page: Option<&str>) {
    if let Some(token) = page {
        url.push_str(&format!("&{name}={}", encode(token)));
    }
}

/// Reads what became of a patch. `ACCEPTED` is asynchronous: applied minutes later.
/// <https://github.com/amzn/selling-partner-api-docs/issues/2167>
pub(super) fn parse_submission(body: &[u8]) -> Result<PushOutcome, ChannelError> {
    #[derive(Deserialize)]
    struct Submission {
        status: String,
        #[serde(default)]
        issues: Vec<Issue>,
    }
    let submission: Submission = parse_json("patchListingsItem", body)?;
    match submission.status.as_str() {
        "ACCEPTED" | "VALID" => Ok(PushOutcome::Accepted),
        // A permanent refusal inside a 200.
        "INVALID" => Ok(PushOutcome::Refused(refusal(&submission.issues))),
        other => {
            let detail = format!("Amazon: unknown submission status {}", clip(other));
            Err(ChannelError::new(ChannelErrorKind::Protocol, detail))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issue {
    message_id: Option<usize>,
    code: Option<String>,
    #[serde(default)]
    message: String,
    severity: String,
}

impl Issue {
    fn is_error(&self) -> bool {
        self.severity == "ERROR"
    }
}

fn refusal(issues: &[Issue]) -> ChannelError {
    let chosen = issues.iter().find(|issue| issue.is_error()).or(issues.first());
    match chosen {
        Some(issue) => classify_issue(issue.code.as_deref().unwrap_or(""), &issue.message),
        None => classify_issue("", "the listing is INVALID, without an issue"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    sku: String,
    #[serde(default)]
    summaries: Vec<Summary>,
    fulfillment_availability: Option<Vec<FulfillmentAvailability>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    asin: Option<String>,
    item_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FulfillmentAvailability {
    fulfillment_channel_code: String,
    quantity: Option<i64>,
}

impl Item {
    fn reading(&self) -> Reading {
        let entries = self.fulfillment_availability.as_deref().unwrap_or_default();
        let merchant = entries.iter().find(|entry| entry.fulfillment_channel_code == MERCHANT);
        match merchant {
            Some(entry) => match entry.quantity {
                Some(quantity) => Reading::Quantity(quantity),
                None => Reading::Unknown("no quantity in the answer".to_owned()),
            },
            None if self.is_channel_fulfilled() => {
                Reading::Unknown("fulfilled by Amazon".to_owned())
            }
            None => Reading::Unknown("no fulfilment availability in the answer".to_owned()),
        }
    }

    fn is_channel_fulfilled(&self) -> bool {
        let entries = self.fulfillment_availability.as_deref().unwrap_or_default();
        let amazon =
            |entry: &FulfillmentAvailability| entry.fulfillment_channel_code.starts_with("AMAZON_");
        entries.iter().any(amazon)
            && !entries.iter().any(|entry| entry.fulfillment_channel_code == MERCHANT)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemSearchResults {
    #[serde(default)]
    number_of_results: u64,
    items: Vec<Item>,
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    next_token: Option<String>,
}

fn next(pagination: Option<Pagination>) -> Option<String> {
    pagination.and_then(|p| p.next_token).filter(|token| !token.is_empty())
}

/// Reads what listings show, by SKU.
pub(super) fn parse_search(body: &[u8]) -> Result<Page<(String, Reading)>, ChannelError> {
    let results: ItemSearchResults = parse_json("searchListingsItems", body)?;
    let reading = |item: Item| {
        let reading = item.reading();
        (item.sku, reading)
    };
    let items = results.items.into_iter().map(reading).collect();
    Ok(Page { items, next: next(results.pagination) })
}

/// Reads what one listing shows.
pub(super) fn parse_item(body: &[u8]) -> Result<Reading, ChannelError> {
    let item: Item = parse_json("getListingsItem", body)?;
    Ok(item.reading())
}

/// A page of all listings.
pub(super) struct CataloguePage {
    pub(super) items: Vec<CatalogueEntry>,
    pub(super) next: Option<String>,
    /// How many listings the search finds in all.
    pub(super) results: u64,
}

/// Reads a page of all listings.
pub(super) fn parse_catalogue(body: &[u8]) -> Result<CataloguePage, ChannelError> {
    let results: ItemSearchResults = parse_json("searchListingsItems", body)?;
    let entry = |item: Item| {
        let mut fields = BTreeMap::from([("sellerSku".to_owned(), item.sku.clone())]);
        if let Some(asin) = item.summaries.iter().find_map(|summary| summary.asin.clone()) {
            fields.insert("asin".to_owned(), asin);
        }
        CatalogueEntry {
            title: item.summaries.iter().find_map(|summary| summary.item_name.clone()),
            reading: item.reading(),
            channel_fulfilled: item.is_channel_fulfilled(),
            sku: Some(item.sku),
            fields,
            duplicate: false,
        }
    };
    let items = results.items.into_iter().map(entry).collect();
    let results_in_all = results.number_of_results;
    Ok(CataloguePage { items, next: next(results.pagination), results: results_in_all })
}

/// Reads what Amazon holds, by SKU: `fulfillableQuantity` is what can be sold.
pub(super) fn parse_fba(body: &[u8]) -> Result<Page<(String, Reading)>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        payload: Option<Payload>,
        pagination: Option<Pagination>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        inventory_summaries: Vec<InventorySummary>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InventorySummary {
        seller_sku: Option<String>,
        inventory_details: Option<InventoryDetails>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InventoryDetails {
        fulfillable_quantity: Option<i64>,
    }
    let answer: Answer = parse_json("getInventorySummaries", body)?;
    let summaries = answer.payload.map(|p| p.inventory_summaries).unwrap_or_default();
    let reading = |summary: InventorySummary| {
        let quantity = summary.inventory_details.and_then(|details| details.fulfillable_quantity);
        let reading = match quantity {
            Some(quantity) => Reading::Quantity(quantity),
            None => Reading::Unknown("no fulfillable quantity in the answer".to_owned()),
        };
        Some((summary.seller_sku?, reading))
    };
    let items = summaries.into_iter().filter_map(reading).collect();
    Ok(Page { items, next: next(answer.pagination) })
}

/// Reads a page of orders.
///
/// A pending order is not paid for yet: its units are held. What it is called is in the model
/// `orders_2026-01-01.json` (`fulfillmentStatus`).
pub(super) fn parse_orders(body: &[u8]) -> Result<Page<OrderNotice>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        orders: Vec<Order>,
        pagination: Option<Pagination>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Order {
        order_id: String,
        created_time: Option<String>,
        last_updated_time: Option<String>,
        fulfillment: Option<Fulfillment>,
        #[serde(default)]
        order_items: Vec<OrderItem>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fulfillment {
        fulfillment_status: Option<String>,
        fulfilled_by: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct OrderItem {
        order_item_id: String,
        quantity_ordered: u64,
        product: Option<Product>,
        cancellation: Option<Cancellation>,
        fulfillment: Option<ItemFulfillment>,
    }
    /// A request of the buyer (`cancellationRequest`) cancels nothing by itself.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Cancellation {
        cancellation_execution: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ItemFulfillment {
        quantity_fulfilled: Option<u64>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Product {
        seller_sku: Option<String>,
        asin: Option<String>,
    }
    let answer: Answer = parse_json("searchOrders", body)?;
    let notice = |order: Order| {
        let fulfillment = order.fulfillment.as_ref();
        let status = fulfillment.and_then(|f| f.fulfillment_status.as_deref());
        let fulfilled_by = fulfillment.and_then(|f| f.fulfilled_by.as_deref());
        let standing = Standing {
            stage: Stage::of(status),
            channel_fulfilled: fulfilled_by == Some("AMAZON"),
        };
        let line = |item: OrderItem| {
            let executed = item.cancellation.and_then(|c| c.cancellation_execution).is_some();
            let shipped = item.fulfillment.and_then(|f| f.quantity_fulfilled).unwrap_or(0);
            // A line of an order that goes on may be cancelled alone, unless it has been shipped.
            let stage = if executed && shipped == 0 { Stage::Cancelled } else { standing.stage };
            let standing = Standing { stage, ..standing };
            let (sku, asin) = item.product.map_or((None, None), |p| (p.seller_sku, p.asin));
            order_line(item.order_item_id, sku, asin, item.quantity_ordered, standing)
        };
        OrderNotice {
            order_id: order.order_id,
            placed_at: order.created_time.as_deref().and_then(parse_time),
            updated_at: order.last_updated_time.as_deref().and_then(parse_time),
            lines: order.order_items.into_iter().map(line).collect(),
        }
    };
    let items = answer.orders.into_iter().map(notice).collect();
    Ok(Page { items, next: next(answer.pagination) })
}

/// What holds for all lines of an order.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    pub(super) stage: Stage,
    pub(super) channel_fulfilled: bool,
}

/// How far an order is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not paid for: Amazon has taken the units off its number and may put them back.
    Pending,
    /// Paid for, whether it has been shipped or not.
    Sold,
    /// Cancelled, paid for before or not.
    Cancelled,
}

impl Stage {
    /// Reads a status; both spellings are found in Amazon's models.
    pub(super) fn of(status: Option<&str>) -> Self {
        match status {
            Some("Canceled" | "Cancelled" | "CANCELLED") => Self::Cancelled,
            Some("Pending" | "PENDING" | "PendingAvailability" | "PENDING_AVAILABILITY") => {
                Self::Pending
            }
            Some(_) | None => Self::Sold,
        }
    }
}

pub(super) fn order_line(
    line_id: String,
    sku: Option<String>,
    asin: Option<String>,
    quantity: u64,
    standing: Standing,
) -> OrderLine {
    let sku = sku.filter(|sku| !sku.is_empty());
    let names = [("sellerSku", sku.clone()), ("asin", asin)];
    let fields = names.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id?)));
    OrderLine {
        line_id,
        fields: fields.collect(),
        sku,
        state: LineState {
            sold: if standing.stage == Stage::Sold { quantity } else { 0 },
            held: if standing.stage == Stage::Pending { quantity } else { 0 },
            // Amazon may say no quantity any more when it says that an order is cancelled.
            cancelled: if standing.stage == Stage::Cancelled { u64::MAX } else { 0 },
            channel_fulfilled: standing.channel_fulfilled,
            ..LineState::default()
        },
    }
}

/// The content type of a JSON_LISTINGS_FEED, said when the document is made and uploaded.
pub(super) const FEED_CONTENT_TYPE: &str = "application/json; charset=UTF-8";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateFeedDocumentSpecification {
    content_type: &'static str,
}

pub(super) fn build_feed_document() -> CreateFeedDocumentSpecification {
    CreateFeedDocumentSpecification { content_type: FEED_CONTENT_TYPE }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateFeedSpecification<'a> {
    feed_type: &'static str,
    marketplace_ids: &'a [String],
    input_feed_document_id: &'a str,
}

pub(super) fn build_feed<'a>(config: &'a Config, document: &'a str) -> CreateFeedSpecification<'a> {
    CreateFeedSpecification {
        feed_type: LISTINGS_FEED,
        marketplace_ids: &config.marketplace_ids,
        input_feed_document_id: document,
    }
}

/// The content of a JSON_LISTINGS_FEED, version 2.0.
#[derive(Debug, Serialize)]
pub(super) struct ListingsFeed<'a> {
    header: FeedHeader<'a>,
    messages: FeedMessages<'a>,
}

/// Very many messages, which are made as they are written.
#[derive(Debug)]
struct FeedMessages<'a>(&'a [BulkItem]);

impl Serialize for FeedMessages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let messages = self.0.iter().zip(1..).map(|(item, id)| FeedMessage::new(id, item));
        serializer.collect_seq(messages)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FeedHeader<'a> {
    seller_id: &'a str,
    version: &'static str,
    issue_locale: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FeedMessage<'a> {
    message_id: usize,
    sku: &'a str,
    operation_type: &'static str,
    product_type: &'static str,
    patches: [PatchOperation; 1],
}

impl<'a> FeedMessage<'a> {
    fn new(message_id: usize, item: &'a BulkItem) -> Self {
        Self {
            message_id,
            sku: &item.name,
            operation_type: "PATCH",
            product_type: "PRODUCT",
            patches: [quantity_patch(item.quantity)],
        }
    }
}

/// Builds a feed; messages are numbered from 1 in the order given.
pub(super) fn build_listings_feed<'a>(
    config: &'a Config,
    items: &'a [BulkItem],
) -> ListingsFeed<'a> {
    let (seller_id, version, issue_locale) = (config.seller_id.as_str(), "2.0", "en_US");
    let header = FeedHeader { seller_id, version, issue_locale };
    ListingsFeed { header, messages: FeedMessages(items) }
}

/// A feed document: where to put it, or where to get it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FeedDocument {
    pub(super) feed_document_id: String,
    pub(super) url: String,
}

pub(super) fn parse_feed_document(body: &[u8]) -> Result<FeedDocument, ChannelError> {
    parse_json("a feed document", body)
}

pub(super) fn parse_created_feed(body: &[u8]) -> Result<String, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Created {
        feed_id: String,
    }
    let created: Created = parse_json("createFeed", body)?;
    Ok(created.feed_id)
}

/// The most feeds on a page of getFeeds.
const FEEDS_MAX: usize = 100;

/// Asks for the listings feeds that were made in this time.
pub(super) fn build_feeds_url(config: &Config, since: Timestamp, until: Timestamp) -> String {
    format!(
        "{}/feeds/2021-06-30/feeds?feedTypes={LISTINGS_FEED}&createdSince={}&createdUntil={}\
         &pageSize={FEEDS_MAX}",
        config.host,
        encode(&format_time(since)),
        encode(&format_time(until)),
    )
}

/// Reads the ids of feeds.
pub(super) fn parse_feeds(body: &[u8]) -> Result<Vec<String>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        feeds: Vec<Feed>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Feed {
        feed_id: String,
    }
    let answer: Answer = parse_json("getFeeds", body)?;
    Ok(answer.feeds.into_iter().map(|feed| feed.feed_id).collect())
}

/// How far a feed is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FeedState {
    /// IN_QUEUE or IN_PROGRESS.
    Waiting,
    /// DONE, with the id of its processing report where it has one.
    Done(Option<String>),
    /// CANCELLED before it started.
    Cancelled,
    /// FATAL: it broke off, and some messages may be applied.
    Fatal,
}

pub(super) fn parse_feed(body: &[u8]) -> Result<FeedState, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Feed {
        processing_status: String,
        result_feed_document_id: Option<String>,
    }
    let feed: Feed = parse_json("getFeed", body)?;
    match feed.processing_status.as_str() {
        "IN_QUEUE" | "IN_PROGRESS" => Ok(FeedState::Waiting),
        "DONE" => Ok(FeedState::Done(feed.result_feed_document_id)),
        "CANCELLED" => Ok(FeedState::Cancelled),
        "FATAL" => Ok(FeedState::Fatal),
        _ => {
            let detail = "Amazon: unknown processing status of a feed";
            Err(ChannelError::new(ChannelErrorKind::Protocol, detail))
        }
    }
}

/// What a processing report refuses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// By index of the message.
    pub(super) refused: BTreeMap<usize, ChannelError>,
    /// An error of the feed as a whole, with no message accepted.
    pub(super) rejected: Option<ChannelError>,
    /// How many messages it is of, where it says so.
    processed: Option<usize>,
}

impl Report {
    /// Returns what became of each of so many messages, in order. A report names only what is
    /// wrong; where it is of fewer messages than there were, the others may be any.
    pub(super) fn outcomes(&self, count: usize) -> Vec<PushOutcome> {
        let is_whole = self.processed.is_none_or(|processed| processed >= count);
        let outcome = |at: usize| match (self.refused.get(&at), &self.rejected) {
            (Some(error), _) => PushOutcome::Refused(error.clone()),
            (None, Some(error)) => PushOutcome::NotSent(error.clone()),
            (None, None) if is_whole => PushOutcome::Accepted,
            (None, None) => {
                let detail = "the feed's report leaves messages out";
                let kind = ChannelErrorKind::UnknownOutcome;
                PushOutcome::Unknown(ChannelError::new(kind, detail))
            }
        };
        (0..count).map(outcome).collect()
    }
}

/// Reads a processing report, packed or not; issues name messages by their number.
pub(super) fn parse_report(body: &[u8]) -> Result<Report, ChannelError> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(default)]
        issues: Vec<Issue>,
        summary: Option<Summary>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary {
        messages_processed: Option<usize>,
        messages_accepted: Option<u64>,
    }
    let content: Content = parse_json("a processing report", &unpacked(body)?)?;
    let mut report = Report::default();
    for issue in content.issues.iter().filter(|issue| issue.is_error()) {
        let error = classify_issue(issue.code.as_deref().unwrap_or(""), &issue.message);
        match issue.message_id.and_then(|id| id.checked_sub(1)) {
            Some(at) => {
                report.refused.entry(at).or_insert(error);
            }
            None => report.rejected = Some(error),
        }
    }
    let summary = content.summary;
    report.processed = summary.as_ref().and_then(|summary| summary.messages_processed);
    if summary.and_then(|summary| summary.messages_accepted).unwrap_or(0) > 0 {
        report.rejected = None;
    }
    Ok(report)
}

/// Unpacks gzip, told by its first two bytes (RFC 1952): the transport may have done so before.
fn unpacked(body: &[u8]) -> Result<Vec<u8>, ChannelError> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        return Ok(body.to_vec());
    }
    let mut bytes = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(body).take(REPORT_BYTES_MAX + 1);
    let read = reader.read_to_end(&mut bytes);
    let too_long = u64::try_from(bytes.len()).unwrap_or(u64::MAX) > REPORT_BYTES_MAX;
    if read.is_err() || too_long {
        let detail = "a processing report that cannot be unpacked";
        return Err(ChannelError::new(ChannelErrorKind::Protocol, detail));
    }
    Ok(bytes)
}
