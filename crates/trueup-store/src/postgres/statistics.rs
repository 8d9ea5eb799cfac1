//! What the planner knows of tables that grow fast.
//!
//! The database looks at its tables by itself, about once a minute. Of one that is filled in its
//! first seconds it knows nothing, and plans that were made when it was empty are kept. So this
//! looks at tables as soon as they have doubled.

use super::error::Result;
use super::sql::{self, Conn};

/// Below this many rows no plan is bad. Far above, the database itself comes soon enough, and
/// looking costs more.
const ROWS_MIN: i64 = 500;
const ROWS_MAX: i64 = 1_000_000;

/// Has the tables looked at that hold twice as many rows as when they last were.
pub(super) async fn refresh(conn: &Conn) -> Result<()> {
    const GROWN: &str = "
        SELECT format('%I.%I', s.schemaname, s.relname)
        FROM pg_stat_user_tables s
        JOIN pg_class c ON c.oid = s.relid
        WHERE s.schemaname = ANY(current_schemas(FALSE))
          AND s.n_live_tup BETWEEN $1 AND $2
          AND s.n_live_tup > 2 * greatest(c.reltuples, 0)
        ORDER BY 1";
    let grown: Vec<String> =
        sql::all(conn, GROWN, &[&ROWS_MIN, &ROWS_MAX], |columns| columns.take()).await?;
    for table in grown {
        // Somebody else may be at it.
        conn.batch_execute(&format!("ANALYZE (SKIP_LOCKED) {table}")).await?;
    }
    Ok(())
}
