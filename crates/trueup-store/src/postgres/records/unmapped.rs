//! Lines of orders that could not be booked yet, because no mapping and no SKU answered to them.

use trueup_core::{ChannelId, Org, Timestamp};

use super::order_lines::narrow;
use super::rounds::rounds;
use crate::encoding::records;
use crate::encoding::{json, stored, stored_cancelled};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Conn, List, Param, Plain, all, execute};
use crate::{OrderLineId, Page, UnmappedLine};

/// Keeps lines; a line that is kept already grows by what is new, and counts as kept since it was
/// first. Returns those that were not kept before.
pub(in crate::postgres) async fn put(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    lines: &[UnmappedLine],
) -> Result<Vec<OrderLineId>> {
    // What others insert meanwhile is waited for and is not new.
    const INSERT: &str = "
        INSERT INTO unmapped_line (
          shard, org, channel, order_id, line_id, sku, fields, sold, restocked, held, cancelled,
          placed_at, updated_at, since
        )
        SELECT $1, $2, $3, given.*
        FROM unnest(
          $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[],
          $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]
        ) AS given (
          order_id, line_id, sku, fields, sold, restocked, held, cancelled, placed_at, updated_at,
          since
        )
        ORDER BY given.order_id, given.line_id
        ON CONFLICT (shard, org, channel, order_id, line_id) DO NOTHING
        RETURNING order_id, line_id";
    const GROW: &str = "
        WITH given AS MATERIALIZED (
          SELECT $1::smallint AS shard, $2::text AS org, $3::text AS channel, line.*
          FROM unnest(
            $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[],
            $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]
          ) AS line (
            order_id, line_id, sku, fields, sold, restocked, held, cancelled, placed_at,
            updated_at, since
          )
        )
        UPDATE unmapped_line
        SET sku = given.sku,
          fields = given.fields,
          sold = greatest(unmapped_line.sold, given.sold),
          restocked = greatest(unmapped_line.restocked, given.restocked),
          held = greatest(unmapped_line.held, given.held),
          cancelled = greatest(unmapped_line.cancelled, given.cancelled),
          placed_at = coalesce(unmapped_line.placed_at, given.placed_at),
          updated_at = greatest(unmapped_line.updated_at, given.updated_at)
        FROM given
        WHERE unmapped_line.shard = given.shard
          AND unmapped_line.org = given.org
          AND unmapped_line.channel = given.channel
          AND unmapped_line.order_id = given.order_id
          AND unmapped_line.line_id = given.line_id";
    let mut new = Vec::new();
    for round in rounds(lines, |line| (&line.order_id, &line.line_id)) {
        let columns = LineColumns::of(org, channel, &round)?;
        let params = columns.params();
        let kept: Vec<OrderLineId> =
            all(conn, INSERT, &params, |columns| Ok((columns.take()?, columns.take()?))).await?;
        if kept.len() < round.len() {
            // Growing by itself changes nothing of one that is new.
            execute(conn, GROW, &params).await?;
        }
        new.extend(kept);
    }
    Ok(new)
}

/// Lines as arrays.
#[derive(Default)]
struct LineColumns<'a> {
    shard: i16,
    org: &'a str,
    channel: &'a str,
    orders: Vec<Plain<&'a str>>,
    lines: Vec<Plain<&'a str>>,
    skus: Vec<Option<Plain<&'a str>>>,
    fields: Vec<String>,
    sold: Vec<i64>,
    restocked: Vec<i64>,
    held: Vec<i64>,
    cancelled: Vec<i64>,
    placed_at: Vec<Option<i64>>,
    updated_at: Vec<Option<i64>>,
    since: Vec<i64>,
}

impl<'a> LineColumns<'a> {
    fn of(org: &'a Org, channel: &'a ChannelId, lines: &[&'a UnmappedLine]) -> Result<Self> {
        let (shard, org, channel) = (shard_of(org), org.as_str(), channel.as_str());
        let mut columns = Self { shard, org, channel, ..Self::default() };
        for line in lines {
            columns.orders.push(Plain(&line.order_id));
            columns.lines.push(Plain(&line.line_id));
            columns.skus.push(line.sku.as_deref().map(Plain));
            columns.fields.push(json(&line.fields)?);
            columns.sold.push(stored(line.sold)?);
            columns.restocked.push(stored(line.restocked)?);
            columns.held.push(stored(line.held)?);
            columns.cancelled.push(stored_cancelled(line));
            columns.placed_at.push(line.placed_at.map(Timestamp::micros));
            columns.updated_at.push(line.updated_at.map(Timestamp::micros));
            columns.since.push(line.since.micros());
        }
        Ok(columns)
    }

    fn params(&self) -> [Param<'_>; 14] {
        [
            &self.shard,
            &self.org,
            &self.channel,
            &self.orders,
            &self.lines,
            &self.skus,
            &self.fields,
            &self.sold,
            &self.restocked,
            &self.held,
            &self.cancelled,
            &self.placed_at,
            &self.updated_at,
            &self.since,
        ]
    }
}

/// Lists a connection's lines, by order and line.
pub(in crate::postgres) async fn list(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    after: Option<&OrderLineId>,
    limit: usize,
) -> Result<Page<UnmappedLine>> {
    let mut list = List::of(
        org,
        "SELECT order_id, line_id, sku, fields, sold, restocked, held, cancelled, placed_at,
          updated_at, since
        FROM unmapped_line
        WHERE shard = $1
          AND org = $2",
    );
    narrow(&mut list, channel, after);
    list.page(conn, "order_id, line_id", limit, |columns| records::unmapped_line(columns)).await
}

/// Lets go of lines that have been booked; one that has grown since stays.
pub(in crate::postgres) async fn delete(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    lines: &[UnmappedLine],
) -> Result<()> {
    const SQL: &str = "
        WITH booked AS MATERIALIZED (
          SELECT $1::smallint AS shard, $2::text AS org, $3::text AS channel, line.*
          FROM unnest(
            $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]
          ) AS line (order_id, line_id, sold, restocked, held, cancelled)
        )
        DELETE FROM unmapped_line
        USING booked
        WHERE unmapped_line.shard = booked.shard
          AND unmapped_line.org = booked.org
          AND unmapped_line.channel = booked.channel
          AND unmapped_line.order_id = booked.order_id
          AND unmapped_line.line_id = booked.line_id
          AND unmapped_line.sold = booked.sold
          AND unmapped_line.restocked = booked.restocked
          AND unmapped_line.held = booked.held
          AND unmapped_line.cancelled = booked.cancelled";
    let lines: Vec<&UnmappedLine> = lines.iter().collect();
    let columns = LineColumns::of(org, channel, &lines)?;
    let params: [Param<'_>; 9] = [
        &columns.shard,
        &columns.org,
        &columns.channel,
        &columns.orders,
        &columns.lines,
        &columns.sold,
        &columns.restocked,
        &columns.held,
        &columns.cancelled,
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}
