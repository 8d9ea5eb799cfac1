//! Shopify's inventory mutations: compare-and-set, idempotency, all-or-nothing calls.
//!
//! Sources: shopify.dev `inventorySetQuantities`, `inventoryAdjustQuantities`,
//! `implementing-idempotency`; the words of errors follow recorded answers of the live API.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::state::{self, Event, Remembered, State, gid};
use crate::faults::FaultDial;
use crate::time::seconds_text;

/// The most elements in an array argument.
pub const ARRAY_MAX: usize = 250;
/// The largest quantity, either way.
pub const QUANTITY_MAX: i64 = 1_000_000_000;
/// The first version in which `@idempotent` and `changeFromQuantity` must be there.
pub(crate) const STRICT_SINCE: &str = "2026-04";
/// What is said of a mutation that must be idempotent and is not.
pub(crate) const UNKEYED: &str =
    "The @idempotent directive is required for this mutation but was not provided.";

const REASONS: [&str; 17] = [
    "correction",
    "cycle_count_available",
    "damaged",
    "movement_canceled",
    "movement_created",
    "movement_received",
    "movement_updated",
    "other",
    "promotion",
    "quality_control",
    "received",
    "reservation_created",
    "reservation_deleted",
    "reservation_updated",
    "restock",
    "safety_stock",
    "shrinkage",
];

/// Set or adjust.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Set,
    Adjust,
}

impl Verb {
    const fn list(self) -> &'static str {
        match self {
            Self::Set => "quantities",
            Self::Adjust => "changes",
        }
    }

    const fn type_name(self) -> &'static str {
        match self {
            Self::Set => "InventoryQuantityInput",
            Self::Adjust => "InventoryChangeInput",
        }
    }

    const fn amount(self) -> &'static str {
        match self {
            Self::Set => "quantity",
            Self::Adjust => "delta",
        }
    }

    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Set => &["inventoryItemId", "locationId", "quantity", "changeFromQuantity"],
            Self::Adjust => &[
                "inventoryItemId",
                "locationId",
                "delta",
                "changeFromQuantity",
                "ledgerDocumentUri",
            ],
        }
    }
}

/// A call that is refused as a whole, before any user error.
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

/// What a call did.
pub(crate) struct Done {
    pub(crate) payload: Value,
    pub(crate) events: Vec<Event>,
}

/// One call of a mutation.
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb,
    pub(crate) version: &'a str,
    pub(crate) input: &'a Value,
    pub(crate) key: Option<&'a str>,
    pub(crate) now: Timestamp,
}

struct Element {
    item: String,
    location: String,
    amount: i64,
    from: Option<i64>,
}

struct UserError {
    code: &'static str,
    /// The index of the element and the name of its field, if the error is about one.
    at: Option<(usize, &'static str)>,
    field: &'static str,
    message: String,
}

/// Carries out `inventorySetQuantities` or `inventoryAdjustQuantities`.
pub(crate) fn change(
    shop: &mut State,
    faults: &FaultDial,
    call: &Call<'_>,
) -> Result<Done, Refusal> {
    let strict = call.version >= STRICT_SINCE;
    if strict && call.key.is_none() {
        return Err(refusal("BAD_REQUEST", UNKEYED));
    }
    let elements = elements(call, strict)?;
    let parameters: [u8; 32] = Sha256::digest(call.input.to_string()).into();
    if let Some(key) = call.key
        && let Some(known) = shop.remembered(key)
    {
        return Ok(replayed(known, parameters));
    }
    if faults.busy() {
        let code = "IDEMPOTENCY_CONCURRENT_REQUEST";
        return Ok(failed(call, &[whole(code, "key", "Another request with this key is running")]));
    }
    let errors = check(shop, faults, call, &elements);
    let done = if !errors.is_empty() {
        shop.counters.writes_refused += u64::try_from(errors.len()).unwrap_or(0);
        failed(call, &errors)
    } else if faults.lies() {
        Done {
            payload: json!({"inventoryAdjustmentGroup": null, "userErrors": []}),
            events: vec![],
        }
    } else {
        apply(shop, call, &elements)
    };
    if let Some(key) = call.key {
        let result = Remembered {
            parameters,
            payload: done.payload.to_string(),
            succeeded: errors.is_empty(),
        };
        shop.remember(key, result);
    }
    Ok(done)
}

/// Reads the array; refuses what GraphQL's own type check would refuse.
fn elements(call: &Call<'_>, strict: bool) -> Result<Vec<Element>, Refusal> {
    let (list, type_name) = (call.verb.list(), call.verb.type_name());
    let Some(items) = call.input.get(list).and_then(Value::as_array) else {
        return Err(invalid(&format!("{list} (Expected value to not be null)")));
    };
    for name in ["name", "reason"] {
        if call.input.get(name).and_then(Value::as_str).is_none() {
            return Err(invalid(&format!("{name} (Expected value to not be null)")));
        }
    }
    if items.len() > ARRAY_MAX {
        let size = items.len();
        let words =
            format!("The input array size of {size} is greater than the maximum allowed of 250.");
        return Err(refusal("MAX_INPUT_SIZE_EXCEEDED", words));
    }
    let read = |(index, item): (usize, &Value)| {
        let fields = item.as_object().ok_or_else(|| invalid(&format!("{list}.{index}")))?;
        element(call, index, fields).and_then(|element| {
            if strict && !fields.contains_key("changeFromQuantity") {
                let words = "must include the following argument: changeFromQuantity.";
                return Err(refusal("INVALID_FIELD_ARGUMENTS", format!("{type_name} {words}")));
            }
            Ok(element)
        })
    };
    items.iter().enumerate().map(read).collect()
}

fn element(call: &Call<'_>, index: usize, fields: &Map<String, Value>) -> Result<Element, Refusal> {
    let path = |name: &str| format!("{}.{index}.{name}", call.verb.list());
    if let Some(name) = fields.keys().find(|name| !call.verb.fields().contains(&name.as_str())) {
        let words = format!("{} (Field is not defined on {})", path(name), call.verb.type_name());
        return Err(invalid(&words));
    }
    let text = |name: &str| match fields.get(name).and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => Err(invalid(&format!("{} (Expected value to not be null)", path(name)))),
    };
    let amount = call.verb.amount();
    let number = fields.get(amount).and_then(Value::as_i64);
    let from = match fields.get("changeFromQuantity") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_i64().ok_or_else(|| invalid(&path("changeFromQuantity")))?),
    };
    Ok(Element {
        item: text("inventoryItemId")?,
        location: text("locationId")?,
        amount: number.ok_or_else(|| invalid(&format!("{} (Int expected)", path(amount))))?,
        from,
    })
}

fn invalid(what: &str) -> Refusal {
    let words = format!("Variable $input was provided invalid value for {what}");
    refusal("INVALID_VARIABLE", words)
}

fn replayed(known: &Remembered, parameters: [u8; 32]) -> Done {
    let payload = if known.parameters != parameters {
        let words = "The same idempotency key was used with different parameters";
        errors_payload(&[whole("IDEMPOTENCY_KEY_PARAMETER_MISMATCH", "key", words)], "input")
    } else if known.succeeded {
        serde_json::from_str(&known.payload).unwrap_or_default()
    } else {
        let words = "The previous attempt with this idempotency key failed";
        errors_payload(&[whole("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED", "key", words)], "input")
    };
    Done { payload, events: Vec::new() }
}

fn whole(code: &'static str, field: &'static str, message: &str) -> UserError {
    UserError { code, at: None, field, message: message.to_owned() }
}

/// Returns everything that is wrong with the call; nothing is applied unless this is empty.
fn check(
    shop: &State,
    faults: &FaultDial,
    call: &Call<'_>,
    elements: &[Element],
) -> Vec<UserError> {
    let text = |name: &str| call.input.get(name).and_then(Value::as_str);
    let name = text("name").unwrap_or_default();
    let names: &[&str] =
        if call.verb == Verb::Set { &["available", "on_hand"] } else { &["available"] };
    if !names.contains(&name) {
        let code = if call.verb == Verb::Set { "INVALID_NAME" } else { "INVALID_QUANTITY_NAME" };
        let words = format!("The specified quantity name is invalid. Valid values: {names:?}.");
        return vec![whole(code, "name", &words)];
    }
    if !REASONS.contains(&text("reason").unwrap_or_default()) {
        let words =
            format!("The specified reason is invalid. Valid values are: {}.", REASONS.join(", "));
        return vec![whole("INVALID_REASON", "reason", &words)];
    }
    if text("referenceDocumentUri").is_some_and(|uri| !is_document_uri(uri)) {
        let words = "The specified reference document is invalid.";
        return vec![whole("INVALID_REFERENCE_DOCUMENT", "referenceDocumentUri", words)];
    }
    let mut seen = HashSet::new();
    let mut errors = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        if !seen.insert((&element.item, &element.location)) {
            errors.push(UserError {
                code: "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR",
                at: Some((index, "")),
                field: "",
                message: "The combination of inventoryItemId and locationId must be unique.".into(),
            });
        } else if let Some((code, field, words)) = wrong(shop, faults, call.verb, name, element) {
            let message = words.to_owned();
            errors.push(UserError { code, at: Some((index, field)), field, message });
        }
    }
    errors
}

fn is_document_uri(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("gid://") else { return false };
    rest.split('/').count() == 3 && rest.split('/').all(|part| !part.is_empty())
}

/// Returns what is wrong with one element: code, field, words.
fn wrong(
    shop: &State,
    faults: &FaultDial,
    verb: Verb,
    name: &str,
    element: &Element,
) -> Option<(&'static str, &'static str, &'static str)> {
    let bad_item = "The specified inventory item could not be found.";
    let Some(index) = state::item_index(&element.item, shop.items.len()) else {
        return Some(("INVALID_INVENTORY_ITEM", "inventoryItemId", bad_item));
    };
    let item = &shop.items[index];
    if faults.poisons(&item.sku) {
        return Some(("INVALID_INVENTORY_ITEM", "inventoryItemId", bad_item));
    }
    let location = state::location_number(&element.location);
    if !shop.locations.iter().any(|known| Some(known.id) == location) {
        let words = "The specified location could not be found.";
        return Some(("INVALID_LOCATION", "locationId", words));
    }
    let Some(level) = item.levels.iter().find(|level| Some(level.location) == location) else {
        let words = "The specified inventory item is not stocked at the location.";
        return Some(("ITEM_NOT_STOCKED_AT_LOCATION", "locationId", words));
    };
    let present = if name == "on_hand" { level.on_hand() } else { level.available };
    let wanted = match verb {
        Verb::Set => element.amount,
        Verb::Adjust => present.saturating_add(element.amount),
    };
    let field = verb.amount();
    if wanted > QUANTITY_MAX {
        return Some(("INVALID_QUANTITY_TOO_HIGH", field, "The quantity is too high."));
    }
    if wanted < -QUANTITY_MAX {
        return Some(("INVALID_QUANTITY_TOO_LOW", field, "The quantity is too low."));
    }
    if name == "on_hand" && wanted < 0 {
        return Some(("INVALID_QUANTITY_NEGATIVE", field, "The quantity can't be negative."));
    }
    if element.from.is_some_and(|from| from != present) {
        let words = "The specified compare quantity does not match the current quantity.";
        return Some(("CHANGE_FROM_QUANTITY_STALE", "changeFromQuantity", words));
    }
    None
}

fn failed(call: &Call<'_>, errors: &[UserError]) -> Done {
    Done { payload: errors_payload(errors, call.verb.list()), events: Vec::new() }
}

fn errors_payload(errors: &[UserError], list: &str) -> Value {
    let one = |error: &UserError| {
        let mut path = vec!["input".to_owned()];
        match error.at {
            Some((index, field)) => {
                path.extend([list.to_owned(), index.to_string(), field.to_owned()]);
            }
            None => path.push(error.field.to_owned()),
        }
        path.retain(|part| !part.is_empty());
        json!({"code": error.code, "field": path, "message": error.message})
    };
    let errors: Vec<Value> = errors.iter().map(one).collect();
    json!({"inventoryAdjustmentGroup": null, "userErrors": errors})
}

/// Applies a checked call.
fn apply(shop: &mut State, call: &Call<'_>, elements: &[Element]) -> Done {
    let on_hand = call.input.get("name").and_then(Value::as_str) == Some("on_hand");
    let mut changes = Vec::new();
    let mut events = Vec::new();
    for element in elements {
        let Some(index) = state::item_index(&element.item, shop.items.len()) else { continue };
        let location = state::location_number(&element.location).unwrap_or(0);
        let levels = &mut shop.items[index].levels;
        let Some(level) = levels.iter_mut().find(|level| level.location == location) else {
            continue;
        };
        let present = if on_hand { level.on_hand() } else { level.available };
        let delta = match call.verb {
            Verb::Set => element.amount - present,
            Verb::Adjust => element.amount,
        };
        shop.counters.writes += 1;
        if delta == 0 {
            continue;
        }
        level.available += delta;
        level.updated_at = call.now;
        for name in ["available", "on_hand"] {
            changes.push(json!({
                "name": name,
                "delta": delta,
                "quantityAfterChange": null,
                "ledgerDocumentUri": null,
                "item": {"id": element.item, "sku": shop.items[index].sku},
                "location": {"id": element.location},
            }));
        }
        events.push(shop.level_event(index, location));
    }
    if changes.is_empty() {
        let payload = json!({"inventoryAdjustmentGroup": null, "userErrors": []});
        return Done { payload, events };
    }
    shop.groups += 1;
    let group = json!({
        "id": gid("InventoryAdjustmentGroup", shop.groups),
        "createdAt": seconds_text(call.now),
        "reason": call.input.get("reason"),
        "referenceDocumentUri": call.input.get("referenceDocumentUri"),
        "changes": changes,
    });
    Done { payload: json!({"inventoryAdjustmentGroup": group, "userErrors": []}), events }
}

/// Carries out `inventoryActivate`: an item is from now on stocked at a location.
pub(crate) fn activate(shop: &mut State, arguments: &Map<String, Value>, now: Timestamp) -> Done {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
    let index = state::item_index(text("inventoryItemId"), shop.items.len());
    let location = state::location_number(text("locationId"))
        .filter(|id| shop.locations.iter().any(|known| known.id == *id));
    let refuse = |field: &str, words: &str| Done {
        payload: json!({
            "inventoryLevel": null, "userErrors": [{"field": [field], "message": words}],
        }),
        events: Vec::new(),
    };
    let Some(index) = index else {
        return refuse("inventoryItemId", "The product couldn't be found.");
    };
    let Some(location) = location else {
        return refuse("locationId", "The location couldn't be found.");
    };
    let levels = &mut shop.items[index].levels;
    if !levels.iter().any(|level| level.location == location) {
        let available = arguments.get("available").and_then(Value::as_i64).unwrap_or(0);
        levels.push(state::Level { location, available, committed: 0, updated_at: now });
    }
    let available = levels.iter().find(|level| level.location == location).map(|l| l.available);
    let quantities = json!([{"name": "available", "quantity": available}]);
    let payload = json!({
        "inventoryLevel": {"id": state::level_gid(index, location), "quantities": quantities},
        "userErrors": [],
    });
    Done { payload, events: vec![shop.level_event(index, location)] }
}
