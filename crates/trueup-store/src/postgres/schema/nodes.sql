-- The nodes that run on this database. They are of no org and stand in shard 0.
CREATE TABLE node (
  shard      SMALLINT NOT NULL,
  id         UUID NOT NULL,
  name       TEXT NOT NULL,
  url        TEXT NOT NULL,
  version    TEXT NOT NULL,
  started_at BIGINT NOT NULL,
  seen_at    BIGINT NOT NULL,
  PRIMARY KEY (shard, id)
) WITH (fillfactor = 50);

-- Who works for a shard. The epoch grows whenever it is taken; until then nobody else takes it.
CREATE TABLE lease (
  shard SMALLINT PRIMARY KEY,
  node  UUID,
  epoch BIGINT NOT NULL,
  until BIGINT NOT NULL
) WITH (fillfactor = 50);

INSERT INTO lease (shard, node, epoch, until)
SELECT shard, NULL, 0, 0
FROM generate_series(0, 63) AS shard;
