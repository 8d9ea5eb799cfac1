//! Finding reservations that are due, without going through those that are not.

use crate::postgres::pool::MICROS_NOW;

/// Returns SQL for the org, id and expiry of reservations of a shard that are due at the instant of the
/// second parameter, or else by the database's clock: the earliest, up to a limit.
///
/// The clock is looked at once; in its place it would be asked again for every row of the index,
/// and every row read. The order and the limit have the planner take the index of what is due, also
/// of tables that it knows nothing of yet. That index knows no order among those of one instant: who
/// cares sorts them.
pub(in crate::postgres) fn due(shard: &str, limit: &str) -> String {
    format!(
        "SELECT r.org, r.id, r.expires_at
         FROM reservation r
         WHERE r.shard = {shard}
           AND r.status = 1
           AND r.expires_at <= (SELECT coalesce($2::bigint, {MICROS_NOW}))
           AND NOT EXISTS (
             SELECT 1
             FROM arrival a
             WHERE a.shard = r.shard
               AND a.org = r.org
               AND a.opened_at IS NULL
           )
         ORDER BY r.expires_at
         LIMIT {limit}"
    )
}
