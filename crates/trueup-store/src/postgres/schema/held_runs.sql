-- What one act may change without being asked, and runs that wait for an operator.
ALTER TABLE connection ADD COLUMN blast_radius TEXT NOT NULL DEFAULT '{}';
ALTER TABLE run ADD COLUMN request TEXT NOT NULL DEFAULT '{}';
ALTER TABLE run DROP CONSTRAINT run_status_check;
ALTER TABLE run ADD CONSTRAINT run_status_check
  CHECK (status IN ('running', 'completed', 'partial', 'failed', 'held', 'cancelled'));

CREATE INDEX run_by_start
  ON run (shard, org, started_at, id);
