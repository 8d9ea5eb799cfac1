//! Every table that moves: what its columns are in the target, and where they are in the source.
//!
//! The first columns are the key, in whose order both sides are read. The target's tables have a
//! shard and an org before them.

use super::value::Kind;

/// A column that moves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Its name in the target.
    pub(crate) name: &'static str,
    /// The expression for it in the source.
    pub(crate) source: &'static str,
    /// What it holds.
    pub(crate) kind: Kind,
}

impl Column {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, source: name, kind }
    }

    const fn from(self, source: &'static str) -> Self {
        Self { source, ..self }
    }
}

const fn small(name: &'static str) -> Column {
    Column::new(name, Kind::Small)
}

const fn int(name: &'static str) -> Column {
    Column::new(name, Kind::Int)
}

const fn flag(name: &'static str) -> Column {
    Column::new(name, Kind::Flag)
}

const fn text(name: &'static str) -> Column {
    Column::new(name, Kind::Text)
}

const fn bytes(name: &'static str) -> Column {
    Column::new(name, Kind::Bytes)
}

const fn texts(name: &'static str) -> Column {
    Column::new(name, Kind::Texts)
}

/// What the shard of a row is reckoned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShardOf {
    /// The org, as nearly everywhere.
    Org,
    /// The row's own key, by which it is found before the org is known.
    Key,
}

/// A table that moves.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name in the target.
    pub(crate) name: &'static str,
    /// What is read in the source.
    pub(crate) from: &'static str,
    /// What is counted in the source: as many rows.
    pub(crate) counted: &'static str,
    /// The org's column in the source.
    pub(crate) org: &'static str,
    /// What the shard is reckoned from.
    pub(crate) shard_of: ShardOf,
    /// How many of the columns are the key.
    pub(crate) key: usize,
    /// The columns.
    pub(crate) columns: &'static [Column],
}

impl Table {
    const fn plain(name: &'static str, key: usize, columns: &'static [Column]) -> Self {
        let shard_of = ShardOf::Org;
        Self { name, from: name, counted: name, org: "org", shard_of, key, columns }
    }

    /// Returns the columns of the key.
    pub(crate) fn key_columns(&self) -> &'static [Column] {
        self.columns.split_at(self.key).0
    }
}

/// Makes the tables, for this connection alone, that give an order to what has none by its keys in
/// the source; `sku_now` is filled with SKUs as they are after the newest line.
pub(crate) const IN_ORDER: &str = "
    CREATE TEMP TABLE sku_now (
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
      reserved INTEGER NOT NULL,
      levels TEXT NOT NULL,
      parts TEXT NOT NULL,
      used_in TEXT NOT NULL,
      PRIMARY KEY (org, sku)
    ) WITHOUT ROWID;
    CREATE TEMP TABLE line_order (
      org TEXT NOT NULL,
      sku TEXT NOT NULL,
      seq INTEGER NOT NULL,
      line INTEGER NOT NULL,
      PRIMARY KEY (org, sku, seq)
    ) WITHOUT ROWID;
    INSERT INTO line_order SELECT org, sku, seq, line FROM movement ORDER BY org, sku, seq;
    CREATE TEMP TABLE inbox_order (
      org TEXT NOT NULL,
      id INTEGER NOT NULL,
      PRIMARY KEY (org, id)
    ) WITHOUT ROWID;
    INSERT INTO inbox_order SELECT org, id FROM inbox ORDER BY org, id;
    -- Where a key has several answers the oldest is the one that is given.
    CREATE TEMP TABLE answer_order (
      org TEXT NOT NULL,
      idempotency_key TEXT NOT NULL,
      n INTEGER NOT NULL,
      PRIMARY KEY (org, idempotency_key)
    ) WITHOUT ROWID;
    INSERT INTO answer_order
    SELECT org, idempotency_key, min(n)
    FROM recorded_answer
    GROUP BY org, idempotency_key
    ORDER BY org, idempotency_key;
    -- Numbers are given once: the target goes on after the newest that was ever given here.
    CREATE TEMP TABLE counter_now (
      org TEXT NOT NULL,
      name TEXT NOT NULL,
      value INTEGER NOT NULL,
      PRIMARY KEY (org, name)
    ) WITHOUT ROWID;
    INSERT INTO counter_now
    SELECT given.org, given.name, coalesce(s.seq, 0)
    FROM (
      SELECT DISTINCT org, 'history' AS name, 'sync_history' AS of_table FROM sync_history
      UNION ALL
      SELECT DISTINCT org, 'conflict', 'conflict' FROM conflict
      UNION ALL
      SELECT DISTINCT org, 'inbox', 'inbox' FROM inbox
    ) given
    LEFT JOIN sqlite_sequence s ON s.name = given.of_table;
    INSERT INTO counter_now SELECT org, 'listing', max(rowid) FROM listing GROUP BY org;
    -- One that had expired and held once more is what it is now.
    CREATE TEMP VIEW reservation_now AS
    SELECT org, id, order_id, 1 AS status, items, holds, created_at, expires_at, NULL AS ended_at
    FROM reservation_active
    UNION ALL
    SELECT org, id, order_id, status, items, holds, created_at, expires_at, ended_at
    FROM reservation_ended e
    WHERE NOT EXISTS (
      SELECT 1 FROM reservation_active a WHERE a.org = e.org AND a.id = e.id
    );
";

/// The table of reservations: what they ask for is written with them.
pub(crate) const RESERVATION: &str = "reservation";

/// What moves, in this order.
pub(crate) static TABLES: [Table; 21] = [
    Table {
        from: "sku_now",
        counted: "sku_now",
        ..Table::plain(
            "sku",
            1,
            &[
                text("sku"),
                int("version"),
                int("publish_version"),
                int("updated_at"),
                int("safety_stock"),
                int("low_stock_threshold"),
                int("backorder_limit"),
                int("low_since"),
                int("on_hand"),
                int("reserved"),
                text("levels"),
                text("parts"),
                text("used_in"),
            ],
        )
    },
    Table::plain("bundle", 2, &[text("sku"), int("seq"), text("parts")]),
    Table {
        from: "line_order o CROSS JOIN movement m ON m.line = o.line",
        counted: "line_order o",
        org: "o.org",
        ..Table::plain(
            "movement",
            2,
            &[
                text("sku").from("o.sku"),
                int("seq").from("o.seq"),
                int("at"),
                small("kind"),
                text("location"),
                int("delta"),
                int("reserved_delta"),
                int("quantity_after"),
                int("reserved_after"),
                int("location_quantity_after"),
                int("location_reserved_after"),
                int("safety_stock"),
                int("low_stock_threshold"),
                int("backorder_limit"),
                flag("publish"),
                text("reason"),
                text("actor"),
                small("source"),
                text("reference"),
            ],
        )
    },
    Table {
        from: "reservation_now",
        counted: "reservation_now",
        ..Table::plain(
            RESERVATION,
            1,
            &[
                bytes("id"),
                text("order_id"),
                small("status"),
                text("items"),
                text("holds"),
                int("created_at"),
                int("expires_at"),
                int("ended_at"),
            ],
        )
    },
    Table::plain(
        "connection",
        1,
        &[
            text("id"),
            text("kind"),
            text("state"),
            flag("sync_inventory"),
            flag("sync_orders"),
            text("strategy"),
            text("rules"),
            int("poll_interval_minutes"),
            flag("dry_run"),
            text("endpoint"),
            text("settings"),
            bytes("sealed_credentials"),
            int("created_at"),
            int("updated_at"),
            int("last_sync"),
            int("last_error_at"),
            text("last_error"),
            int("orders_seen_to"),
            text("restock_policy"),
            text("reason_code"),
            int("reason_since"),
            text("blast_radius"),
        ],
    ),
    Table::plain(
        "listing",
        2,
        &[
            text("channel"),
            text("listing_key"),
            int("nth").from("rowid"),
            text("sku"),
            text("fields"),
            text("strategy"),
            text("rules"),
            flag("channel_fulfilled"),
            flag("enabled"),
            int("base"),
            int("base_at"),
            int("booked_at"),
            int("in_flight_quantity"),
            int("in_flight_version"),
            int("in_flight_at"),
            int("acked_version"),
            int("acked_at"),
            int("observed_quantity"),
            int("observed_at"),
            int("provisional"),
            flag("forced"),
            int("epoch"),
            flag("in_conflict"),
            text("parked_code"),
            text("parked_detail"),
            int("parked_at"),
            int("attempts"),
            int("revised_count"),
            int("revised_at"),
            text("scope"),
            flag("follows"),
        ],
    ),
    Table::plain(
        "channel_listing",
        2,
        &[
            text("channel"),
            text("name"),
            text("listing_key"),
            text("sku"),
            text("essence"),
            text("title"),
            text("fields"),
            int("quantity"),
            flag("channel_fulfilled"),
            text("found"),
            texts("suggestions"),
            flag("was_mapped"),
            text("run"),
            int("seen_at"),
        ],
    ),
    Table::plain(
        "consent",
        1,
        &[
            bytes("state_digest"),
            text("channel"),
            text("kind"),
            text("redirect"),
            int("created_at"),
            int("expires_at"),
        ],
    ),
    Table::plain(
        "feed",
        2,
        &[text("channel"), text("id"), text("ticket"), text("items"), int("created_at")],
    ),
    Table::plain(
        "order_line",
        3,
        &[
            text("channel"),
            text("order_id"),
            text("line_id"),
            text("sku"),
            int("sold"),
            int("restocked"),
            int("at"),
            int("voided"),
            int("held"),
            text("holds"),
        ],
    ),
    Table::plain(
        "unmapped_line",
        3,
        &[
            text("channel"),
            text("order_id"),
            text("line_id"),
            text("sku"),
            text("fields"),
            int("sold"),
            int("restocked"),
            int("held"),
            int("cancelled"),
            int("placed_at"),
            int("updated_at"),
            int("since"),
        ],
    ),
    Table::plain("pause", 1, &[text("sku"), int("at"), text("actor"), text("note")]),
    Table::plain(
        "run",
        1,
        &[
            text("id"),
            text("operation"),
            text("channel"),
            text("status"),
            flag("dry_run"),
            text("counters"),
            text("warnings"),
            text("items"),
            text("error"),
            text("request"),
            int("started_at"),
            int("finished_at"),
        ],
    ),
    Table::plain(
        "sync_history",
        1,
        &[
            int("id"),
            int("at"),
            text("operation"),
            text("channel"),
            text("sku"),
            text("status"),
            text("run"),
            text("detail"),
        ],
    ),
    Table::plain(
        "conflict",
        1,
        &[
            int("id"),
            text("channel"),
            text("listing_key"),
            text("sku"),
            int("master"),
            int("base"),
            int("expected"),
            int("observed"),
            int("opened_at"),
            int("seen_at"),
            int("closed_at"),
            int("resolved_at"),
            text("resolved_by"),
            text("resolution"),
            text("note"),
        ],
    ),
    Table {
        from: "inbox_order o CROSS JOIN inbox i ON i.id = o.id",
        counted: "inbox_order o",
        org: "o.org",
        ..Table::plain(
            "inbox",
            1,
            &[
                int("id").from("o.id"),
                text("channel"),
                text("delivery_id"),
                text("topic"),
                bytes("body"),
                int("received_at"),
                text("state"),
                int("attempts"),
                int("next_at"),
                text("why"),
            ],
        )
    },
    Table::plain(
        "subscription",
        1,
        &[
            text("id"),
            text("url"),
            texts("events"),
            bytes("sealed_secret"),
            flag("enabled"),
            text("description"),
            int("created_at"),
        ],
    ),
    Table::plain(
        "delivery",
        1,
        &[
            text("id"),
            text("subscription"),
            text("event"),
            text("body"),
            text("state"),
            int("attempts"),
            int("next_at"),
            text("last_result"),
            int("created_at"),
        ],
    ),
    Table {
        shard_of: ShardOf::Key,
        ..Table::plain(
            "api_key",
            1,
            &[
                text("id"),
                bytes("digest"),
                text("subject"),
                texts("scopes"),
                int("created_at"),
                int("revoked_at"),
            ],
        )
    },
    Table {
        from: "answer_order o CROSS JOIN recorded_answer a ON a.n = o.n",
        counted: "answer_order o",
        org: "o.org",
        ..Table::plain(
            "recorded_answer",
            1,
            &[
                text("idempotency_key").from("o.idempotency_key"),
                bytes("fingerprint"),
                small("status"),
                text("headers"),
                bytes("body"),
                int("at"),
            ],
        )
    },
    Table {
        from: "counter_now",
        counted: "counter_now",
        ..Table::plain("counter", 1, &[text("name"), int("value")])
    },
];
