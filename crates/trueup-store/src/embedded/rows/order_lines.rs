//! What was booked of each line of a channel's orders, so that nothing is booked twice.

use rusqlite::{Connection, params};
use trueup_core::{ChannelId, LineBooked, Org, Sku, Timestamp};

use super::{Result, execute, first, stored};

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
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrderLine<'a> {
    /// Its place.
    pub(crate) id: LineId<'a>,
    /// The SKU.
    pub(crate) sku: &'a Sku,
    /// Booked so far.
    pub(crate) booked: LineBooked,
    /// When.
    pub(crate) at: Timestamp,
}

/// Returns what was booked of a line.
pub(crate) fn get(conn: &Connection, org: &Org, id: LineId<'_>) -> Result<Option<LineBooked>> {
    const SQL: &str = "
        SELECT sold, restocked
        FROM order_line
        WHERE org = ?
          AND channel = ?
          AND order_id = ?
          AND line_id = ?";
    first(conn, SQL, [org.as_str(), id.channel.as_str(), id.order, id.line], |columns| {
        Ok(LineBooked { sold: columns.count()?, restocked: columns.count()? })
    })
}

/// Makes or replaces a line.
pub(crate) fn put(conn: &Connection, org: &Org, row: OrderLine<'_>) -> Result<()> {
    const SQL: &str = "
        INSERT INTO order_line (org, channel, order_id, line_id, sku, sold, restocked, at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (org, channel, order_id, line_id) DO UPDATE
        SET sku = excluded.sku,
          sold = excluded.sold,
          restocked = excluded.restocked,
          at = excluded.at";
    let params = params![
        org.as_str(),
        row.id.channel.as_str(),
        row.id.order,
        row.id.line,
        row.sku.as_str(),
        stored(row.booked.sold)?,
        stored(row.booked.restocked)?,
        row.at.micros(),
    ];
    execute(conn, SQL, params)?;
    Ok(())
}
