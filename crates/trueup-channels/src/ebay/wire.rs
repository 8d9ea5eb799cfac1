//! eBay's shapes, as eBay spells them; pure builders and parsers.
//!
//! Inventory API 1.18, Fulfillment API 1.20, Notification API 1.6 in JSON, and the two calls of
//! the Trading API that listings made before the Inventory API need, in XML.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;
use serde::{Deserialize, Serialize};

use super::error::{RestError, TradingError};
use crate::exchange::{encode, format_time, parse_json, parse_time};
use crate::port::{
    CatalogueEntry, ChannelError, ChannelErrorKind, LineState, OrderLine, OrderNotice, Page, Quota,
    Reading,
};
use trueup_core::Timestamp;

const INVENTORY: &str = "https://api.ebay.com/sell/inventory/v1";
const FULFILLMENT: &str = "https://api.ebay.com/sell/fulfillment/v1";
const NOTIFICATION: &str = "https://api.ebay.com/commerce/notification/v1";
const ANALYTICS: &str = "https://api.ebay.com/developer/analytics/v1_beta";
/// The one address of the Trading API.
pub(super) const TRADING_URL: &str = "https://api.ebay.com/ws/api.dll";
pub(super) const TRADING_BODY: &str = "text/xml; charset=utf-8";
/// The version of the Trading API's schema that the calls are written for.
pub(super) const TRADING_LEVEL: &str = "1451";

/// `bulk_get_inventory_item` takes this many SKUs.
pub(super) const READ_ITEMS_MAX: usize = 25;
/// `ReviseInventoryStatus` takes this many nodes (error 21916254 above).
/// <https://developer.ebay.com/devzone/xml/docs/reference/ebay/ReviseInventoryStatus.html>
pub(super) const REVISE_ITEMS_MAX: usize = 4;
/// A page of inventory items, and of orders.
const PAGE_ITEMS_MAX: u64 = 200;
/// The most offers of one SKU that are looked at: getOffers answers "max occurs: 25".
/// <https://developer.ebay.com/api-docs/sell/inventory/types/slr:Offers>
const OFFERS_MAX: usize = 25;

pub(super) fn bulk_update_url() -> String {
    format!("{INVENTORY}/bulk_update_price_quantity")
}

pub(super) fn bulk_get_url() -> String {
    format!("{INVENTORY}/bulk_get_inventory_item")
}

/// Offers can be asked for by SKU only, one at a time; those on all marketplaces come together.
/// <https://github.com/YosefHayim/ebay-mcp/issues/158>
pub(super) fn offers_url(sku: &str) -> String {
    format!("{INVENTORY}/offer?sku={}", encode(sku))
}

pub(super) fn offer_url(offer_id: &str) -> String {
    format!("{INVENTORY}/offer/{}", encode(offer_id))
}

/// `offset` is the number of the page here, from 0, whatever its name says.
pub(super) fn catalogue_url(page: u64) -> String {
    format!("{INVENTORY}/inventory_item?limit={PAGE_ITEMS_MAX}&offset={page}")
}

pub(super) fn probe_url() -> String {
    format!("{INVENTORY}/inventory_item?limit=1&offset=0")
}

/// The most locations on a page.
pub(super) const LOCATIONS_MAX: usize = 100;

pub(super) fn locations_url(offset: usize) -> String {
    format!("{INVENTORY}/location?limit={LOCATIONS_MAX}&offset={offset}")
}

/// Reads the keys of a page of locations.
pub(super) fn parse_locations(body: &[u8]) -> Result<Vec<String>, ChannelError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        locations: Vec<Location>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Location {
        merchant_location_key: String,
    }
    let body: Body = parse_json("locations", body)?;
    Ok(body.locations.into_iter().map(|location| location.merchant_location_key).collect())
}

/// `offset` counts orders here.
pub(super) fn orders_url(since: Timestamp, offset: u64) -> String {
    let filter = format!("lastmodifieddate:[{}..]", format_time(since));
    let filter = encode(&filter);
    format!("{FULFILLMENT}/order?filter={filter}&limit={PAGE_ITEMS_MAX}&offset={offset}")
}

pub(super) fn public_key_url(kid: &str) -> String {
    format!("{NOTIFICATION}/public_key/{}", encode(kid))
}

/// The application's quotas; the slash at the end is eBay's.
pub(super) fn rate_limit_url() -> String {
    format!("{ANALYTICS}/rate_limit/")
}

/// The seller's quotas, where an API counts by seller.
pub(super) fn user_rate_limit_url() -> String {
    format!("{ANALYTICS}/user_rate_limit/")
}

pub(super) fn destination_url() -> String {
    format!("{NOTIFICATION}/destination")
}

pub(super) fn destinations_url() -> String {
    format!("{NOTIFICATION}/destination?limit=100")
}

/// There are some thirty topics; a page holds a hundred.
pub(super) fn topics_url() -> String {
    format!("{NOTIFICATION}/topic?limit=100")
}

pub(super) fn subscription_url() -> String {
    format!("{NOTIFICATION}/subscription")
}

/// What to tell one SKU or offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantity {
    pub(super) sku: Option<String>,
    /// The SKU's offers, each of which may carry a quantity of its own.
    pub(super) offers: OfferIds,
    pub(super) quantity: u64,
}

/// The offers of one SKU, one on each marketplace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OfferIds {
    /// The one on the connection's marketplace.
    pub(super) own: Option<String>,
    /// Those on other marketplaces.
    pub(super) others: Vec<String>,
    /// eBay's listing of the own one.
    pub(super) listing: Option<String>,
}

impl OfferIds {
    pub(super) fn all(&self) -> impl Iterator<Item = &String> {
        self.own.iter().chain(&self.others)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_none() && self.others.is_empty()
    }
}

#[derive(Debug, Serialize)]
pub(super) struct BulkPriceQuantity<'a> {
    requests: Vec<PriceQuantity<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PriceQuantity<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sku: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ship_to_location_availability: Option<ShipToLocationAvailability>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    offers: Vec<OfferPriceQuantity<'a>>,
}

#[derive(Debug, Serialize)]
struct ShipToLocationAvailability {
    quantity: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfferPriceQuantity<'a> {
    offer_id: &'a str,
    available_quantity: u64,
}

/// Builds a bulk update. The live quantity is the smaller of the item's and the offer's own, so
/// both are told where offers are known: "a separate node is required under the offers container
/// for each specific offer" of a SKU that is offered on several marketplaces.
/// <https://developer.ebay.com/api-docs/sell/static/inventory/bulk-updates.html>
pub(super) fn build_bulk_update<'a>(
    quantities: impl IntoIterator<Item = &'a Quantity>,
) -> BulkPriceQuantity<'a> {
    let request = |of: &'a Quantity| PriceQuantity {
        sku: of.sku.as_deref(),
        ship_to_location_availability: of
            .sku
            .is_some()
            .then_some(ShipToLocationAvailability { quantity: of.quantity }),
        offers: of
            .offers
            .all()
            .map(|offer_id| OfferPriceQuantity { offer_id, available_quantity: of.quantity })
            .collect(),
    };
    BulkPriceQuantity { requests: quantities.into_iter().map(request).collect() }
}

/// One entry of a bulk answer: a SKU's or an offer's, each with its own status.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpdateEntry {
    sku: Option<String>,
    offer_id: Option<String>,
    pub(super) status_code: u16,
    #[serde(default)]
    pub(super) errors: Vec<RestError>,
}

impl UpdateEntry {
    pub(super) fn is_about(&self, quantity: &Quantity) -> bool {
        match (&self.offer_id, &self.sku) {
            (Some(offer), _) if quantity.offers.all().any(|known| known == offer) => true,
            (_, Some(sku)) => quantity.sku.as_ref() == Some(sku),
            (_, None) => false,
        }
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status_code)
    }
}

/// Reads a bulk answer, 200 or 207: both may hold failures.
pub(super) fn parse_bulk_update(body: &[u8]) -> Result<Vec<UpdateEntry>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        responses: Vec<UpdateEntry>,
    }
    let answer: Answer = parse_json("bulk_update_price_quantity", body)?;
    Ok(answer.responses)
}

#[derive(Debug, Serialize)]
pub(super) struct BulkGetInventoryItem<'a> {
    requests: Vec<GetInventoryItem<'a>>,
}

#[derive(Debug, Serialize)]
struct GetInventoryItem<'a> {
    sku: &'a str,
}

pub(super) fn build_bulk_get<'a>(skus: &[&'a str]) -> BulkGetInventoryItem<'a> {
    BulkGetInventoryItem { requests: skus.iter().map(|sku| GetInventoryItem { sku }).collect() }
}

#[derive(Deserialize)]
struct InventoryItem {
    sku: Option<String>,
    availability: Option<Availability>,
    product: Option<Product>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Availability {
    ship_to_location_availability: Option<ItemQuantity>,
}

#[derive(Deserialize)]
struct ItemQuantity {
    quantity: Option<i64>,
}

#[derive(Deserialize)]
struct Product {
    title: Option<String>,
}

impl InventoryItem {
    fn reading(&self) -> Reading {
        let ship_to =
            self.availability.as_ref().and_then(|a| a.ship_to_location_availability.as_ref());
        match ship_to.and_then(|ship_to| ship_to.quantity) {
            Some(quantity) => Reading::Quantity(quantity),
            None => Reading::Unknown("no quantity in the answer".to_owned()),
        }
    }
}

/// Reads which of the SKUs asked for are inventory items, and what each shows: `Err` = it is
/// none, with the reason.
pub(super) fn parse_bulk_get(
    body: &[u8],
) -> Result<BTreeMap<String, Result<Reading, String>>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        responses: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        sku: Option<String>,
        status_code: u16,
        inventory_item: Option<InventoryItem>,
        #[serde(default)]
        errors: Vec<RestError>,
    }
    let answer: Answer = parse_json("bulk_get_inventory_item", body)?;
    let reading = |entry: Entry| {
        let reading = match entry.inventory_item {
            Some(ref item) if (200..300).contains(&entry.status_code) => Ok(item.reading()),
            Some(_) | None => {
                Err(super::error::classify_entry(entry.status_code, &entry.errors).detail)
            }
        };
        let sku = entry.sku.or_else(|| entry.inventory_item.and_then(|item| item.sku));
        Some((sku?, reading))
    };
    Ok(answer.responses.into_iter().filter_map(reading).collect())
}

/// Reads a page of inventory items; `page` is the number of this one.
pub(super) fn parse_catalogue(
    body: &[u8],
    page: u64,
) -> Result<Page<CatalogueEntry>, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        inventory_items: Vec<InventoryItem>,
        total: Option<u64>,
        next: Option<String>,
    }
    let answer: Answer = parse_json("getInventoryItems", body)?;
    let after = page.saturating_add(1);
    let more = match answer.total {
        Some(total) => after.saturating_mul(PAGE_ITEMS_MAX) < total,
        None => answer.next.is_some(),
    };
    let next = (more && !answer.inventory_items.is_empty()).then(|| format!("inv:{after}"));
    let entry = |item: InventoryItem| {
        let reading = item.reading();
        let names = item.sku.iter().map(|sku| ("sku".to_owned(), sku.clone()));
        CatalogueEntry {
            fields: names.collect(),
            title: item.product.and_then(|product| product.title),
            sku: item.sku,
            reading,
            channel_fulfilled: false,
            duplicate: false,
        }
    };
    Ok(Page { items: answer.inventory_items.into_iter().map(entry).collect(), next })
}

/// An offer of a SKU on one marketplace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Offer {
    #[serde(default)]
    pub(super) offer_id: String,
    pub(super) sku: Option<String>,
    /// Absent where the offer shows what the inventory item has.
    pub(super) available_quantity: Option<i64>,
    status: Option<String>,
    marketplace_id: Option<String>,
    format: Option<String>,
    listing: Option<ListingDetails>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListingDetails {
    listing_id: Option<String>,
}

/// What a connection knows of a SKU's offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offers {
    /// The one on the connection's marketplace.
    pub(super) own: Option<Offer>,
    /// Those on other marketplaces that can be told a quantity.
    pub(super) others: Vec<Offer>,
}

impl Offers {
    pub(super) fn ids(&self) -> OfferIds {
        OfferIds {
            own: self.own.as_ref().map(|offer| offer.offer_id.clone()),
            others: self.others.iter().map(|offer| offer.offer_id.clone()).collect(),
            listing: self.own.as_ref().and_then(|offer| offer.listing.clone()?.listing_id),
        }
    }

    /// Returns whether all of them show what the inventory item has.
    pub(super) fn share(&self, item: i64) -> bool {
        self.own.iter().chain(&self.others).all(|o| o.available_quantity.is_none_or(|q| q == item))
    }
}

impl Offer {
    /// Returns whether it can be told a quantity: published, and no auction, whose quantity is
    /// one.
    pub(super) fn is_told(&self) -> bool {
        self.status.as_deref() == Some("PUBLISHED") && self.format.as_deref() != Some("AUCTION")
    }

    fn is_on(&self, marketplace_id: &str) -> bool {
        self.marketplace_id.as_deref().is_none_or(|id| id == marketplace_id)
    }
}

/// Reads the offers of a SKU: those on this marketplace, then those on others.
pub(super) fn parse_offers(
    body: &[u8],
    marketplace_id: &str,
) -> Result<(Vec<Offer>, Vec<Offer>), ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        offers: Vec<Offer>,
    }
    let answer: Answer = parse_json("getOffers", body)?;
    let offers = answer.offers.into_iter().take(OFFERS_MAX);
    Ok(offers.partition(|offer| offer.is_on(marketplace_id)))
}

pub(super) fn parse_offer(body: &[u8]) -> Result<Offer, ChannelError> {
    parse_json("getOffer", body)
}

/// Reads a page of orders; `offset` is where this one started.
///
/// A cancelled order gives all of its units back; eBay cancels whole orders only. A refund names
/// an amount and no units, and may follow a return, a loss or a complaint: only the full refund
/// of a line that was never shipped says that its units are free again.
pub(super) fn parse_orders(body: &[u8], offset: u64) -> Result<Page<OrderNotice>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        orders: Vec<Order>,
        next: Option<String>,
        total: Option<u64>,
    }
    let answer: Answer = parse_json("getOrders", body)?;
    let after = offset.saturating_add(PAGE_ITEMS_MAX);
    let more = match answer.total {
        Some(total) => after < total,
        None => answer.next.is_some(),
    };
    let next = (more && !answer.orders.is_empty()).then(|| after.to_string());
    let mut items: Vec<OrderNotice> = answer.orders.into_iter().map(Order::notice).collect();
    items.sort_by_key(|order| order.updated_at);
    Ok(Page { items, next })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    order_id: String,
    creation_date: Option<String>,
    last_modified_date: Option<String>,
    order_payment_status: Option<String>,
    payment_summary: Option<PaymentSummary>,
    cancel_status: Option<CancelStatus>,
    #[serde(default)]
    line_items: Vec<LineItem>,
}

#[derive(Deserialize)]
struct PaymentSummary {
    #[serde(default)]
    payments: Vec<Payment>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    payment_status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelStatus {
    cancel_state: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineItem {
    line_item_id: String,
    sku: Option<String>,
    legacy_item_id: Option<String>,
    legacy_variation_id: Option<String>,
    quantity: u64,
    line_item_fulfillment_status: Option<String>,
    line_item_cost: Option<Amount>,
    discounted_line_item_cost: Option<Amount>,
    #[serde(default)]
    refunds: Vec<LineItemRefund>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineItemRefund {
    amount: Option<Amount>,
    /// "Not returned until the refund has been issued."
    refund_date: Option<String>,
}

#[derive(Deserialize)]
struct Amount {
    value: Option<String>,
    currency: Option<String>,
}

impl Amount {
    /// Returns the amount in ten-thousandths of its currency.
    fn units(&self) -> Option<u64> {
        const DECIMALS: usize = 4;
        let text = self.value.as_deref()?;
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if part.len() > DECIMALS || !is_number(whole) || !is_number(part) {
            return None;
        }
        format!("{whole}{part:0<DECIMALS$}").parse().ok()
    }
}

impl LineItem {
    /// Returns whether all that was paid for the goods was given back by refunds of this line.
    fn is_refunded(&self) -> bool {
        let cost = self.discounted_line_item_cost.as_ref().or(self.line_item_cost.as_ref());
        let Some((cost, paid)) = cost.and_then(|cost| Some((cost, cost.units()?))) else {
            return false;
        };
        let issued = self.refunds.iter().filter(|refund| refund.refund_date.is_some());
        let amounts = issued.filter_map(|refund| refund.amount.as_ref());
        let same = amounts.filter(|amount| amount.currency == cost.currency);
        let back = same.filter_map(Amount::units).fold(0, u64::saturating_add);
        paid > 0 && back >= paid
    }
}

impl Order {
    /// Returns whether the buyer has not paid.
    ///
    /// `PENDING` and `FAILED` are said "of buyer payment or refund": beside a payment that went
    /// through they are about a refund. An order that says nothing of its payment counts as
    /// paid.
    /// <https://developer.ebay.com/api-docs/sell/fulfillment/types/sel:OrderPaymentStatusEnum>
    fn is_unpaid(&self) -> bool {
        let payments = self.payment_summary.iter().flat_map(|summary| &summary.payments);
        let mut statuses = payments.filter_map(|payment| payment.payment_status.as_deref());
        matches!(self.order_payment_status.as_deref(), Some("PENDING" | "FAILED"))
            && !statuses.any(|status| status == "PAID")
    }

    fn notice(self) -> OrderNotice {
        let is_unpaid = self.is_unpaid();
        let state = self.cancel_status.and_then(|status| status.cancel_state);
        let is_cancelled = state.as_deref() == Some("CANCELED");
        let is_refunded = self.order_payment_status.as_deref() == Some("FULLY_REFUNDED");
        let line = |line: LineItem| {
            let is_kept = line.line_item_fulfillment_status.as_deref() == Some("NOT_STARTED");
            let cancelled = is_cancelled || (is_kept && (is_refunded || line.is_refunded()));
            let payment = if is_unpaid { Paid::NotYet } else { Paid::Yes };
            let item_id = line.legacy_item_id.as_deref();
            let mut read = order_line(line.line_item_id, line.sku, item_id, line.quantity, payment);
            read.state.cancelled = if cancelled { line.quantity } else { 0 };
            // 0 is said of a listing without variations.
            let variation = line.legacy_variation_id.filter(|id| !id.is_empty() && id != "0");
            read.fields.extend(variation.map(|id| ("variationId".to_owned(), id)));
            read
        };
        OrderNotice {
            order_id: self.order_id,
            placed_at: self.creation_date.as_deref().and_then(parse_time),
            updated_at: self.last_modified_date.as_deref().and_then(parse_time),
            lines: self.line_items.into_iter().map(line).collect(),
        }
    }
}

/// Whether the buyer has paid for a line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Paid {
    Yes,
    NotYet,
}

/// Makes a line of which nothing is cancelled. eBay takes units off its own number when they are
/// ordered, paid for or not.
pub(super) fn order_line(
    line_id: String,
    sku: Option<String>,
    item_id: Option<&str>,
    quantity: u64,
    payment: Paid,
) -> OrderLine {
    let sku = sku.filter(|sku| !sku.is_empty());
    let (sold, held) = match payment {
        Paid::Yes => (quantity, 0),
        Paid::NotYet => (0, quantity),
    };
    OrderLine {
        line_id,
        fields: listing_names(sku.as_deref(), item_id),
        sku,
        state: LineState { sold, held, ..LineState::default() },
    }
}

/// Returns what a notice says of a listing, as mapping fields.
pub(super) fn listing_names(sku: Option<&str>, item_id: Option<&str>) -> BTreeMap<String, String> {
    let names = [("sku", sku), ("itemId", item_id)];
    names.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id?.to_owned()))).collect()
}

/// Reads quotas as API name, resource and quota, each for the longest window that is told.
/// <https://developer.ebay.com/api-docs/developer/analytics/types/api:RateLimitsResponse>
pub(super) fn parse_limits(body: &[u8]) -> Result<Vec<(String, String, Quota)>, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        rate_limits: Vec<Api>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Api {
        #[serde(default)]
        api_name: String,
        #[serde(default)]
        resources: Vec<Resource>,
    }
    #[derive(Deserialize)]
    struct Resource {
        #[serde(default)]
        name: String,
        #[serde(default)]
        rates: Vec<Rate>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Rate {
        limit: Option<u64>,
        remaining: Option<u64>,
        reset: Option<String>,
        time_window: Option<u64>,
    }
    let quota = |rate: &Rate| {
        Some(Quota {
            limit: rate.limit?,
            remaining: rate.remaining?,
            resets_at: parse_time(rate.reset.as_deref()?)?,
            window_ms: rate.time_window?.saturating_mul(1_000),
        })
    };
    // An account without any is answered 204 without a body.
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let answer: Answer = parse_json("the rate limits", body)?;
    let mut limits = Vec::new();
    for api in answer.rate_limits {
        for resource in api.resources {
            let longest = resource.rates.iter().filter_map(quota).max_by_key(|q| q.window_ms);
            limits.extend(longest.map(|quota| (api.api_name.clone(), resource.name, quota)));
        }
    }
    Ok(limits)
}

/// Reads the public key of a signature, PEM, possibly without line breaks.
pub(super) fn parse_public_key(body: &[u8]) -> Result<String, ChannelError> {
    #[derive(Deserialize)]
    struct PublicKey {
        key: String,
    }
    let answer: PublicKey = parse_json("getPublicKey", body)?;
    Ok(answer.key)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DestinationRequest<'a> {
    name: &'static str,
    status: &'static str,
    delivery_config: DeliveryConfig<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryConfig<'a> {
    endpoint: &'a str,
    verification_token: &'a str,
}

pub(super) fn build_destination<'a>(
    endpoint: &'a str,
    verification_token: &'a str,
) -> DestinationRequest<'a> {
    let delivery_config = DeliveryConfig { endpoint, verification_token };
    DestinationRequest { name: "trueup", status: "ENABLED", delivery_config }
}

/// Finds the destination with this endpoint.
pub(super) fn parse_destinations(
    body: &[u8],
    endpoint: &str,
) -> Result<Option<String>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        destinations: Vec<Destination>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Destination {
        destination_id: String,
        delivery_config: Option<Config>,
    }
    #[derive(Deserialize)]
    struct Config {
        endpoint: Option<String>,
    }
    let answer: Answer = parse_json("getDestinations", body)?;
    let ours = answer.destinations.into_iter().find(|destination| {
        let config = destination.delivery_config.as_ref();
        config.and_then(|config| config.endpoint.as_deref()) == Some(endpoint)
    });
    Ok(ours.map(|destination| destination.destination_id))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateSubscriptionRequest<'a> {
    topic_id: &'a str,
    destination_id: &'a str,
    status: &'static str,
    payload: SubscriptionPayloadDetail<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SubscriptionPayloadDetail<'a> {
    delivery_protocol: &'static str,
    format: &'static str,
    schema_version: &'a str,
}

pub(super) fn build_subscription<'a>(
    topic: &'a Topic,
    destination_id: &'a str,
) -> CreateSubscriptionRequest<'a> {
    CreateSubscriptionRequest {
        topic_id: &topic.id,
        destination_id,
        status: "ENABLED",
        payload: SubscriptionPayloadDetail {
            delivery_protocol: "HTTPS",
            format: "JSON",
            schema_version: &topic.schema_version,
        },
    }
}

/// A topic that can be subscribed, with the newest of its schemas that is not deprecated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) id: String,
    schema_version: String,
}

/// Reads the topics that are enabled, come as JSON over HTTPS and ask for no scope that is not
/// among these.
pub(super) fn parse_topics(body: &[u8], scopes: &[&str]) -> Result<Vec<Topic>, ChannelError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        topics: Vec<Told>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Told {
        #[serde(default)]
        topic_id: String,
        status: Option<String>,
        #[serde(default)]
        authorization_scopes: Vec<String>,
        #[serde(default)]
        supported_payloads: Vec<Payload>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        delivery_protocol: Option<String>,
        #[serde(default)]
        format: Vec<String>,
        schema_version: Option<String>,
        #[serde(default)]
        deprecated: bool,
    }
    let answer: Answer = parse_json("getTopics", body)?;
    let open = |told: Told| {
        let is_enabled = told.status.as_deref().is_none_or(|status| status == "ENABLED");
        let has_scopes = told.authorization_scopes.iter().all(|s| scopes.contains(&s.as_str()));
        let is_ours = |payload: &&Payload| {
            !payload.deprecated
                && payload.delivery_protocol.as_deref() == Some("HTTPS")
                && payload.format.iter().any(|format| format == "JSON")
        };
        let ours = told.supported_payloads.iter().filter(is_ours);
        let schema_version = ours.filter_map(|payload| payload.schema_version.clone()).max()?;
        (is_enabled && has_scopes).then_some(Topic { id: told.topic_id, schema_version })
    };
    Ok(answer.topics.into_iter().filter_map(open).collect())
}

/// A listing of the Trading API: an item number, and a SKU where it has variations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TradingItem {
    pub(super) item_id: String,
    pub(super) sku: Option<String>,
    pub(super) quantity: u64,
}

const TRADING_NAMESPACE: &str = "urn:ebay:apis:eBLBaseComponents";

/// Builds ReviseInventoryStatus; the quantity sent is what is available.
pub(super) fn build_revise(items: &[&TradingItem]) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <ReviseInventoryStatusRequest xmlns=\"{TRADING_NAMESPACE}\">"
    );
    for item in items {
        xml.push_str("<InventoryStatus><ItemID>");
        xml.push_str(&escape(item.item_id.as_str()));
        xml.push_str("</ItemID>");
        if let Some(sku) = &item.sku {
            xml.push_str("<SKU>");
            xml.push_str(&escape(sku.as_str()));
            xml.push_str("</SKU>");
        }
        xml.push_str(&format!("<Quantity>{}</Quantity></InventoryStatus>", item.quantity));
    }
    xml.push_str("</ReviseInventoryStatusRequest>");
    xml
}

pub(super) fn build_get_item(item_id: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <GetItemRequest xmlns=\"{TRADING_NAMESPACE}\"><ItemID>{}</ItemID></GetItemRequest>",
        escape(item_id)
    )
}

/// Builds GetSellerList: what ends within the next months, which is every active listing, since
/// those "good till cancelled" are renewed each month.
/// <https://developer.ebay.com/DevZone/xml/docs/Reference/ebay/GetSellerList.html>
pub(super) fn build_seller_list(from: Timestamp, page: u64) -> String {
    let to = from.plus_millis(SELLER_LIST_DAYS * 86_400_000);
    let wanted: String = SELLER_LIST_FIELDS
        .iter()
        .map(|field| format!("<OutputSelector>{field}</OutputSelector>"))
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <GetSellerListRequest xmlns=\"{TRADING_NAMESPACE}\">{wanted}\
         <EndTimeFrom>{}</EndTimeFrom><EndTimeTo>{}</EndTimeTo>\
         <GranularityLevel>Fine</GranularityLevel><IncludeVariations>true</IncludeVariations>\
         <Pagination><EntriesPerPage>{PAGE_ITEMS_MAX}</EntriesPerPage>\
         <PageNumber>{page}</PageNumber></Pagination></GetSellerListRequest>",
        format_time(from),
        format_time(to),
    )
}

/// The range of end times must be less than 120 days.
const SELLER_LIST_DAYS: i64 = 119;

const SELLER_LIST_FIELDS: [&str; 11] = [
    "HasMoreItems",
    "ItemArray.Item.ItemID",
    "ItemArray.Item.SKU",
    "ItemArray.Item.Title",
    "ItemArray.Item.ListingType",
    "ItemArray.Item.Quantity",
    "ItemArray.Item.SellingStatus.QuantitySold",
    "ItemArray.Item.SellingStatus.ListingStatus",
    "ItemArray.Item.Variations.Variation.SKU",
    "ItemArray.Item.Variations.Variation.Quantity",
    "ItemArray.Item.Variations.Variation.SellingStatus.QuantitySold",
];

/// What a Trading answer says: its errors (warnings left out) and its content.
pub(super) struct TradingAnswer {
    pub(super) errors: Vec<TradingError>,
    content: Element,
}

/// "Redundant": the listing shows this quantity already, so it is a success.
/// <https://developer.ebay.com/devzone/xml/docs/reference/ebay/ReviseInventoryStatus.html>
const REDUNDANT: &str = "21917091";

pub(super) fn parse_trading(body: &[u8]) -> Result<TradingAnswer, ChannelError> {
    let content = parse_xml(body)?;
    let ack = content.text_of("Ack");
    let error = |node: &Element| TradingError {
        code: node.text_of("ErrorCode").to_owned(),
        classification: node.text_of("ErrorClassification").to_owned(),
        message: match node.text_of("LongMessage") {
            "" => node.text_of("ShortMessage").to_owned(),
            long => long.to_owned(),
        },
    };
    let is_error = |node: &&Element| {
        node.text_of("SeverityCode") != "Warning" && node.text_of("ErrorCode") != REDUNDANT
    };
    let errors: Vec<TradingError> =
        content.children_named("Errors").filter(is_error).map(error).collect();
    let redundant =
        content.children_named("Errors").any(|node| node.text_of("ErrorCode") == REDUNDANT);
    let failed = match ack {
        "Success" | "Warning" => false,
        "Failure" | "PartialFailure" => true,
        _ => return Err(malformed("a Trading answer without an Ack")),
    };
    if failed && errors.is_empty() && !redundant {
        return Err(malformed("a Trading failure without an error"));
    }
    Ok(TradingAnswer { errors: if failed { errors } else { Vec::new() }, content })
}

impl TradingAnswer {
    /// Returns whether a ReviseInventoryStatus answer lists this item as revised.
    pub(super) fn has_revised(&self, item: &TradingItem) -> bool {
        self.content.children_named("InventoryStatus").any(|node| {
            let same_sku = match &item.sku {
                Some(sku) => node.text_of("SKU") == sku,
                None => true,
            };
            node.text_of("ItemID") == item.item_id && same_sku
        })
    }

    /// Reads a page of GetSellerList: the entries, and whether there are more. Auctions are left
    /// out, which cannot be told a quantity; each variation is an entry of its own.
    pub(super) fn listings(&self) -> (Vec<CatalogueEntry>, bool) {
        let items = self.content.child("ItemArray").into_iter();
        let active = items.flat_map(|array| array.children_named("Item")).filter(|item| {
            let status = item.child("SellingStatus").map_or("", |s| s.text_of("ListingStatus"));
            let format = item.text_of("ListingType");
            matches!(status, "" | "Active")
                && matches!(format, "" | "FixedPriceItem" | "StoresFixedPrice")
        });
        let more = self.content.text_of("HasMoreItems") == "true";
        (active.flat_map(seller_entries).collect(), more)
    }

    /// Reads GetItem: `Quantity` counts the sold units, too, so they are taken off.
    /// <https://developer.ebay.com/support/kb-article?KBid=1526>
    pub(super) fn available(&self, sku: Option<&str>) -> Reading {
        let Some(item) = self.content.child("Item") else {
            return Reading::Unknown("no item in the answer".to_owned());
        };
        let status = item.child("SellingStatus").map_or("", |s| s.text_of("ListingStatus"));
        if !matches!(status, "" | "Active") {
            return Reading::Unknown(format!("the listing is {}", crate::exchange::clip(status)));
        }
        let variations: Vec<&Element> = item
            .child("Variations")
            .map(|variations| variations.children_named("Variation").collect())
            .unwrap_or_default();
        let node = match (sku, variations.as_slice()) {
            (_, []) => Some(item),
            (Some(sku), all) => all.iter().copied().find(|node| node.text_of("SKU") == sku),
            (None, _) => None,
        };
        let Some(node) = node else {
            return Reading::Unknown("no such variation in the listing".to_owned());
        };
        unsold(node)
    }
}

/// Returns what is left of an item or variation: its quantity without what was sold.
fn unsold(node: &Element) -> Reading {
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let sold = node.child("SellingStatus").map_or("0", |s| match s.text_of("QuantitySold") {
        "" => "0",
        sold => sold,
    });
    match (number(node.text_of("Quantity")), number(sold)) {
        (Some(quantity), Some(sold)) => Reading::Quantity(quantity.saturating_sub(sold)),
        (_, _) => Reading::Unknown("no quantity in the answer".to_owned()),
    }
}

/// Makes the entries of one Trading listing. An item number is enough for a listing without
/// variations; a variation is named by its SKU, and one without any cannot be told a quantity.
fn seller_entries(item: &Element) -> Vec<CatalogueEntry> {
    let text = |node: &Element, name: &str| {
        Some(node.text_of(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let Some(item_id) = text(item, "ItemID") else { return Vec::new() };
    let entry = |node: &Element, names_variation: bool| {
        let sku = text(node, "SKU");
        let mut fields = BTreeMap::from([("itemId".to_owned(), item_id.clone())]);
        fields.extend(sku.clone().filter(|_| names_variation).map(|sku| ("sku".to_owned(), sku)));
        CatalogueEntry {
            sku,
            title: text(item, "Title"),
            fields,
            reading: unsold(node),
            channel_fulfilled: false,
            duplicate: false,
        }
    };
    let variations: Vec<&Element> = item
        .child("Variations")
        .map(|variations| variations.children_named("Variation").collect())
        .unwrap_or_default();
    if variations.is_empty() {
        return vec![entry(item, false)];
    }
    variations.into_iter().map(|variation| entry(variation, true)).collect()
}

/// An XML element without its attributes, which the Trading API does not need.
#[derive(Debug, Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.as_str())
    }
}

/// How deep and how large an answer may be; its bytes are bounded by the caller.
const XML_DEPTH_MAX: usize = 32;
const XML_ELEMENTS_MAX: usize = 500_000;

/// Reads a document into elements. Entities of a DTD are not known and not expanded.
fn parse_xml(body: &[u8]) -> Result<Element, ChannelError> {
    let text = std::str::from_utf8(body).map_err(|_| malformed("an answer that is not UTF-8"))?;
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = vec![Element::default()];
    let mut elements = 0;
    loop {
        let event = reader.read_event().map_err(|_| malformed("an answer that is not XML"))?;
        let top = open.last_mut().ok_or_else(|| malformed("an answer with an extra end tag"))?;
        match event {
            Event::Start(start) => {
                elements += 1;
                if open.len() > XML_DEPTH_MAX || elements > XML_ELEMENTS_MAX {
                    return Err(malformed("an answer that is too large"));
                }
                let name = start.local_name().as_ref().to_owned();
                open.push(Element { name, ..Element::default() });
            }
            Event::Empty(empty) => {
                elements += 1;
                if elements > XML_ELEMENTS_MAX {
                    return Err(malformed("an answer that is too large"));
                }
                let name = empty.local_name().as_ref().to_owned();
                top.children.push(Element { name, ..Element::default() });
            }
            Event::End(_) => {
                let Some(done) = open.pop() else { continue };
                let parent =
                    open.last_mut().ok_or_else(|| malformed("an answer with an extra end tag"))?;
                parent.children.push(Element { text: done.text.trim().to_owned(), ..done });
            }
            Event::Text(text) => top.text.push_str(&text.xml10_content()),
            Event::CData(text) => top.text.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) => top.text.push(referenced(&reference)),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            Event::Eof => break,
        }
    }
    let mut root = open.pop().filter(|_| open.is_empty()).unwrap_or_default();
    root.children.pop().ok_or_else(|| malformed("an answer without content"))
}

/// Returns the character of `&amp;` or `&#38;`; anything else becomes the replacement sign.
fn referenced(reference: &quick_xml::events::BytesRef<'_>) -> char {
    match &**reference {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => reference.resolve_char_ref().ok().flatten().unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

fn malformed(what: &str) -> ChannelError {
    ChannelError::new(ChannelErrorKind::Protocol, format!("eBay sent {what}"))
}
