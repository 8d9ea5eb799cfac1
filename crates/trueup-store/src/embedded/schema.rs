//! The tables of the ledger, and how an older file is brought forward.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::files::APPLICATION_ID;
use super::ledger;
use super::rows::{self, RowsError};

/// The schema's version, kept in `PRAGMA user_version`.
pub(super) const VERSION: i64 = 13;

/// The tables that hold the past: they grow for ever, and a start reads next to nothing of them.
pub(super) const PAST: [&str; 9] = [
    "movement",
    "movement_mark",
    "reservation_ended",
    "reservation_digest",
    "reservation_pack",
    "recorded_answer",
    "answer_digest",
    "order_line",
    "sync_history",
];

/// The ledger's tables. `meta.upto_line` says up to which line rows of SKUs and levels are as new
/// as `movement`, and reservations are found by their orders and SKUs; `meta.upto_answer` up to
/// which recorded answer the digest is written. What comes after is looked at by the next start.
const LEDGER: &str = "
CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sku (
  org                 TEXT NOT NULL,
  sku                 TEXT NOT NULL,
  version             INTEGER NOT NULL,
  publish_version     INTEGER NOT NULL,
  updated_at          INTEGER NOT NULL,
  safety_stock        INTEGER NOT NULL,
  low_stock_threshold INTEGER,
  backorder_limit     INTEGER NOT NULL,
  low_since           INTEGER,
  on_hand             INTEGER NOT NULL,
  reserved            INTEGER NOT NULL CHECK (reserved >= 0),
  -- By location, as [[location, on hand, reserved], …].
  levels              TEXT NOT NULL,
  -- The newest of its ledger lines.
  line                INTEGER NOT NULL,
  PRIMARY KEY (org, sku)
) STRICT, WITHOUT ROWID;

CREATE INDEX sku_low ON sku (org, sku) WHERE low_since IS NOT NULL;

CREATE VIEW level AS
SELECT s.org, s.sku, l.value ->> 0 AS location, l.value ->> 1 AS on_hand,
  l.value ->> 2 AS reserved
FROM sku s, json_each(s.levels) l;

-- Every definition a bundle ever had; the newest is in force. An empty list: no bundle.
CREATE TABLE bundle (
  org   TEXT NOT NULL,
  sku   TEXT NOT NULL,
  seq   INTEGER NOT NULL,
  parts TEXT NOT NULL,
  PRIMARY KEY (org, sku, seq)
) STRICT, WITHOUT ROWID;

-- Ledger lines in the order they were recorded. `before` is the SKU's line before it.
CREATE TABLE movement (
  line                    INTEGER PRIMARY KEY,
  org                     TEXT NOT NULL,
  sku                     TEXT NOT NULL,
  seq                     INTEGER NOT NULL,
  before                  INTEGER,
  at                      INTEGER NOT NULL,
  kind                    INTEGER NOT NULL,
  location                TEXT NOT NULL,
  delta                   INTEGER NOT NULL,
  reserved_delta          INTEGER NOT NULL,
  quantity_after          INTEGER NOT NULL,
  reserved_after          INTEGER NOT NULL,
  location_quantity_after INTEGER NOT NULL,
  location_reserved_after INTEGER NOT NULL,
  safety_stock            INTEGER NOT NULL,
  low_stock_threshold     INTEGER,
  backorder_limit         INTEGER NOT NULL,
  publish                 INTEGER NOT NULL,
  reason                  TEXT,
  actor                   TEXT NOT NULL,
  source                  INTEGER NOT NULL,
  reference               TEXT,
  -- The reservation that holds what is reserved.
  reservation             BLOB
) STRICT;

-- Where the lines of a SKU can be entered other than at the newest.
CREATE TABLE movement_mark (
  org  TEXT NOT NULL,
  sku  TEXT NOT NULL,
  seq  INTEGER NOT NULL,
  at   INTEGER NOT NULL,
  line INTEGER NOT NULL,
  PRIMARY KEY (org, sku, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX movement_mark_at ON movement_mark (org, sku, at);

CREATE TABLE reservation_active (
  org        TEXT NOT NULL,
  id         BLOB NOT NULL,
  order_id   TEXT NOT NULL,
  items      TEXT NOT NULL,
  holds      TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE reservation_ended (
  org        TEXT NOT NULL,
  id         BLOB NOT NULL,
  order_id   TEXT NOT NULL,
  status     INTEGER NOT NULL,
  items      TEXT NOT NULL,
  holds      TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  ended_at   INTEGER NOT NULL,
  PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

CREATE VIEW reservation AS
SELECT org, id, order_id, 1 AS status, items, holds, created_at, expires_at, NULL AS ended_at
FROM reservation_active
UNION ALL
SELECT org, id, order_id, status, items, holds, created_at, expires_at, ended_at
FROM reservation_ended;

-- Which reservations may be for an order, or ask for a SKU: see `rows::digest`.
CREATE TABLE reservation_digest (
  digest INTEGER NOT NULL,
  id     BLOB NOT NULL,
  PRIMARY KEY (digest, id)
) STRICT, WITHOUT ROWID;

-- The same for many at once: entries of 8 bytes of digest and 16 of id, both big-endian, sorted
-- within a pack; `first` is the first digest.
CREATE TABLE reservation_pack (
  pack    INTEGER NOT NULL,
  first   INTEGER NOT NULL,
  entries BLOB NOT NULL
) STRICT;

CREATE INDEX reservation_pack_first ON reservation_pack (pack, first);
";

/// Sets what every connection needs.
pub(super) fn configure(conn: &Connection) -> rusqlite::Result<()> {
    // A plan made once is kept: otherwise SQLite prepares a statement anew for each new value of
    // a parameter that statistics could bear on, which was a quarter of the time of all reads.
    // <https://www.sqlite.org/c3ref/c_dbconfig_defensive.html#sqlitedbconfigenableqpsg>
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", -16_000)?;
    conn.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    conn.pragma_update(None, "foreign_keys", "OFF")?;
    conn.busy_timeout(std::time::Duration::from_secs(5))
}

/// Writes the schema into an empty file.
pub(super) fn create(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "page_size", 4_096)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch("BEGIN")?;
    conn.execute_batch(LEDGER)?;
    conn.execute_batch(rows::SCHEMA)?;
    conn.execute_batch("INSERT INTO meta VALUES ('upto_line', 0), ('upto_answer', 0)")?;
    conn.pragma_update(None, "user_version", VERSION)?;
    conn.execute_batch("COMMIT")
}

/// The last version whose ledger had a journal, which rows were written behind.
const JOURNAL_LAST: i64 = 9;

/// Returns whether an older file has facts that are in its journal only.
pub(super) fn has_journal(conn: &Connection) -> rusqlite::Result<bool> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > JOURNAL_LAST {
        return Ok(false);
    }
    conn.query_row("SELECT EXISTS (SELECT 1 FROM journal)", [], |row| row.get(0))
}

/// Brings an older file forward, one version at a time, each in its own transaction.
pub(super) fn migrate(conn: &Connection) -> Result<(), RowsError> {
    let mut version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    while version < VERSION {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let done = step_from(conn, version);
        conn.execute_batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        done?;
        version += 1;
    }
    Ok(())
}

fn step_from(conn: &Connection, version: i64) -> Result<(), RowsError> {
    let step = usize::try_from(version).ok().and_then(|at| MIGRATIONS.get(at));
    let step = step.ok_or_else(|| RowsError::Corrupt(format!("there was no version {version}")))?;
    conn.execute_batch(step)?;
    if version == JOURNAL_LAST {
        ledger::digest_all(conn)?;
    }
    Ok(conn.pragma_update(None, "user_version", version + 1)?)
}

/// The step from each version to the next. Version 1 is the first that was ever written.
const MIGRATIONS: [&str; 13] = [
    "",
    // Since when a listing's base is known; without it, orders are taken to have come after.
    "ALTER TABLE listing ADD COLUMN base_at INTEGER",
    // Pending orders hold, what comes back has a policy, lines without a mapping wait.
    "ALTER TABLE connection ADD COLUMN restock_policy TEXT NOT NULL DEFAULT 'restock'
       CHECK (restock_policy IN ('restock', 'quarantine', 'none'));
     ALTER TABLE order_line ADD COLUMN voided INTEGER NOT NULL DEFAULT 0 CHECK (voided >= 0);
     ALTER TABLE order_line ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0);
     ALTER TABLE order_line ADD COLUMN holds TEXT NOT NULL DEFAULT '[]';
     CREATE INDEX order_line_held ON order_line (org, channel, order_id, line_id) WHERE held > 0;
     CREATE TABLE unmapped_line (
       org TEXT NOT NULL,
       channel TEXT NOT NULL,
       order_id TEXT NOT NULL,
       line_id TEXT NOT NULL,
       sku TEXT,
       fields TEXT NOT NULL,
       sold INTEGER NOT NULL CHECK (sold >= 0),
       restocked INTEGER NOT NULL CHECK (restocked >= 0),
       held INTEGER NOT NULL CHECK (held >= 0),
       cancelled INTEGER NOT NULL CHECK (cancelled >= 0),
       placed_at INTEGER,
       updated_at INTEGER,
       since INTEGER NOT NULL,
       PRIMARY KEY (org, channel, order_id, line_id)
     ) STRICT;
     INSERT INTO unmapped_line
     SELECT i.org, i.channel, i.order_id, l.value ->> 'line', l.value ->> 'sku',
       l.value ->> 'fields', l.value ->> 'sold', l.value ->> 'restocked', 0, 0,
       i.placed_at, i.updated_at, i.received_at
     FROM (
       SELECT org, channel, received_at, body ->> 'order' AS order_id,
         body ->> 'placed_at' AS placed_at, body ->> 'updated_at' AS updated_at,
         body -> 'lines' AS lines
       FROM (
         SELECT org, channel, received_at, CAST(body AS TEXT) AS body
         FROM inbox
         WHERE topic = 'trueup.order' AND state <> 'done'
       )
     ) i, json_each(i.lines) l
     WHERE true
     ON CONFLICT (org, channel, order_id, line_id) DO UPDATE
     SET sold = max(sold, excluded.sold), restocked = max(restocked, excluded.restocked);
     DELETE FROM inbox WHERE topic = 'trueup.order'",
    // Some vendors count how often a listing is revised in a day.
    "ALTER TABLE listing ADD COLUMN revised_count INTEGER NOT NULL DEFAULT 0
       CHECK (revised_count BETWEEN 0 AND 4294967295);
     ALTER TABLE listing ADD COLUMN revised_at INTEGER",
    // What a channel's catalogue held when it was last read.
    "CREATE TABLE channel_listing (
       org TEXT NOT NULL,
       channel TEXT NOT NULL,
       name TEXT NOT NULL,
       listing_key TEXT,
       sku TEXT,
       essence TEXT,
       title TEXT,
       fields TEXT NOT NULL,
       quantity INTEGER,
       channel_fulfilled INTEGER NOT NULL CHECK (channel_fulfilled IN (0, 1)),
       found TEXT NOT NULL CHECK (
         found IN ('matched', 'near_miss', 'duplicate', 'unknown_sku', 'no_sku', 'incomplete')
       ),
       suggestions TEXT NOT NULL,
       was_mapped INTEGER NOT NULL CHECK (was_mapped IN (0, 1)),
       run TEXT NOT NULL,
       seen_at INTEGER NOT NULL,
       PRIMARY KEY (org, channel, name)
     ) STRICT;
     CREATE INDEX channel_listing_by_sku
       ON channel_listing (org, channel, sku, name)
       WHERE sku IS NOT NULL;
     CREATE INDEX channel_listing_by_found
       ON channel_listing (org, channel, found, name);
     CREATE INDEX channel_listing_by_essence
       ON channel_listing (org, channel, essence)
       WHERE essence IS NOT NULL",
    // Why a connection does not work, for programs; consents that merchants are asked for.
    "ALTER TABLE connection ADD COLUMN reason_code TEXT;
     ALTER TABLE connection ADD COLUMN reason_since INTEGER;
     CREATE TABLE consent (
       state_digest BLOB NOT NULL PRIMARY KEY CHECK (length(state_digest) = 32),
       org TEXT NOT NULL,
       channel TEXT NOT NULL,
       kind TEXT NOT NULL,
       redirect TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       expires_at INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX consent_by_channel ON consent (org, channel)",
    // Listings on several connections that show one number.
    "ALTER TABLE listing ADD COLUMN scope TEXT;
     ALTER TABLE listing ADD COLUMN follows INTEGER NOT NULL DEFAULT 0
       CHECK (follows IN (0, 1));
     CREATE UNIQUE INDEX listing_leader
       ON listing (org, scope)
       WHERE scope IS NOT NULL AND follows = 0;
     CREATE INDEX listing_by_scope
       ON listing (org, scope)
       WHERE scope IS NOT NULL",
    // Bulk batches that a vendor has and whose end is not known yet.
    "CREATE TABLE feed (
       org TEXT NOT NULL,
       channel TEXT NOT NULL,
       id TEXT NOT NULL,
       ticket TEXT NOT NULL,
       items TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       PRIMARY KEY (org, channel, id)
     ) STRICT",
    // When an order was last booked on a listing: what was read before does not settle it.
    "ALTER TABLE listing ADD COLUMN booked_at INTEGER",
    // Lines are appended and chained, reservations apart from those that ended. A file that was not closed has
    // records in its journal, which only the program that wrote them reads.
    "DROP TABLE journal;
     CREATE TABLE movement_new (
       line INTEGER PRIMARY KEY,
       org TEXT NOT NULL,
       sku TEXT NOT NULL,
       seq INTEGER NOT NULL,
       before INTEGER,
       at INTEGER NOT NULL,
       kind INTEGER NOT NULL,
       location TEXT NOT NULL,
       delta INTEGER NOT NULL,
       reserved_delta INTEGER NOT NULL,
       quantity_after INTEGER NOT NULL,
       reserved_after INTEGER NOT NULL,
       location_quantity_after INTEGER NOT NULL,
       location_reserved_after INTEGER NOT NULL,
       safety_stock INTEGER NOT NULL,
       low_stock_threshold INTEGER,
       backorder_limit INTEGER NOT NULL,
       publish INTEGER NOT NULL,
       reason TEXT,
       actor TEXT NOT NULL,
       source INTEGER NOT NULL,
       reference TEXT,
       reservation BLOB
     ) STRICT;
     INSERT INTO movement_new
     SELECT line, org, sku, seq, lag(line) OVER (PARTITION BY org, sku ORDER BY seq), at, kind,
       location, delta, reserved_delta, quantity_after, reserved_after, location_quantity_after,
       location_reserved_after, safety_stock, low_stock_threshold, backorder_limit, publish,
       reason, actor, source, reference, NULL
     FROM (
       SELECT row_number() OVER (ORDER BY reached, org, sku, seq) AS line, *
       FROM (
         SELECT max(at) OVER (PARTITION BY org, sku ORDER BY seq) AS reached, * FROM movement
       )
     );
     DROP TABLE movement;
     ALTER TABLE movement_new RENAME TO movement;
     CREATE TABLE movement_mark (
       org TEXT NOT NULL,
       sku TEXT NOT NULL,
       seq INTEGER NOT NULL,
       at INTEGER NOT NULL,
       line INTEGER NOT NULL,
       PRIMARY KEY (org, sku, seq)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX movement_mark_at ON movement_mark (org, sku, at);
     INSERT INTO movement_mark
     SELECT org, sku, seq, at, line FROM movement WHERE seq % 64 = 0;
     ALTER TABLE sku ADD COLUMN line INTEGER NOT NULL DEFAULT 0;
     UPDATE sku SET line = newest.line
     FROM (SELECT org, sku, max(line) AS line FROM movement GROUP BY org, sku) newest
     WHERE sku.org = newest.org AND sku.sku = newest.sku;
     DROP INDEX reservation_order;
     DROP INDEX reservation_active;
     CREATE TABLE reservation_active (
       org TEXT NOT NULL,
       id BLOB NOT NULL,
       order_id TEXT NOT NULL,
       items TEXT NOT NULL,
       holds TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       expires_at INTEGER NOT NULL,
       PRIMARY KEY (org, id)
     ) STRICT, WITHOUT ROWID;
     INSERT INTO reservation_active
     SELECT org, id, order_id, items, holds, created_at, expires_at
     FROM reservation
     WHERE status = 1;
     CREATE TABLE reservation_ended (
       org TEXT NOT NULL,
       id BLOB NOT NULL,
       order_id TEXT NOT NULL,
       status INTEGER NOT NULL,
       items TEXT NOT NULL,
       holds TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       expires_at INTEGER NOT NULL,
       ended_at INTEGER NOT NULL,
       PRIMARY KEY (org, id)
     ) STRICT, WITHOUT ROWID;
     INSERT INTO reservation_ended
     SELECT org, id, order_id, status, items, holds, created_at, expires_at,
       coalesce(ended_at, expires_at)
     FROM reservation
     WHERE status <> 1;
     DROP TABLE reservation;
     CREATE VIEW reservation AS
     SELECT org, id, order_id, 1 AS status, items, holds, created_at, expires_at, NULL AS ended_at
     FROM reservation_active
     UNION ALL
     SELECT org, id, order_id, status, items, holds, created_at, expires_at, ended_at
     FROM reservation_ended;
     DROP TABLE reservation_sku;
     CREATE TABLE reservation_digest (
       digest INTEGER NOT NULL,
       id BLOB NOT NULL,
       PRIMARY KEY (digest, id)
     ) STRICT, WITHOUT ROWID;
     DELETE FROM meta WHERE name = 'materialized';
     INSERT INTO meta SELECT 'upto_line', coalesce(max(line), 0) FROM movement;
     INSERT INTO meta VALUES ('upto_answer', 0);
     CREATE TABLE recorded_answer_new (
       n INTEGER PRIMARY KEY,
       org TEXT NOT NULL,
       idempotency_key TEXT NOT NULL,
       fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
       status INTEGER NOT NULL CHECK (status BETWEEN 100 AND 999),
       headers TEXT NOT NULL,
       body BLOB NOT NULL,
       at INTEGER NOT NULL
     ) STRICT;
     INSERT INTO recorded_answer_new
     SELECT row_number() OVER (ORDER BY at), org, idempotency_key, fingerprint, status, headers,
       body, at
     FROM recorded_answer;
     DROP TABLE recorded_answer;
     ALTER TABLE recorded_answer_new RENAME TO recorded_answer;
     CREATE TABLE answer_digest (
       digest INTEGER NOT NULL,
       n INTEGER NOT NULL,
       PRIMARY KEY (digest, n)
     ) STRICT, WITHOUT ROWID",
    // A SKU's levels are in its row; digests of many reservations at once go into packs.
    "CREATE TABLE sku_new (
       org TEXT NOT NULL,
       sku TEXT NOT NULL,
       version INTEGER NOT NULL,
       publish_version INTEGER NOT NULL,
       updated_at INTEGER NOT NULL,
       safety_stock INTEGER NOT NULL,
       low_stock_threshold INTEGER,
       backorder_limit INTEGER NOT NULL,
       low_since INTEGER,
       on_hand INTEGER NOT NULL,
       reserved INTEGER NOT NULL CHECK (reserved >= 0),
       levels TEXT NOT NULL,
       line INTEGER NOT NULL,
       PRIMARY KEY (org, sku)
     ) STRICT, WITHOUT ROWID;
     INSERT INTO sku_new
     SELECT org, sku, version, publish_version, updated_at, safety_stock, low_stock_threshold,
       backorder_limit, low_since, on_hand, reserved,
       (SELECT json_group_array(json_array(location, on_hand, reserved) ORDER BY location)
        FROM level
        WHERE level.org = sku.org AND level.sku = sku.sku),
       line
     FROM sku;
     DROP TABLE level;
     DROP TABLE sku;
     ALTER TABLE sku_new RENAME TO sku;
     CREATE INDEX sku_low ON sku (org, sku) WHERE low_since IS NOT NULL;
     CREATE VIEW level AS
     SELECT s.org, s.sku, l.value ->> 0 AS location, l.value ->> 1 AS on_hand,
       l.value ->> 2 AS reserved
     FROM sku s, json_each(s.levels) l;
     CREATE TABLE reservation_pack (
       pack INTEGER NOT NULL,
       first INTEGER NOT NULL,
       entries BLOB NOT NULL
     ) STRICT;
     CREATE INDEX reservation_pack_first ON reservation_pack (pack, first)",
    // What one act may change without being asked, and runs that wait for an operator.
    "ALTER TABLE connection ADD COLUMN blast_radius TEXT NOT NULL DEFAULT '{}';
     CREATE TABLE run_new (
       org TEXT NOT NULL,
       id TEXT NOT NULL,
       operation TEXT NOT NULL,
       channel TEXT NOT NULL,
       status TEXT NOT NULL
         CHECK (status IN ('running', 'completed', 'partial', 'failed', 'held', 'cancelled')),
       dry_run INTEGER NOT NULL CHECK (dry_run IN (0, 1)),
       counters TEXT NOT NULL,
       warnings TEXT NOT NULL,
       items TEXT NOT NULL,
       error TEXT,
       request TEXT NOT NULL DEFAULT '{}',
       started_at INTEGER NOT NULL,
       finished_at INTEGER,
       PRIMARY KEY (org, id)
     ) STRICT;
     INSERT INTO run_new
     SELECT org, id, operation, channel, status, dry_run, counters, warnings, items, error, '{}',
       started_at, finished_at
     FROM run;
     DROP TABLE run;
     ALTER TABLE run_new RENAME TO run;
     CREATE INDEX run_running ON run (status) WHERE status = 'running';
     CREATE INDEX run_by_start ON run (org, started_at, id)",
    // What an operator has paused.
    "CREATE TABLE pause (
       org TEXT NOT NULL,
       sku TEXT NOT NULL,
       at INTEGER NOT NULL,
       actor TEXT NOT NULL,
       note TEXT,
       PRIMARY KEY (org, sku)
     ) STRICT, WITHOUT ROWID",
];
