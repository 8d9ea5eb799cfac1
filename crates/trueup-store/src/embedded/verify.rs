//! Adding up the ledger: what must agree, whatever happened.

use rusqlite::{Connection, params};
use trueup_core::Org;

use super::ledger::{text, version_of};
use super::rows::RowsError;
use crate::port::Verification;

/// The most faults that a verification names.
const FAULTS_MAX: usize = 1_000;

/// Has SQLite check the structure of the file, adds up the ledger of an org, and compares it with
/// levels, SKUs and reservations.
pub(super) fn verify(conn: &Connection, org: &Org) -> Result<Verification, RowsError> {
    // Levels and holds are inside of rows: to look them up one by one takes tables of them.
    conn.execute_batch(TABLES)?;
    for fill in FILLS {
        conn.execute(fill, [org.as_str()])?;
    }
    let found = compare(conn, org);
    conn.execute_batch("DROP TABLE verified; DROP TABLE held")?;
    found
}

const TABLES: &str = "
DROP TABLE IF EXISTS temp.verified;
CREATE TEMP TABLE verified (
  org      TEXT NOT NULL,
  sku      TEXT NOT NULL,
  location TEXT NOT NULL,
  on_hand  INTEGER NOT NULL,
  reserved INTEGER NOT NULL,
  PRIMARY KEY (org, sku, location)
) WITHOUT ROWID;
DROP TABLE IF EXISTS temp.held;
CREATE TEMP TABLE held (
  sku      TEXT NOT NULL,
  location TEXT NOT NULL,
  total    INTEGER NOT NULL,
  PRIMARY KEY (sku, location)
) WITHOUT ROWID";

const FILLS: [&str; 2] = [
    "INSERT INTO verified SELECT * FROM main.level WHERE org = ?",
    "INSERT INTO held
     SELECT hold ->> 0, hold ->> 1, sum(hold ->> 2)
     FROM (SELECT j.value AS hold
           FROM reservation_active r, json_each(r.holds) j
           WHERE r.org = ?1
           UNION ALL
           SELECT j.value
           FROM order_line o INDEXED BY order_line_held, json_each(o.holds) j
           WHERE o.org = ?1 AND o.held > 0)
     GROUP BY 1, 2",
];

fn compare(conn: &Connection, org: &Org) -> Result<Verification, RowsError> {
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
    let mut structure = conn.prepare(&format!("PRAGMA quick_check({FAULTS_MAX})"))?;
    let mut rows = structure.query([])?;
    while let Some(row) = rows.next()? {
        let verdict = text(row, 0)?;
        if verdict != "ok" {
            found.faults.push(format!("the file: {verdict}"));
        }
    }
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
const VERIFICATIONS: [(&str, &str); 11] = [
    (
        "the sum of movements and on hand at a location",
        "SELECT m.sku, m.total, coalesce(l.on_hand, 0)
         FROM (SELECT sku, location, sum(delta) AS total FROM movement
               WHERE org = ?1 GROUP BY sku, location) m
         LEFT JOIN verified l ON l.org = ?1 AND l.sku = m.sku AND l.location = m.location
         WHERE m.total <> coalesce(l.on_hand, 0)",
    ),
    (
        "the sum of reserved changes and reserved at a location",
        "SELECT m.sku, m.total, coalesce(l.reserved, 0)
         FROM (SELECT sku, location, sum(reserved_delta) AS total FROM movement
               WHERE org = ?1 GROUP BY sku, location) m
         LEFT JOIN verified l ON l.org = ?1 AND l.sku = m.sku AND l.location = m.location
         WHERE m.total <> coalesce(l.reserved, 0)",
    ),
    (
        "on hand over all locations and the SKU's",
        "SELECT s.sku, s.on_hand, coalesce(sum(l.on_hand), 0)
         FROM sku s
         LEFT JOIN verified l ON l.org = s.org AND l.sku = s.sku
         WHERE s.org = ?1
         GROUP BY s.sku
         HAVING s.on_hand <> coalesce(sum(l.on_hand), 0)",
    ),
    (
        "reserved over all locations and the SKU's",
        "SELECT s.sku, s.reserved, coalesce(sum(l.reserved), 0)
         FROM sku s
         LEFT JOIN verified l ON l.org = s.org AND l.sku = s.sku
         WHERE s.org = ?1
         GROUP BY s.sku
         HAVING s.reserved <> coalesce(sum(l.reserved), 0)",
    ),
    (
        "reserved and the holds of active reservations and pending orders",
        "SELECT l.sku, l.reserved, coalesce(h.total, 0)
         FROM verified l
         LEFT JOIN held h ON h.sku = l.sku AND h.location = l.location
         WHERE l.org = ?1 AND l.location <> 'quarantine' AND l.reserved <> coalesce(h.total, 0)",
    ),
    (
        "on hand and reserved in quarantine",
        "SELECT sku, on_hand, reserved
         FROM verified
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
    (
        "the line that a line names before it and the line before it",
        "SELECT sku, coalesce(before, 0), coalesce(earlier, 0)
         FROM (SELECT sku, before, lag(line) OVER w AS earlier
               FROM movement WHERE org = ?1
               WINDOW w AS (PARTITION BY sku ORDER BY seq))
         WHERE before IS NOT earlier",
    ),
    (
        "the newest line that a SKU names and its newest line",
        "SELECT s.sku, s.line, coalesce(m.newest, 0)
         FROM sku s
         LEFT JOIN (SELECT sku, max(line) AS newest FROM movement
                    WHERE org = ?1 GROUP BY sku) m ON m.sku = s.sku
         WHERE s.org = ?1 AND s.line <> coalesce(m.newest, 0)",
    ),
    (
        "a reservation that both holds and has ended",
        "SELECT a.order_id, 1, e.status
         FROM reservation_active a
         JOIN reservation_ended e ON e.org = a.org AND e.id = a.id
         WHERE a.org = ?1",
    ),
];
