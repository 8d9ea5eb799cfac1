//! Adding up the ledger: what must agree, whatever happened.

use trueup_core::Org;

use crate::port::Verification;
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{self, Conn, Param};

/// The most faults that a verification names.
const FAULTS_MAX: usize = 1_000;

/// Adds up the ledger of an org, and compares it with levels, SKUs and reservations; `conn` sees
/// all of it as it is at one instant.
pub(in crate::postgres) async fn verify(conn: &Conn, org: &Org) -> Result<Verification> {
    let (shard, name) = (shard_of(org), org.as_str());
    let params: [Param<'_>; 2] = [&shard, &name];
    let count = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {table} WHERE shard = $1 AND org = $2");
        sql::count(conn, &sql, &params).await
    };
    let mut found = Verification {
        skus: count("sku").await?,
        movements: count("movement").await?,
        reservations: count("reservation").await?,
        faults: Vec::new(),
    };
    for (what, sql) in VERIFICATIONS {
        let faults = sql::all(conn, sql, &params, |columns| {
            let (sku, ledger, level): (&str, i64, i64) =
                (columns.take()?, columns.take()?, columns.take()?);
            Ok(format!("{sku}: {what}: {ledger} against {level}"))
        });
        found.faults.extend(faults.await?);
        if found.faults.len() >= FAULTS_MAX {
            found.faults.truncate(FAULTS_MAX);
            break;
        }
    }
    Ok(found)
}

/// What must agree: a name, and a query for `(sku, one number, the other)` where it does not, with
/// shard and org as its parameters.
const VERIFICATIONS: [(&str, &str); 9] = [
    (
        "the sum of movements and on hand at a location",
        "WITH level AS (
           SELECT s.sku, l ->> 0 AS location, (l ->> 1)::bigint AS on_hand
           FROM sku s, jsonb_array_elements(s.levels::jsonb) l
           WHERE s.shard = $1 AND s.org = $2
         ), line AS (
           SELECT sku, location, sum(delta)::bigint AS total
           FROM movement
           WHERE shard = $1 AND org = $2
           GROUP BY sku, location
         )
         SELECT coalesce(m.sku, l.sku), coalesce(m.total, 0), coalesce(l.on_hand, 0)
         FROM line m
         FULL JOIN level l ON l.sku = m.sku AND l.location = m.location
         WHERE coalesce(m.total, 0) <> coalesce(l.on_hand, 0)
         LIMIT 1000",
    ),
    (
        "the sum of reserved changes and reserved at a location",
        "WITH level AS (
           SELECT s.sku, l ->> 0 AS location, (l ->> 2)::bigint AS reserved
           FROM sku s, jsonb_array_elements(s.levels::jsonb) l
           WHERE s.shard = $1 AND s.org = $2
         ), line AS (
           SELECT sku, location, sum(reserved_delta)::bigint AS total
           FROM movement
           WHERE shard = $1 AND org = $2
           GROUP BY sku, location
         )
         SELECT coalesce(m.sku, l.sku), coalesce(m.total, 0), coalesce(l.reserved, 0)
         FROM line m
         FULL JOIN level l ON l.sku = m.sku AND l.location = m.location
         WHERE coalesce(m.total, 0) <> coalesce(l.reserved, 0)
         LIMIT 1000",
    ),
    (
        "on hand over all locations and the SKU's",
        "SELECT s.sku, s.on_hand, coalesce(sum((l ->> 1)::bigint), 0)::bigint
         FROM sku s
         LEFT JOIN jsonb_array_elements(s.levels::jsonb) l ON TRUE
         WHERE s.shard = $1 AND s.org = $2
         GROUP BY s.sku, s.on_hand
         HAVING s.on_hand <> coalesce(sum((l ->> 1)::bigint), 0)
         LIMIT 1000",
    ),
    (
        "reserved over all locations and the SKU's",
        "SELECT s.sku, s.reserved, coalesce(sum((l ->> 2)::bigint), 0)::bigint
         FROM sku s
         LEFT JOIN jsonb_array_elements(s.levels::jsonb) l ON TRUE
         WHERE s.shard = $1 AND s.org = $2
         GROUP BY s.sku, s.reserved
         HAVING s.reserved <> coalesce(sum((l ->> 2)::bigint), 0)
         LIMIT 1000",
    ),
    (
        "reserved and the holds of active reservations and pending orders",
        "WITH level AS (
           SELECT s.sku, l ->> 0 AS location, (l ->> 2)::bigint AS reserved
           FROM sku s, jsonb_array_elements(s.levels::jsonb) l
           WHERE s.shard = $1 AND s.org = $2
         ), hold AS (
           SELECT h ->> 0 AS sku, h ->> 1 AS location, sum((h ->> 2)::bigint)::bigint AS total
           FROM (
             SELECT jsonb_array_elements(holds::jsonb) AS h
             FROM reservation
             WHERE shard = $1 AND org = $2 AND status = 1
             UNION ALL
             SELECT jsonb_array_elements(holds::jsonb)
             FROM order_line
             WHERE shard = $1 AND org = $2 AND held > 0
           ) holds
           GROUP BY 1, 2
         )
         SELECT coalesce(l.sku, h.sku), coalesce(l.reserved, 0), coalesce(h.total, 0)
         FROM level l
         FULL JOIN hold h ON h.sku = l.sku AND h.location = l.location
         WHERE coalesce(l.location, h.location) <> 'quarantine'
           AND coalesce(l.reserved, 0) <> coalesce(h.total, 0)
         LIMIT 1000",
    ),
    (
        "on hand and reserved in quarantine",
        "SELECT s.sku, (l ->> 1)::bigint, (l ->> 2)::bigint
         FROM sku s, jsonb_array_elements(s.levels::jsonb) l
         WHERE s.shard = $1 AND s.org = $2
           AND l ->> 0 = 'quarantine' AND l ->> 1 <> l ->> 2
         LIMIT 1000",
    ),
    (
        "a line's quantity after it and the sum of lines up to it",
        "SELECT sku, quantity_after, total::bigint
         FROM (
           SELECT sku, quantity_after,
             sum(delta) OVER (PARTITION BY sku ORDER BY seq) AS total
           FROM movement
           WHERE shard = $1 AND org = $2
         ) lines
         WHERE quantity_after <> total
         LIMIT 1000",
    ),
    (
        "a line's reserved after it and the sum of lines up to it",
        "SELECT sku, reserved_after, total::bigint
         FROM (
           SELECT sku, reserved_after,
             sum(reserved_delta) OVER (PARTITION BY sku ORDER BY seq) AS total
           FROM movement
           WHERE shard = $1 AND org = $2
         ) lines
         WHERE reserved_after <> total
         LIMIT 1000",
    ),
    (
        "a SKU's version and the number of its newest line",
        "SELECT s.sku, s.version, coalesce(m.newest, 0)
         FROM sku s
         LEFT JOIN (
           SELECT sku, max(seq) AS newest
           FROM movement
           WHERE shard = $1 AND org = $2
           GROUP BY sku
         ) m ON m.sku = s.sku
         WHERE s.shard = $1 AND s.org = $2
           AND s.version < coalesce(m.newest, 0)
         LIMIT 1000",
    ),
];
