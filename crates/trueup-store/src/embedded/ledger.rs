//! The ledger in rows: written behind the journal, read for history and lists.

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};
use rustc_hash::FxHashMap;
use serde_json::json;
use smallvec::SmallVec;
use trueup_core::{
    Delta, Event, Item, Level, Location, Movement, OrderId, Org, Part, Quantity, Reservation,
    ReservationId, ReservationStatus, Sku, SkuAnswer, SkuState, Timestamp,
    book::{Entries, Since},
};

use super::codec;
use super::rows::{self, RowsError, holds};
use crate::port::{MovementQuery, Page, ReservationQuery, SkuAt, SkuQuery, Verification};

/// The most faults that a verification names.
const FAULTS_MAX: usize = 1_000;

// --- Writing -----------------------------------------------------------------------------

/// What a chunk of facts makes of one SKU's row.
struct SkuRow {
    /// A fact that names the SKU.
    named_by: usize,
    last: Option<usize>,
    version: u64,
    updated_at: Timestamp,
    published: Option<u64>,
    /// Low at the end: since an instant within the chunk, or since before it.
    low: Low,
}

#[derive(Clone, Copy)]
enum Low {
    No,
    Since(Timestamp),
    Before(Timestamp),
}

impl SkuRow {
    fn new(named_by: usize) -> Self {
        let at = Timestamp::EPOCH;
        let (last, published, low) = (None, None, Low::Before(at));
        Self { named_by, last, version: 0, updated_at: at, published, low }
    }

    fn note(&mut self, fact: usize, movement: &Movement) {
        let low = movement
            .low_stock_threshold
            .is_some_and(|threshold| movement.quantity_after < threshold.delta());
        self.low = match (low, self.low, self.last.is_some()) {
            (false, _, _) => Low::No,
            (true, Low::No, _) => Low::Since(movement.at),
            (true, Low::Since(at), _) => Low::Since(at),
            (true, Low::Before(at), true) => Low::Before(at),
            (true, Low::Before(_), false) => Low::Before(movement.at),
        };
        self.last = Some(fact);
        self.version = movement.seq;
        self.updated_at = movement.at;
        if movement.publish {
            self.published = Some(movement.seq);
        }
    }
}

/// What a chunk of facts makes of one reservation's row.
#[derive(Default)]
struct ReservationRow {
    ended: Option<(ReservationStatus, Timestamp)>,
    expires_at: Option<Timestamp>,
}

/// One row to write; numbers are places in the chunk of facts.
enum Step {
    Publish(usize),
    Sku(SkuRow),
    Level(usize),
    Bundle { fact: usize, seq: u64 },
    Line(usize),
    Reservation { named_by: usize, id: ReservationId, row: ReservationRow },
    Asked { fact: usize, item: usize },
}

/// The rows that a chunk of facts becomes, in the order of the tables, so that neighbours go
/// into the same page one after the other and the chunk can be written piece by piece.
///
/// Writing it twice is the same as writing it once, and a store that has a part of it and the
/// facts themselves in its journal is whole: facts carry what stands after them.
pub(super) struct Rows {
    steps: Vec<Step>,
}

impl Rows {
    /// Computes the rows of a chunk of facts.
    pub(super) fn of(facts: &[(Org, Event)]) -> Self {
        let mut publish: Vec<Step> = Vec::new();
        let mut bundles: Vec<Step> = Vec::new();
        let mut skus: FxHashMap<(&Org, &Sku), SkuRow> = FxHashMap::default();
        let mut levels: FxHashMap<(&Org, &Sku, &Location), usize> = FxHashMap::default();
        let mut lines: Vec<(&Org, &Sku, u64, usize)> = Vec::new();
        let mut holds: FxHashMap<(&Org, ReservationId), (usize, ReservationRow)> =
            FxHashMap::default();
        let mut asked: Vec<(&Org, &Sku, ReservationId, usize, usize)> = Vec::new();
        for (at, (org, event)) in facts.iter().enumerate() {
            match event {
                Event::Moved(m) => {
                    lines.push((org, &m.sku, m.seq, at));
                    skus.entry((org, &m.sku)).or_insert_with(|| SkuRow::new(at)).note(at, m);
                    if touches_level(m) {
                        levels.insert((org, &m.sku, &m.location), at);
                    }
                }
                Event::BundleDefined { sku, .. } => {
                    let seq = skus.get(&(org, sku)).map_or(0, |row| row.version);
                    bundles.push(Step::Bundle { fact: at, seq });
                }
                Event::BundleTouched { sku, version, at: when, publish } => {
                    let row = skus.entry((org, sku)).or_insert_with(|| SkuRow::new(at));
                    row.version = *version;
                    row.updated_at = *when;
                    if *publish {
                        row.published = Some(*version);
                    }
                }
                Event::PublishAsked { sku } => match skus.get_mut(&(org, sku)) {
                    Some(row) => row.published = Some(row.version),
                    None => publish.push(Step::Publish(at)),
                },
                Event::Held(r) => {
                    holds.insert((org, r.id), (at, ReservationRow::default()));
                    let items = r.items.iter().enumerate();
                    asked.extend(items.map(|(nth, item)| (org, &item.sku, r.id, at, nth)));
                }
                Event::Ended { id, status, at: when } => {
                    let new = || (at, ReservationRow::default());
                    holds.entry((org, *id)).or_insert_with(new).1.ended = Some((*status, *when));
                }
                Event::Extended { id, expires_at } => {
                    let new = || (at, ReservationRow::default());
                    holds.entry((org, *id)).or_insert_with(new).1.expires_at = Some(*expires_at);
                }
                Event::LowStock { .. }
                | Event::Oversold { .. }
                | Event::Listing(_)
                | Event::LineBooked { .. }
                | Event::ConflictFlagged(_)
                | Event::ConflictClosed { .. } => {}
            }
        }
        lines.sort_unstable();
        asked.sort_unstable();
        // What is asked to be published comes first: it means the version before the chunk. A
        // level, a bundle and a line need their SKU.
        let mut steps = publish;
        steps.extend(in_order(skus).map(|(_, row)| Step::Sku(row)));
        steps.extend(in_order(levels).map(|(_, at)| Step::Level(at)));
        steps.extend(bundles);
        steps.extend(lines.into_iter().map(|(_, _, _, at)| Step::Line(at)));
        let reservation = |((_, id), (named_by, row))| Step::Reservation { named_by, id, row };
        steps.extend(in_order(holds).map(reservation));
        let asked = asked.into_iter().map(|(_, _, _, fact, item)| Step::Asked { fact, item });
        steps.extend(asked);
        Self { steps }
    }

    /// Returns how many rows there are.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Writes rows from one place on, at most so many; returns the place after them.
    pub(super) fn write(
        &self,
        conn: &Connection,
        facts: &[(Org, Event)],
        from: usize,
        most: usize,
    ) -> Result<usize, RowsError> {
        let to = from.saturating_add(most).min(self.steps.len());
        for step in &self.steps[from..to] {
            step.write(conn, facts)?;
        }
        Ok(to)
    }
}

fn in_order<K: Ord, V>(map: FxHashMap<K, V>) -> impl Iterator<Item = (K, V)> {
    let mut entries: Vec<(K, V)> = map.into_iter().collect();
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    entries.into_iter()
}

impl Step {
    fn write(&self, conn: &Connection, facts: &[(Org, Event)]) -> Result<(), RowsError> {
        let (Self::Publish(at)
        | Self::Sku(SkuRow { named_by: at, .. })
        | Self::Level(at)
        | Self::Bundle { fact: at, .. }
        | Self::Line(at)
        | Self::Reservation { named_by: at, .. }
        | Self::Asked { fact: at, .. }) = self;
        let (org, event) = &facts[*at];
        match (self, event) {
            (Self::Publish(_), Event::PublishAsked { sku }) => publish_row(conn, org, sku),
            (
                Self::Sku(row),
                Event::Moved(Movement { sku, .. }) | Event::BundleTouched { sku, .. },
            ) => write_sku(conn, org, sku, row, row.last.and_then(|at| movement_at(facts, at))),
            (Self::Level(_), Event::Moved(movement)) => write_level(conn, org, movement),
            (Self::Bundle { seq, .. }, Event::BundleDefined { sku, parts }) => {
                write_bundle(conn, org, sku, *seq, parts)
            }
            (Self::Line(_), Event::Moved(movement)) => write_movement(conn, org, movement),
            (Self::Reservation { row, .. }, Event::Held(reservation)) => {
                write_held(conn, org, reservation, row)
            }
            (Self::Reservation { id, row, .. }, _) => write_changed(conn, org, *id, row),
            (Self::Asked { item, .. }, Event::Held(reservation)) => {
                write_asked(conn, org, &reservation.items[*item].sku, reservation.id)
            }
            (
                Self::Publish(_)
                | Self::Sku(_)
                | Self::Level(_)
                | Self::Bundle { .. }
                | Self::Line(_)
                | Self::Asked { .. },
                _,
            ) => Err(corrupt("a row was computed from another chunk of facts")),
        }
    }
}

fn movement_at(facts: &[(Org, Event)], at: usize) -> Option<&Movement> {
    match &facts[at].1 {
        Event::Moved(movement) => Some(movement),
        _ => None,
    }
}

fn touches_level(movement: &Movement) -> bool {
    movement.delta != Delta::ZERO
        || movement.reserved_delta != Delta::ZERO
        || movement.kind == trueup_core::MovementKind::Count
}

fn write_movement(conn: &Connection, org: &Org, m: &Movement) -> Result<(), RowsError> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO movement
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        org.as_str(),
        m.sku.as_str(),
        m.seq.cast_signed(),
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
    ])?;
    Ok(())
}

fn write_sku(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    row: &SkuRow,
    last: Option<&Movement>,
) -> Result<(), RowsError> {
    let Some(last) = last else {
        conn.prepare_cached(
            "UPDATE sku
             SET version = ?3, updated_at = ?4, publish_version = coalesce(?5, publish_version)
             WHERE org = ?1 AND sku = ?2",
        )?
        .execute(params![
            org.as_str(),
            sku.as_str(),
            row.version.cast_signed(),
            row.updated_at.micros(),
            row.published.map(u64::cast_signed),
        ])?;
        return Ok(());
    };
    // ?9 says when it became low if it was not low before this chunk; ?10 that it surely
    // became low within the chunk.
    let (low_since, within) = match row.low {
        Low::No => (None, true),
        Low::Since(at) => (Some(at.micros()), true),
        Low::Before(at) => (Some(at.micros()), false),
    };
    conn.prepare_cached(
        "INSERT INTO sku
         VALUES (?1, ?2, ?3, coalesce(?4, 0), ?5, ?6, ?7, ?8, ?9, ?11, ?12)
         ON CONFLICT (org, sku) DO UPDATE
         SET version = excluded.version,
             publish_version = coalesce(?4, publish_version),
             updated_at = excluded.updated_at,
             safety_stock = excluded.safety_stock,
             low_stock_threshold = excluded.low_stock_threshold,
             backorder_limit = excluded.backorder_limit,
             low_since = CASE WHEN ?10 THEN ?9 ELSE coalesce(low_since, ?9) END,
             on_hand = excluded.on_hand,
             reserved = excluded.reserved",
    )?
    .execute(params![
        org.as_str(),
        sku.as_str(),
        row.version.cast_signed(),
        row.published.map(u64::cast_signed),
        row.updated_at.micros(),
        last.safety_stock.delta().get(),
        last.low_stock_threshold.map(|threshold| threshold.delta().get()),
        last.backorder_limit.delta().get(),
        low_since,
        within,
        last.quantity_after.get(),
        last.reserved_after.delta().get(),
    ])?;
    Ok(())
}

fn write_level(conn: &Connection, org: &Org, m: &Movement) -> Result<(), RowsError> {
    conn.prepare_cached(
        "INSERT INTO level
         VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (org, sku, location) DO UPDATE
         SET on_hand = excluded.on_hand, reserved = excluded.reserved",
    )?
    .execute(params![
        org.as_str(),
        m.sku.as_str(),
        m.location.as_str(),
        m.location_quantity_after.get(),
        m.location_reserved_after.delta().get(),
    ])?;
    Ok(())
}

fn write_bundle(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    seq: u64,
    parts: &[Part],
) -> Result<(), RowsError> {
    let parts: Vec<_> = parts.iter().map(|p| json!([p.sku.as_str(), p.quantity.get()])).collect();
    conn.prepare_cached("INSERT OR REPLACE INTO bundle VALUES (?, ?, ?, ?)")?.execute(params![
        org.as_str(),
        sku.as_str(),
        seq.cast_signed(),
        serde_json::Value::Array(parts).to_string(),
    ])?;
    Ok(())
}

fn publish_row(conn: &Connection, org: &Org, sku: &Sku) -> Result<(), RowsError> {
    conn.prepare_cached("UPDATE sku SET publish_version = version WHERE org = ? AND sku = ?")?
        .execute(params![org.as_str(), sku.as_str()])?;
    Ok(())
}

fn write_held(
    conn: &Connection,
    org: &Org,
    r: &Reservation,
    row: &ReservationRow,
) -> Result<(), RowsError> {
    let items: SmallVec<[_; 4]> = r
        .items
        .iter()
        .map(|i| (i.sku.as_str(), i.location.as_ref().map(Location::as_str), i.quantity.get()))
        .collect();
    conn.prepare_cached(
        "INSERT OR REPLACE INTO reservation
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        org.as_str(),
        r.id.0.to_be_bytes(),
        r.order.as_str(),
        codec::status_code(row.ended.map_or(r.status, |(status, _)| status)),
        serde_json::to_string(&items[..]).map_err(corrupt)?,
        holds::write(&r.holds)?,
        r.created_at.micros(),
        row.expires_at.unwrap_or(r.expires_at).micros(),
        row.ended.map(|(_, at)| at.micros()),
    ])?;
    Ok(())
}

fn write_asked(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    id: ReservationId,
) -> Result<(), RowsError> {
    conn.prepare_cached("INSERT OR IGNORE INTO reservation_sku VALUES (?, ?, ?)")?
        .execute(params![org.as_str(), sku.as_str(), id.0.to_be_bytes()])?;
    Ok(())
}

/// Writes what became of a reservation whose row is there already.
fn write_changed(
    conn: &Connection,
    org: &Org,
    id: ReservationId,
    row: &ReservationRow,
) -> Result<(), RowsError> {
    conn.prepare_cached(
        "UPDATE reservation
         SET status = coalesce(?3, status),
             ended_at = coalesce(?4, ended_at),
             expires_at = coalesce(?5, expires_at)
         WHERE org = ?1 AND id = ?2",
    )?
    .execute(params![
        org.as_str(),
        id.0.to_be_bytes(),
        row.ended.map(|(status, _)| codec::status_code(status)),
        row.ended.map(|(_, at)| at.micros()),
        row.expires_at.map(Timestamp::micros),
    ])?;
    Ok(())
}

// --- Reading -----------------------------------------------------------------------------

fn corrupt(why: impl std::fmt::Display) -> RowsError {
    RowsError::Corrupt(why.to_string())
}

fn units(value: i64) -> Result<Quantity, RowsError> {
    let units = u64::try_from(value).ok().and_then(Quantity::new);
    units.ok_or_else(|| corrupt(format!("{value} is not a quantity")))
}

fn change(value: i64) -> Result<Delta, RowsError> {
    Delta::new(value).ok_or_else(|| corrupt(format!("{value} is out of range")))
}

fn sku_of(text: &str) -> Result<Sku, RowsError> {
    Sku::new(text).map_err(|e| corrupt(format!("SKU {text:?} {e}")))
}

fn location_of(text: &str) -> Result<Location, RowsError> {
    Location::new(text).map_err(|e| corrupt(format!("location {text:?} {e}")))
}

fn org_of(text: &str) -> Result<Org, RowsError> {
    Org::new(text).map_err(|e| corrupt(format!("org {text:?} {e}")))
}

fn version_of(value: i64) -> Result<u64, RowsError> {
    u64::try_from(value).map_err(corrupt)
}

/// Reads everything that lives in memory, by org.
pub(super) fn load(conn: &Connection) -> Result<FxHashMap<Org, Entries>, RowsError> {
    let mut orgs: FxHashMap<Org, Entries> = FxHashMap::default();
    load_skus(conn, &mut orgs)?;
    load_levels(conn, &mut orgs)?;
    load_bundles(conn, &mut orgs)?;
    load_reservations(conn, &mut orgs)?;
    Ok(orgs)
}

fn load_skus(conn: &Connection, orgs: &mut FxHashMap<Org, Entries>) -> Result<(), RowsError> {
    let mut query = conn.prepare(
        "SELECT org, sku, version, publish_version, updated_at, safety_stock,
                low_stock_threshold, backorder_limit, low_since
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
        entries(orgs, row)?.skus.insert(sku_of(text(row, 1)?)?, Some(state));
    }
    Ok(())
}

fn text<'a>(row: &'a Row<'_>, at: usize) -> Result<&'a str, RowsError> {
    row.get_ref(at)?.as_str().map_err(corrupt)
}

fn entries<'a>(
    orgs: &'a mut FxHashMap<Org, Entries>,
    row: &Row<'_>,
) -> Result<&'a mut Entries, RowsError> {
    let org = text(row, 0)?;
    if !orgs.contains_key(org) {
        orgs.insert(org_of(org)?, Entries::default());
    }
    orgs.get_mut(org).ok_or_else(|| corrupt("an org is missing"))
}

fn load_levels(conn: &Connection, orgs: &mut FxHashMap<Org, Entries>) -> Result<(), RowsError> {
    let mut query = conn.prepare(
        "SELECT org, sku, location, on_hand, reserved
         FROM level
         ORDER BY org, sku, location",
    )?;
    let mut locations: FxHashMap<String, Location> = FxHashMap::default();
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        let name = text(row, 2)?;
        let location = match locations.get(name) {
            Some(location) => location.clone(),
            None => {
                let location = location_of(name)?;
                locations.insert(name.to_owned(), location.clone());
                location
            }
        };
        let level =
            Level { location, on_hand: change(row.get(3)?)?, reserved: units(row.get(4)?)? };
        let sku = text(row, 1)?;
        match entries(orgs, row)?.skus.get_mut(sku) {
            Some(Some(state)) => state.levels.push(level),
            Some(None) | None => return Err(corrupt(format!("a level of {sku:?} has no SKU"))),
        }
    }
    Ok(())
}

fn load_bundles(conn: &Connection, orgs: &mut FxHashMap<Org, Entries>) -> Result<(), RowsError> {
    let mut query = conn.prepare(
        "SELECT org, sku, parts
         FROM bundle
         WHERE seq = (SELECT max(b.seq) FROM bundle b WHERE b.org = bundle.org
                      AND b.sku = bundle.sku)",
    )?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        let parts = parts_of(text(row, 2)?)?;
        let bundle = sku_of(text(row, 1)?)?;
        let entries = entries(orgs, row)?;
        for part in &parts {
            match entries.skus.get_mut(&part.sku) {
                Some(Some(state)) => state.used_in.push(bundle.clone()),
                Some(None) | None => return Err(corrupt(format!("no part {}", part.sku))),
            }
        }
        match entries.skus.get_mut(&bundle) {
            Some(Some(state)) => state.parts = parts,
            Some(None) | None => return Err(corrupt(format!("no bundle {bundle}"))),
        }
    }
    Ok(())
}

fn parts_of(text: &str) -> Result<Vec<Part>, RowsError> {
    let parts: Vec<(String, u64)> = serde_json::from_str(text).map_err(corrupt)?;
    let part = |(sku, units): (String, u64)| {
        let quantity = Quantity::new(units).ok_or_else(|| corrupt("a part is out of range"))?;
        Ok(Part { sku: sku_of(&sku)?, quantity })
    };
    parts.into_iter().map(part).collect()
}

const RESERVATION_COLUMNS: &str =
    "org, id, order_id, status, items, holds, created_at, expires_at, ended_at";

fn load_reservations(
    conn: &Connection,
    orgs: &mut FxHashMap<Org, Entries>,
) -> Result<(), RowsError> {
    let sql = format!("SELECT {RESERVATION_COLUMNS} FROM reservation WHERE status = 1");
    let mut query = conn.prepare(&sql)?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        let reservation = reservation_of(row)?;
        let entries = entries(orgs, row)?;
        entries.orders.insert(reservation.order.clone(), Some(reservation.id));
        entries.reservations.insert(reservation.id, Some(reservation));
    }
    Ok(())
}

fn reservation_of(row: &Row<'_>) -> Result<Reservation, RowsError> {
    let items: Vec<(String, Option<String>, u64)> =
        serde_json::from_str(text(row, 4)?).map_err(corrupt)?;
    let quantity = |units| Quantity::new(units).ok_or_else(|| corrupt("an item is out of range"));
    let item = |(sku, location, units): (String, Option<String>, u64)| {
        Ok::<_, RowsError>(Item {
            sku: sku_of(&sku)?,
            location: location.as_deref().map(location_of).transpose()?,
            quantity: quantity(units)?,
        })
    };
    Ok(Reservation {
        id: ReservationId(u128::from_be_bytes(row.get(1)?)),
        order: OrderId::new(text(row, 2)?).map_err(corrupt)?,
        status: codec::status_of(row.get(3)?).map_err(corrupt)?,
        items: items.into_iter().map(item).collect::<Result<SmallVec<_>, _>>()?,
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

/// Returns whether a reservation of an order was committed.
pub(super) fn order_is_sold(
    conn: &Connection,
    org: &Org,
    order: &OrderId,
) -> Result<bool, RowsError> {
    let mut query = conn.prepare_cached(
        "SELECT EXISTS (
           SELECT 1 FROM reservation WHERE org = ? AND order_id = ? AND status = ?)",
    )?;
    let committed = codec::status_code(ReservationStatus::Committed);
    Ok(query.query_row(params![org.as_str(), order.as_str(), committed], |row| row.get(0))?)
}

/// Lists reservations, newest id first.
pub(super) fn reservations(
    conn: &Connection,
    org: &Org,
    query: &ReservationQuery,
) -> Result<Page<Reservation>, RowsError> {
    let mut filter = Filter::new(org);
    if let Some(status) = query.status {
        filter.and("status = ?", i64::from(codec::status_code(status)));
    }
    if let Some(order) = &query.order {
        filter.and("order_id = ?", order.as_str().to_owned());
    }
    if let Some(sku) = &query.sku {
        let within = "id IN (SELECT s.id FROM reservation_sku s WHERE s.org = ?1 AND s.sku = ?)";
        filter.and(within, sku.as_str().to_owned());
    }
    if let Some(before) = query.before {
        filter.and("id < ?", before.0.to_be_bytes().to_vec());
    }
    let sql = format!(
        "SELECT {RESERVATION_COLUMNS} FROM reservation WHERE {} ORDER BY id DESC LIMIT {}",
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
        filter.and("sku LIKE ? ESCAPE '\\'", super::rows::containing(search));
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

const MOVEMENT_COLUMNS: &str = "sku, seq, at, kind, location, delta, reserved_delta, \
     quantity_after, reserved_after, location_quantity_after, location_reserved_after, \
     safety_stock, low_stock_threshold, backorder_limit, publish, reason, actor, source, \
     reference";

fn movement_of(row: &Row<'_>) -> Result<Movement, RowsError> {
    let words = |at: usize| -> Result<Option<Arc<str>>, RowsError> {
        Ok(row.get::<_, Option<String>>(at)?.map(Arc::from))
    };
    Ok(Movement {
        sku: sku_of(text(row, 0)?)?,
        seq: version_of(row.get(1)?)?,
        at: Timestamp::from_micros(row.get(2)?),
        kind: codec::kind_of(row.get(3)?).map_err(corrupt)?,
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
        source: codec::source_of(row.get(17)?).map_err(corrupt)?,
        reference: words(18)?,
    })
}

/// Lists a SKU's ledger lines, newest first.
pub(super) fn movements(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    query: &MovementQuery,
) -> Result<Page<Movement>, RowsError> {
    let mut filter = Filter::new(org);
    filter.and("sku = ?", sku.as_str().to_owned());
    if let Some(from) = query.from {
        filter.and("at >= ?", from.micros());
    }
    if let Some(to) = query.to {
        filter.and("at < ?", to.micros());
    }
    if let Some(kind) = query.kind {
        filter.and("kind = ?", i64::from(codec::kind_code(kind)));
    }
    if let Some(before) = query.before_seq {
        filter.and("seq < ?", before.cast_signed());
    }
    if let Some(after) = query.after_seq {
        filter.and("seq > ?", after.cast_signed());
    }
    let sql = format!(
        "SELECT {MOVEMENT_COLUMNS} FROM movement WHERE {} ORDER BY seq DESC LIMIT {}",
        filter.clause,
        query.limit + 1
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut found = statement.query(rusqlite::params_from_iter(filter.values))?;
    let mut items = Vec::new();
    while let Some(row) = found.next()? {
        items.push(movement_of(row)?);
    }
    Ok(page(items, query.limit))
}

/// Returns what was recorded of a SKU at a location after an instant, over the lines before one:
/// those from there on may be in rows or not.
pub(super) fn moved_since(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    location: &Location,
    at: Timestamp,
    before: u64,
) -> Result<Since, RowsError> {
    let sql = format!(
        "SELECT {MOVEMENT_COLUMNS} FROM movement
         WHERE org = ? AND sku = ? AND location = ? AND at > ? AND seq < ?"
    );
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    let mut query = conn.prepare_cached(&sql)?;
    let key = params![org.as_str(), sku.as_str(), location.as_str(), at.micros(), before];
    let mut found = query.query(key)?;
    let mut since = Since::default();
    while let Some(row) = found.next()? {
        since.note(&movement_of(row)?, at);
    }
    Ok(since)
}

/// Returns a SKU as it stood at an instant.
pub(super) fn sku_at(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    at: Timestamp,
) -> Result<Option<SkuAt>, RowsError> {
    let Some((state, seq)) = state_at(conn, org, sku, at)? else { return Ok(None) };
    let mut parts = Vec::with_capacity(state.parts.len());
    for part in &state.parts {
        parts.push(state_at(conn, org, &part.sku, at)?.map(|(state, _)| state));
    }
    Ok(Some(SkuAt { answer: SkuAnswer { sku: sku.clone(), state, parts }, seq }))
}

fn state_at(
    conn: &Connection,
    org: &Org,
    sku: &Sku,
    at: Timestamp,
) -> Result<Option<(SkuState, u64)>, RowsError> {
    let sql = format!(
        "SELECT {MOVEMENT_COLUMNS} FROM movement
         WHERE org = ?1 AND sku = ?2 AND seq IN (
           SELECT max(m.seq) FROM movement m
           WHERE m.org = ?1 AND m.sku = ?2 AND m.at <= ?3
           GROUP BY m.location)
         ORDER BY seq"
    );
    let mut query = conn.prepare_cached(&sql)?;
    let mut found = query.query(params![org.as_str(), sku.as_str(), at.micros()])?;
    let mut last: Option<Movement> = None;
    let mut state = SkuState::new();
    while let Some(row) = found.next()? {
        let movement = movement_of(row)?;
        let (on_hand, reserved) =
            (movement.location_quantity_after, movement.location_reserved_after);
        if on_hand != Delta::ZERO || reserved != Quantity::ZERO || touches_level(&movement) {
            let location = movement.location.clone();
            state.levels.push(Level { location, on_hand, reserved });
        }
        last = Some(movement);
    }
    let Some(last) = last else { return Ok(None) };
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
        .query_row(params![org.as_str(), sku.as_str(), last.seq.cast_signed()], |r| r.get(0))
        .optional()?;
    if let Some(parts) = parts {
        state.parts = parts_of(&parts)?;
    }
    Ok(Some((state, last.seq)))
}

/// Adds up the ledger of an org and compares it with levels, SKUs and reservations.
pub(super) fn verify(conn: &Connection, org: &Org) -> Result<Verification, RowsError> {
    let count = |sql: &str| -> Result<u64, RowsError> {
        let count: i64 = conn.query_row(sql, params![org.as_str()], |row| row.get(0))?;
        version_of(count)
    };
    let mut found = Verification {
        skus: count("SELECT count(*) FROM sku WHERE org = ?")?,
        movements: count("SELECT count(*) FROM movement WHERE org = ?")?,
        reservations: count("SELECT count(*) FROM reservation WHERE org = ?")?,
        faults: Vec::new(),
    };
    for (what, sql) in VERIFICATIONS {
        let mut query = conn.prepare(sql)?;
        let mut rows = query.query(params![org.as_str()])?;
        while let Some(row) = rows.next()? {
            if found.faults.len() >= FAULTS_MAX {
                return Ok(found);
            }
            let (sku, ledger, level) =
                (text(row, 0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
            found.faults.push(format!("{sku}: {what}: {ledger} against {level}"));
        }
    }
    Ok(found)
}

/// What must agree: a name, and a query for `(sku, one number, the other)` where it does not.
const VERIFICATIONS: [(&str, &str); 8] = [
    (
        "the sum of movements and on hand at a location",
        "SELECT m.sku, m.total, coalesce(l.on_hand, 0)
         FROM (SELECT sku, location, sum(delta) AS total FROM movement
               WHERE org = ?1 GROUP BY sku, location) m
         LEFT JOIN level l ON l.org = ?1 AND l.sku = m.sku AND l.location = m.location
         WHERE m.total <> coalesce(l.on_hand, 0)",
    ),
    (
        "the sum of reserved changes and reserved at a location",
        "SELECT m.sku, m.total, coalesce(l.reserved, 0)
         FROM (SELECT sku, location, sum(reserved_delta) AS total FROM movement
               WHERE org = ?1 GROUP BY sku, location) m
         LEFT JOIN level l ON l.org = ?1 AND l.sku = m.sku AND l.location = m.location
         WHERE m.total <> coalesce(l.reserved, 0)",
    ),
    (
        "on hand over all locations and the SKU's",
        "SELECT s.sku, s.on_hand, coalesce(sum(l.on_hand), 0)
         FROM sku s
         LEFT JOIN level l ON l.org = s.org AND l.sku = s.sku
         WHERE s.org = ?1
         GROUP BY s.sku
         HAVING s.on_hand <> coalesce(sum(l.on_hand), 0)",
    ),
    (
        "reserved over all locations and the SKU's",
        "SELECT s.sku, s.reserved, coalesce(sum(l.reserved), 0)
         FROM sku s
         LEFT JOIN level l ON l.org = s.org AND l.sku = s.sku
         WHERE s.org = ?1
         GROUP BY s.sku
         HAVING s.reserved <> coalesce(sum(l.reserved), 0)",
    ),
    (
        "reserved and the holds of active reservations and pending orders",
        "SELECT l.sku, l.reserved, coalesce(h.total, 0)
         FROM level l
         LEFT JOIN (SELECT json_extract(hold, '$[0]') AS sku,
                           json_extract(hold, '$[1]') AS location,
                           sum(json_extract(hold, '$[2]')) AS total
                    FROM (SELECT j.value AS hold
                          FROM reservation r, json_each(r.holds) j
                          WHERE r.org = ?1 AND r.status = 1
                          UNION ALL
                          SELECT j.value
                          FROM order_line o INDEXED BY order_line_held, json_each(o.holds) j
                          WHERE o.org = ?1 AND o.held > 0)
                    GROUP BY 1, 2) h
           ON h.sku = l.sku AND h.location = l.location
         WHERE l.org = ?1 AND l.location <> 'quarantine' AND l.reserved <> coalesce(h.total, 0)",
    ),
    (
        "on hand and reserved in quarantine",
        "SELECT sku, on_hand, reserved
         FROM level
         WHERE org = ?1 AND location = 'quarantine' AND on_hand <> reserved",
    ),
    (
        "a line's quantity after it and the sum of lines up to it",
        "SELECT sku, quantity_after, total
         FROM (SELECT sku, quantity_after, sum(delta) OVER w AS total
               FROM movement WHERE org = ?1
               WINDOW w AS (PARTITION BY sku ORDER BY seq))
         WHERE quantity_after <> total",
    ),
    (
        "a line's reserved after it and the sum of lines up to it",
        "SELECT sku, reserved_after, total
         FROM (SELECT sku, reserved_after, sum(reserved_delta) OVER w AS total
               FROM movement WHERE org = ?1
               WINDOW w AS (PARTITION BY sku ORDER BY seq))
         WHERE reserved_after <> total",
    ),
];

/// Writes outgoing events for the orgs that have somebody to tell.
pub(super) fn write_deliveries(
    conn: &Connection,
    events: &[(Org, Event)],
    ids: &mut dyn FnMut() -> String,
) -> Result<(), RowsError> {
    let mut told: FxHashMap<&Org, bool> = FxHashMap::default();
    let mut updated: FxHashMap<(&Org, &Sku), &Movement> = FxHashMap::default();
    for (org, event) in events {
        let tell = match told.get(org) {
            Some(tell) => *tell,
            None => {
                let tell = rows::deliveries::has_subscribers(conn, org)?;
                told.insert(org, tell);
                tell
            }
        };
        if !tell {
            continue;
        }
        if let Event::Moved(movement) = event {
            updated.insert((org, &movement.sku), movement);
        }
        if let Event::Ended { id, status: ReservationStatus::Expired, at } = event {
            let order = reservation(conn, org, *id)?.map(|found| found.order);
            let body = json!({
                "reservationId": id.to_string(),
                "orderId": order.as_ref().map(OrderId::as_str),
            });
            rows::deliveries::add_event(conn, org, "reservation.expired", &body, *at, ids)?;
        }
        if let Some((name, body, at)) = outgoing(event) {
            rows::deliveries::add_event(conn, org, name, &body, at, ids)?;
        }
    }
    for ((org, _), movement) in updated {
        let body = json!({
            "sku": movement.sku.as_str(),
            "quantity": movement.quantity_after.get(),
            "reserved": movement.reserved_after.get(),
            "version": movement.seq,
            "kind": movement.kind.as_str(),
            "delta": movement.delta.get(),
            "reservedDelta": movement.reserved_delta.get(),
            "reason": movement.reason.as_deref(),
        });
        rows::deliveries::add_event(conn, org, "inventory.updated", &body, movement.at, ids)?;
    }
    Ok(())
}

fn outgoing(event: &Event) -> Option<(&'static str, serde_json::Value, Timestamp)> {
    match event {
        Event::LowStock { sku, quantity, threshold, at } => Some((
            "inventory.low_stock",
            json!({
                "sku": sku.as_str(),
                "quantity": quantity.get(),
                "lowStockThreshold": threshold.get(),
            }),
            *at,
        )),
        Event::Oversold { sku, by, at } => {
            let body = json!({ "sku": sku.as_str(), "oversoldBy": by.get() });
            Some(("inventory.oversold", body, *at))
        }
        Event::Ended { .. }
        | Event::Moved(_)
        | Event::BundleDefined { .. }
        | Event::BundleTouched { .. }
        | Event::PublishAsked { .. }
        | Event::Held(_)
        | Event::Extended { .. }
        | Event::Listing(_)
        | Event::LineBooked { .. }
        | Event::ConflictFlagged(_)
        | Event::ConflictClosed { .. } => None,
    }
}
