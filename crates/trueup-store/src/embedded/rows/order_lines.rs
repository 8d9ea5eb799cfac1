//! What was booked of each line of a channel's orders, so that nothing is booked twice, and the
//! lines that could not be booked yet.

use rusqlite::{Connection, named_params, params};
use trueup_core::{ChannelId, LineBooked, Org, Sku, Timestamp};

use super::{List, Result, all, count, execute, first, text};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::{at_most, holds, json, stored, stored_cancelled};
use crate::{HeldLine, OrderLineId, Page, UnmappedLine};

/// The place of a line: connection, the vendor's order, the vendor's line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineId<'a> {
    /// The connection.
    pub(crate) channel: &'a ChannelId,
    /// The vendor's id of the order.
    pub(crate) order: &'a str,
    /// The vendor's id of the line.
    pub(crate) line: &'a str,
}

/// A line as it is written.
#[derive(Debug, Clone)]
pub(crate) struct OrderLine<'a> {
    /// Its place.
    pub(crate) id: LineId<'a>,
    /// The SKU.
    pub(crate) sku: &'a Sku,
    /// Booked so far.
    pub(crate) booked: &'a LineBooked,
    /// When.
    pub(crate) at: Timestamp,
}

/// Returns what was booked of a line.
pub(crate) fn get(conn: &Connection, org: &Org, id: LineId<'_>) -> Result<Option<LineBooked>> {
    const SQL: &str = "
        SELECT sold, restocked, voided, held, holds
        FROM order_line
        WHERE org = ?
          AND channel = ?
          AND order_id = ?
          AND line_id = ?";
    first(conn, SQL, [org.as_str(), id.channel.as_str(), id.order, id.line], |columns| {
        records::booked(columns)
    })
}

/// Makes or replaces a line.
pub(crate) fn put(conn: &Connection, org: &Org, row: &OrderLine<'_>) -> Result<()> {
    const SQL: &str = "
        INSERT INTO order_line (
          org, channel, order_id, line_id, sku, sold, restocked, at, voided, held, holds
        )
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (org, channel, order_id, line_id) DO UPDATE
        SET sku = excluded.sku,
          sold = excluded.sold,
          restocked = excluded.restocked,
          at = excluded.at,
          voided = excluded.voided,
          held = excluded.held,
          holds = excluded.holds";
    let params = params![
        org.as_str(),
        row.id.channel.as_str(),
        row.id.order,
        row.id.line,
        row.sku.as_str(),
        stored(row.booked.sold)?,
        stored(row.booked.restocked)?,
        row.at.micros(),
        stored(row.booked.voided)?,
        stored(row.booked.held)?,
        holds::write(&row.booked.holds)?,
    ];
    execute(conn, SQL, params)?;
    Ok(())
}

/// Lists a connection's lines that hold stock, by order and line.
pub(crate) fn held(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    after: Option<&OrderLineId>,
    limit: usize,
) -> Result<Page<HeldLine>> {
    let mut list = List::of(
        org,
        "SELECT order_id, line_id, sku, held, at
        FROM order_line INDEXED BY order_line_held
        WHERE held > 0
          AND org = ?",
    );
    narrow(&mut list, channel, after);
    list.page(conn, "order_id, line_id", limit, |columns| records::held_line(columns))
}

/// Returns under which of these connections lines of an order are booked, by line.
pub(crate) fn booked_under(
    conn: &Connection,
    org: &Org,
    order: &str,
    channels: &[ChannelId],
) -> Result<Vec<(String, ChannelId)>> {
    const SQL: &str = "
        SELECT line_id, channel
        FROM order_line
        WHERE org = ?
          AND channel IN (SELECT value FROM json_each(?))
          AND order_id = ?";
    let channels: Vec<&str> = channels.iter().map(ChannelId::as_str).collect();
    let params = params![org.as_str(), json(&channels)?, order];
    all(conn, SQL, params, |columns| Ok((columns.take()?, columns.name()?)))
}

/// Moves up to so many booked lines to another connection; returns how many. Lines that are
/// there already stay.
pub(crate) fn move_lines(
    conn: &Connection,
    org: &Org,
    from: &ChannelId,
    to: &ChannelId,
    most: usize,
) -> Result<usize> {
    const SQL: &str = "
        UPDATE order_line
        SET channel = :to
        WHERE org = :org
          AND channel = :from
          AND (order_id, line_id) IN (
            SELECT f.order_id, f.line_id
            FROM order_line f
            WHERE f.org = :org
              AND f.channel = :from
              AND NOT EXISTS (
                SELECT 1
                FROM order_line t
                WHERE t.org = f.org
                  AND t.channel = :to
                  AND t.order_id = f.order_id
                  AND t.line_id = f.line_id
              )
            LIMIT :most
          )";
    let params = named_params! {
        ":org": org.as_str(),
        ":from": from.as_str(),
        ":to": to.as_str(),
        ":most": at_most(most),
    };
    execute(conn, SQL, params)
}

/// Keeps lines that nothing answers to; a line that is kept already grows by what is new, and
/// counts as kept since it was first. Returns those that were not kept before.
pub(crate) fn put_unmapped(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    lines: &[UnmappedLine],
) -> Result<Vec<OrderLineId>> {
    const KNOWN: &str = "
        SELECT count(*)
        FROM unmapped_line
        WHERE org = ?
          AND channel = ?
          AND order_id = ?
          AND line_id = ?";
    const SQL: &str = "
        INSERT INTO unmapped_line (
          org, channel, order_id, line_id, sku, fields, sold, restocked, held, cancelled,
          placed_at, updated_at, since
        )
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (org, channel, order_id, line_id) DO UPDATE
        SET sku = excluded.sku,
          fields = excluded.fields,
          sold = max(sold, excluded.sold),
          restocked = max(restocked, excluded.restocked),
          held = max(held, excluded.held),
          cancelled = max(cancelled, excluded.cancelled),
          placed_at = coalesce(placed_at, excluded.placed_at),
          updated_at = nullif(max(coalesce(updated_at, 0), coalesce(excluded.updated_at, 0)), 0)";
    let mut new = Vec::new();
    for line in lines {
        let place = [org.as_str(), channel.as_str(), &line.order_id, &line.line_id];
        if count(conn, KNOWN, place)? == 0 {
            new.push((line.order_id.clone(), line.line_id.clone()));
        }
        let params = params![
            org.as_str(),
            channel.as_str(),
            line.order_id,
            line.line_id,
            line.sku,
            json(&line.fields)?,
            stored(line.sold)?,
            stored(line.restocked)?,
            stored(line.held)?,
            stored_cancelled(line),
            line.placed_at.map(Timestamp::micros),
            line.updated_at.map(Timestamp::micros),
            line.since.micros(),
        ];
        execute(conn, SQL, params)?;
    }
    Ok(new)
}

/// Lists a connection's lines that nothing answers to, by order and line.
pub(crate) fn unmapped(
    conn: &Connection,
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
        WHERE org = ?",
    );
    narrow(&mut list, channel, after);
    list.page(conn, "order_id, line_id", limit, |columns| records::unmapped_line(columns))
}

/// Lets go of lines that have been booked; one that has grown since stays.
pub(crate) fn delete_unmapped(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    lines: &[UnmappedLine],
) -> Result<()> {
    const SQL: &str = "
        DELETE FROM unmapped_line
        WHERE org = ?
          AND channel = ?
          AND order_id = ?
          AND line_id = ?
          AND sold = ?
          AND restocked = ?
          AND held = ?
          AND cancelled = ?";
    for line in lines {
        let params = params![
            org.as_str(),
            channel.as_str(),
            line.order_id,
            line.line_id,
            stored(line.sold)?,
            stored(line.restocked)?,
            stored(line.held)?,
            stored_cancelled(line),
        ];
        execute(conn, SQL, params)?;
    }
    Ok(())
}

fn narrow(list: &mut List, channel: &ChannelId, after: Option<&OrderLineId>) {
    list.by("channel = ?", Some(text(channel.as_str())));
    if let Some((order, line)) = after {
        list.by_all("(order_id, line_id) > (?, ?)", [text(order), text(line)]);
    }
}
