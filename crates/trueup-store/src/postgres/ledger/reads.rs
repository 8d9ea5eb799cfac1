//! What is read of the ledger, from rows as they are committed.

use std::collections::HashMap;

use trueup_core::{
    Delta, Level, Movement, MovementKind, OrderId, Org, Quantity, Reservation, ReservationId, Sku,
    SkuAnswer, SkuState, Timestamp,
};

use super::due::due;
use super::load::id_bytes;
use super::rows::{
    MOVEMENT_COLUMNS, RESERVATION_COLUMNS, STATE_COLUMNS, micros, read_movement, read_reservation,
    read_state,
};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records::ListingRow;
use crate::encoding::{codec, containing, parts};
use crate::port::{ListingView, MovementQuery, Page, ReservationQuery, SkuAt, SkuQuery};
use crate::postgres::error::Result;
use crate::postgres::shard::{self, shard_of};
use crate::postgres::sql::{self, Conn, List, Param};

/// Returns whether a reservation of the org's shard is due; `None` = by the database's clock.
///
/// Of the shard, because that is what the index of what is due is by.
pub(in crate::postgres) async fn is_due(
    conn: &Conn,
    org: &Org,
    now: Option<Timestamp>,
) -> Result<bool> {
    let params: [Param<'_>; 2] = [&shard_of(org), &micros(now)];
    let sql = format!("SELECT count(*) FROM ({}) due", due("$1", "1"));
    Ok(sql::count(conn, &sql, &params).await? > 0)
}

/// Returns SKUs as they stand, each with its parts; those that are not there are passed over.
pub(in crate::postgres) async fn answers(
    conn: &Conn,
    org: &Org,
    skus: &[&Sku],
) -> Result<HashMap<Sku, SkuAnswer>> {
    let states = states(conn, org, skus).await?;
    let answers = with_parts(conn, org, states).await?;
    Ok(answers.into_iter().map(|answer| (answer.sku.clone(), answer)).collect())
}

/// Reads the states of SKUs, in no order.
async fn states(conn: &Conn, org: &Org, skus: &[&Sku]) -> Result<Vec<(Sku, SkuState)>> {
    if skus.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT s.sku, {STATE_COLUMNS}
         FROM sku s
         WHERE s.shard = $1
           AND s.org = $2
           AND s.sku = ANY($3::text[])"
    );
    let names: Vec<&str> = skus.iter().map(|sku| sku.as_str()).collect();
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &names];
    sql::all(conn, &sql, &params, |columns| Ok((columns.name()?, read_state(columns)?))).await
}

/// Adds the states of parts to those of SKUs, in their order.
async fn with_parts(conn: &Conn, org: &Org, found: Vec<(Sku, SkuState)>) -> Result<Vec<SkuAnswer>> {
    let mut wanted: Vec<&Sku> =
        found.iter().flat_map(|(_, state)| state.parts.iter().map(|part| &part.sku)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let parts: HashMap<Sku, SkuState> = states(conn, org, &wanted).await?.into_iter().collect();
    let answer = |(sku, state): (Sku, SkuState)| {
        let parts = state.parts.iter().map(|part| parts.get(&part.sku).cloned()).collect();
        SkuAnswer { sku, state, parts }
    };
    Ok(found.into_iter().map(answer).collect())
}

/// Returns a SKU as it stands.
pub(in crate::postgres) async fn sku(
    conn: &Conn,
    org: &Org,
    sku: &Sku,
) -> Result<Option<SkuAnswer>> {
    let found = states(conn, org, &[sku]).await?;
    Ok(with_parts(conn, org, found).await?.pop())
}

/// Lists SKUs, ascending.
pub(in crate::postgres) async fn skus(
    conn: &Conn,
    org: &Org,
    query: &SkuQuery,
) -> Result<Page<SkuAnswer>> {
    const LISTED: &str = "EXISTS (
        SELECT 1 FROM listing l
        WHERE l.shard = s.shard AND l.org = s.org AND l.sku = s.sku";
    const OWED: &str = " AND NOT l.follows AND (l.forced OR l.acked_version < s.version)";
    let sql = format!("SELECT s.sku, {STATE_COLUMNS} FROM sku s WHERE s.shard = $1 AND s.org = $2");
    let mut list = List::of(org, &sql);
    let pattern = query.search.as_deref().map(containing);
    // Names of the core hold no control character: what asks for one finds nothing.
    list.by("s.sku ILIKE ? ESCAPE '\\'", pattern.map(|text| text.replace('\0', "\u{fffd}")));
    match query.low_stock {
        Some(true) => list.when("s.low_since IS NOT NULL"),
        Some(false) => list.when("s.low_since IS NULL"),
        None => {}
    }
    let channel = query.channel.as_ref().map(|channel| channel.as_str().to_owned());
    match (channel, query.stale) {
        (Some(channel), stale) => {
            let owed = if stale { OWED } else { "" };
            list.by(&format!("{LISTED} AND l.channel = ?{owed})"), Some(channel));
        }
        (None, true) => list.when(&format!("{LISTED}{OWED})")),
        (None, false) => {}
    }
    if let Some(channel) = &query.unlisted {
        let channel = channel.as_str().to_owned();
        list.by(&format!("NOT {LISTED} AND l.channel = ?)"), Some(channel.clone()));
        let carried = "NOT EXISTS (
            SELECT 1 FROM channel_listing c
            WHERE c.shard = s.shard AND c.org = s.org AND c.channel = ? AND c.sku = s.sku
              AND octet_length(c.sku) <= 1000)";
        list.by(carried, Some(channel));
    }
    list.by("s.sku > ?", query.after.as_ref().map(|sku| sku.as_str().to_owned()));
    let page = list
        .page(conn, "s.sku", query.limit, |columns| Ok((columns.name()?, read_state(columns)?)));
    let page = page.await?;
    Ok(Page { items: with_parts(conn, org, page.items).await?, more: page.more })
}

/// Lists a SKU's ledger lines, newest first.
pub(in crate::postgres) async fn movements(
    conn: &Conn,
    org: &Org,
    sku: &Sku,
    query: &MovementQuery,
) -> Result<Page<Movement>> {
    let sql =
        format!("SELECT {MOVEMENT_COLUMNS} FROM movement m WHERE m.shard = $1 AND m.org = $2");
    let mut list = List::of(org, &sql);
    list.by("m.sku = ?", Some(sku.as_str().to_owned()));
    list.by("m.at >= ?", query.from.map(Timestamp::micros));
    list.by("m.at < ?", query.to.map(Timestamp::micros));
    list.by("m.kind = ?", query.kind.map(|kind| i16::from(codec::kind_code(kind))));
    list.by("m.seq < ?", query.before_seq.map(number));
    list.by("m.seq > ?", query.after_seq.map(number));
    list.page(conn, "m.seq DESC", query.limit, |columns| read_movement(columns, sku)).await
}

/// Returns the number of a line as rows count, or the largest there is.
fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Returns a SKU as it stood at an instant; a bundle with its parts as they stood.
pub(in crate::postgres) async fn sku_at(
    conn: &Conn,
    org: &Org,
    sku: &Sku,
    at: Timestamp,
) -> Result<Option<SkuAt>> {
    let Some(state) = state_at(conn, org, sku, at).await? else { return Ok(None) };
    let mut parts = Vec::with_capacity(state.parts.len());
    for part in &state.parts {
        parts.push(state_at(conn, org, &part.sku, at).await?);
    }
    let seq = state.version;
    Ok(Some(SkuAt { answer: SkuAnswer { sku: sku.clone(), state, parts }, seq }))
}

async fn state_at(conn: &Conn, org: &Org, sku: &Sku, at: Timestamp) -> Result<Option<SkuState>> {
    let Some(last) = last_line(conn, org, sku, at).await? else { return Ok(None) };
    let (levels, parts) = futures::try_join!(
        levels_at(conn, org, sku, last.seq),
        parts_at(conn, org, sku, last.seq),
    )?;
    let mut state = SkuState::new();
    state.levels = levels.into();
    state.version = last.seq;
    state.updated_at = last.at;
    state.safety_stock = last.safety_stock;
    state.low_stock_threshold = last.low_stock_threshold;
    state.backorder_limit = last.backorder_limit;
    state.low_since = state.is_low().then_some(last.at);
    state.parts = parts;
    Ok(Some(state))
}

/// Returns the last line at or before an instant: lines of a SKU never go back in time.
async fn last_line(conn: &Conn, org: &Org, sku: &Sku, at: Timestamp) -> Result<Option<Movement>> {
    let sql = format!(
        "SELECT {MOVEMENT_COLUMNS}
         FROM movement m
         WHERE m.shard = $1
           AND m.org = $2
           AND m.sku = $3
           AND m.at <= $4
         ORDER BY m.at DESC, m.seq DESC
         LIMIT 1"
    );
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &sku.as_str(), &at.micros()];
    sql::first(conn, &sql, &params, |columns| read_movement(columns, sku)).await
}

/// Returns the levels after a line: those of the last line at each location up to it.
async fn levels_at(conn: &Conn, org: &Org, sku: &Sku, seq: u64) -> Result<Vec<Level>> {
    let sql = format!(
        "SELECT DISTINCT ON (m.location) {MOVEMENT_COLUMNS}
         FROM movement m
         WHERE m.shard = $1
           AND m.org = $2
           AND m.sku = $3
           AND m.seq <= $4
         ORDER BY m.location, m.seq DESC"
    );
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &sku.as_str(), &number(seq)];
    let lines = sql::all(conn, &sql, &params, |columns| read_movement(columns, sku)).await?;
    let level = |line: &Movement| {
        let (on_hand, reserved) = (line.location_quantity_after, line.location_reserved_after);
        let is_level = on_hand != Delta::ZERO || reserved != Quantity::ZERO || touches_level(line);
        is_level.then(|| Level { location: line.location.clone(), on_hand, reserved })
    };
    Ok(lines.iter().filter_map(level).collect())
}

fn touches_level(line: &Movement) -> bool {
    line.delta != Delta::ZERO
        || line.reserved_delta != Delta::ZERO
        || line.kind == MovementKind::Count
}

/// Returns what a SKU was made of after a line.
async fn parts_at(conn: &Conn, org: &Org, sku: &Sku, seq: u64) -> Result<Vec<trueup_core::Part>> {
    const SQL: &str = "
        SELECT parts
        FROM bundle
        WHERE shard = $1
          AND org = $2
          AND sku = $3
          AND seq <= $4
        ORDER BY seq DESC
        LIMIT 1";
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &sku.as_str(), &number(seq)];
    let found = sql::first(conn, SQL, &params, |columns| Ok(parts::read(columns.take()?)?));
    Ok(found.await?.unwrap_or_default())
}

/// Returns a reservation, whatever its status.
pub(in crate::postgres) async fn reservation(
    conn: &Conn,
    org: &Org,
    id: ReservationId,
) -> Result<Option<Reservation>> {
    let sql = format!(
        "SELECT {RESERVATION_COLUMNS}
         FROM reservation r
         WHERE r.shard = $1
           AND r.org = $2
           AND r.id = $3"
    );
    let id = id_bytes(&id);
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &id.as_slice()];
    sql::first(conn, &sql, &params, read_reservation).await
}

/// Lists reservations, newest id first.
pub(in crate::postgres) async fn reservations(
    conn: &Conn,
    org: &Org,
    query: &ReservationQuery,
) -> Result<Page<Reservation>> {
    let sql = format!(
        "SELECT {RESERVATION_COLUMNS} FROM reservation r WHERE r.shard = $1 AND r.org = $2"
    );
    let mut list = List::of(org, &sql);
    list.by("r.status = ?", query.status.map(|status| i16::from(codec::status_code(status))));
    list.by("r.order_id = ?", query.order.as_ref().map(|order: &OrderId| order.to_string()));
    list.by("r.id < ?", query.before.map(|id| id_bytes(&id).to_vec()));
    if let Some(sku) = &query.sku {
        // One that was replaced asked for it once.
        let asks = "EXISTS (
            SELECT 1 FROM reservation_sku a
            WHERE a.shard = r.shard AND a.org = r.org AND a.sku = ? AND a.id = r.id)
          AND EXISTS (
            SELECT 1 FROM json_array_elements(r.items::json) item WHERE item ->> 0 = ?)";
        let name = sku.as_str().to_owned();
        list.by_all(asks, vec![Box::new(name.clone()), Box::new(name)]);
    }
    list.page(conn, "r.id DESC", query.limit, read_reservation).await
}

/// Adds SKUs to listings as they stand.
pub(in crate::postgres) async fn views(
    conn: &Conn,
    org: &Org,
    page: Page<ListingRow>,
) -> Result<Page<ListingView>> {
    let mut skus: Vec<&Sku> = page.items.iter().map(|row| &row.mapping.sku).collect();
    skus.sort_unstable();
    skus.dedup();
    let answers = answers(conn, org, &skus).await?;
    let view = |row: ListingRow| {
        let sku = answers.get(&row.mapping.sku).cloned();
        row.view(sku)
    };
    Ok(Page { items: page.items.into_iter().map(view).collect(), more: page.more })
}

/// Lists every org that has a SKU or a connection.
pub(in crate::postgres) async fn orgs(conn: &Conn) -> Result<Vec<Org>> {
    // From one org to the next, so that it costs as much as there are orgs and not SKUs.
    const SQL: &str = r#"
        WITH RECURSIVE found AS (
          SELECT given.shard,
            (SELECT min(s.org) FROM sku s WHERE s.shard = given.shard) AS org
          FROM unnest($1::smallint[]) AS given (shard)
          UNION ALL
          SELECT f.shard,
            (SELECT min(s.org) FROM sku s WHERE s.shard = f.shard AND s.org > f.org)
          FROM found f
          WHERE f.org IS NOT NULL
        )
        SELECT org COLLATE "C" AS org
        FROM found
        WHERE org IS NOT NULL
        UNION
        SELECT org
        FROM connection
        WHERE shard = ANY($1)
        ORDER BY org"#;
    sql::all(conn, SQL, &[&shard::all()], |columns| columns.name()).await
}
