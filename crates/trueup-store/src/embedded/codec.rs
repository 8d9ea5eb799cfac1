//! How facts stand in the journal: compact, versioned, with a checksum.
//!
//! These are stored shapes, apart from core's own types: a change of core cannot silently change
//! what an old file means. Only ledger facts stand here; what is known of listings is kept in
//! rows, in the same transaction.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trueup_core::{
    Delta, Event, Hold, Item, Location, Movement, MovementKind, OrderId, Org, Part, Quantity,
    Reservation, ReservationId, ReservationStatus, Sku, Source, Timestamp,
};

/// The first byte of every journal record.
const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

/// Why a journal record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    /// The bytes are not what was written.
    #[error("the checksum does not hold")]
    Checksum,
    /// A later version wrote it.
    #[error("format {0} is not known")]
    Format(u8),
    /// The checksum holds but the content makes no sense.
    #[error("the content makes no sense: {0}")]
    Content(String),
}

#[derive(Serialize, Deserialize)]
struct StoredBatch<'a> {
    #[serde(borrow)]
    orgs: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    events: Vec<(u32, StoredEvent<'a>)>,
}

#[derive(Serialize, Deserialize)]
enum StoredEvent<'a> {
    #[serde(borrow)]
    Moved(StoredMovement<'a>),
    BundleDefined {
        sku: Cow<'a, str>,
        parts: Vec<(Cow<'a, str>, u64)>,
    },
    BundleTouched {
        sku: Cow<'a, str>,
        version: u64,
        at: i64,
        publish: bool,
    },
    PublishAsked {
        sku: Cow<'a, str>,
    },
    Held(StoredReservation<'a>),
    Ended {
        id: u128,
        status: u8,
        at: i64,
    },
    Extended {
        id: u128,
        expires_at: i64,
    },
    LowStock {
        sku: Cow<'a, str>,
        quantity: i64,
        threshold: u64,
        at: i64,
    },
    Oversold {
        sku: Cow<'a, str>,
        by: u64,
        at: i64,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredMovement<'a> {
    #[serde(borrow)]
    sku: Cow<'a, str>,
    seq: u64,
    at: i64,
    kind: u8,
    location: Cow<'a, str>,
    delta: i64,
    reserved_delta: i64,
    quantity_after: i64,
    reserved_after: u64,
    location_quantity_after: i64,
    location_reserved_after: u64,
    safety_stock: u64,
    low_stock_threshold: Option<u64>,
    backorder_limit: u64,
    publish: bool,
    reason: Option<Cow<'a, str>>,
    actor: Cow<'a, str>,
    source: u8,
    reference: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct StoredReservation<'a> {
    id: u128,
    #[serde(borrow)]
    order: Cow<'a, str>,
    items: Vec<(Cow<'a, str>, Option<Cow<'a, str>>, u64)>,
    holds: Vec<(Cow<'a, str>, Cow<'a, str>, u64)>,
    created_at: i64,
    expires_at: i64,
}

/// Encodes the ledger facts of a batch; `None` where there are none.
pub(super) fn encode(events: &[(Org, Event)]) -> Result<Option<Vec<u8>>, CodecError> {
    let mut batch = StoredBatch { orgs: Vec::new(), events: Vec::with_capacity(events.len()) };
    for (org, event) in events {
        let Some(stored) = stored(event) else { continue };
        let known = batch.orgs.iter().position(|known| known == org.as_str());
        let index = known.unwrap_or_else(|| {
            batch.orgs.push(Cow::Borrowed(org.as_str()));
            batch.orgs.len() - 1
        });
        let index = u32::try_from(index).map_err(|e| CodecError::Content(e.to_string()))?;
        batch.events.push((index, stored));
    }
    if batch.events.is_empty() {
        return Ok(None);
    }
    let head = vec![0; 1 + CHECKSUM_BYTES];
    let mut bytes = postcard::to_extend(&batch, head).map_err(content)?;
    let checksum = checksum(&bytes[1 + CHECKSUM_BYTES..]);
    bytes[0] = FORMAT;
    bytes[1..=CHECKSUM_BYTES].copy_from_slice(&checksum);
    Ok(Some(bytes))
}

/// Decodes a journal record.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(Org, Event)>, CodecError> {
    let (format, rest) = bytes.split_first().ok_or(CodecError::Checksum)?;
    if *format != FORMAT {
        return Err(CodecError::Format(*format));
    }
    let (expected, body) = rest.split_at_checked(CHECKSUM_BYTES).ok_or(CodecError::Checksum)?;
    if checksum(body) != *expected {
        return Err(CodecError::Checksum);
    }
    let batch: StoredBatch<'_> = postcard::from_bytes(body).map_err(content)?;
    let orgs: Vec<Org> =
        batch.orgs.iter().map(|org| Org::new(org)).collect::<Result<_, _>>().map_err(content)?;
    let mut events = Vec::with_capacity(batch.events.len());
    for (index, stored) in batch.events {
        let org = usize::try_from(index).ok().and_then(|index| orgs.get(index));
        let org = org.ok_or_else(|| CodecError::Content("unknown org".to_owned()))?;
        events.push((org.clone(), event(stored)?));
    }
    Ok(events)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut first = [0; CHECKSUM_BYTES];
    first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    first
}

fn content(error: impl std::fmt::Display) -> CodecError {
    CodecError::Content(error.to_string())
}

fn stored(event: &Event) -> Option<StoredEvent<'_>> {
    Some(match event {
        Event::Moved(movement) => StoredEvent::Moved(stored_movement(movement)),
        Event::BundleDefined { sku, parts } => StoredEvent::BundleDefined {
            sku: text(sku.as_str()),
            parts: parts.iter().map(|p| (text(p.sku.as_str()), p.quantity.get())).collect(),
        },
        Event::BundleTouched { sku, version, at, publish } => StoredEvent::BundleTouched {
            sku: text(sku.as_str()),
            version: *version,
            at: at.micros(),
            publish: *publish,
        },
        Event::PublishAsked { sku } => StoredEvent::PublishAsked { sku: text(sku.as_str()) },
        Event::Held(reservation) => StoredEvent::Held(stored_reservation(reservation)),
        Event::Ended { id, status, at } => {
            StoredEvent::Ended { id: id.0, status: status_code(*status), at: at.micros() }
        }
        Event::Extended { id, expires_at } => {
            StoredEvent::Extended { id: id.0, expires_at: expires_at.micros() }
        }
        Event::LowStock { sku, quantity, threshold, at } => StoredEvent::LowStock {
            sku: text(sku.as_str()),
            quantity: quantity.get(),
            threshold: threshold.get(),
            at: at.micros(),
        },
        Event::Oversold { sku, by, at } => {
            StoredEvent::Oversold { sku: text(sku.as_str()), by: by.get(), at: at.micros() }
        }
        Event::Listing(_)
        | Event::LineBooked { .. }
        | Event::ConflictFlagged(_)
        | Event::ConflictClosed { .. } => return None,
    })
}

fn text(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

fn stored_movement(m: &Movement) -> StoredMovement<'_> {
    StoredMovement {
        sku: text(m.sku.as_str()),
        seq: m.seq,
        at: m.at.micros(),
        kind: kind_code(m.kind),
        location: text(m.location.as_str()),
        delta: m.delta.get(),
        reserved_delta: m.reserved_delta.get(),
        quantity_after: m.quantity_after.get(),
        reserved_after: m.reserved_after.get(),
        location_quantity_after: m.location_quantity_after.get(),
        location_reserved_after: m.location_reserved_after.get(),
        safety_stock: m.safety_stock.get(),
        low_stock_threshold: m.low_stock_threshold.map(Quantity::get),
        backorder_limit: m.backorder_limit.get(),
        publish: m.publish,
        reason: m.reason.as_deref().map(text),
        actor: text(&m.actor),
        source: source_code(m.source),
        reference: m.reference.as_deref().map(text),
    }
}

fn stored_reservation(r: &Reservation) -> StoredReservation<'_> {
    let item = |item: &'_ Item| -> (Cow<'_, str>, Option<Cow<'_, str>>, u64) {
        let location = item.location.as_ref().map(|l| Cow::Owned(l.as_str().to_owned()));
        (Cow::Owned(item.sku.as_str().to_owned()), location, item.quantity.get())
    };
    StoredReservation {
        id: r.id.0,
        order: text(r.order.as_str()),
        items: r.items.iter().map(item).collect(),
        holds: r
            .holds
            .iter()
            .map(|h| (text(h.sku.as_str()), text(h.location.as_str()), h.quantity.get()))
            .collect(),
        created_at: r.created_at.micros(),
        expires_at: r.expires_at.micros(),
    }
}

fn event(stored: StoredEvent<'_>) -> Result<Event, CodecError> {
    Ok(match stored {
        StoredEvent::Moved(movement) => Event::Moved(movement_of(&movement)?),
        StoredEvent::BundleDefined { sku, parts } => Event::BundleDefined {
            sku: sku_of(&sku)?,
            parts: parts
                .iter()
                .map(|(sku, units)| Ok(Part { sku: sku_of(sku)?, quantity: quantity(*units)? }))
                .collect::<Result<_, CodecError>>()?,
        },
        StoredEvent::BundleTouched { sku, version, at, publish } => {
            Event::BundleTouched { sku: sku_of(&sku)?, version, at: time(at), publish }
        }
        StoredEvent::PublishAsked { sku } => Event::PublishAsked { sku: sku_of(&sku)? },
        StoredEvent::Held(reservation) => Event::Held(reservation_of(&reservation)?),
        StoredEvent::Ended { id, status, at } => {
            Event::Ended { id: ReservationId(id), status: status_of(status)?, at: time(at) }
        }
        StoredEvent::Extended { id, expires_at } => {
            Event::Extended { id: ReservationId(id), expires_at: time(expires_at) }
        }
        StoredEvent::LowStock { sku, quantity: units, threshold, at } => Event::LowStock {
            sku: sku_of(&sku)?,
            quantity: delta(units)?,
            threshold: quantity(threshold)?,
            at: time(at),
        },
        StoredEvent::Oversold { sku, by, at } => {
            Event::Oversold { sku: sku_of(&sku)?, by: quantity(by)?, at: time(at) }
        }
    })
}

fn movement_of(m: &StoredMovement<'_>) -> Result<Movement, CodecError> {
    Ok(Movement {
        sku: sku_of(&m.sku)?,
        seq: m.seq,
        at: time(m.at),
        kind: kind_of(m.kind)?,
        location: location_of(&m.location)?,
        delta: delta(m.delta)?,
        reserved_delta: delta(m.reserved_delta)?,
        quantity_after: delta(m.quantity_after)?,
        reserved_after: quantity(m.reserved_after)?,
        location_quantity_after: delta(m.location_quantity_after)?,
        location_reserved_after: quantity(m.location_reserved_after)?,
        safety_stock: quantity(m.safety_stock)?,
        low_stock_threshold: m.low_stock_threshold.map(quantity).transpose()?,
        backorder_limit: quantity(m.backorder_limit)?,
        publish: m.publish,
        reason: m.reason.as_deref().map(Arc::from),
        actor: Arc::from(&*m.actor),
        source: source_of(m.source)?,
        reference: m.reference.as_deref().map(Arc::from),
    })
}

fn reservation_of(r: &StoredReservation<'_>) -> Result<Reservation, CodecError> {
    let item = |(sku, location, units): &(Cow<'_, str>, Option<Cow<'_, str>>, u64)| {
        Ok::<_, CodecError>(Item {
            sku: sku_of(sku)?,
            location: location.as_deref().map(location_of).transpose()?,
            quantity: quantity(*units)?,
        })
    };
    let hold = |(sku, location, units): &(Cow<'_, str>, Cow<'_, str>, u64)| {
        Ok::<_, CodecError>(Hold {
            sku: sku_of(sku)?,
            location: location_of(location)?,
            quantity: quantity(*units)?,
        })
    };
    Ok(Reservation {
        id: ReservationId(r.id),
        order: OrderId::new(&r.order).map_err(content)?,
        status: ReservationStatus::Active,
        items: r.items.iter().map(item).collect::<Result<_, _>>()?,
        holds: r.holds.iter().map(hold).collect::<Result<_, _>>()?,
        created_at: time(r.created_at),
        expires_at: time(r.expires_at),
        ended_at: None,
    })
}

fn sku_of(text: &str) -> Result<Sku, CodecError> {
    Sku::new(text).map_err(content)
}

fn location_of(text: &str) -> Result<Location, CodecError> {
    Location::new(text).map_err(content)
}

fn quantity(units: u64) -> Result<Quantity, CodecError> {
    Quantity::new(units).ok_or_else(|| content("a quantity is out of range"))
}

fn delta(units: i64) -> Result<Delta, CodecError> {
    Delta::new(units).ok_or_else(|| content("a change is out of range"))
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

// The numbers below are part of the file format: never renumber, only add.

const KINDS: [(MovementKind, u8); 11] = [
    (MovementKind::Count, 1),
    (MovementKind::Adjust, 2),
    (MovementKind::Reserve, 3),
    (MovementKind::Release, 4),
    (MovementKind::Commit, 5),
    (MovementKind::Expire, 6),
    (MovementKind::ChannelSale, 7),
    (MovementKind::ChannelReturn, 8),
    (MovementKind::ChannelAdopted, 9),
    (MovementKind::Settings, 10),
    (MovementKind::Bundle, 11),
];

const SOURCES: [(Source, u8); 6] = [
    (Source::Api, 1),
    (Source::Import, 2),
    (Source::Expiry, 3),
    (Source::Channel, 4),
    (Source::Pull, 5),
    (Source::Replay, 6),
];

const STATUSES: [(ReservationStatus, u8); 4] = [
    (ReservationStatus::Active, 1),
    (ReservationStatus::Released, 2),
    (ReservationStatus::Committed, 3),
    (ReservationStatus::Expired, 4),
];

fn code_in<T: PartialEq>(table: &[(T, u8)], value: &T) -> u8 {
    table.iter().find(|(known, _)| known == value).map_or(0, |(_, code)| *code)
}

fn value_in<T: Copy>(table: &[(T, u8)], code: u8) -> Result<T, CodecError> {
    let found = table.iter().find(|(_, known)| *known == code);
    found.map(|(value, _)| *value).ok_or_else(|| content(format!("unknown code {code}")))
}

/// Returns the number of a kind in journal and rows.
pub(super) fn kind_code(kind: MovementKind) -> u8 {
    code_in(&KINDS, &kind)
}

/// Returns the kind of a number.
pub(super) fn kind_of(code: u8) -> Result<MovementKind, CodecError> {
    value_in(&KINDS, code)
}

/// Returns the number of a source.
pub(super) fn source_code(source: Source) -> u8 {
    code_in(&SOURCES, &source)
}

/// Returns the source of a number.
pub(super) fn source_of(code: u8) -> Result<Source, CodecError> {
    value_in(&SOURCES, code)
}

/// Returns the number of a status.
pub(super) fn status_code(status: ReservationStatus) -> u8 {
    code_in(&STATUSES, &status)
}

/// Returns the status of a number.
pub(super) fn status_of(code: u8) -> Result<ReservationStatus, CodecError> {
    value_in(&STATUSES, code)
}
