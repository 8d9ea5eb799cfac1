-- The records of the sync engine: what is known of channels, beside the ledger's own tables.
--
-- Instants are INTEGER microseconds since 1970, enumerations TEXT words, booleans 0 or 1, and
-- what is never searched is JSON in TEXT. Every key begins with the org, so that one merchant's
-- rows lie together and a statement that forgets the org finds no index.
--
-- WITHOUT ROWID stands on narrow tables that are only read by their key. Wide rows keep their
-- rowid: a page of a WITHOUT ROWID table carries whole rows in its inner nodes, and each
-- secondary index repeats the key.

CREATE TABLE IF NOT EXISTS connection (
  org TEXT NOT NULL,
  id TEXT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('active', 'paused')),
  sync_inventory INTEGER NOT NULL CHECK (sync_inventory IN (0, 1)),
  sync_orders INTEGER NOT NULL CHECK (sync_orders IN (0, 1)),
  strategy TEXT
    CHECK (strategy IN ('master_wins', 'channel_wins', 'lower_wins', 'manual')),
  rules TEXT NOT NULL,
  poll_interval_minutes INTEGER,
  dry_run INTEGER NOT NULL CHECK (dry_run IN (0, 1)),
  endpoint TEXT,
  settings TEXT NOT NULL,
  sealed_credentials BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  last_sync INTEGER,
  last_error_at INTEGER,
  last_error TEXT,
  orders_seen_to INTEGER,
  restock_policy TEXT NOT NULL DEFAULT 'restock'
    CHECK (restock_policy IN ('restock', 'quarantine', 'none')),
  reason_code TEXT,
  reason_since INTEGER,
  blast_radius TEXT NOT NULL DEFAULT '{}',
  PRIMARY KEY (org, id),
  CHECK ((last_error_at IS NULL) = (last_error IS NULL))
) STRICT;

-- A mapping and what is known of its listing. The key makes it impossible that two SKUs share
-- one listing, whose number they would overwrite in turn.
CREATE TABLE IF NOT EXISTS listing (
  org TEXT NOT NULL,
  channel TEXT NOT NULL,
  listing_key TEXT NOT NULL,
  -- The mapping, as the merchant set it.
  sku TEXT NOT NULL,
  fields TEXT NOT NULL,
  strategy TEXT
    CHECK (strategy IN ('master_wins', 'channel_wins', 'lower_wins', 'manual')),
  rules TEXT NOT NULL,
  channel_fulfilled INTEGER NOT NULL CHECK (channel_fulfilled IN (0, 1)),
  enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
  -- The state, as the ledger decided it.
  base INTEGER,
  base_at INTEGER,
  booked_at INTEGER,
  in_flight_quantity INTEGER,
  in_flight_version INTEGER,
  in_flight_at INTEGER,
  acked_version INTEGER NOT NULL DEFAULT 0 CHECK (acked_version >= 0),
  acked_at INTEGER,
  observed_quantity INTEGER,
  observed_at INTEGER,
  provisional INTEGER NOT NULL DEFAULT 0,
  forced INTEGER NOT NULL DEFAULT 0 CHECK (forced IN (0, 1)),
  epoch INTEGER NOT NULL DEFAULT 0 CHECK (epoch BETWEEN 0 AND 4294967295),
  in_conflict INTEGER NOT NULL DEFAULT 0 CHECK (in_conflict IN (0, 1)),
  -- What the pushes met.
  parked_code TEXT,
  parked_detail TEXT,
  parked_at INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  -- How often it was revised in the vendor's day of the latest revision.
  revised_count INTEGER NOT NULL DEFAULT 0 CHECK (revised_count BETWEEN 0 AND 4294967295),
  revised_at INTEGER,
  -- Which listings show one number, and whether another one is told it.
  scope TEXT,
  follows INTEGER NOT NULL DEFAULT 0 CHECK (follows IN (0, 1)),
  PRIMARY KEY (org, channel, listing_key),
  CHECK (
    (in_flight_quantity IS NULL) = (in_flight_version IS NULL)
    AND (in_flight_quantity IS NULL) = (in_flight_at IS NULL)
  ),
  CHECK ((observed_quantity IS NULL) = (observed_at IS NULL)),
  CHECK (
    (parked_code IS NULL) = (parked_detail IS NULL)
    AND (parked_code IS NULL) = (parked_at IS NULL)
  )
) STRICT;

-- One of the listings that show one number is told it, the others follow.
CREATE UNIQUE INDEX IF NOT EXISTS listing_leader
  ON listing (org, scope)
  WHERE scope IS NOT NULL AND follows = 0;
CREATE INDEX IF NOT EXISTS listing_by_scope
  ON listing (org, scope)
  WHERE scope IS NOT NULL;

-- The order of the listing lists, over all channels and over one. No state column is in an
-- index, so a settled push rewrites one row and nothing else.
CREATE INDEX IF NOT EXISTS listing_by_sku
  ON listing (org, sku, listing_key, channel);
CREATE INDEX IF NOT EXISTS listing_by_channel_sku
  ON listing (org, channel, sku, listing_key);

-- What a channel's catalogue held when it was last read, mapped or not.
CREATE TABLE IF NOT EXISTS channel_listing (
  org TEXT NOT NULL,
  channel TEXT NOT NULL,
  -- The listing's key; for lack of one, a name made of what the channel says.
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

CREATE INDEX IF NOT EXISTS channel_listing_by_sku
  ON channel_listing (org, channel, sku, name)
  WHERE sku IS NOT NULL;
CREATE INDEX IF NOT EXISTS channel_listing_by_found
  ON channel_listing (org, channel, found, name);
CREATE INDEX IF NOT EXISTS channel_listing_by_essence
  ON channel_listing (org, channel, essence)
  WHERE essence IS NOT NULL;

-- Kept when a connection goes: connected again, its orders must not be booked twice.
CREATE TABLE IF NOT EXISTS order_line (
  org TEXT NOT NULL,
  channel TEXT NOT NULL,
  order_id TEXT NOT NULL,
  line_id TEXT NOT NULL,
  sku TEXT NOT NULL,
  sold INTEGER NOT NULL CHECK (sold >= 0),
  restocked INTEGER NOT NULL CHECK (restocked >= 0),
  at INTEGER NOT NULL,
  voided INTEGER NOT NULL DEFAULT 0 CHECK (voided >= 0),
  held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
  -- What is held, as [[sku, location, units], …].
  holds TEXT NOT NULL DEFAULT '[]',
  PRIMARY KEY (org, channel, order_id, line_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS order_line_held
  ON order_line (org, channel, order_id, line_id)
  WHERE held > 0;

-- Lines of orders that no mapping and no SKU answered to: booked when one does.
CREATE TABLE IF NOT EXISTS unmapped_line (
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

-- What an operator has paused; of the whole org the SKU is empty.
CREATE TABLE IF NOT EXISTS pause (
  org TEXT NOT NULL,
  sku TEXT NOT NULL,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  note TEXT,
  PRIMARY KEY (org, sku)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS run (
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

CREATE INDEX IF NOT EXISTS run_by_start
  ON run (org, started_at, id);

-- After a crash the few runs that were under way are found without reading all.
CREATE INDEX IF NOT EXISTS run_running
  ON run (status)
  WHERE status = 'running';

-- AUTOINCREMENT, here and below: an id is a cursor and a name, never given twice. The indexes
-- end in the id although they do not say so, because it is the rowid.
CREATE TABLE IF NOT EXISTS sync_history (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org TEXT NOT NULL,
  at INTEGER NOT NULL,
  operation TEXT NOT NULL,
  channel TEXT,
  sku TEXT,
  status TEXT NOT NULL,
  run TEXT,
  detail TEXT NOT NULL
) STRICT;

CREATE INDEX IF NOT EXISTS sync_history_by_org
  ON sync_history (org);
CREATE INDEX IF NOT EXISTS sync_history_by_operation
  ON sync_history (org, operation);
CREATE INDEX IF NOT EXISTS sync_history_by_channel
  ON sync_history (org, channel)
  WHERE channel IS NOT NULL;
CREATE INDEX IF NOT EXISTS sync_history_by_sku
  ON sync_history (org, sku)
  WHERE sku IS NOT NULL;

-- Open while closed_at is null. Who closed it, and how, may be noted before or after: the note
-- is written beside the ledger, whose rows may lag.
CREATE TABLE IF NOT EXISTS conflict (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org TEXT NOT NULL,
  channel TEXT NOT NULL,
  listing_key TEXT NOT NULL,
  sku TEXT NOT NULL,
  master INTEGER NOT NULL,
  base INTEGER,
  expected INTEGER NOT NULL,
  observed INTEGER NOT NULL,
  opened_at INTEGER NOT NULL,
  seen_at INTEGER NOT NULL,
  closed_at INTEGER,
  resolved_at INTEGER,
  resolved_by TEXT,
  resolution TEXT,
  note TEXT,
  CHECK (
    (resolved_at IS NULL) = (resolved_by IS NULL)
    AND (resolved_at IS NULL) = (resolution IS NULL)
  )
) STRICT;

-- A listing waits for at most one decision.
CREATE UNIQUE INDEX IF NOT EXISTS conflict_open
  ON conflict (org, channel, listing_key)
  WHERE closed_at IS NULL;
CREATE INDEX IF NOT EXISTS conflict_by_org
  ON conflict (org);

-- Done rows stay for a while without their bodies, so that a delivery that the vendor repeats
-- is known again.
CREATE TABLE IF NOT EXISTS inbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  org TEXT NOT NULL,
  channel TEXT NOT NULL,
  delivery_id TEXT NOT NULL,
  topic TEXT NOT NULL,
  body BLOB NOT NULL,
  received_at INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'dead')),
  attempts INTEGER NOT NULL CHECK (attempts >= 0),
  next_at INTEGER NOT NULL,
  why TEXT,
  UNIQUE (org, channel, delivery_id)
) STRICT;

CREATE INDEX IF NOT EXISTS inbox_waiting
  ON inbox (state)
  WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS inbox_done
  ON inbox (received_at)
  WHERE state = 'done';

CREATE TABLE IF NOT EXISTS subscription (
  org TEXT NOT NULL,
  id TEXT NOT NULL,
  url TEXT NOT NULL,
  events TEXT NOT NULL,
  sealed_secret BLOB NOT NULL,
  enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
  description TEXT,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS delivery (
  org TEXT NOT NULL,
  id TEXT NOT NULL,
  subscription TEXT NOT NULL,
  event TEXT NOT NULL,
  body TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
  attempts INTEGER NOT NULL CHECK (attempts >= 0),
  next_at INTEGER NOT NULL,
  last_result TEXT,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (org, id)
) STRICT;

CREATE INDEX IF NOT EXISTS delivery_by_subscription
  ON delivery (org, subscription, id);
CREATE INDEX IF NOT EXISTS delivery_due
  ON delivery (next_at, id)
  WHERE state = 'pending';

-- The id alone is the key: a caller shows it before anybody knows the org.
CREATE TABLE IF NOT EXISTS api_key (
  id TEXT NOT NULL PRIMARY KEY,
  org TEXT NOT NULL,
  digest BLOB NOT NULL CHECK (length(digest) = 32),
  subject TEXT NOT NULL,
  scopes TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS api_key_by_org
  ON api_key (org, id);

-- The digest alone is the key: a merchant comes back with the state before anybody knows the org.
CREATE TABLE IF NOT EXISTS consent (
  state_digest BLOB NOT NULL PRIMARY KEY CHECK (length(state_digest) = 32),
  org TEXT NOT NULL,
  channel TEXT NOT NULL,
  kind TEXT NOT NULL,
  redirect TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS consent_by_channel
  ON consent (org, channel);

-- Bulk batches that a vendor has and whose end is not known yet; the items as
-- [[sku, listing_key, quantity, version, epoch, earlier], …], in the order in which they were sent.
CREATE TABLE IF NOT EXISTS feed (
  org TEXT NOT NULL,
  channel TEXT NOT NULL,
  id TEXT NOT NULL,
  ticket TEXT NOT NULL,
  items TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (org, channel, id)
) STRICT;

-- Appended, and found by a digest of org and key once that has been written behind.
CREATE TABLE IF NOT EXISTS recorded_answer (
  n INTEGER PRIMARY KEY,
  org TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
  status INTEGER NOT NULL CHECK (status BETWEEN 100 AND 999),
  headers TEXT NOT NULL,
  body BLOB NOT NULL,
  at INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS answer_digest (
  digest INTEGER NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (digest, n)
) STRICT, WITHOUT ROWID;
