//! The tables, and how an older database is brought forward.
//!
//! Versions go forward only, each in a transaction of its own. Every version says which is the
//! oldest one whose program still works with its tables, so that nodes of two versions may run
//! side by side while they are replaced one by one.

use super::error::{PgError, Result};
use super::pool::{MICROS_NOW, Pool};
use super::sql::Conn;

/// A step of the schema.
struct Version {
    number: i32,
    /// The oldest program that works with it.
    compatible_from: i32,
    steps: &'static [&'static str],
}

/// Every version there ever was; the last is what this program knows.
const VERSIONS: [Version; 5] = [
    Version {
        number: 1,
        compatible_from: 1,
        steps: &[
            include_str!("schema/ledger.sql"),
            include_str!("schema/records_listings.sql"),
            include_str!("schema/records_rest.sql"),
        ],
    },
    // A program that does not know which orgs are arriving would work on them.
    Version { number: 2, compatible_from: 2, steps: &[include_str!("schema/arrival.sql")] },
    // From here on nodes hold leases: one that knows of none would work beside their holders.
    Version { number: 3, compatible_from: 3, steps: &[include_str!("schema/nodes.sql")] },
    // A program that knows no held runs could not read them, and would send what is held.
    Version { number: 4, compatible_from: 4, steps: &[include_str!("schema/held_runs.sql")] },
    // A program that knows no pauses would send what is paused.
    Version { number: 5, compatible_from: 5, steps: &[include_str!("schema/pauses.sql")] },
];

/// Brings the database to what this program knows.
///
/// # Errors
/// When it is newer than this program, and does not go with it.
pub(super) async fn migrate(pool: &Pool) -> Result<()> {
    let client = pool.client().await?;
    // Two nodes that begin at the same time may both find nothing: one of them fails.
    let made = make_versions(&client).await;
    if made.is_err() {
        make_versions(&client).await?;
    }
    for version in &VERSIONS {
        // A step may take long on a large database.
        client.batch_execute("BEGIN; SET LOCAL statement_timeout = 0").await?;
        let stepped = step(&client, version).await;
        client.batch_execute(if stepped.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        stepped?;
    }
    Ok(())
}

async fn make_versions(client: &Conn) -> Result<()> {
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_version (
               number INTEGER PRIMARY KEY,
               compatible_from INTEGER NOT NULL,
               at BIGINT NOT NULL
             )",
        )
        .await?;
    Ok(())
}

/// Takes a step unless it has been taken.
async fn step(client: &Conn, version: &Version) -> Result<()> {
    client.batch_execute("LOCK TABLE schema_version IN EXCLUSIVE MODE").await?;
    let found = client
        .query_one(
            "SELECT coalesce(max(number), 0),
               coalesce(max(compatible_from) FILTER (WHERE number > $1), 0)
             FROM schema_version",
            &[&version.number],
        )
        .await?;
    let (newest, needs): (i32, i32) = (found.try_get(0)?, found.try_get(1)?);
    let known = VERSIONS.last().map_or(0, |last| last.number);
    if newest > known && needs > known {
        return Err(PgError::Corrupt(format!(
            "the database is of version {newest}, for programs that know {needs}; this one knows \
             {known}"
        )));
    }
    if newest >= version.number {
        return Ok(());
    }
    for sql in version.steps {
        client.batch_execute(sql).await?;
    }
    let noted = format!(
        "INSERT INTO schema_version VALUES ({}, {}, {MICROS_NOW})",
        version.number, version.compatible_from
    );
    Ok(client.batch_execute(&noted).await?)
}
