//! What an operator has paused: SKUs, and the whole org, whose row has no SKU.

use trueup_core::{Org, Sku};

use crate::encoding::records;
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Conn, List, Param, Plain, execute, first};
use crate::{Page, Pause};

/// Returns what stands in the column for a SKU, or for the org.
fn name(sku: Option<&Sku>) -> &str {
    sku.map_or("", Sku::as_str)
}

/// Keeps a pause, in place of one of the same.
pub(in crate::postgres) async fn put(conn: &Conn, org: &Org, pause: &Pause) -> Result<()> {
    const SQL: &str = "
        INSERT INTO pause (shard, org, sku, at, actor, note)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (shard, org, sku) DO UPDATE
        SET at = excluded.at,
          actor = excluded.actor,
          note = excluded.note";
    let params: [Param<'_>; 6] = [
        &shard_of(org),
        &org.as_str(),
        &name(pause.sku.as_ref()),
        &pause.at.micros(),
        &Plain(&pause.actor),
        &pause.note.as_deref().map(Plain),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Ends a pause; returns whether there was one.
pub(in crate::postgres) async fn delete(conn: &Conn, org: &Org, sku: Option<&Sku>) -> Result<bool> {
    const SQL: &str = "DELETE FROM pause WHERE shard = $1 AND org = $2 AND sku = $3";
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &name(sku)];
    Ok(execute(conn, SQL, &params).await? > 0)
}

/// Returns the pause of a SKU itself, or of the org.
pub(in crate::postgres) async fn get(
    conn: &Conn,
    org: &Org,
    sku: Option<&Sku>,
) -> Result<Option<Pause>> {
    const SQL: &str = "
        SELECT sku, at, actor, note
        FROM pause
        WHERE shard = $1
          AND org = $2
          AND sku = $3";
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &name(sku)];
    first(conn, SQL, &params, |columns| records::pause(columns)).await
}

/// Lists the pauses of SKUs, by SKU.
pub(in crate::postgres) async fn list(
    conn: &Conn,
    org: &Org,
    after: Option<&Sku>,
    limit: usize,
) -> Result<Page<Pause>> {
    const SQL: &str = "
SELECT sku, at, actor, note
FROM pause
WHERE shard = $1
  AND org = $2";
    let mut list = List::of(org, SQL);
    list.by("sku > ?", Some(name(after).to_owned()));
    list.page(conn, "sku", limit, |columns| records::pause(columns)).await
}
