-- Orgs that move here from another store. Until one is open nobody reads or writes anything of it,
-- and nothing of it is worked on: statements over all orgs of a shard pass over it.
CREATE TABLE arrival (
  shard     SMALLINT NOT NULL,
  org       TEXT COLLATE "C" NOT NULL,
  -- Which move it is: its source bears the same name.
  move      TEXT NOT NULL,
  began_at  BIGINT NOT NULL,
  opened_at BIGINT,
  PRIMARY KEY (shard, org)
);

-- How far each table of an org that arrives has come: the last key that was copied.
CREATE TABLE migration (
  shard    SMALLINT NOT NULL,
  org      TEXT COLLATE "C" NOT NULL,
  part     TEXT COLLATE "C" NOT NULL,
  last_key TEXT,
  copied   BIGINT NOT NULL,
  PRIMARY KEY (shard, org, part)
) WITH (fillfactor = 50);
