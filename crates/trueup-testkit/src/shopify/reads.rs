//! Resolves selected fields against the shop's books: objects, connections and cursors.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::graphql::{Document, Field, Selection};
use super::state::{self, State, gid, item_id, variant_id};
use crate::shop::{OrderStatus, SimOrder};
use crate::time::seconds_text;

/// The largest page.
pub const PAGE_MAX: u64 = 250;
/// The most objects that a connection gives out without a filter.
/// Source: shopify.dev `usage/limits`, pagination limits.
pub const DEPTH_MAX: usize = 25_000;
/// The most ids in `nodes`.
pub const NODES_MAX: usize = 250;

/// A GraphQL error for the `errors` list.
pub(crate) struct Wrong {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

fn wrong(code: &'static str, message: impl Into<String>) -> Wrong {
    Wrong { code, message: message.into() }
}

/// Something that has fields.
#[derive(Clone)]
pub(crate) enum Thing {
    Item(usize),
    Level(usize, u64),
    Variant(usize),
    Location(u64),
    Order(Box<SimOrder>),
    Line(Box<SimOrder>),
    Page(Vec<Thing>, Value),
    Plain(Value),
}

/// What a field holds.
pub(crate) enum Found {
    Leaf(Value),
    One(Thing),
    Many(Vec<Option<Thing>>),
}

/// The books and the request in whose light fields are resolved.
pub(crate) struct View<'a> {
    pub(crate) shop: &'a State,
    pub(crate) document: &'a Document,
    pub(crate) variables: &'a Map<String, Value>,
}

impl View<'_> {
    /// Returns the arguments of a field with variables filled in.
    pub(crate) fn arguments(&self, field: &Field) -> Map<String, Value> {
        let filled = field
            .arguments
            .iter()
            .filter_map(|(name, input)| Some((name.clone(), input.value(self.variables)?)));
        filled.collect()
    }

    /// Resolves a root field of a query.
    pub(crate) fn root(&self, field: &Field) -> Result<Value, Wrong> {
        let arguments = self.arguments(field);
        let found = match field.name.as_str() {
            "nodes" => self.nodes(&arguments)?,
            "location" => self.location(arguments.get("id").and_then(Value::as_str)),
            "locations" => {
                let all = self.shop.locations.iter().map(|known| Thing::Location(known.id));
                page(&arguments, &all.collect::<Vec<_>>())?
            }
            "productVariants" => self.variants(&arguments)?,
            "inventoryItems" => self.items(&arguments)?,
            "inventoryItem" => {
                let id = arguments.get("id").and_then(Value::as_str).unwrap_or_default();
                one(state::item_index(id, self.shop.items.len()).map(Thing::Item))
            }
            "orders" => self.orders(&arguments)?,
            "webhookSubscriptions" => {
                let all = self.shop.subscriptions.iter().map(|known| {
                    Thing::Plain(json!({
                        "id": gid("WebhookSubscription", known.id), "topic": known.topic,
                        "uri": known.uri, "format": "JSON",
                    }))
                });
                page(&arguments, &all.collect::<Vec<_>>())?
            }
            "shop" => Found::One(Thing::Plain(json!({
                "id": gid("Shop", 1), "name": "Simulated shop", "currencyCode": "EUR",
                "myshopifyDomain": "sim.myshopify.com",
            }))),
            name => {
                let words = format!("Field '{name}' doesn't exist on type 'QueryRoot'");
                return Err(wrong("undefinedField", words));
            }
        };
        self.found(found, &field.selections)
    }

    /// Cuts an answer down to what was selected.
    pub(crate) fn project(&self, thing: &Thing, wanted: &[Selection]) -> Result<Value, Wrong> {
        let mut answer = Map::new();
        self.project_into(thing, wanted, &mut answer)?;
        Ok(Value::Object(answer))
    }

    fn project_into(
        &self,
        thing: &Thing,
        wanted: &[Selection],
        answer: &mut Map<String, Value>,
    ) -> Result<(), Wrong> {
        for selection in wanted {
            match selection {
                Selection::Field(field) => {
                    let found = self.field(thing, field)?;
                    answer.insert(field.key.clone(), self.found(found, &field.selections)?);
                }
                Selection::Inline(on, below) => {
                    let fits = on.as_deref().is_none_or(|on| {
                        on == "Node" || type_name(thing).is_none_or(|name| name == on)
                    });
                    if fits {
                        self.project_into(thing, below, answer)?;
                    }
                }
                Selection::Spread(name) => {
                    let below = self.document.fragments.get(name).ok_or_else(|| {
                        wrong("undefinedFragment", format!("Fragment {name} was not defined"))
                    })?;
                    self.project_into(thing, below, answer)?;
                }
            }
        }
        Ok(())
    }

    fn found(&self, found: Found, wanted: &[Selection]) -> Result<Value, Wrong> {
        match found {
            Found::Leaf(value) => self.plain(value, wanted),
            Found::One(thing) => self.project(&thing, wanted),
            Found::Many(things) => {
                let each = |thing: Option<Thing>| match thing {
                    Some(thing) => self.project(&thing, wanted),
                    None => Ok(Value::Null),
                };
                Ok(Value::Array(things.into_iter().map(each).collect::<Result<_, _>>()?))
            }
        }
    }

    /// Projects ready JSON: objects and lists of objects; scalars pass.
    fn plain(&self, value: Value, wanted: &[Selection]) -> Result<Value, Wrong> {
        match value {
            Value::Object(_) => self.project(&Thing::Plain(value), wanted),
            Value::Array(items) => {
                let items = items.into_iter().map(|item| self.plain(item, wanted));
                Ok(Value::Array(items.collect::<Result<_, _>>()?))
            }
            scalar => Ok(scalar),
        }
    }

    fn field(&self, thing: &Thing, field: &Field) -> Result<Found, Wrong> {
        let found = match thing {
            Thing::Item(index) => self.item_field(*index, field)?,
            Thing::Level(index, location) => self.level_field(*index, *location, field)?,
            Thing::Variant(index) => variant_field(self.shop, *index, &field.name),
            Thing::Location(id) => self.location_field(*id, field)?,
            Thing::Order(order) if field.name == "refunds" => Some(self.refunds(order)),
            Thing::Order(order) => order_field(&self.arguments(field), order, &field.name)?,
            Thing::Line(order) => self.line_field(order, &field.name),
            Thing::Page(things, info) => match field.name.as_str() {
                "nodes" => Some(Found::Many(things.iter().cloned().map(Some).collect())),
                "edges" => Some(Found::Leaf(Value::Array(
                    things.iter().map(|_| json!({"cursor": null})).collect(),
                ))),
                "pageInfo" => Some(Found::Leaf(info.clone())),
                _ => None,
            },
            Thing::Plain(value) => value.get(&field.name).cloned().map(Found::Leaf),
        };
        if field.name == "__typename" {
            return Ok(Found::Leaf(type_name(thing).map_or(Value::Null, Value::from)));
        }
        found.ok_or_else(|| {
            let on = type_name(thing).unwrap_or("this type");
            wrong("undefinedField", format!("Field '{}' doesn't exist on type '{on}'", field.name))
        })
    }

    fn item_field(&self, index: usize, field: &Field) -> Result<Option<Found>, Wrong> {
        let item = &self.shop.items[index];
        Ok(Some(match field.name.as_str() {
            "id" => leaf(gid("InventoryItem", item_id(index))),
            "legacyResourceId" => leaf(item_id(index).to_string()),
            "sku" => leaf(item.sku.as_str()),
            "tracked" => leaf(item.tracked),
            "duplicateSkuCount" => leaf(0),
            "variants" => page(&self.arguments(field), &[Thing::Variant(index)])?,
            "variant" => Found::One(Thing::Variant(index)),
            "inventoryLevel" => {
                let arguments = self.arguments(field);
                let id = arguments.get("locationId").and_then(Value::as_str);
                let location = id.and_then(state::location_number);
                let level = item.levels.iter().find(|level| Some(level.location) == location);
                one(level.map(|level| Thing::Level(index, level.location)))
            }
            "inventoryLevels" => {
                let levels = item.levels.iter().map(|level| Thing::Level(index, level.location));
                page(&self.arguments(field), &levels.collect::<Vec<_>>())?
            }
            _ => return Ok(None),
        }))
    }

    fn level_field(
        &self,
        index: usize,
        location: u64,
        field: &Field,
    ) -> Result<Option<Found>, Wrong> {
        let levels = &self.shop.items[index].levels;
        let Some(level) = levels.iter().find(|level| level.location == location) else {
            return Ok(None);
        };
        Ok(Some(match field.name.as_str() {
            "id" => leaf(state::level_gid(index, location)),
            "updatedAt" => leaf(seconds_text(level.updated_at)),
            "item" => Found::One(Thing::Item(index)),
            "location" => Found::One(Thing::Location(location)),
            "isActive" => leaf(true),
            "quantities" => {
                let arguments = self.arguments(field);
                let names = arguments.get("names").and_then(Value::as_array);
                let names = names.ok_or_else(|| {
                    wrong("missingRequiredArguments", "Field 'quantities' is missing names")
                })?;
                let quantity = |name: &Value| {
                    let name = name.as_str().unwrap_or_default();
                    let quantity = match name {
                        "available" => level.available,
                        "on_hand" => level.on_hand(),
                        "committed" => level.committed,
                        _ => 0,
                    };
                    json!({
                        "id": gid("InventoryQuantity", format!("{location}-{index}?name={name}")),
                        "name": name, "quantity": quantity,
                        "updatedAt": seconds_text(level.updated_at),
                    })
                };
                Found::Leaf(Value::Array(names.iter().map(quantity).collect()))
            }
            _ => return Ok(None),
        }))
    }

    fn location_field(&self, id: u64, field: &Field) -> Result<Option<Found>, Wrong> {
        let known = self.shop.locations.iter().find(|known| known.id == id);
        Ok(Some(match field.name.as_str() {
            "id" => leaf(gid("Location", id)),
            "legacyResourceId" => leaf(id.to_string()),
            "name" => leaf(known.map_or("", |known| known.name.as_str())),
            "isActive" | "fulfillsOnlineOrders" => leaf(true),
            "inventoryLevels" => {
                let arguments = self.arguments(field);
                let stocked = |index: &usize| {
                    self.shop.items[*index].levels.iter().any(|level| level.location == id)
                };
                let from = start(&arguments)?;
                let all = (from..self.shop.items.len()).filter(stocked);
                numbered(&arguments, all, |index| Thing::Level(index, id))?
            }
            _ => return Ok(None),
        }))
    }

    fn line_field(&self, order: &SimOrder, name: &str) -> Option<Found> {
        let left = order.left();
        let unshipped = if order.status == OrderStatus::Shipped { 0 } else { left };
        Some(match name {
            "id" => leaf(gid("LineItem", &order.line_id)),
            "sku" => leaf(order.sku.as_str()),
            "name" | "title" => leaf(order.sku.as_str()),
            "quantity" => leaf(order.quantity),
            "currentQuantity" => leaf(left),
            "unfulfilledQuantity" => leaf(unshipped),
            "variant" => one(self.shop.by_sku.get(&order.sku).copied().map(Thing::Variant)),
            _ => return None,
        })
    }

    fn refunds(&self, order: &SimOrder) -> Found {
        let line = gid("LineItem", &order.line_id);
        let refund = |(at, (quantity, restock)): (usize, &(i64, bool))| {
            let kind = if *restock { "RETURN" } else { "NO_RESTOCK" };
            let item = json!({"quantity": quantity, "restockType": kind, "lineItem": {"id": line}});
            json!({
                "id": gid("Refund", format!("{}{at}", order.order_id)),
                "refundLineItems": {"nodes": [item], "pageInfo": page_info(false, None)},
            })
        };
        let known = self.shop.refunds.get(&order.order_id);
        Found::Leaf(known.into_iter().flatten().enumerate().map(refund).collect())
    }

    fn nodes(&self, arguments: &Map<String, Value>) -> Result<Found, Wrong> {
        let ids = arguments.get("ids").and_then(Value::as_array);
        let ids =
            ids.ok_or_else(|| wrong("missingRequiredArguments", "Field 'nodes' needs ids"))?;
        if ids.len() > NODES_MAX {
            let size = ids.len();
            let words = format!(
                "The input array size of {size} is greater than the maximum allowed of 250."
            );
            return Err(wrong("MAX_INPUT_SIZE_EXCEEDED", words));
        }
        let node = |id: &Value| {
            let id = id.as_str().unwrap_or_default();
            let item = state::item_index(id, self.shop.items.len()).map(Thing::Item);
            item.or_else(|| {
                let order = self.shop.orders.get(id.strip_prefix("gid://shopify/Order/")?)?;
                Some(Thing::Order(Box::new(order.clone())))
            })
        };
        Ok(Found::Many(ids.iter().map(node).collect()))
    }

    fn location(&self, id: Option<&str>) -> Found {
        let number = match id {
            Some(id) => state::location_number(id),
            None => self.shop.locations.first().map(|known| known.id),
        };
        let known = self.shop.locations.iter().find(|known| Some(known.id) == number);
        one(known.map(|known| Thing::Location(known.id)))
    }

    fn variants(&self, arguments: &Map<String, Value>) -> Result<Found, Wrong> {
        self.by_sku(arguments, Thing::Variant)
    }

    fn items(&self, arguments: &Map<String, Value>) -> Result<Found, Wrong> {
        self.by_sku(arguments, Thing::Item)
    }

    /// Pages through all items, or those named by `sku:` terms joined with OR.
    fn by_sku(
        &self,
        arguments: &Map<String, Value>,
        thing: fn(usize) -> Thing,
    ) -> Result<Found, Wrong> {
        let from = start(arguments)?;
        match arguments.get("query").and_then(Value::as_str) {
            None | Some("") => numbered(arguments, from..self.shop.items.len(), thing),
            Some(query) if terms(query, "id").next().is_some() => {
                let above = terms(query, "id").map(|(operator, text)| {
                    let number: u64 = text.parse().unwrap_or(u64::MAX);
                    let first = if operator == ">" { number.saturating_add(1) } else { number };
                    // Items and variants are numbered alike, each from a base of its own.
                    let base = match thing(0) {
                        Thing::Variant(_) => variant_id(0),
                        _ => item_id(0),
                    };
                    usize::try_from(first.saturating_sub(base)).unwrap_or(usize::MAX)
                });
                let all = self.shop.items.len();
                let from = above.fold(from, usize::max).min(all);
                numbered(arguments, from..all, thing)
            }
            Some(query) => {
                let mut named: Vec<usize> = terms(query, "sku")
                    .filter_map(|(_, sku)| self.shop.by_sku.get(&sku).copied())
                    .filter(|index| *index >= from)
                    .collect();
                named.sort_unstable();
                named.dedup();
                numbered(arguments, named.into_iter(), thing)
            }
        }
    }

    /// Pages through orders by last update; understands `updated_at:>=…` and `updated_at:>…`.
    fn orders(&self, arguments: &Map<String, Value>) -> Result<Found, Wrong> {
        let first = first(arguments)?;
        let query = arguments.get("query").and_then(Value::as_str).unwrap_or_default();
        let mut since = Timestamp::MIN;
        for (operator, text) in terms(query, "updated_at") {
            let at: Timestamp = text.parse().map_err(|_| {
                wrong("INVALID_FIELD_ARGUMENTS", "Invalid timestamp for updated_at")
            })?;
            match operator {
                ">=" => since = since.max(at),
                ">" => since = since.max(crate::time::plus_ms(at, 1_000)),
                _ => {}
            }
        }
        let cursor = arguments.get("after").and_then(Value::as_str);
        let found: Vec<&SimOrder> = match cursor {
            None => self.shop.orders.since(since).take(first + 1).collect(),
            Some(cursor) => {
                let at = order_cursor(cursor).ok_or_else(bad_cursor)?;
                self.shop.orders.after(at).take(first + 1).collect()
            }
        };
        let more = found.len() > first;
        let things: Vec<&SimOrder> = found.into_iter().take(first).collect();
        let end = things
            .last()
            .map(|order| format!("{}_{}", order.updated_at.as_microsecond(), order.number));
        let things = things.into_iter().map(|order| Thing::Order(Box::new(order.clone())));
        Ok(Found::One(Thing::Page(things.collect(), page_info(more, end.as_deref()))))
    }
}

fn leaf(value: impl Into<Value>) -> Found {
    Found::Leaf(value.into())
}

fn one(thing: Option<Thing>) -> Found {
    thing.map_or(Found::Leaf(Value::Null), Found::One)
}

fn type_name(thing: &Thing) -> Option<&'static str> {
    match thing {
        Thing::Item(_) => Some("InventoryItem"),
        Thing::Level(..) => Some("InventoryLevel"),
        Thing::Variant(_) => Some("ProductVariant"),
        Thing::Location(_) => Some("Location"),
        Thing::Order(_) => Some("Order"),
        Thing::Line(_) => Some("LineItem"),
        Thing::Page(..) | Thing::Plain(_) => None,
    }
}

fn variant_field(shop: &State, index: usize, name: &str) -> Option<Found> {
    let item = &shop.items[index];
    Some(match name {
        "id" => leaf(gid("ProductVariant", variant_id(index))),
        "legacyResourceId" => leaf(variant_id(index).to_string()),
        "sku" => leaf(item.sku.as_str()),
        "title" | "displayName" => leaf(item.sku.as_str()),
        "inventoryItem" => Found::One(Thing::Item(index)),
        "inventoryQuantity" => leaf(shop.shown(index)),
        _ => return None,
    })
}

fn order_field(
    arguments: &Map<String, Value>,
    order: &SimOrder,
    name: &str,
) -> Result<Option<Found>, Wrong> {
    let cancelled = order.status == OrderStatus::Cancelled;
    Ok(Some(match name {
        "id" => leaf(gid("Order", &order.order_id)),
        "legacyResourceId" => leaf(order.order_id.as_str()),
        "name" => leaf(format!("#{}", 1_000 + order.number)),
        "createdAt" => leaf(seconds_text(order.created_at)),
        "updatedAt" => leaf(seconds_text(order.updated_at)),
        "cancelledAt" => {
            leaf(if cancelled { Value::from(seconds_text(order.updated_at)) } else { Value::Null })
        }
        "displayFinancialStatus" => leaf(if cancelled {
            "VOIDED"
        } else if order.refunded == 0 {
            "PAID"
        } else if order.refunded < order.quantity {
            "PARTIALLY_REFUNDED"
        } else {
            "REFUNDED"
        }),
        "displayFulfillmentStatus" => {
            leaf(if order.status == OrderStatus::Shipped { "FULFILLED" } else { "UNFULFILLED" })
        }
        "lineItems" => page(arguments, &[Thing::Line(Box::new(order.clone()))])?,
        _ => return Ok(None),
    }))
}

/// Returns the terms `field:operator value` of a search query, with operator and bare value.
fn terms<'a>(query: &'a str, field: &'a str) -> impl Iterator<Item = (&'static str, String)> + 'a {
    query.split_whitespace().filter_map(move |term| {
        let term = term.trim_matches(['(', ')']);
        let rest = term.strip_prefix(field)?.strip_prefix(':')?;
        let operator = [">=", "<=", ">", "<"].into_iter().find(|mark| rest.starts_with(mark));
        let value = &rest[operator.map_or(0, str::len)..];
        let value = value.trim_matches(['\'', '"']).replace("\\:", ":");
        Some((operator.unwrap_or("="), value))
    })
}

fn first(arguments: &Map<String, Value>) -> Result<usize, Wrong> {
    let size = arguments.get("first").or_else(|| arguments.get("last")).and_then(Value::as_u64);
    match size {
        Some(size @ 1..=PAGE_MAX) => Ok(usize::try_from(size).unwrap_or(1)),
        Some(_) => Err(wrong("INVALID_FIELD_ARGUMENTS", "first must be between 1 and 250")),
        None => {
            let words = "you must provide one of first or last";
            Err(wrong("BAD_REQUEST", words))
        }
    }
}

fn bad_cursor() -> Wrong {
    wrong("BAD_REQUEST", "Invalid cursor for current pagination sort.")
}

/// Returns the index at which a page of numbered things starts.
fn start(arguments: &Map<String, Value>) -> Result<usize, Wrong> {
    match arguments.get("after") {
        None | Some(Value::Null) => Ok(0),
        Some(cursor) => {
            let number = cursor.as_str().and_then(|cursor| cursor.strip_prefix("i"));
            let index: usize =
                number.and_then(|number| number.parse().ok()).ok_or_else(bad_cursor)?;
            Ok(index.saturating_add(1))
        }
    }
}

/// Returns a page of things that are numbered by item index, from [`start`] on.
fn numbered(
    arguments: &Map<String, Value>,
    indices: impl Iterator<Item = usize>,
    thing: impl Fn(usize) -> Thing,
) -> Result<Found, Wrong> {
    let first = first(arguments)?;
    // The cursor is a place in the whole list, which is not given out beyond this depth.
    if arguments.get("query").is_none_or(Value::is_null) && start(arguments)? >= DEPTH_MAX {
        let words = format!("Cannot paginate beyond {DEPTH_MAX} objects; use a filter");
        return Err(wrong("BAD_REQUEST", words));
    }
    let mut found: Vec<usize> = indices.take(first + 1).collect();
    let more = found.len() > first;
    found.truncate(first);
    let end = found.last().map(|index| format!("i{index}"));
    let things = found.into_iter().map(thing).collect();
    Ok(Found::One(Thing::Page(things, page_info(more, end.as_deref()))))
}

/// Returns a page of a short list.
fn page(arguments: &Map<String, Value>, things: &[Thing]) -> Result<Found, Wrong> {
    let from = start(arguments)?.min(things.len());
    let paged = numbered(arguments, from..things.len(), |index| things[index].clone())?;
    Ok(paged)
}

fn page_info(more: bool, end: Option<&str>) -> Value {
    json!({"hasNextPage": more, "hasPreviousPage": false, "endCursor": end, "startCursor": null})
}

fn order_cursor(text: &str) -> Option<(Timestamp, u64)> {
    let (micros, number) = text.split_once('_')?;
    let at = Timestamp::from_microsecond(micros.parse().ok()?).ok()?;
    Some((at, number.parse().ok()?))
}
