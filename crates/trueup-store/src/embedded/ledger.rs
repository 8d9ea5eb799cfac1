//! The ledger's own rows: SKUs with their levels, bundles, reservations; read at the start, for
//! lists, and for what memory does not keep.
//!
//! Rows of SKUs may be older than memory, and so may the tables by which reservations are found
//! by order and by SKU: see [`behind`](super::behind). All other rows are as new as memory.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params};
use rustc_hash::{FxHashMap, FxHashSet};
use trueup_core::{
    Delta, Event, Location, OrderId, Org, Part, Quantity, Reservation, ReservationId,
    ReservationStatus, Sku, SkuState, Timestamp, book::apply_movement,
};

use super::behind::{Behind, Keys, Upto};
use super::files::OpenError;
use super::memory::{Active, Kept, Memory};
use super::rows::{self, Digested, RowsError};
use super::{digests, lines};
use crate::encoding::events::{Told, told};
use crate::encoding::{self, codec, holds, items, levels, parse_name, parts};
use crate::port::{Page, ReservationQuery, SkuQuery};

// --- Writing -----------------------------------------------------------------------------

/// Writes a SKU as it is, with its levels.
pub(super) fn write_state(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    state: &SkuState,
    line: i64,
) -> Result<(), RowsError> {
    let totals = state.totals();
    conn.prepare_cached(
        "INSERT INTO sku
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (org, sku) DO UPDATE
         SET version = excluded.version,
             publish_version = excluded.publish_version,
             updated_at = excluded.updated_at,
             safety_stock = excluded.safety_stock,
             low_stock_threshold = excluded.low_stock_threshold,
             backorder_limit = excluded.backorder_limit,
             low_since = excluded.low_since,
             on_hand = excluded.on_hand,
             reserved = excluded.reserved,
             levels = excluded.levels,
             line = excluded.line",
    )?
    .execute(params![
        org.as_str(),
        sku.as_str(),
        state.version.cast_signed(),
        state.publish_version.cast_signed(),
        state.updated_at.micros(),
        state.safety_stock.delta().get(),
        state.low_stock_threshold.map(|threshold| threshold.delta().get()),
        state.backorder_limit.delta().get(),
        state.low_since.map(Timestamp::micros),
        totals.on_hand.get(),
        totals.reserved.delta().get(),
        levels::write(&state.levels)?,
        line,
    ])?;
    Ok(())
}

/// Writes what a bundle is made of from a version on.
pub(super) fn write_bundle(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    version: u64,
    parts: &[Part],
) -> Result<(), RowsError> {
    conn.prepare_cached("INSERT OR REPLACE INTO bundle VALUES (?, ?, ?, ?)")?.execute(params![
        org.as_str(),
        sku.as_str(),
        version.cast_signed(),
        parts::write(parts)?,
    ])?;
    Ok(())
}

/// Writes a reservation that holds.
pub(super) fn write_held(conn: &Connection, org: &Org, r: &Reservation) -> Result<(), RowsError> {
    conn.prepare_cached(
        "INSERT INTO reservation_active
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (org, id) DO UPDATE
         SET items = excluded.items, holds = excluded.holds, expires_at = excluded.expires_at",
    )?
    .execute(params![
        org.as_str(),
        r.id.0.to_be_bytes(),
        r.order.as_str(),
        items::write(&r.items)?,
        holds::write(&r.holds)?,
        r.created_at.micros(),
        r.expires_at.micros(),
    ])?;
    Ok(())
}

/// Writes how a reservation ended; one that had expired may have held once more in between.
pub(super) fn write_ended(
    conn: &Connection,
    org: &Org,
    id: ReservationId,
    status: ReservationStatus,
    at: Timestamp,
) -> Result<(), RowsError> {
    let key = id.0.to_be_bytes();
    conn.prepare_cached(
        "INSERT OR REPLACE INTO reservation_ended
         SELECT org, id, order_id, ?, items, holds, created_at, expires_at, ?
         FROM reservation_active
         WHERE org = ? AND id = ?",
    )?
    .execute(params![codec::status_code(status), at.micros(), org.as_str(), key])?;
    conn.prepare_cached("DELETE FROM reservation_active WHERE org = ? AND id = ?")?
        .execute(params![org.as_str(), key])?;
    Ok(())
}

/// Writes until when a reservation holds.
pub(super) fn write_extended(
    conn: &Connection,
    org: &Org,
    id: ReservationId,
    expires_at: Timestamp,
) -> Result<(), RowsError> {
    conn.prepare_cached("UPDATE reservation_active SET expires_at = ? WHERE org = ? AND id = ?")?
        .execute(params![expires_at.micros(), org.as_str(), id.0.to_be_bytes()])?;
    Ok(())
}

/// Lets all reservations be found.
pub(super) fn digest_all(conn: &Connection) -> Result<(), RowsError> {
    let sql = format!("SELECT {RESERVATION_COLUMNS} FROM reservation");
    let mut query = conn.prepare(&sql)?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        let mut keys = Keys::default();
        keys.add(&org_of(text(row, 0)?)?, &reservation_of(row)?);
        keys.write_rows(conn)?;
    }
    Ok(())
}

/// Notes up to where nothing is behind.
pub(super) fn write_upto(conn: &Connection, upto: Upto) -> Result<(), RowsError> {
    for (name, value) in [("upto_line", upto.line), ("upto_answer", upto.answer)] {
        conn.prepare_cached("UPDATE meta SET value = ? WHERE name = ?")?
            .execute(params![value, name])?;
    }
    Ok(())
}

// --- Reading -----------------------------------------------------------------------------

pub(super) fn corrupt(why: impl std::fmt::Display) -> RowsError {
    RowsError::Corrupt(why.to_string())
}

pub(super) fn units(value: i64) -> Result<Quantity, RowsError> {
    let units = u64::try_from(value).ok().and_then(Quantity::new);
    units.ok_or_else(|| corrupt(format!("{value} is not a quantity")))
}

pub(super) fn change(value: i64) -> Result<Delta, RowsError> {
    Delta::new(value).ok_or_else(|| corrupt(format!("{value} is out of range")))
}

pub(super) fn sku_of(text: &str) -> Result<Sku, RowsError> {
    Sku::new(text).map_err(|e| corrupt(format!("SKU {text:?} {e}")))
}

pub(super) fn location_of(text: &str) -> Result<Location, RowsError> {
    Location::new(text).map_err(|e| corrupt(format!("location {text:?} {e}")))
}

pub(super) fn org_of(text: &str) -> Result<Org, RowsError> {
    Org::new(text).map_err(|e| corrupt(format!("org {text:?} {e}")))
}

pub(super) fn version_of(value: i64) -> Result<u64, RowsError> {
    u64::try_from(value).map_err(corrupt)
}

pub(super) fn text<'a>(row: &'a Row<'_>, at: usize) -> Result<&'a str, RowsError> {
    row.get_ref(at)?.as_str().map_err(corrupt)
}

/// What a start finds in rows.
pub(super) struct Loaded {
    pub(super) memory: Memory,
    /// The newest line and recorded answer.
    pub(super) newest: Upto,
    /// What is behind.
    pub(super) behind: Behind,
}

/// Names that many rows share, kept once.
#[derive(Default)]
struct Names {
    /// The org of the last row, which is most often the next one's.
    last: Option<Org>,
    orgs: FxHashMap<String, Org>,
    locations: FxHashMap<String, Location>,
}

impl Names {
    fn org(&mut self, text: &str) -> Result<Org, RowsError> {
        if let Some(last) = self.last.as_ref().filter(|last| last.as_str() == text) {
            return Ok(last.clone());
        }
        let org = match self.orgs.get(text) {
            Some(known) => known.clone(),
            None => org_of(text)?,
        };
        self.orgs.insert(text.to_owned(), org.clone());
        self.last = Some(org.clone());
        Ok(org)
    }

    fn location(&mut self, text: &str) -> encoding::Result<Location> {
        if let Some(known) = self.locations.get(text) {
            return Ok(known.clone());
        }
        let location: Location = parse_name(text)?;
        self.locations.insert(text.to_owned(), location.clone());
        Ok(location)
    }
}

/// Reads everything that lives in memory but for reservations, which are given as [`active`] reads
/// them, and brings SKUs up to their newest lines.
pub(super) fn load(
    conn: &Connection,
    active: impl FnOnce() -> Result<Active, OpenError>,
    refused: impl Fn(&dyn std::fmt::Display) -> OpenError,
) -> Result<Loaded, OpenError> {
    let mut loaded = load_rows(conn).map_err(|error| refused(&error))?;
    loaded.memory.hold(active()?);
    Ok(loaded)
}

pub(super) fn load_rows(conn: &Connection) -> Result<Loaded, RowsError> {
    let upto = |name: &str| -> Result<i64, RowsError> {
        let sql = "SELECT value FROM meta WHERE name = ?";
        Ok(conn.query_row(sql, [name], |row| row.get(0))?)
    };
    let mut memory = Memory::default();
    let mut names = Names::default();
    load_skus(conn, &mut memory, &mut names)?;
    let mut behind = replay(conn, &mut memory, &mut names, upto("upto_line")?)?;
    load_bundles(conn, &mut memory, &mut names)?;
    let mut keys = Keys::default();
    for (digest, n) in rows::answers::after(conn, upto("upto_answer")?)? {
        keys.add_answer(digest, n);
    }
    behind.add_keys(keys);
    let newest = Upto { line: lines::newest(conn)?, answer: rows::answers::newest(conn)? };
    Ok(Loaded { memory, newest, behind })
}

fn load_skus(conn: &Connection, memory: &mut Memory, names: &mut Names) -> Result<(), RowsError> {
    let mut query = conn.prepare(
        "SELECT org, sku, version, publish_version, updated_at, safety_stock,
                low_stock_threshold, backorder_limit, low_since, levels, line, on_hand, reserved
         FROM sku",
    )?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        let mut state = SkuState::new();
        state.version = version_of(row.get(2)?)?;
        state.publish_version = version_of(row.get(3)?)?;
        state.updated_at = Timestamp::from_micros(row.get(4)?);
        state.safety_stock = units(row.get(5)?)?;
        state.low_stock_threshold = row.get::<_, Option<i64>>(6)?.map(units).transpose()?;
        state.backorder_limit = units(row.get(7)?)?;
        state.low_since = row.get::<_, Option<i64>>(8)?.map(Timestamp::from_micros);
        state.levels = levels::read(text(row, 9)?, |name| names.location(name))?;
        let (org, sku) = (names.org(text(row, 0)?)?, sku_of(text(row, 1)?)?);
        // Written twice, so that a row that the disk has changed is told from one that was written.
        let totals = state.totals();
        let sums = (totals.on_hand.get(), totals.reserved.delta().get());
        if sums != (row.get(11)?, row.get(12)?) {
            return Err(corrupt(format!(
                "the levels of {org}'s {sku} are not what they add up to"
            )));
        }
        memory.put(&org, sku, Kept { state, line: row.get(10)? });
    }
    Ok(())
}

/// Applies the lines after one to the SKUs whose rows are older; returns what is behind.
fn replay(
    conn: &Connection,
    memory: &mut Memory,
    names: &mut Names,
    after: i64,
) -> Result<Behind, RowsError> {
    let mut behind = Behind::default();
    let mut keys = Keys::default();
    let parts = parts_ever(conn, names)?;
    let mut of_bundles: FxHashSet<(Org, ReservationId)> = FxHashSet::default();
    lines::each_after(conn, after, |org, line, mut movement, reservation| {
        let org = names.org(org)?;
        if let Some(id) = reservation {
            // But for bundles, what is held is what was asked for, and the line names the order.
            match &movement.reference {
                Some(order) if !parts.contains(&(org.clone(), movement.sku.clone())) => {
                    keys.add_order(&org, order, id);
                    keys.add_asked(&org, &movement.sku, id);
                }
                Some(_) | None => {
                    of_bundles.insert((org.clone(), id));
                }
            }
        }
        movement.location = names.location(movement.location.as_str())?;
        if memory.sku(&org, &movement.sku).is_none() {
            memory.put(&org, movement.sku.clone(), Kept { state: SkuState::new(), line: 0 });
        }
        let Some(kept) = memory.sku_mut(&org, &movement.sku) else { return Ok(()) };
        if movement.seq <= kept.state.version {
            return Ok(());
        }
        let after = kept.state.totals().after(movement.delta, movement.reserved_delta);
        let says = (movement.quantity_after, movement.reserved_after);
        if after.map(|after| (after.on_hand, after.reserved)) != Ok(says) {
            return Err(corrupt(format!("line {line} does not add up with those before it")));
        }
        apply_movement(&mut kept.state, &movement);
        kept.line = line;
        behind.add_sku(&org, movement.sku);
        Ok(())
    })?;
    for (org, id) in &of_bundles {
        if let Some(found) = reservation(conn, org, *id)? {
            keys.add(org, &found);
        }
    }
    behind.add_keys(keys);
    Ok(behind)
}

/// Returns the SKUs that are or were in a bundle.
fn parts_ever(conn: &Connection, names: &mut Names) -> Result<FxHashSet<(Org, Sku)>, RowsError> {
    let mut query = conn.prepare("SELECT org, parts FROM bundle")?;
    let mut found = query.query([])?;
    let mut ever = FxHashSet::default();
    while let Some(row) = found.next()? {
        let org = names.org(text(row, 0)?)?;
        let parts = parts::read(text(row, 1)?)?;
        ever.extend(parts.into_iter().map(|part| (org.clone(), part.sku)));
    }
    Ok(ever)
}

fn load_bundles(
    conn: &Connection,
    memory: &mut Memory,
    names: &mut Names,
) -> Result<(), RowsError> {
    let mut query = conn.prepare(
        "SELECT org, sku, parts
         FROM bundle
         WHERE seq = (SELECT max(b.seq) FROM bundle b WHERE b.org = bundle.org
                      AND b.sku = bundle.sku)",
    )?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        let parts = parts::read(text(row, 2)?)?;
        let (org, bundle) = (names.org(text(row, 0)?)?, sku_of(text(row, 1)?)?);
        for part in &parts {
            match memory.sku_mut(&org, &part.sku) {
                Some(kept) => kept.state.used_in.push(bundle.clone()),
                None => return Err(corrupt(format!("no part {}", part.sku))),
            }
        }
        match memory.sku_mut(&org, &bundle) {
            Some(kept) => kept.state.parts = parts,
            None => return Err(corrupt(format!("no bundle {bundle}"))),
        }
    }
    Ok(())
}

/// Reads the reservations that hold.
pub(super) fn active(conn: &Connection) -> Result<Active, RowsError> {
    let sql = format!("SELECT {RESERVATION_COLUMNS} FROM {RESERVATIONS_ACTIVE}");
    let mut query = conn.prepare(&sql)?;
    let mut found = query.query([])?;
    let mut names = Names::default();
    let mut active = Vec::new();
    while let Some(row) = found.next()? {
        active.push((names.org(text(row, 0)?)?, reservation_of(row)?));
    }
    Ok(Active::of(active))
}

/// The reservations that hold, with the columns of all.
const RESERVATIONS_ACTIVE: &str =
    "(SELECT *, 1 AS status, NULL AS ended_at FROM reservation_active)";

const RESERVATION_COLUMNS: &str =
    "org, id, order_id, status, items, holds, created_at, expires_at, ended_at";

fn reservation_of(row: &Row<'_>) -> Result<Reservation, RowsError> {
    Ok(Reservation {
        id: ReservationId(u128::from_be_bytes(row.get(1)?)),
        order: OrderId::new(text(row, 2)?).map_err(corrupt)?,
        status: codec::status_of(row.get(3)?)?,
        items: items::read(text(row, 4)?)?,
        holds: holds::read(text(row, 5)?)?,
        created_at: Timestamp::from_micros(row.get(6)?),
        expires_at: Timestamp::from_micros(row.get(7)?),
        ended_at: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_micros),
    })
}

/// Returns a reservation.
pub(super) fn reservation(
    conn: &Connection,
    org: &Org,
    id: ReservationId,
) -> Result<Option<Reservation>, RowsError> {
    let mut query = conn.prepare_cached(
        "SELECT org, id, order_id, status, items, holds, created_at, expires_at, ended_at
         FROM reservation
         WHERE org = ? AND id = ?",
    )?;
    let mut found = query.query(params![org.as_str(), id.0.to_be_bytes()])?;
    found.next()?.map(reservation_of).transpose()
}

/// Returns whether a reservation that is found by its order was committed.
pub(super) fn order_is_sold(
    conn: &Connection,
    org: &Org,
    order: &OrderId,
) -> Result<bool, RowsError> {
    let digest = rows::digest(Digested::Order, org, order.as_str());
    for id in digests::of(conn, digest)? {
        let found = reservation(conn, org, id)?;
        let is_sold = |found: &Reservation| {
            found.status == ReservationStatus::Committed && found.order == *order
        };
        if found.as_ref().is_some_and(is_sold) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lists reservations, newest id first.
pub(super) fn reservations(
    conn: &Connection,
    org: &Org,
    query: &ReservationQuery,
) -> Result<Page<Reservation>, RowsError> {
    let digest = match (&query.order, &query.sku) {
        (Some(order), _) => Some(rows::digest(Digested::Order, org, order.as_str())),
        (None, Some(sku)) => Some(rows::digest(Digested::Asked, org, sku.as_str())),
        (None, None) => None,
    };
    if let Some(digest) = digest {
        return reservations_with(conn, org, digest, query);
    }
    let mut filter = Filter::new(org);
    let from = match query.status {
        Some(ReservationStatus::Active) => RESERVATIONS_ACTIVE,
        Some(status) => {
            filter.and("status = ?", i64::from(codec::status_code(status)));
            "reservation_ended"
        }
        None => "reservation",
    };
    if let Some(before) = query.before {
        filter.and("id < ?", before.0.to_be_bytes().to_vec());
    }
    let sql = format!(
        "SELECT {RESERVATION_COLUMNS} FROM {from} WHERE {} ORDER BY id DESC LIMIT {}",
        filter.clause,
        query.limit + 1
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut found = statement.query(rusqlite::params_from_iter(filter.values))?;
    let mut items = Vec::new();
    while let Some(row) = found.next()? {
        items.push(reservation_of(row)?);
    }
    Ok(page(items, query.limit))
}

/// Lists the reservations that are found by a digest, newest id first.
fn reservations_with(
    conn: &Connection,
    org: &Org,
    digest: i64,
    query: &ReservationQuery,
) -> Result<Page<Reservation>, RowsError> {
    let is_wanted = |found: &Reservation| {
        query.status.is_none_or(|status| found.status == status)
            && query.order.as_ref().is_none_or(|order| found.order == *order)
            // One that was replaced asked for it once.
            && query.sku.as_ref().is_none_or(|sku| found.items.iter().any(|i| i.sku == *sku))
    };
    let mut items = Vec::new();
    for id in digests::of(conn, digest)? {
        if query.before.is_some_and(|before| id >= before) {
            continue;
        }
        items.extend(reservation(conn, org, id)?.filter(is_wanted));
        if items.len() > query.limit {
            break;
        }
    }
    Ok(page(items, query.limit))
}

fn page<T>(mut items: Vec<T>, limit: usize) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    Page { items, more }
}

/// Conditions joined by AND; the org is always the first.
struct Filter {
    clause: String,
    values: Vec<Value>,
}

impl Filter {
    fn new(org: &Org) -> Self {
        let values = vec![Value::Text(org.as_str().to_owned())];
        Self { clause: "org = ?1".to_owned(), values }
    }

    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        let number = format!("?{}", self.values.len());
        self.clause.push_str(" AND ");
        match condition.rsplit_once('?') {
            Some((before, after)) => {
                self.clause.push_str(before);
                self.clause.push_str(&number);
                self.clause.push_str(after);
            }
            None => self.clause.push_str(condition),
        }
    }

    fn and_plain(&mut self, condition: &str) {
        self.clause.push_str(" AND ");
        self.clause.push_str(condition);
    }
}

/// Lists the keys of SKUs, ascending.
pub(super) fn skus(conn: &Connection, org: &Org, query: &SkuQuery) -> Result<Page<Sku>, RowsError> {
    let mut filter = Filter::new(org);
    if let Some(search) = &query.search {
        filter.and("sku LIKE ? ESCAPE '\\'", encoding::containing(search));
    }
    match query.low_stock {
        Some(true) => filter.and_plain("low_since IS NOT NULL"),
        Some(false) => filter.and_plain("low_since IS NULL"),
        None => {}
    }
    let listed = "EXISTS (SELECT 1 FROM listing l WHERE l.org = sku.org AND l.sku = sku.sku";
    let behind = "(l.follows = 0 AND (l.forced = 1 OR l.acked_version < sku.version))";
    match (&query.channel, query.stale) {
        (Some(channel), stale) => {
            let tail = if stale { format!(" AND {behind})") } else { ")".to_owned() };
            let condition = format!("{listed} AND l.channel = ?{tail}");
            filter.and(&condition, channel.as_str().to_owned());
        }
        (None, true) => filter.and_plain(&format!("{listed} AND {behind})")),
        (None, false) => {}
    }
    if let Some(channel) = &query.unlisted {
        let channel = channel.as_str().to_owned();
        let mapped = format!("NOT {listed} AND l.channel = ?)");
        filter.and(&mapped, channel.clone());
        let carried = "NOT EXISTS (SELECT 1 FROM channel_listing c WHERE c.org = sku.org \
             AND c.channel = ? AND c.sku = sku.sku)";
        filter.and(carried, channel);
    }
    if let Some(after) = &query.after {
        filter.and("sku > ?", after.as_str().to_owned());
    }
    let sql = format!(
        "SELECT sku FROM sku WHERE {} ORDER BY sku LIMIT {}",
        filter.clause,
        query.limit + 1
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut found = statement.query(rusqlite::params_from_iter(filter.values))?;
    let mut items = Vec::new();
    while let Some(row) = found.next()? {
        items.push(sku_of(text(row, 0)?)?);
    }
    Ok(page(items, query.limit))
}

/// Writes outgoing events for an org that has somebody to tell: one of each SKU that moved.
pub(super) fn write_deliveries(
    conn: &Connection,
    org: &Org,
    events: &[Event],
    ids: &mut dyn FnMut() -> String,
) -> Result<(), RowsError> {
    let order_of = |id| reservation(conn, org, id).map(|found| Some(found?.order));
    for Told { event, body, at } in told(events, order_of)? {
        rows::deliveries::add_event(conn, org, event, &body, at, ids)?;
    }
    Ok(())
}
