-- The ledger. Instants are BIGINT microseconds since 1970; lists are JSON in TEXT. Names are
-- compared byte by byte. Every key begins with the shard and the org, so that a statement which
-- forgets them finds no index.

-- A SKU as it is now. Its row is the lock of everything that is decided about it.
CREATE TABLE sku (
  shard               SMALLINT NOT NULL,
  org                 TEXT COLLATE "C" NOT NULL,
  sku                 TEXT COLLATE "C" NOT NULL,
  version             BIGINT NOT NULL,
  publish_version     BIGINT NOT NULL,
  updated_at          BIGINT NOT NULL,
  safety_stock        BIGINT NOT NULL,
  low_stock_threshold BIGINT,
  backorder_limit     BIGINT NOT NULL,
  low_since           BIGINT,
  on_hand             BIGINT NOT NULL,
  reserved            BIGINT NOT NULL CHECK (reserved >= 0),
  -- By location, as [[location, on hand, reserved], …].
  levels              TEXT NOT NULL,
  -- What it is made of now, as [[sku, units], …], and the bundles it is in, as [sku, …].
  parts               TEXT NOT NULL,
  used_in             TEXT NOT NULL,
  PRIMARY KEY (shard, org, sku)
  -- Room for the next state on the same page: no index changes with it.
) WITH (fillfactor = 70);

CREATE INDEX sku_low ON sku (shard, org, sku) WHERE low_since IS NOT NULL;

-- Every definition a bundle ever had; the newest is in force. An empty list: no bundle.
CREATE TABLE bundle (
  shard SMALLINT NOT NULL,
  org   TEXT COLLATE "C" NOT NULL,
  sku   TEXT COLLATE "C" NOT NULL,
  seq   BIGINT NOT NULL,
  parts TEXT NOT NULL,
  PRIMARY KEY (shard, org, sku, seq)
);

-- Ledger lines: added, never changed.
CREATE TABLE movement (
  shard                   SMALLINT NOT NULL,
  org                     TEXT COLLATE "C" NOT NULL,
  sku                     TEXT COLLATE "C" NOT NULL,
  seq                     BIGINT NOT NULL,
  at                      BIGINT NOT NULL,
  kind                    SMALLINT NOT NULL,
  location                TEXT COLLATE "C" NOT NULL,
  delta                   BIGINT NOT NULL,
  reserved_delta          BIGINT NOT NULL,
  quantity_after          BIGINT NOT NULL,
  reserved_after          BIGINT NOT NULL,
  location_quantity_after BIGINT NOT NULL,
  location_reserved_after BIGINT NOT NULL,
  safety_stock            BIGINT NOT NULL,
  low_stock_threshold     BIGINT,
  backorder_limit         BIGINT NOT NULL,
  publish                 BOOLEAN NOT NULL,
  reason                  TEXT,
  actor                   TEXT NOT NULL,
  source                  SMALLINT NOT NULL,
  reference               TEXT,
  PRIMARY KEY (shard, org, sku, seq)
);

CREATE INDEX movement_at ON movement (shard, org, sku, at);

CREATE TABLE reservation (
  shard      SMALLINT NOT NULL,
  org        TEXT COLLATE "C" NOT NULL,
  -- 16 bytes.
  id         BYTEA NOT NULL,
  order_id   TEXT COLLATE "C" NOT NULL,
  -- 1 active, 2 released, 3 committed, 4 expired.
  status     SMALLINT NOT NULL,
  items      TEXT NOT NULL,
  holds      TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  ended_at   BIGINT,
  PRIMARY KEY (shard, org, id),
  CHECK ((status = 1) = (ended_at IS NULL))
) WITH (fillfactor = 85);

-- An order has at most one active reservation.
CREATE UNIQUE INDEX reservation_active ON reservation (shard, org, order_id) WHERE status = 1;
CREATE INDEX reservation_order ON reservation (shard, org, order_id);
CREATE INDEX reservation_due ON reservation (shard, expires_at) WHERE status = 1;

-- By what they ask for.
CREATE TABLE reservation_sku (
  shard SMALLINT NOT NULL,
  org   TEXT COLLATE "C" NOT NULL,
  sku   TEXT COLLATE "C" NOT NULL,
  id    BYTEA NOT NULL,
  PRIMARY KEY (shard, org, sku, id)
);

-- Numbers that are given once.
CREATE TABLE counter (
  shard SMALLINT NOT NULL,
  org   TEXT COLLATE "C" NOT NULL,
  name  TEXT COLLATE "C" NOT NULL,
  value BIGINT NOT NULL,
  PRIMARY KEY (shard, org, name)
) WITH (fillfactor = 50);

-- Receipts of transactions: whether they were committed, or never will be.
CREATE TABLE receipt (
  shard   SMALLINT NOT NULL,
  id      UUID NOT NULL,
  at      BIGINT NOT NULL,
  is_done BOOLEAN NOT NULL,
  PRIMARY KEY (shard, id)
);

-- SKUs that channels are to be told of, by the node that published, and when it did.
CREATE TABLE doorbell (
  shard SMALLINT NOT NULL,
  org   TEXT COLLATE "C" NOT NULL,
  sku   TEXT COLLATE "C" NOT NULL,
  node  UUID NOT NULL,
  at    BIGINT NOT NULL,
  PRIMARY KEY (shard, org, sku)
) WITH (fillfactor = 50);
