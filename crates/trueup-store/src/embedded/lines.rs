//! Ledger lines in rows: appended in the order they are recorded and never changed.
//!
//! Each names the line of its SKU before it, so that a SKU's history is a chain and recording
//! costs the same however long the ledger is: no index grows in random places. One line of a SKU
//! in [`MARK_EVERY`] has a mark, from which the chain can be entered by number or by time.

use std::ops::ControlFlow;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};
use trueup_core::{
    Delta, Level, Location, Movement, Org, Part, Quantity, ReservationId, Sku, SkuAnswer, SkuState,
    Timestamp, book::Since,
};

use super::ledger::{change, corrupt, location_of, sku_of, text, units, version_of};
use super::rows::RowsError;
use crate::encoding::{codec, parts};
use crate::port::{MovementQuery, Page, SkuAt};

/// One line of a SKU in so many has a mark. A part of the file format: marks of other numbers
/// would only be fewer or more ways in.
const MARK_EVERY: u64 = 64;

/// By how much the clock may have been set back while the store was closed, in microseconds: so far
/// beyond an instant lines are looked at. (While it is open, time never goes back.)
const CLOCK_BACK_MAX: i64 = 3_600_000_000;

const COLUMNS: &str = "sku, seq, at, kind, location, delta, reserved_delta, quantity_after, \
     reserved_after, location_quantity_after, location_reserved_after, safety_stock, \
     low_stock_threshold, backorder_limit, publish, reason, actor, source, reference";

/// The newest line of a SKU, and where it has levels: what a look into its history begins with.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) line: i64,
    pub(super) locations: Vec<Location>,
}

impl Head {
    pub(super) fn new(line: i64, state: &SkuState) -> Self {
        Self { line, locations: state.levels.iter().map(|level| level.location.clone()).collect() }
    }
}

/// Appends a line; `before` is the SKU's line before it, 0 where it is the first, and
/// `reservation` the one that holds what it reserves.
pub(super) fn write(
    conn: &Connection,
    org: &Org,
    (line, before): (i64, i64),
    m: &Movement,
    reservation: Option<ReservationId>,
) -> Result<(), RowsError> {
    conn.prepare_cached(
        "INSERT INTO movement
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        line,
        org.as_str(),
        m.sku.as_str(),
        m.seq.cast_signed(),
        (before > 0).then_some(before),
        m.at.micros(),
        codec::kind_code(m.kind),
        m.location.as_str(),
        m.delta.get(),
        m.reserved_delta.get(),
        m.quantity_after.get(),
        m.reserved_after.delta().get(),
        m.location_quantity_after.get(),
        m.location_reserved_after.delta().get(),
        m.safety_stock.delta().get(),
        m.low_stock_threshold.map(|threshold| threshold.delta().get()),
        m.backorder_limit.delta().get(),
        m.publish,
        m.reason.as_deref(),
        &*m.actor,
        codec::source_code(m.source),
        m.reference.as_deref(),
        reservation.map(|id| id.0.to_be_bytes()),
    ])?;
    if m.seq.is_multiple_of(MARK_EVERY) {
        conn.prepare_cached("INSERT INTO movement_mark VALUES (?, ?, ?, ?, ?)")?.execute(
            params![org.as_str(), m.sku.as_str(), m.seq.cast_signed(), m.at.micros(), line,],
        )?;
    }
    Ok(())
}

fn movement_of(row: &Row<'_>) -> Result<Movement, RowsError> {
    let words = |at: usize| -> Result<Option<Arc<str>>, RowsError> {
        Ok(row.get_ref(at)?.as_str_or_null().map_err(corrupt)?.map(Arc::from))
    };
    Ok(Movement {
        sku: sku_of(text(row, 0)?)?,
        seq: version_of(row.get(1)?)?,
        at: Timestamp::from_micros(row.get(2)?),
        kind: codec::kind_of(row.get(3)?)?,
        location: location_of(text(row, 4)?)?,
        delta: change(row.get(5)?)?,
        reserved_delta: change(row.get(6)?)?,
        quantity_after: change(row.get(7)?)?,
        reserved_after: units(row.get(8)?)?,
        location_quantity_after: change(row.get(9)?)?,
        location_reserved_after: units(row.get(10)?)?,
        safety_stock: units(row.get(11)?)?,
        low_stock_threshold: row.get::<_, Option<i64>>(12)?.map(units).transpose()?,
        backorder_limit: units(row.get(13)?)?,
        publish: row.get(14)?,
        reason: words(15)?,
        actor: words(16)?.unwrap_or_else(|| Arc::from("")),
        source: codec::source_of(row.get(17)?)?,
        reference: words(18)?,
    })
}

/// Reads every line after one, of all orgs, in the order they were recorded: the org, the number,
/// the line, and the reservation that holds what it reserves.
pub(super) fn each_after(
    conn: &Connection,
    line: i64,
    mut take: impl FnMut(&str, i64, Movement, Option<ReservationId>) -> Result<(), RowsError>,
) -> Result<(), RowsError> {
    let sql = format!(
        "SELECT {COLUMNS}, org, line, reservation FROM movement WHERE line > ? ORDER BY line"
    );
    let mut query = conn.prepare(&sql)?;
    let mut found = query.query([line])?;
    while let Some(row) = found.next()? {
        let reservation = row.get::<_, Option<[u8; 16]>>(21)?;
        let reservation = reservation.map(|id| ReservationId(u128::from_be_bytes(id)));
        take(text(row, 19)?, row.get(20)?, movement_of(row)?, reservation)?;
    }
    Ok(())
}

/// Returns the number of the newest line of all.
pub(super) fn newest(conn: &Connection) -> Result<i64, RowsError> {
    let sql = "SELECT coalesce(max(line), 0) FROM movement";
    Ok(conn.query_row(sql, [], |row| row.get(0))?)
}

/// Goes through a SKU's lines from one on, newest first, until it is told to stop.
fn walk(
    conn: &Connection,
    (org, sku): (&Org, &Sku),
    from: i64,
    mut visit: impl FnMut(Movement) -> ControlFlow<()>,
) -> Result<(), RowsError> {
    let sql = format!("SELECT {COLUMNS}, before, org FROM movement WHERE line = ?");
    let mut query = conn.prepare_cached(&sql)?;
    let mut next = Some(from).filter(|line| *line > 0);
    while let Some(line) = next {
        let mut found = query.query([line])?;
        // Older history may have been given up.
        let Some(row) = found.next()? else { break };
        let movement = movement_of(row)?;
        if movement.sku != *sku || text(row, 20)? != org.as_str() {
            return Err(corrupt(format!("line {line} is not one of {sku}")));
        }
        next = row.get(19)?;
        if next.is_some_and(|before| before >= line) {
            return Err(corrupt(format!("line {line} is before its own")));
        }
        if visit(movement).is_break() {
            break;
        }
    }
    Ok(())
}

/// Returns the line to enter a SKU's chain at: at or after the last one below a number and
/// before an instant, and not far after it.
fn entry(
    conn: &Connection,
    (org, sku): (&Org, &Sku),
    newest: i64,
    below: Option<u64>,
    before: Option<Timestamp>,
) -> Result<i64, RowsError> {
    let key = (org.as_str(), sku.as_str());
    let mut line = newest;
    if let Some(below) = below {
        let sql = "SELECT line FROM movement_mark
                   WHERE org = ? AND sku = ? AND seq >= ? ORDER BY seq LIMIT 1";
        let mark = conn
            .prepare_cached(sql)?
            .query_row(params![key.0, key.1, below.cast_signed()], |row| row.get(0))
            .optional()?;
        line = mark.map_or(line, |mark| line.min(mark));
    }
    if let Some(before) = before {
        let sql = "SELECT line FROM movement_mark
                   WHERE org = ? AND sku = ? AND at >= ? ORDER BY at, seq LIMIT 1";
        let mark = conn
            .prepare_cached(sql)?
            .query_row(params![key.0, key.1, before.micros()], |row| row.get(0))
            .optional()?;
        line = mark.map_or(line, |mark| line.min(mark));
    }
    Ok(line)
}

/// Lists a SKU's ledger lines, newest first.
pub(super) fn list(
    conn: &Connection,
    of: (&Org, &Sku),
    newest: i64,
    query: &MovementQuery,
) -> Result<Page<Movement>, RowsError> {
    let mut items = Vec::new();
    let from = entry(conn, of, newest, query.before_seq, query.to)?;
    walk(conn, of, from, |movement| {
        if query.from.is_some_and(|from| is_long_before(movement.at, from))
            || query.after_seq.is_some_and(|after| movement.seq <= after)
        {
            return ControlFlow::Break(());
        }
        let is_wanted = query.before_seq.is_none_or(|before| movement.seq < before)
            && query.from.is_none_or(|from| movement.at >= from)
            && query.to.is_none_or(|to| movement.at < to)
            && query.kind.is_none_or(|kind| movement.kind == kind);
        if is_wanted {
            items.push(movement);
        }
        if items.len() > query.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let more = items.len() > query.limit;
    items.truncate(query.limit);
    Ok(Page { items, more })
}

/// Returns what was recorded of a SKU at a location after an instant.
pub(super) fn moved_since(
    conn: &Connection,
    of: (&Org, &Sku),
    newest: i64,
    location: &Location,
    at: Timestamp,
) -> Result<Since, RowsError> {
    let mut since = Since::default();
    walk(conn, of, newest, |movement| {
        if is_long_before(movement.at, at) {
            return ControlFlow::Break(());
        }
        if movement.at > at && movement.location == *location {
            since.note(&movement, at);
        }
        ControlFlow::Continue(())
    })?;
    Ok(since)
}

/// Returns a SKU as it stood at an instant; `head` says where the history of one begins.
pub(super) fn sku_at(
    conn: &Connection,
    (org, sku): (&Org, &Sku),
    at: Timestamp,
    head: impl Fn(&Sku) -> Option<Head>,
) -> Result<Option<SkuAt>, RowsError> {
    let Some((state, seq)) = state_at(conn, (org, sku), at, head(sku))? else { return Ok(None) };
    let mut parts = Vec::with_capacity(state.parts.len());
    for Part { sku, .. } in &state.parts {
        parts.push(state_at(conn, (org, sku), at, head(sku))?.map(|(state, _)| state));
    }
    Ok(Some(SkuAt { answer: SkuAnswer { sku: sku.clone(), state, parts }, seq }))
}

fn state_at(
    conn: &Connection,
    (org, sku): (&Org, &Sku),
    at: Timestamp,
    head: Option<Head>,
) -> Result<Option<(SkuState, u64)>, RowsError> {
    let Some(Head { line: newest, locations: mut unseen }) = head else { return Ok(None) };
    let mut newest_then: Option<Movement> = None;
    let mut state = SkuState::new();
    let mut seen: Vec<Location> = Vec::new();
    let from = entry(
        conn,
        (org, sku),
        newest,
        None,
        Some(Timestamp::from_micros(at.micros().saturating_add(1))),
    )?;
    walk(conn, (org, sku), from, |movement| {
        if movement.at > at {
            return ControlFlow::Continue(());
        }
        if !seen.contains(&movement.location) {
            let (on_hand, reserved) =
                (movement.location_quantity_after, movement.location_reserved_after);
            if on_hand != Delta::ZERO || reserved != Quantity::ZERO || touches_level(&movement) {
                let location = movement.location.clone();
                state.levels.push(Level { location, on_hand, reserved });
            }
            unseen.retain(|location| *location != movement.location);
            seen.push(movement.location.clone());
        }
        newest_then.get_or_insert(movement);
        if unseen.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let Some(last) = newest_then else { return Ok(None) };
    state.levels.sort_by(|a, b| a.location.cmp(&b.location));
    state.version = last.seq;
    state.updated_at = last.at;
    state.safety_stock = last.safety_stock;
    state.low_stock_threshold = last.low_stock_threshold;
    state.backorder_limit = last.backorder_limit;
    state.low_since = state.is_low().then_some(last.at);
    let parts: Option<String> = conn
        .prepare_cached(
            "SELECT parts FROM bundle
             WHERE org = ? AND sku = ? AND seq <= ?
             ORDER BY seq DESC
             LIMIT 1",
        )?
        .query_row(params![org.as_str(), sku.as_str(), last.seq.cast_signed()], |row| row.get(0))
        .optional()?;
    if let Some(parts) = parts {
        state.parts = parts::read(&parts)?;
    }
    Ok(Some((state, last.seq)))
}

/// Returns whether something was recorded so long before an instant that no line before it can be
/// of after the instant.
fn is_long_before(recorded: Timestamp, at: Timestamp) -> bool {
    at.micros_since(recorded) > CLOCK_BACK_MAX
}

fn touches_level(movement: &Movement) -> bool {
    movement.delta != Delta::ZERO
        || movement.reserved_delta != Delta::ZERO
        || movement.kind == trueup_core::MovementKind::Count
}
