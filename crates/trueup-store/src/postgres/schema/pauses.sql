-- What an operator has paused; of the whole org the SKU is empty.
CREATE TABLE pause (
  shard SMALLINT NOT NULL,
  org TEXT COLLATE "C" NOT NULL,
  sku TEXT COLLATE "C" NOT NULL,
  at BIGINT NOT NULL,
  actor TEXT NOT NULL,
  note TEXT,
  PRIMARY KEY (shard, org, sku)
);
