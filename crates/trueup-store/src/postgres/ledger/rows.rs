//! Rows of the ledger as the types of the core.

use std::sync::Arc;

use trueup_core::{Movement, Quantity, Reservation, ReservationId, Sku, SkuState, Timestamp};

use crate::encoding::columns::ReadColumns;
use crate::encoding::{
    Corrupt, codec, holds, items, levels, parse_name, parse_quantity, parse_skus, parts,
};
use crate::postgres::error::{PgError, Result};
use crate::postgres::sql::Columns;

/// The columns of [`read_state`], of the table or alias `s`.
pub(super) const STATE_COLUMNS: &str =
    "s.version, s.publish_version, s.updated_at, s.safety_stock, s.low_stock_threshold,
     s.backorder_limit, s.low_since, s.levels, s.parts, s.used_in";

/// Reads a SKU as it stands.
pub(super) fn read_state(columns: &mut Columns<'_>) -> Result<SkuState> {
    Ok(SkuState {
        version: columns.count()?,
        publish_version: columns.count()?,
        updated_at: columns.instant()?,
        safety_stock: quantity(columns)?,
        low_stock_threshold: optional_quantity(columns)?,
        backorder_limit: quantity(columns)?,
        low_since: columns.optional_instant()?,
        levels: levels::read(columns.take()?, parse_name)?,
        parts: parts::read(columns.take()?)?,
        used_in: parse_skus(columns.take()?)?,
    })
}

/// The columns of [`read_reservation`], of the table or alias `r`.
pub(super) const RESERVATION_COLUMNS: &str =
    "r.id, r.order_id, r.status, r.items, r.holds, r.created_at, r.expires_at, r.ended_at";

/// Reads a reservation.
pub(super) fn read_reservation(columns: &mut Columns<'_>) -> Result<Reservation> {
    Ok(Reservation {
        id: read_id(columns)?,
        order: columns.name()?,
        status: codec::status_of(code(columns)?)?,
        items: items::read(columns.take()?)?,
        holds: holds::read(columns.take()?)?,
        created_at: columns.instant()?,
        expires_at: columns.instant()?,
        ended_at: columns.optional_instant()?,
    })
}

/// Reads the id of a reservation.
pub(super) fn read_id(columns: &mut Columns<'_>) -> Result<ReservationId> {
    parse_id(columns.take()?)
}

/// Reads the id of a reservation, where there is one.
pub(super) fn optional_id(columns: &mut Columns<'_>) -> Result<Option<ReservationId>> {
    columns.take::<Option<&[u8]>>()?.map(parse_id).transpose()
}

fn parse_id(bytes: &[u8]) -> Result<ReservationId> {
    let wrong = |_| PgError::Corrupt(format!("an id of {} bytes", bytes.len()));
    Ok(ReservationId(u128::from_be_bytes(bytes.try_into().map_err(wrong)?)))
}

/// The columns of [`read_movement`], of the table or alias `m`.
pub(super) const MOVEMENT_COLUMNS: &str =
    "m.seq, m.at, m.kind, m.location, m.delta, m.reserved_delta, m.quantity_after,
     m.reserved_after, m.location_quantity_after, m.location_reserved_after, m.safety_stock,
     m.low_stock_threshold, m.backorder_limit, m.publish, m.reason, m.actor, m.source,
     m.reference";

/// Reads a ledger line of a SKU.
pub(super) fn read_movement(columns: &mut Columns<'_>, sku: &Sku) -> Result<Movement> {
    let words = |columns: &mut Columns<'_>| -> Result<Option<Arc<str>>> {
        Ok(columns.take::<Option<&str>>()?.map(Arc::from))
    };
    Ok(Movement {
        sku: sku.clone(),
        seq: columns.count()?,
        at: columns.instant()?,
        kind: codec::kind_of(code(columns)?)?,
        location: columns.name()?,
        delta: columns.delta()?,
        reserved_delta: columns.delta()?,
        quantity_after: columns.delta()?,
        reserved_after: quantity(columns)?,
        location_quantity_after: columns.delta()?,
        location_reserved_after: quantity(columns)?,
        safety_stock: quantity(columns)?,
        low_stock_threshold: optional_quantity(columns)?,
        backorder_limit: quantity(columns)?,
        publish: columns.take()?,
        reason: words(columns)?,
        actor: Arc::from(columns.take::<&str>()?),
        source: codec::source_of(code(columns)?)?,
        reference: words(columns)?,
    })
}

fn code(columns: &mut Columns<'_>) -> Result<u8> {
    let code: i16 = columns.take()?;
    Ok(u8::try_from(code).map_err(|_| Corrupt(format!("unknown code {code}")))?)
}

fn quantity(columns: &mut Columns<'_>) -> Result<Quantity> {
    Ok(parse_quantity(columns.count()?)?)
}

fn optional_quantity(columns: &mut Columns<'_>) -> Result<Option<Quantity>> {
    Ok(columns.optional_count()?.map(parse_quantity).transpose()?)
}

/// Returns an instant of a clock that the database may have to look at itself.
pub(super) fn micros(now: Option<Timestamp>) -> Option<i64> {
    now.map(Timestamp::micros)
}
