//! What was booked of each line of a channel's orders, so that nothing is booked twice.

use std::sync::Arc;

use trueup_core::book::LineKey;
use trueup_core::{ChannelId, LineBooked, Org, Sku, Timestamp};

use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::{at_most, holds, stored};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Conn, List, Param, Plain, all, counted, execute};
use crate::{HeldLine, OrderLineId, Page};

/// A line as it is written.
#[derive(Debug, Clone)]
pub(in crate::postgres) struct OrderLine<'a> {
    /// Its place.
    pub(in crate::postgres) key: LineKey,
    /// The SKU.
    pub(in crate::postgres) sku: &'a Sku,
    /// Booked so far.
    pub(in crate::postgres) booked: &'a LineBooked,
    /// When.
    pub(in crate::postgres) at: Timestamp,
    /// Whether it was not there when it was loaded.
    pub(in crate::postgres) is_new: bool,
}

/// Returns what was booked of lines, as far as they are there, and locks them in the order of their
/// keys until the transaction ends.
pub(in crate::postgres) async fn load(
    conn: &Conn,
    org: &Org,
    keys: &[LineKey],
) -> Result<Vec<(LineKey, LineBooked)>> {
    const SQL: &str = "
        WITH given AS MATERIALIZED (
          SELECT $1::smallint AS shard, $2::text AS org, line.*
          FROM unnest($3::text[], $4::text[], $5::text[]) AS line (channel, order_id, line_id)
        )
        SELECT l.channel, l.order_id, l.line_id, l.sold, l.restocked, l.voided, l.held, l.holds
        FROM given
        JOIN order_line l USING (shard, org, channel, order_id, line_id)
        ORDER BY l.channel, l.order_id, l.line_id
        FOR UPDATE OF l";
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let places = Places::of(keys);
    let params: [Param<'_>; 5] =
        [&shard_of(org), &org.as_str(), &places.channels, &places.orders, &places.lines];
    all(conn, SQL, &params, |columns| {
        let (channel, order, line) =
            (columns.name()?, columns.take::<&str>()?, columns.take::<&str>()?);
        Ok(((channel, Arc::from(order), Arc::from(line)), records::booked(columns)?))
    })
    .await
}

/// Writes lines; each stands once.
///
/// A new one is inserted and nothing else: where another one has done so meanwhile, the key is
/// broken and all is to be decided anew.
pub(in crate::postgres) async fn write(
    conn: &Conn,
    org: &Org,
    rows: &[OrderLine<'_>],
) -> Result<()> {
    const SQL: &str = "
        WITH given AS MATERIALIZED (
          SELECT $1::smallint AS shard, $2::text AS org, line.*
          FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
            $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::boolean[]
          ) AS line (
            channel, order_id, line_id, sku, sold, restocked, at, voided, held, holds, is_new
          )
        ),
        updated AS (
          UPDATE order_line
          SET sku = given.sku,
            sold = given.sold,
            restocked = given.restocked,
            at = given.at,
            voided = given.voided,
            held = given.held,
            holds = given.holds
          FROM given
          WHERE NOT given.is_new
            AND order_line.shard = given.shard
            AND order_line.org = given.org
            AND order_line.channel = given.channel
            AND order_line.order_id = given.order_id
            AND order_line.line_id = given.line_id
        )
        INSERT INTO order_line (
          shard, org, channel, order_id, line_id, sku, sold, restocked, at, voided, held, holds
        )
        SELECT shard, org, channel, order_id, line_id, sku, sold, restocked, at, voided, held, holds
        FROM given
        WHERE is_new
        ORDER BY channel, order_id, line_id";
    if rows.is_empty() {
        return Ok(());
    }
    let number = |of: fn(&LineBooked) -> u64| -> Result<Vec<i64>> {
        rows.iter().map(|row| Ok(stored(of(row.booked))?)).collect()
    };
    let held = rows.iter().map(|row| Ok(holds::write(&row.booked.holds)?));
    let places = Places::of(rows.iter().map(|row| &row.key));
    let params: [Param<'_>; 13] = [
        &shard_of(org),
        &org.as_str(),
        &places.channels,
        &places.orders,
        &places.lines,
        &rows.iter().map(|row| row.sku.as_str()).collect::<Vec<_>>(),
        &number(|booked| booked.sold)?,
        &number(|booked| booked.restocked)?,
        &rows.iter().map(|row| row.at.micros()).collect::<Vec<_>>(),
        &number(|booked| booked.voided)?,
        &number(|booked| booked.held)?,
        &held.collect::<Result<Vec<String>>>()?,
        &rows.iter().map(|row| row.is_new).collect::<Vec<_>>(),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Places of lines as arrays.
#[derive(Default)]
struct Places<'a> {
    channels: Vec<&'a str>,
    orders: Vec<Plain<&'a str>>,
    lines: Vec<Plain<&'a str>>,
}

impl<'a> Places<'a> {
    fn of(keys: impl IntoIterator<Item = &'a LineKey>) -> Self {
        let mut places = Self::default();
        for (channel, order, line) in keys {
            places.channels.push(channel.as_str());
            places.orders.push(Plain(order));
            places.lines.push(Plain(line));
        }
        places
    }
}

/// Lists a connection's lines that hold stock, by order and line.
pub(in crate::postgres) async fn held(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    after: Option<&OrderLineId>,
    limit: usize,
) -> Result<Page<HeldLine>> {
    let mut list = List::of(
        org,
        "SELECT order_id, line_id, sku, held, at
        FROM order_line
        WHERE shard = $1
          AND org = $2
          AND held > 0",
    );
    narrow(&mut list, channel, after);
    list.page(conn, "order_id, line_id", limit, |columns| records::held_line(columns)).await
}

/// Narrows a list of lines to those of a connection after one.
pub(super) fn narrow(list: &mut List, channel: &ChannelId, after: Option<&OrderLineId>) {
    list.by("channel = ?", Some(channel.to_string()));
    if let Some((order, line)) = after.cloned() {
        let values: Vec<Box<dyn tokio_postgres::types::ToSql + Sync + Send>> =
            vec![Box::new(Plain(order)), Box::new(Plain(line))];
        list.by_all("(order_id, line_id) > (?, ?)", values);
    }
}

/// Returns under which of these connections lines of an order are booked, by line.
pub(in crate::postgres) async fn booked_under(
    conn: &Conn,
    org: &Org,
    order: &str,
    channels: &[ChannelId],
) -> Result<Vec<(String, ChannelId)>> {
    const SQL: &str = "
        SELECT line_id, channel
        FROM order_line
        WHERE shard = $1
          AND org = $2
          AND channel = ANY($3)
          AND order_id = $4";
    let channels: Vec<&str> = channels.iter().map(ChannelId::as_str).collect();
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channels, &Plain(order)];
    all(conn, SQL, &params, |columns| Ok((columns.take()?, columns.name()?))).await
}

/// Moves up to so many booked lines to another connection; returns how many. Lines that are
/// there already stay.
pub(in crate::postgres) async fn move_lines(
    conn: &Conn,
    org: &Org,
    from: &ChannelId,
    to: &ChannelId,
    most: usize,
) -> Result<usize> {
    const SQL: &str = "
        WITH moved AS MATERIALIZED (
          SELECT f.shard, f.org, f.channel, f.order_id, f.line_id
          FROM order_line f
          WHERE f.shard = $1
            AND f.org = $2
            AND f.channel = $3
            AND NOT EXISTS (
              SELECT 1
              FROM order_line t
              WHERE t.shard = f.shard
                AND t.org = f.org
                AND t.channel = $4
                AND t.order_id = f.order_id
                AND t.line_id = f.line_id
            )
          ORDER BY f.order_id, f.line_id
          LIMIT $5
          FOR UPDATE OF f
        )
        UPDATE order_line
        SET channel = $4
        FROM moved
        WHERE order_line.shard = moved.shard
          AND order_line.org = moved.org
          AND order_line.channel = moved.channel
          AND order_line.order_id = moved.order_id
          AND order_line.line_id = moved.line_id";
    let params: [Param<'_>; 5] =
        [&shard_of(org), &org.as_str(), &from.as_str(), &to.as_str(), &at_most(most)];
    Ok(counted(execute(conn, SQL, &params).await?))
}
