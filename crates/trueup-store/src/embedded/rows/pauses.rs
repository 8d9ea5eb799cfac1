//! What an operator has paused: SKUs, and the whole org, whose row has no SKU.

use rusqlite::{Connection, named_params};
use trueup_core::{Org, Sku};

use super::{List, Result, execute, first, text};
use crate::encoding::records;
use crate::{Page, Pause};

/// Returns what stands in the column for a SKU, or for the org.
fn name(sku: Option<&Sku>) -> &str {
    sku.map_or("", Sku::as_str)
}

/// Keeps a pause, in place of one of the same.
pub(crate) fn put(conn: &Connection, org: &Org, pause: &Pause) -> Result<()> {
    const SQL: &str = "
        INSERT INTO pause (org, sku, at, actor, note)
        VALUES (:org, :sku, :at, :actor, :note)
        ON CONFLICT (org, sku) DO UPDATE
        SET at = excluded.at,
          actor = excluded.actor,
          note = excluded.note";
    let params = named_params! {
        ":org": org.as_str(),
        ":sku": name(pause.sku.as_ref()),
        ":at": pause.at.micros(),
        ":actor": pause.actor,
        ":note": pause.note,
    };
    execute(conn, SQL, params)?;
    Ok(())
}

/// Ends a pause; returns whether there was one.
pub(crate) fn delete(conn: &Connection, org: &Org, sku: Option<&Sku>) -> Result<bool> {
    const SQL: &str = "DELETE FROM pause WHERE org = ? AND sku = ?";
    Ok(execute(conn, SQL, [org.as_str(), name(sku)])? > 0)
}

/// Returns the pause of a SKU itself, or of the org.
pub(crate) fn get(conn: &Connection, org: &Org, sku: Option<&Sku>) -> Result<Option<Pause>> {
    const SQL: &str = "SELECT sku, at, actor, note FROM pause WHERE org = ? AND sku = ?";
    first(conn, SQL, [org.as_str(), name(sku)], |columns| records::pause(columns))
}

/// Lists the pauses of SKUs, by SKU.
pub(crate) fn list(
    conn: &Connection,
    org: &Org,
    after: Option<&Sku>,
    limit: usize,
) -> Result<Page<Pause>> {
    const SQL: &str = "
SELECT sku, at, actor, note
FROM pause
WHERE org = ?";
    let mut list = List::of(org, SQL);
    list.by("sku > ?", Some(text(name(after))));
    list.page(conn, "sku", limit, |columns| records::pause(columns))
}
