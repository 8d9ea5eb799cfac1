-- Connections, listings and catalogues: what is known of channels, beside the ledger's tables.
--
-- Instants are BIGINT microseconds since 1970, enumerations TEXT words, counters that fill 32 bits
-- BIGINT, and what is never searched is JSON in TEXT (JSONB would change it and refuse some of it).
-- Names are compared by their bytes: COLLATE "C".
--
-- Of indexes that cost the same to a planner that has not seen a table analyzed, it takes the newest.
-- So the key is made after indexes that hold its columns and more between them, and before those
-- that are for rows which a look by the key does not ask for.

CREATE TABLE connection (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  id TEXT COLLATE "C" NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('active', 'paused')),
  sync_inventory BOOLEAN NOT NULL,
  sync_orders BOOLEAN NOT NULL,
  strategy TEXT
    CHECK (strategy IN ('master_wins', 'channel_wins', 'lower_wins', 'manual')),
  rules TEXT NOT NULL,
  poll_interval_minutes BIGINT CHECK (poll_interval_minutes BETWEEN 0 AND 4294967295),
  dry_run BOOLEAN NOT NULL,
  endpoint TEXT,
  settings TEXT NOT NULL,
  sealed_credentials BYTEA NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  last_sync BIGINT,
  last_error_at BIGINT,
  last_error TEXT,
  orders_seen_to BIGINT,
  restock_policy TEXT NOT NULL CHECK (restock_policy IN ('restock', 'quarantine', 'none')),
  reason_code TEXT,
  reason_since BIGINT,
  PRIMARY KEY (shard, org, id),
  CHECK ((last_error_at IS NULL) = (last_error IS NULL)),
  CHECK ((reason_code IS NULL) = (reason_since IS NULL))
);

-- A mapping and what is known of its listing. The key makes it impossible that two SKUs share
-- one listing, whose number they would overwrite in turn. No state column is in an index, so
-- that a settled push rewrites its row within the page: hence the room that pages keep free.
CREATE TABLE listing (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  listing_key TEXT COLLATE "C" NOT NULL,
  -- Grows with each mapping that is made: which of them came first.
  nth BIGINT NOT NULL,
  -- The mapping, as the merchant set it.
  sku TEXT COLLATE "C" NOT NULL,
  fields TEXT NOT NULL,
  strategy TEXT
    CHECK (strategy IN ('master_wins', 'channel_wins', 'lower_wins', 'manual')),
  rules TEXT NOT NULL,
  channel_fulfilled BOOLEAN NOT NULL,
  enabled BOOLEAN NOT NULL,
  -- The state, as the ledger decided it.
  base BIGINT,
  base_at BIGINT,
  booked_at BIGINT,
  in_flight_quantity BIGINT,
  in_flight_version BIGINT,
  in_flight_at BIGINT,
  acked_version BIGINT NOT NULL DEFAULT 0 CHECK (acked_version >= 0),
  acked_at BIGINT,
  observed_quantity BIGINT,
  observed_at BIGINT,
  provisional BIGINT NOT NULL DEFAULT 0,
  forced BOOLEAN NOT NULL DEFAULT false,
  epoch BIGINT NOT NULL DEFAULT 0 CHECK (epoch BETWEEN 0 AND 4294967295),
  in_conflict BOOLEAN NOT NULL DEFAULT false,
  -- What the pushes met.
  parked_code TEXT,
  parked_detail TEXT,
  parked_at BIGINT,
  attempts BIGINT NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 4294967295),
  -- How often it was revised in the vendor's day of the latest revision.
  revised_count BIGINT NOT NULL DEFAULT 0 CHECK (revised_count BETWEEN 0 AND 4294967295),
  revised_at BIGINT,
  -- Which listings show one number, and whether another one is told it.
  scope TEXT COLLATE "C",
  follows BOOLEAN NOT NULL DEFAULT false,
  CHECK (
    (in_flight_quantity IS NULL) = (in_flight_version IS NULL)
    AND (in_flight_quantity IS NULL) = (in_flight_at IS NULL)
  ),
  CHECK ((observed_quantity IS NULL) = (observed_at IS NULL)),
  CHECK (
    (parked_code IS NULL) = (parked_detail IS NULL)
    AND (parked_code IS NULL) = (parked_at IS NULL)
  )
) WITH (fillfactor = 80);

-- The order of the listing lists, over all channels and over one.
CREATE INDEX listing_by_sku
  ON listing (shard, org, sku, listing_key, channel);
CREATE INDEX listing_by_channel_sku
  ON listing (shard, org, channel, sku, listing_key);
ALTER TABLE listing
  ADD PRIMARY KEY (shard, org, channel, listing_key);

-- One of the listings that show one number is told it, the others follow.
CREATE UNIQUE INDEX listing_leader
  ON listing (shard, org, scope)
  WHERE scope IS NOT NULL AND NOT follows;
CREATE INDEX listing_by_scope
  ON listing (shard, org, scope)
  WHERE scope IS NOT NULL;

-- What a channel's catalogue held when it was last read, mapped or not.
CREATE TABLE channel_listing (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  -- The listing's key; for lack of one, a name made of what the channel says.
  name TEXT COLLATE "C" NOT NULL,
  listing_key TEXT COLLATE "C",
  sku TEXT COLLATE "C",
  essence TEXT COLLATE "C",
  title TEXT COLLATE "C",
  fields TEXT NOT NULL,
  quantity BIGINT,
  channel_fulfilled BOOLEAN NOT NULL,
  found TEXT NOT NULL CHECK (
    found IN ('matched', 'near_miss', 'duplicate', 'unknown_sku', 'no_sku', 'incomplete')
  ),
  suggestions TEXT[] NOT NULL,
  was_mapped BOOLEAN NOT NULL,
  run TEXT COLLATE "C" NOT NULL,
  seen_at BIGINT NOT NULL
);

CREATE INDEX channel_listing_by_found
  ON channel_listing (shard, org, channel, found, name);
ALTER TABLE channel_listing
  ADD PRIMARY KEY (shard, org, channel, name);

-- A vendor's text may be of any length, an index's entry not. What is longer than this is no SKU of
-- the ledger's, and nothing that is like one.
CREATE INDEX channel_listing_by_sku
  ON channel_listing (shard, org, channel, sku, name)
  WHERE octet_length(sku) <= 1000;
CREATE INDEX channel_listing_by_essence
  ON channel_listing (shard, org, channel, essence)
  WHERE octet_length(essence) <= 1000;

-- A merchant comes back with the state before anybody knows the org: it is looked for in every
-- shard, so that all that is of a connection is in one.
CREATE TABLE consent (
  shard SMALLINT NOT NULL,
  state_digest BYTEA NOT NULL CHECK (length(state_digest) = 32),
  org TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  kind TEXT NOT NULL,
  redirect TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (shard, state_digest)
);

CREATE INDEX consent_by_channel
  ON consent (shard, org, channel, created_at);

-- Bulk batches that a vendor has and whose end is not known yet; the items as
-- [[sku, listing_key, quantity, version, epoch, earlier], …], in the order in which they were sent.
CREATE TABLE feed (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  id TEXT COLLATE "C" NOT NULL,
  ticket TEXT NOT NULL,
  items TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (shard, org, channel, id)
);
