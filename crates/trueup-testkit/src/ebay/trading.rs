//! eBay's legacy Trading API: `ReviseInventoryStatus` and `GetItem` in XML.
//!
//! Source: developer.ebay.com Trading API, call references of both; KB 1526 on quantities.

use jiff::Timestamp;
use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

use super::state::{Item, State};
use crate::faults::FaultDial;

/// The most `InventoryStatus` nodes in one call.
pub const STATUSES_MAX: usize = 4;

const NAMESPACE: &str = "urn:ebay:apis:eBLBaseComponents";

/// One `InventoryStatus` of a request.
#[derive(Debug, Default, Clone)]
pub(crate) struct Status {
    pub(crate) item_id: String,
    pub(crate) sku: Option<String>,
    pub(crate) quantity: Option<i64>,
}

/// Reads all elements of a request: the name of each leaf with its text, in order.
fn leaves(body: &str) -> Option<Vec<(String, String)>> {
    let mut reader = Reader::from_str(body);
    let mut found: Vec<(String, String)> = Vec::new();
    let mut depth = 0_usize;
    let mut inside = false;
    loop {
        let piece = match reader.read_event().ok()? {
            Event::Start(start) => {
                found.push((start.local_name().as_ref().to_owned(), String::new()));
                depth += 1;
                inside = true;
                continue;
            }
            Event::End(_) => {
                depth = depth.checked_sub(1)?;
                inside = false;
                continue;
            }
            Event::Eof => break,
            Event::Text(text) => text.to_string(),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().ok()? {
                Some(c) => c.to_string(),
                None => quick_xml::escape::resolve_predefined_entity(&reference)?.to_owned(),
            },
            _ => continue,
        };
        if let Some((_, text)) = found.last_mut().filter(|_| inside) {
            text.push_str(&piece);
        }
    }
    let trimmed = found.into_iter().map(|(name, text)| (name, text.trim().to_owned()));
    (depth == 0).then(|| trimmed.collect())
}

fn statuses(body: &str) -> Option<Vec<Status>> {
    let mut found: Vec<Status> = Vec::new();
    for (name, text) in leaves(body)? {
        match (name.as_str(), found.last_mut()) {
            ("InventoryStatus", _) => found.push(Status::default()),
            ("ItemID", Some(status)) => status.item_id = text,
            ("SKU", Some(status)) => status.sku = Some(text),
            ("Quantity", Some(status)) => status.quantity = Some(text.parse().ok()?),
            _ => {}
        }
    }
    Some(found)
}

/// An error or a warning of an answer.
struct Note {
    code: u32,
    message: &'static str,
    error: bool,
    system: bool,
}

const fn refused(code: u32, message: &'static str) -> Note {
    Note { code, message, error: true, system: false }
}

/// Answers a call.
pub(crate) fn answer(
    state: &mut State,
    faults: &FaultDial,
    call: &str,
    body: &str,
    revisions_max: u32,
    now: Timestamp,
) -> String {
    match call {
        "ReviseInventoryStatus" => revise(state, faults, body, revisions_max, now),
        "GetItem" => get_item(state, body, now),
        "GetSellerList" => seller_list(state, body, now),
        _ => response(call, &[refused(2, "Unsupported API call.")], 0, "", now),
    }
}

/// Answers that the token is not good.
pub(crate) fn unauthorized(call: &str, now: Timestamp) -> String {
    let note = refused(21_917_053, "Expired or invalid IAF token.");
    response(call, &[note], 0, "", now)
}

/// Answers that the day's calls are used up.
pub(crate) fn too_many(call: &str, now: Timestamp) -> String {
    let note = refused(518, "Your application has exceeded usage limit on this call.");
    response(call, &[note], 0, "", now)
}

fn revise(
    state: &mut State,
    faults: &FaultDial,
    body: &str,
    revisions_max: u32,
    now: Timestamp,
) -> String {
    let call = "ReviseInventoryStatus";
    let Some(statuses) = statuses(body).filter(|found| !found.is_empty()) else {
        return response(call, &[refused(5, "XML Parse error.")], 0, "", now);
    };
    if statuses.len() > STATUSES_MAX {
        let words = "The number of InventoryStatus nodes exceeds the limit of 4.";
        return response(call, &[refused(21_916_254, words)], 0, "", now);
    }
    let lies = faults.lies();
    let mut notes = Vec::new();
    let mut done = String::new();
    let mut succeeded = 0;
    for status in &statuses {
        match revise_one(state, faults, status, revisions_max, now, lies) {
            Ok(redundant) => {
                succeeded += 1;
                state.counters.writes += 1;
                if redundant {
                    let message = "Requested revision is redundant.";
                    notes.push(Note { code: 21_917_091, message, error: false, system: false });
                }
                done.push_str(&status_xml(status));
            }
            Err(note) => {
                state.counters.writes_refused += 1;
                notes.push(note);
            }
        }
    }
    response(call, &notes, succeeded, &done, now)
}

fn status_xml(status: &Status) -> String {
    let sku = status.sku.as_deref().map(|sku| format!("<SKU>{}</SKU>", escape(sku)));
    let quantity = status.quantity.unwrap_or(0);
    format!(
        "<InventoryStatus><ItemID>{}</ItemID>{}<Quantity>{quantity}</Quantity></InventoryStatus>",
        escape(&status.item_id),
        sku.unwrap_or_default(),
    )
}

/// Revises one listing; returns whether it already was as wanted.
fn revise_one(
    state: &mut State,
    faults: &FaultDial,
    status: &Status,
    revisions_max: u32,
    now: Timestamp,
    lies: bool,
) -> Result<bool, Note> {
    let sku = state.by_listing.get(&status.item_id).cloned();
    let sku = sku.ok_or_else(|| refused(17, "Item cannot be accessed."))?;
    if status.sku.as_ref().is_some_and(|given| *given != sku) {
        return Err(refused(21_916_799, "SKU Mismatch."));
    }
    if faults.poisons(&sku) {
        return Err(refused(21_916_750, "The listing cannot be revised."));
    }
    if faults.busy() {
        let message = "Internal error to the application.";
        return Err(Note { code: 10_007, message, error: true, system: true });
    }
    let quantity = status.quantity.filter(|quantity| *quantity >= 0);
    let quantity = quantity.ok_or_else(|| refused(515, "Quantity is not valid."))?;
    let State { items, revisions, .. } = state;
    let item = items.get_mut(&sku);
    let item = item.ok_or_else(|| refused(17, "Item cannot be accessed."))?;
    if !item.legacy {
        let words = "Inventory-based listing management is not supported by this call.";
        return Err(refused(21_919_474, words));
    }
    if lies {
        return Ok(false);
    }
    if item.total == quantity {
        return Ok(true);
    }
    if !revisions.revise(item.listing, now, revisions_max) {
        return Err(refused(21_919_165, "The listing was revised too often today."));
    }
    item.total = quantity;
    Ok(false)
}

/// The most days between `EndTimeFrom` and `EndTimeTo`, and the most items of a page.
const LIST_DAYS_MAX: i64 = 120;
const LIST_ITEMS_MAX: usize = 200;

/// `GetSellerList` lists all that is active, made by whichever API.
fn seller_list(state: &State, body: &str, now: Timestamp) -> String {
    let call = "GetSellerList";
    let leaves = leaves(body).unwrap_or_default();
    let text = |name: &str| {
        leaves.iter().find(|(known, _)| known == name).map_or("", |(_, text)| text.as_str())
    };
    let time = |name: &str| text(name).parse::<Timestamp>().ok();
    let number = |name: &str| text(name).parse::<usize>().ok().filter(|number| *number > 0);
    let (Some(from), Some(to)) = (time("EndTimeFrom"), time("EndTimeTo")) else {
        return response(call, &[refused(75, "A date range is required.")], 0, "", now);
    };
    let days = (to.as_second() - from.as_second()).div_euclid(86_400);
    let (page, size) = (number("PageNumber"), number("EntriesPerPage"));
    let (Some(page), Some(size)) = (page, size.filter(|size| *size <= LIST_ITEMS_MAX)) else {
        return response(call, &[refused(340, "Page number or size is invalid.")], 0, "", now);
    };
    if !(0..LIST_DAYS_MAX).contains(&days) {
        return response(call, &[refused(37, "The date range is invalid.")], 0, "", now);
    }
    let ahead = (page - 1).saturating_mul(size);
    let item = |(sku, item): (&String, &Item)| {
        format!(
            "<Item><ItemID>{}</ItemID><SKU>{1}</SKU><Title>{1}</Title>\
             <ListingType>FixedPriceItem</ListingType><Quantity>{2}</Quantity><SellingStatus>\
             <QuantitySold>{3}</QuantitySold><ListingStatus>Active</ListingStatus>\
             </SellingStatus></Item>",
            item.listing_id(),
            escape(sku.as_str()),
            item.shown() + item.sold,
            item.sold,
        )
    };
    let items: String = state.items.iter().skip(ahead).take(size).map(item).collect();
    let more = ahead.saturating_add(size) < state.items.len();
    let inside = format!("<HasMoreItems>{more}</HasMoreItems><ItemArray>{items}</ItemArray>");
    response(call, &[], 1, &inside, now)
}

/// `GetItem` reports as Quantity what is available and what was sold together.
fn get_item(state: &State, body: &str, now: Timestamp) -> String {
    let item_id = leaves(body).and_then(|leaves| {
        leaves.into_iter().find(|(name, _)| name == "ItemID").map(|(_, text)| text)
    });
    let found = item_id.as_ref().and_then(|id| state.by_listing.get(id));
    let Some((sku, item)) = found.and_then(|sku| state.items.get_key_value(sku)) else {
        return response("GetItem", &[refused(17, "Item cannot be accessed.")], 0, "", now);
    };
    let inside = format!(
        "<Item><ItemID>{}</ItemID><SKU>{}</SKU><Quantity>{}</Quantity><SellingStatus>\
         <QuantitySold>{}</QuantitySold><ListingStatus>Active</ListingStatus></SellingStatus>\
         </Item>",
        item.listing_id(),
        escape(sku.as_str()),
        item.shown() + item.sold,
        item.sold,
    );
    response("GetItem", &[], 1, &inside, now)
}

fn response(call: &str, notes: &[Note], succeeded: usize, inside: &str, now: Timestamp) -> String {
    let failed = notes.iter().any(|note| note.error);
    let ack = match (failed, succeeded) {
        (true, 0) => "Failure",
        (true, _) => "PartialFailure",
        (false, _) if notes.is_empty() => "Success",
        (false, _) => "Warning",
    };
    let errors: String = notes.iter().map(note_xml).collect();
    let call = escape(call);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><{call}Response xmlns=\"{NAMESPACE}\">\
         <Timestamp>{now:.3}</Timestamp><Ack>{ack}</Ack>{errors}<Version>1451</Version>\
         {inside}</{call}Response>"
    )
}

fn note_xml(note: &Note) -> String {
    format!(
        "<Errors><ShortMessage>{0}</ShortMessage><LongMessage>{0}</LongMessage>\
         <ErrorCode>{1}</ErrorCode><SeverityCode>{2}</SeverityCode>\
         <ErrorClassification>{3}</ErrorClassification></Errors>",
        escape(note.message),
        note.code,
        if note.error { "Error" } else { "Warning" },
        if note.system { "SystemError" } else { "RequestError" },
    )
}
