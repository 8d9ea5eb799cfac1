-- Records beside the ledger: orders' lines, runs, history, conflicts, inbox, outgoing webhooks, API
-- keys and recorded answers.
--
-- Instants are microseconds since 1970, enumerations words, and what is never searched is JSON in
-- TEXT, which keeps it as it was written. Every key begins with the shard and, but for API keys,
-- the org. Texts are compared byte by byte.
--
-- Of indexes that cost the same to a planner that has not seen a table analyzed, it takes the newest:
-- so the key is made after indexes that hold its columns and more between them.

-- Kept when a connection goes: connected again, its orders must not be booked twice.
CREATE TABLE order_line (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  order_id TEXT COLLATE "C" NOT NULL,
  line_id TEXT COLLATE "C" NOT NULL,
  sku TEXT COLLATE "C" NOT NULL,
  sold BIGINT NOT NULL CHECK (sold >= 0),
  restocked BIGINT NOT NULL CHECK (restocked >= 0),
  at BIGINT NOT NULL,
  voided BIGINT NOT NULL CHECK (voided >= 0),
  held BIGINT NOT NULL CHECK (held >= 0),
  -- What is held, as [[sku, location, units], …].
  holds TEXT NOT NULL,
  PRIMARY KEY (shard, org, channel, order_id, line_id)
);

CREATE INDEX order_line_held
  ON order_line (shard, org, channel, order_id, line_id)
  WHERE held > 0;

-- Lines of orders that no mapping and no SKU answered to: booked when one does.
CREATE TABLE unmapped_line (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  order_id TEXT COLLATE "C" NOT NULL,
  line_id TEXT COLLATE "C" NOT NULL,
  sku TEXT COLLATE "C",
  fields TEXT NOT NULL,
  sold BIGINT NOT NULL CHECK (sold >= 0),
  restocked BIGINT NOT NULL CHECK (restocked >= 0),
  held BIGINT NOT NULL CHECK (held >= 0),
  cancelled BIGINT NOT NULL CHECK (cancelled >= 0),
  placed_at BIGINT,
  updated_at BIGINT,
  since BIGINT NOT NULL,
  PRIMARY KEY (shard, org, channel, order_id, line_id)
);

CREATE TABLE run (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  id TEXT COLLATE "C" NOT NULL,
  operation TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  status TEXT COLLATE "C" NOT NULL
    CHECK (status IN ('running', 'completed', 'partial', 'failed')),
  dry_run BOOLEAN NOT NULL,
  counters TEXT NOT NULL,
  warnings TEXT NOT NULL,
  items TEXT NOT NULL,
  error TEXT,
  started_at BIGINT NOT NULL,
  finished_at BIGINT,
  PRIMARY KEY (shard, org, id)
);

-- After a crash the few runs that were under way are found without reading all.
CREATE INDEX run_running
  ON run (shard)
  WHERE status = 'running';

-- Ids here and below are an org's own, counted in the transaction that adds the row: a cursor
-- never passes over a row that comes later.
CREATE TABLE sync_history (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  at BIGINT NOT NULL,
  operation TEXT COLLATE "C" NOT NULL,
  channel TEXT COLLATE "C",
  sku TEXT COLLATE "C",
  status TEXT COLLATE "C" NOT NULL,
  run TEXT COLLATE "C",
  detail TEXT NOT NULL,
  PRIMARY KEY (shard, org, id)
);

CREATE INDEX sync_history_by_operation
  ON sync_history (shard, org, operation, id);
CREATE INDEX sync_history_by_channel
  ON sync_history (shard, org, channel, id)
  WHERE channel IS NOT NULL;
CREATE INDEX sync_history_by_sku
  ON sync_history (shard, org, sku, id)
  WHERE sku IS NOT NULL;

-- Open while closed_at is null. Who closed it, and how, may be noted before or after.
CREATE TABLE conflict (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  listing_key TEXT COLLATE "C" NOT NULL,
  sku TEXT COLLATE "C" NOT NULL,
  master BIGINT NOT NULL,
  base BIGINT,
  expected BIGINT NOT NULL,
  observed BIGINT NOT NULL,
  opened_at BIGINT NOT NULL,
  seen_at BIGINT NOT NULL,
  closed_at BIGINT,
  resolved_at BIGINT,
  resolved_by TEXT,
  resolution TEXT,
  note TEXT,
  PRIMARY KEY (shard, org, id),
  CONSTRAINT conflict_resolved_whole CHECK (
    (resolved_at IS NULL) = (resolved_by IS NULL)
    AND (resolved_at IS NULL) = (resolution IS NULL)
  )
);

-- A listing waits for at most one decision.
CREATE UNIQUE INDEX conflict_open
  ON conflict (shard, org, channel, listing_key)
  WHERE closed_at IS NULL;

-- Done rows stay for a while without their bodies, so that a delivery that the vendor repeats
-- is known again.
CREATE TABLE inbox (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  channel TEXT COLLATE "C" NOT NULL,
  delivery_id TEXT COLLATE "C" NOT NULL,
  topic TEXT NOT NULL,
  body BYTEA NOT NULL,
  received_at BIGINT NOT NULL,
  state TEXT COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'done', 'dead')),
  attempts BIGINT NOT NULL CHECK (attempts >= 0),
  next_at BIGINT NOT NULL,
  why TEXT
);

CREATE UNIQUE INDEX inbox_delivery
  ON inbox (shard, org, channel, delivery_id);
-- The order in which they are worked on, over all orgs of a shard.
CREATE INDEX inbox_waiting
  ON inbox (shard, received_at, org, id)
  WHERE state = 'waiting';
CREATE INDEX inbox_done
  ON inbox (shard, received_at)
  WHERE state = 'done';
ALTER TABLE inbox
  ADD PRIMARY KEY (shard, org, id);

CREATE TABLE subscription (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  id TEXT COLLATE "C" NOT NULL,
  url TEXT NOT NULL,
  -- None stands for all.
  events TEXT[] NOT NULL,
  sealed_secret BYTEA NOT NULL,
  enabled BOOLEAN NOT NULL,
  description TEXT,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (shard, org, id)
);

CREATE TABLE delivery (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  id TEXT COLLATE "C" NOT NULL,
  subscription TEXT COLLATE "C" NOT NULL,
  event TEXT NOT NULL,
  body TEXT NOT NULL,
  state TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
  attempts BIGINT NOT NULL CHECK (attempts >= 0),
  next_at BIGINT NOT NULL,
  last_result TEXT,
  created_at BIGINT NOT NULL
);

CREATE INDEX delivery_by_subscription
  ON delivery (shard, org, subscription, id);
CREATE INDEX delivery_due
  ON delivery (shard, next_at, id)
  WHERE state = 'pending';
ALTER TABLE delivery
  ADD PRIMARY KEY (shard, org, id);

-- The shard is the id's: a caller shows it before anybody knows the org.
CREATE TABLE api_key (
  shard SMALLINT NOT NULL,
  id TEXT COLLATE "C" NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  digest BYTEA NOT NULL CHECK (octet_length(digest) = 32),
  subject TEXT NOT NULL,
  scopes TEXT[] NOT NULL,
  created_at BIGINT NOT NULL,
  revoked_at BIGINT,
  PRIMARY KEY (shard, id)
);

CREATE INDEX api_key_by_org
  ON api_key (shard, org, id);

CREATE TABLE recorded_answer (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  idempotency_key TEXT COLLATE "C" NOT NULL,
  fingerprint BYTEA NOT NULL CHECK (octet_length(fingerprint) = 32),
  status SMALLINT NOT NULL CHECK (status BETWEEN 100 AND 999),
  headers TEXT NOT NULL,
  body BYTEA NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (shard, org, idempotency_key)
);

CREATE INDEX recorded_answer_by_age
  ON recorded_answer (shard, at);
