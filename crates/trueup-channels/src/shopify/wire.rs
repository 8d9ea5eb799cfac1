//! Shopify's documents and shapes, as Shopify spells them; pure builders and parsers.
//!
//! Every document is valid on 2026-01 to 2026-10; `docs.md` lists the pages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{gid, gid_number};
use super::error::{self, Cost, GraphqlError};
use crate::exchange::{format_time, parse_json, parse_time, parse_value};
use crate::port::{
    CatalogueEntry, ChannelError, ChannelErrorKind, LineState, OrderLine, OrderNotice, Page,
    Reading,
};
use trueup_core::Timestamp;

/// Array inputs hold at most this many entries.
/// <https://shopify.dev/docs/api/usage/limits#input-array-limits>
pub(super) const ARRAY_ITEMS_MAX: usize = 250;
/// The most units: above it the server says `INVALID_QUANTITY_TOO_HIGH`.
pub(super) const QUANTITY_MAX: u64 = 1_000_000_000;

/// Sets absolute quantities, each with what it must be now.
pub(super) const SET_QUANTITIES: &str = "\
mutation SetQuantities($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup { id }
    userErrors { code field message }
  }
}";

/// Stocks an item at a location. Without `available`, an item that was active there before
/// keeps its old quantity since 2026-04: the set that follows compares with what is answered.
/// <https://shopify.dev/changelog/inventoryactivate-now-preserves-available-quantity>
pub(super) const ACTIVATE: &str = "\
mutation Activate($item: ID!, $location: ID!, $key: String!) {
  inventoryActivate(inventoryItemId: $item, locationId: $location) @idempotent(key: $key) {
    inventoryLevel { id quantities(names: [\"available\"]) { name quantity } }
    userErrors { field message }
  }
}";

/// Reads what items show at a location.
pub(super) const LEVELS: &str = "\
query Levels($ids: [ID!]!, $location: ID!) {
  nodes(ids: $ids) {
    ... on InventoryItem {
      id tracked
      inventoryLevel(locationId: $location) { quantities(names: [\"available\"]) { name quantity } }
    }
  }
}";

/// Reads a page of variants with what they show at each location. The walk goes by id and not by
/// cursor, for no connection gives out more than 25 000 objects.
/// <https://shopify.dev/docs/api/usage/limits#pagination-limits>
pub(super) const VARIANTS: &str = "\
query Variants($first: Int!, $query: String) {
  productVariants(first: $first, query: $query, sortKey: ID) {
    pageInfo { hasNextPage }
    nodes {
      id sku displayName
      inventoryItem {
        id tracked duplicateSkuCount
        inventoryLevels(first: 10) {
          pageInfo { hasNextPage endCursor }
          nodes { location { id } quantities(names: [\"available\"]) { name quantity } }
        }
      }
    }
  }
}";

/// Reads what an item shows at further locations.
pub(super) const ITEM_LEVELS: &str = "\
query ItemLevels($ids: [ID!]!, $after: String) {
  nodes(ids: $ids) {
    ... on InventoryItem {
      id
      inventoryLevels(first: 50, after: $after) {
        pageInfo { hasNextPage endCursor }
        nodes { location { id } quantities(names: [\"available\"]) { name quantity } }
      }
    }
  }
}";

/// Reads a page of the orders that changed, oldest change first.
pub(super) const ORDERS: &str = "\
query Orders($query: String!, $after: String) {
  orders(first: 50, after: $after, query: $query, sortKey: UPDATED_AT) {
    pageInfo { hasNextPage endCursor }
    nodes {
      id legacyResourceId createdAt updatedAt cancelledAt
      lineItems(first: 50) {
        pageInfo { hasNextPage endCursor }
        nodes { id sku quantity currentQuantity variant { id inventoryItem { id } } }
      }
    }
  }
}";

/// Reads further lines of one order.
pub(super) const ORDER_LINES: &str = "\
query OrderLines($ids: [ID!]!, $after: String) {
  nodes(ids: $ids) {
    ... on Order {
      lineItems(first: 100, after: $after) {
        pageInfo { hasNextPage endCursor }
        nodes { id sku quantity currentQuantity variant { id inventoryItem { id } } }
      }
    }
  }
}";

/// Reads which units of an order were given up without coming back: `currentQuantity` falls by
/// those, too.
/// <https://shopify.dev/docs/api/admin-graphql/2026-07/enums/RefundLineItemRestockType>
pub(super) const REFUNDS: &str = "\
query Refunds($ids: [ID!]!) {
  nodes(ids: $ids) {
    ... on Order {
      id
      refunds(first: 50) {
        id
        refundLineItems(first: 50) { nodes { quantity restockType lineItem { id } } }
      }
    }
  }
}";

/// Reads the locations.
pub(super) const LOCATIONS: &str = "\
query Locations($after: String) {
  locations(first: 50, after: $after) {
    pageInfo { hasNextPage endCursor }
    nodes { id name isActive fulfillsOnlineOrders }
  }
}";

/// Reads what the app was granted. Alone: a field that it may not read fails a whole document.
pub(super) const SCOPES: &str = "\
query Scopes {
  currentAppInstallation { accessScopes { handle } }
}";

/// Reads the webhook subscriptions of this app.
pub(super) const SUBSCRIPTIONS: &str = "\
query Subscriptions($uri: String) {
  webhookSubscriptions(first: 100, uri: $uri) { nodes { id topic uri } }
}";

/// Makes a webhook subscription; `callbackUrl` is deprecated for `uri`.
pub(super) const SUBSCRIBE: &str = "\
mutation Subscribe($topic: WebhookSubscriptionTopic!, $sub: WebhookSubscriptionInput!) {
  webhookSubscriptionCreate(topic: $topic, webhookSubscription: $sub) {
    webhookSubscription { id topic uri }
    userErrors { field message }
  }
}";

/// Takes a webhook subscription back.
pub(super) const UNSUBSCRIBE: &str = "\
mutation Unsubscribe($id: ID!) {
  webhookSubscriptionDelete(id: $id) { deletedWebhookSubscriptionId userErrors { field message } }
}";

/// The topics that tell of stock, sales and our own access, as the enum spells them, with the
/// fields of their bodies that are asked for: what `webhook.rs` reads, and nothing of the buyer.
/// <https://shopify.dev/docs/apps/build/webhooks/customize/modify-payloads>
pub(super) const TOPICS: [(&str, &[&str]); 9] = [
    ("ORDERS_CREATE", ORDER_FIELDS),
    ("ORDERS_UPDATED", ORDER_FIELDS),
    ("ORDERS_CANCELLED", ORDER_FIELDS),
    ("ORDERS_EDITED", &["order_edit.order_id"]),
    ("REFUNDS_CREATE", REFUND_FIELDS),
    ("INVENTORY_LEVELS_UPDATE", LEVEL_FIELDS),
    ("INVENTORY_LEVELS_CONNECT", LEVEL_FIELDS),
    ("INVENTORY_LEVELS_DISCONNECT", LEVEL_FIELDS),
    ("APP_UNINSTALLED", &["id", "myshopify_domain"]),
];
const ORDER_FIELDS: &[&str] = &[
    "id",
    "created_at",
    "updated_at",
    "line_items.id",
    "line_items.sku",
    "line_items.variant_id",
    "line_items.quantity",
    "line_items.current_quantity",
    "refunds.id",
    "refunds.refund_line_items.line_item_id",
    "refunds.refund_line_items.quantity",
    "refunds.refund_line_items.restock_type",
];
const REFUND_FIELDS: &[&str] = &[
    "id",
    "order_id",
    "created_at",
    "refund_line_items.line_item_id",
    "refund_line_items.quantity",
    "refund_line_items.restock_type",
    "refund_line_items.line_item.sku",
    "refund_line_items.line_item.variant_id",
];
const LEVEL_FIELDS: &[&str] = &["inventory_item_id", "location_id", "updated_at"];

/// A GraphQL request body.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Document {
    pub(super) query: &'static str,
    pub(super) variables: Value,
}

/// One level to set. `changeFromQuantity` must be present since 2026-04; null compares nothing.
/// The schema says only `Int`, the server checks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InventoryQuantityInput {
    pub(super) inventory_item_id: String,
    pub(super) location_id: String,
    pub(super) quantity: u64,
    pub(super) change_from_quantity: Option<i64>,
}

/// Builds the set of absolute quantities.
///
/// `token` names the push in the merchant's inventory history, `key` makes a repeat harmless.
pub(super) fn build_set(
    quantities: &[&InventoryQuantityInput],
    token: &str,
    key: &str,
) -> Document {
    let input = json!({
        "name": "available",
        "reason": "correction",
        "referenceDocumentUri": format!("gid://trueup/Push/{token}"),
        "quantities": quantities,
    });
    Document { query: SET_QUANTITIES, variables: json!({ "input": input, "key": key }) }
}

pub(super) fn build_activate(quantity: &InventoryQuantityInput, key: &str) -> Document {
    let variables = json!({
        "item": quantity.inventory_item_id,
        "location": quantity.location_id,
        "key": key,
    });
    Document { query: ACTIVATE, variables }
}

pub(super) fn build_levels(items: &[&str], location: &str) -> Document {
    Document { query: LEVELS, variables: json!({ "ids": items, "location": location }) }
}

/// Builds the read of the variants above a number, so many of them.
pub(super) fn build_variants(above: Option<u64>, first: usize) -> Document {
    let query = above.map(|number| format!("id:>{number}"));
    Document { query: VARIANTS, variables: json!({ "first": first, "query": query }) }
}

pub(super) fn build_item_levels(item: &str, after: &str) -> Document {
    Document { query: ITEM_LEVELS, variables: json!({ "ids": [item], "after": after }) }
}

pub(super) fn build_orders(since: Timestamp, after: Option<&str>) -> Document {
    let query = format!("updated_at:>='{}'", format_time(since));
    Document { query: ORDERS, variables: json!({ "query": query, "after": after }) }
}

pub(super) fn build_order_lines(order: &str, after: &str) -> Document {
    Document { query: ORDER_LINES, variables: json!({ "ids": [order], "after": after }) }
}

pub(super) fn build_refunds(orders: &[&str]) -> Document {
    Document { query: REFUNDS, variables: json!({ "ids": orders }) }
}

pub(super) fn build_locations(after: Option<&str>) -> Document {
    Document { query: LOCATIONS, variables: json!({ "after": after }) }
}

pub(super) fn build_scopes() -> Document {
    Document { query: SCOPES, variables: json!({}) }
}

pub(super) fn build_subscriptions(url: &str) -> Document {
    Document { query: SUBSCRIPTIONS, variables: json!({ "uri": url }) }
}

pub(super) fn build_subscribe(topic: &str, fields: &[&str], url: &str) -> Document {
    let sub = json!({ "uri": url, "format": "JSON", "includeFields": fields });
    Document { query: SUBSCRIBE, variables: json!({ "topic": topic, "sub": sub }) }
}

pub(super) fn build_unsubscribe(subscription: &str) -> Document {
    Document { query: UNSUBSCRIBE, variables: json!({ "id": subscription }) }
}

#[derive(Deserialize)]
struct Envelope {
    data: Option<Value>,
    errors: Option<Vec<GraphqlError>>,
    extensions: Option<Extensions>,
}

#[derive(Deserialize)]
struct Extensions {
    cost: Option<Cost>,
}

/// A GraphQL answer with status 200: what it says of the cost, and its data or its refusal.
pub(super) struct Answer {
    pub(super) cost: Option<Cost>,
    pub(super) data: Result<Value, ChannelError>,
}

/// Reads the envelope of an answer. `errors` beside data is a refusal too: a page with holes
/// must not look like a whole one.
pub(super) fn parse_answer(body: &[u8]) -> Result<Answer, ChannelError> {
    let envelope: Envelope = parse_json("a GraphQL request", body)?;
    let cost = envelope.extensions.and_then(|extensions| extensions.cost);
    let errors = envelope.errors.unwrap_or_default();
    let data = match envelope.data {
        Some(data) if errors.is_empty() && !data.is_null() => Ok(data),
        Some(_) | None => Err(error::classify_graphql(&errors, cost.as_ref())),
    };
    Ok(Answer { cost, data })
}

/// One `userErrors` entry with the index of the quantity that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetRefusal {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) index: Option<usize>,
}

#[derive(Deserialize)]
struct UserError {
    code: Option<String>,
    field: Option<Vec<String>>,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    #[serde(default)]
    user_errors: Vec<UserError>,
}

/// Reads what a set refused; nothing = all set (a set of what it was answers a null group).
pub(super) fn parse_set(data: Value) -> Result<Vec<SetRefusal>, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        inventory_set_quantities: Payload,
    }
    let data: Data = parse_value("inventorySetQuantities", data)?;
    let refusal = |error: UserError| SetRefusal {
        index: error.field.as_deref().and_then(quantity_index),
        code: error.code.unwrap_or_default(),
        message: error.message,
    };
    Ok(data.inventory_set_quantities.user_errors.into_iter().map(refusal).collect())
}

/// Reads the index out of `["input", "quantities", "0", "inventoryItemId"]`.
fn quantity_index(field: &[String]) -> Option<usize> {
    let at = field.iter().position(|part| part == "quantities")?;
    field.get(at + 1)?.parse().ok()
}

/// What stocking an item at a location came to.
pub(super) enum Activated {
    /// It is stocked there, with what it shows now, where the answer says so.
    Stocked(Option<i64>),
    /// It cannot be, in Shopify's words.
    Refused(String),
}

/// Reads what `inventoryActivate` did.
pub(super) fn parse_activate(data: Value) -> Result<Activated, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        inventory_activate: Answer,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        inventory_level: Option<InventoryLevel>,
        #[serde(default)]
        user_errors: Vec<UserError>,
    }
    let data: Data = parse_value("inventoryActivate", data)?;
    let Answer { inventory_level, user_errors } = data.inventory_activate;
    Ok(match user_errors.into_iter().next() {
        Some(error) => Activated::Refused(error.message),
        None => Activated::Stocked(inventory_level.and_then(|level| level.available())),
    })
}

/// Reads the user errors of a mutation that has no codes.
pub(super) fn parse_user_errors(mutation: &str, data: &Value) -> Result<Vec<String>, ChannelError> {
    let payload = data.get(mutation).cloned().unwrap_or(Value::Null);
    let payload: Payload = parse_value(mutation, payload)?;
    Ok(payload.user_errors.into_iter().map(|error| error.message).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    #[serde(default)]
    end_cursor: Option<String>,
}

impl PageInfo {
    fn next(self) -> Option<String> {
        self.end_cursor.filter(|_| self.has_next_page)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection<T> {
    page_info: PageInfo,
    nodes: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InventoryItem {
    id: Option<String>,
    tracked: Option<bool>,
    inventory_level: Option<InventoryLevel>,
}

#[derive(Deserialize)]
struct InventoryLevel {
    #[serde(default)]
    quantities: Vec<InventoryQuantity>,
}

#[derive(Deserialize)]
struct InventoryQuantity {
    name: String,
    quantity: i64,
}

impl InventoryLevel {
    fn available(&self) -> Option<i64> {
        let available = self.quantities.iter().find(|quantity| quantity.name == "available");
        available.map(|available| available.quantity)
    }
}

impl InventoryItem {
    fn shown(&self) -> Shown {
        match &self.inventory_level {
            _ if self.tracked == Some(false) => Shown::NotTracked,
            None => Shown::NotStocked,
            Some(level) => level.available().map_or(Shown::NoNumber, Shown::Available),
        }
    }
}

/// What an item shows at a location: a level that is not there, or an item that is not tracked,
/// is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Available(i64),
    NotTracked,
    NotStocked,
    /// The level came without the quantity that was asked for.
    NoNumber,
}

impl From<Shown> for Reading {
    fn from(shown: Shown) -> Self {
        let why = match shown {
            Shown::Available(quantity) => return Self::Quantity(quantity),
            Shown::NotTracked => "not tracked by Shopify",
            Shown::NotStocked => "not stocked at the location",
            Shown::NoNumber => "no available quantity in the answer",
        };
        Self::Unknown(why.to_owned())
    }
}

/// Reads what the items show, by gid; an item that is not there is absent.
pub(super) fn parse_levels(data: Value) -> Result<BTreeMap<String, Shown>, ChannelError> {
    #[derive(Deserialize)]
    struct Data {
        nodes: Vec<Option<InventoryItem>>,
    }
    let data: Data = parse_value("nodes", data)?;
    let items = data.nodes.into_iter().flatten();
    Ok(items.filter_map(|item| Some((item.id.clone()?, item.shown()))).collect())
}

/// A variant as the catalogue reads it.
pub(super) struct Variant {
    /// The variant's number, by which the walk goes on.
    pub(super) number: Option<u64>,
    id: String,
    sku: Option<String>,
    title: Option<String>,
    /// Its inventory item.
    pub(super) item: Option<String>,
    is_tracked: bool,
    /// Whether other inventory items carry its SKU.
    is_ambiguous: bool,
    /// What it shows, by location.
    pub(super) levels: Vec<(String, Shown)>,
    /// Where its further locations start.
    pub(super) more_levels: Option<String>,
}

#[derive(Deserialize)]
struct PlacedLevel {
    location: ItemId,
    #[serde(flatten)]
    level: InventoryLevel,
}

impl PlacedLevel {
    fn shown(self, is_tracked: bool) -> (String, Shown) {
        let shown = match self.level.available() {
            _ if !is_tracked => Shown::NotTracked,
            Some(available) => Shown::Available(available),
            None => Shown::NoNumber,
        };
        (self.location.id, shown)
    }
}

/// Reads a page of variants; the flag says whether there are more.
pub(super) fn parse_variants(data: Value) -> Result<(Vec<Variant>, bool), ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        product_variants: Connection<Node>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Node {
        id: String,
        sku: Option<String>,
        display_name: Option<String>,
        inventory_item: Item,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Item {
        id: Option<String>,
        tracked: Option<bool>,
        #[serde(default)]
        duplicate_sku_count: u64,
        inventory_levels: Option<Connection<PlacedLevel>>,
    }
    let data: Data = parse_value("productVariants", data)?;
    let variant = |node: Node| {
        let item = node.inventory_item;
        let is_tracked = item.tracked != Some(false);
        let (levels, more_levels) = match item.inventory_levels {
            Some(Connection { page_info, nodes }) => (nodes, page_info.next()),
            None => (Vec::new(), None),
        };
        Variant {
            number: gid_number(&node.id).parse().ok(),
            id: node.id,
            sku: node.sku.filter(|sku| !sku.is_empty()),
            title: node.display_name.filter(|title| !title.is_empty()),
            item: item.id,
            is_tracked,
            is_ambiguous: item.duplicate_sku_count > 0,
            levels: levels.into_iter().map(|level| level.shown(is_tracked)).collect(),
            more_levels,
        }
    };
    let Connection { page_info, nodes } = data.product_variants;
    Ok((nodes.into_iter().map(variant).collect(), page_info.has_next_page))
}

/// Reads what an item shows at further locations into its variant.
pub(super) fn parse_item_levels(data: Value, variant: &mut Variant) -> Result<(), ChannelError> {
    #[derive(Deserialize)]
    struct Data {
        nodes: Vec<Option<Item>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Item {
        inventory_levels: Connection<PlacedLevel>,
    }
    let data: Data = parse_value("inventoryLevels", data)?;
    let item = data.nodes.into_iter().flatten().next();
    let Some(Item { inventory_levels: Connection { page_info, nodes } }) = item else {
        return Ok(());
    };
    let tracked = variant.is_tracked;
    variant.levels.extend(nodes.into_iter().map(|level| level.shown(tracked)));
    variant.more_levels = page_info.next();
    Ok(())
}

/// Makes a listing of each location that stocks a variant.
///
/// One of them is what its SKU is to be mapped to: that of the connection's location, else the
/// only one. The others are the same goods in another place, and whether their number is another
/// one is for people to say: they are duplicates.
pub(super) fn entries(variant: Variant, default_location: Option<&str>) -> Vec<CatalogueEntry> {
    let mut fields = BTreeMap::from([("variantId".to_owned(), variant.id)]);
    fields.extend(variant.item.map(|item| ("inventoryItemId".to_owned(), item)));
    let entry = |location: Option<&str>, reading: Reading, duplicate: bool| {
        let mut fields = fields.clone();
        fields.extend(location.map(|location| ("locationId".to_owned(), location.to_owned())));
        CatalogueEntry {
            sku: variant.sku.clone(),
            title: variant.title.clone(),
            fields,
            reading,
            channel_fulfilled: false,
            duplicate: duplicate || variant.is_ambiguous,
        }
    };
    let mut levels = variant.levels;
    if levels.is_empty() {
        let shown = if variant.is_tracked { Shown::NotStocked } else { Shown::NotTracked };
        return vec![entry(default_location, shown.into(), false)];
    }
    let is_default = |(location, _): &(String, Shown)| Some(location.as_str()) == default_location;
    levels.sort_by_key(|level| !is_default(level));
    let has_main = levels.len() == 1 || levels.first().is_some_and(is_default);
    let listed = levels.iter().enumerate();
    listed
        .map(|(at, (location, shown))| entry(Some(location), (*shown).into(), at > 0 || !has_main))
        .collect()
}

/// An order as the poll reads it, before its further lines and refunds are known.
pub(super) struct PolledOrder {
    pub(super) gid: String,
    pub(super) notice: OrderNotice,
    /// Where its further lines start.
    pub(super) more_lines: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineItem {
    id: String,
    sku: Option<String>,
    quantity: u64,
    current_quantity: u64,
    variant: Option<LineVariant>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineVariant {
    id: String,
    inventory_item: Option<ItemId>,
}

#[derive(Deserialize)]
struct ItemId {
    id: String,
}

/// `quantity` counts the units ordered, removed and refunded ones included; `currentQuantity`
/// leaves those out.
/// <https://shopify.dev/docs/api/admin-graphql/2026-07/objects/LineItem>
fn order_line(line: LineItem) -> OrderLine {
    let mut fields = BTreeMap::new();
    if let Some(variant) = line.variant {
        fields.insert("variantId".to_owned(), variant.id);
        if let Some(item) = variant.inventory_item {
            fields.insert("inventoryItemId".to_owned(), item.id);
        }
    }
    OrderLine {
        line_id: gid_number(&line.id).to_owned(),
        sku: line.sku.filter(|sku| !sku.is_empty()),
        fields,
        state: LineState {
            sold: line.quantity,
            restocked: line.quantity.saturating_sub(line.current_quantity),
            ..LineState::default()
        },
    }
}

/// Reads a page of orders.
pub(super) fn parse_orders(data: Value) -> Result<Page<PolledOrder>, ChannelError> {
    #[derive(Deserialize)]
    struct Data {
        orders: Connection<Order>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Order {
        id: String,
        created_at: Option<String>,
        updated_at: String,
        line_items: Connection<LineItem>,
    }
    let data: Data = parse_value("orders", data)?;
    let order = |order: Order| {
        let Connection { page_info, nodes } = order.line_items;
        PolledOrder {
            notice: OrderNotice {
                order_id: gid_number(&order.id).to_owned(),
                placed_at: order.created_at.as_deref().and_then(parse_time),
                updated_at: parse_time(&order.updated_at),
                lines: nodes.into_iter().map(order_line).collect(),
            },
            gid: order.id,
            more_lines: page_info.next(),
        }
    };
    let Connection { page_info, nodes } = data.orders;
    Ok(Page { items: nodes.into_iter().map(order).collect(), next: page_info.next() })
}

/// Reads further lines of one order.
pub(super) fn parse_order_lines(data: Value) -> Result<Page<OrderLine>, ChannelError> {
    #[derive(Deserialize)]
    struct Data {
        nodes: Vec<Option<Order>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Order {
        line_items: Connection<LineItem>,
    }
    let data: Data = parse_value("nodes", data)?;
    match data.nodes.into_iter().flatten().next() {
        Some(order) => {
            let Connection { page_info, nodes } = order.line_items;
            Ok(Page { items: nodes.into_iter().map(order_line).collect(), next: page_info.next() })
        }
        None => Ok(Page { items: Vec::new(), next: None }),
    }
}

/// Reads how many units of each line (by number) were refunded without coming back.
pub(super) fn parse_lost_units(data: Value) -> Result<BTreeMap<String, u64>, ChannelError> {
    #[derive(Deserialize)]
    struct Data {
        nodes: Vec<Option<Order>>,
    }
    #[derive(Deserialize)]
    struct Order {
        #[serde(default)]
        refunds: Vec<Refund>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Refund {
        refund_line_items: Nodes,
    }
    #[derive(Deserialize)]
    struct Nodes {
        nodes: Vec<RefundLineItem>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RefundLineItem {
        quantity: u64,
        restock_type: String,
        line_item: ItemId,
    }
    let data: Data = parse_value("refunds", data)?;
    let mut lost = BTreeMap::new();
    let refunds = data.nodes.into_iter().flatten().flat_map(|order| order.refunds);
    for line in refunds.flat_map(|refund| refund.refund_line_items.nodes) {
        if line.restock_type.eq_ignore_ascii_case("NO_RESTOCK") {
            *lost.entry(gid_number(&line.line_item.id).to_owned()).or_default() += line.quantity;
        }
    }
    Ok(lost)
}

/// Takes the units that did not come back off what came back.
pub(super) fn without_lost(notice: &mut OrderNotice, lost: &BTreeMap<String, u64>) {
    for line in &mut notice.lines {
        let units = lost.get(&line.line_id).copied().unwrap_or(0);
        line.state.restocked = line.state.restocked.saturating_sub(units);
    }
}

/// A location, as `connect` needs it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Location {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) is_active: bool,
    #[serde(default)]
    pub(super) fulfills_online_orders: bool,
}

/// Reads a page of locations.
pub(super) fn parse_locations(data: Value) -> Result<Page<Location>, ChannelError> {
    #[derive(Deserialize)]
    struct Data {
        locations: Connection<Location>,
    }
    let data: Data = parse_value("locations", data)?;
    let Connection { page_info, nodes } = data.locations;
    Ok(Page { items: nodes, next: page_info.next() })
}

/// Reads the scopes that the app was granted.
pub(super) fn parse_scopes(data: Value) -> Result<Vec<String>, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        current_app_installation: Installation,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Installation {
        access_scopes: Vec<Scope>,
    }
    #[derive(Deserialize)]
    struct Scope {
        handle: String,
    }
    let data: Data = parse_value("access scopes", data)?;
    Ok(data.current_app_installation.access_scopes.into_iter().map(|scope| scope.handle).collect())
}

/// A webhook subscription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Subscription {
    pub(super) id: String,
    pub(super) topic: String,
    uri: String,
}

/// Reads the subscriptions of this address.
pub(super) fn parse_subscriptions(
    data: Value,
    url: &str,
) -> Result<Vec<Subscription>, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        webhook_subscriptions: Nodes,
    }
    #[derive(Deserialize)]
    struct Nodes {
        nodes: Vec<Subscription>,
    }
    let data: Data = parse_value("webhookSubscriptions", data)?;
    let all = data.webhook_subscriptions.nodes.into_iter();
    Ok(all.filter(|subscription| subscription.uri == url).collect())
}

/// Makes the input of one item out of a listing's fields.
pub(super) fn quantity_input(
    fields: &BTreeMap<String, String>,
    quantity: u64,
    expected_before: Option<i64>,
) -> Result<InventoryQuantityInput, ChannelError> {
    let id = |name: &str, kind: &str| {
        fields.get(name).and_then(|text| gid(kind, text)).ok_or_else(|| {
            let detail = format!("the mapping has no usable {name}");
            ChannelError::new(ChannelErrorKind::InvalidValue, detail)
        })
    };
    Ok(InventoryQuantityInput {
        inventory_item_id: id("inventoryItemId", "InventoryItem")?,
        location_id: id("locationId", "Location")?,
        quantity,
        change_from_quantity: expected_before,
    })
}
