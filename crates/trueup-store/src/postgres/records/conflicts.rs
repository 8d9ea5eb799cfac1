//! Differences that wait, or waited, for an operator.
//!
//! The ledger opens and closes them ([`apply`]); who decided and how is noted beside it
//! ([`note_resolved`]). A conflict is open while it is not closed, whatever is noted.

use trueup_core::{ChannelId, ConflictFacts, ListingKey, Org, Timestamp};

use super::rounds::rounds;
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::stored;
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{
    Conn, List, Param, Plain, all, count, counted, execute, first, next_numbers,
};
use crate::{Conflict, Page, Resolved};

/// What a decision makes of a listing's conflict.
#[derive(Debug, Clone, Copy)]
pub(in crate::postgres) enum Turn<'a> {
    /// It opens, or has these numbers now.
    Flag(&'a ConflictFacts),
    /// It closes, where one is open.
    Close {
        /// The connection.
        channel: &'a ChannelId,
        /// The listing.
        key: &'a ListingKey,
        /// When.
        at: Timestamp,
    },
}

impl<'a> Turn<'a> {
    fn listing(&self) -> (&'a ChannelId, &'a ListingKey) {
        match self {
            Self::Flag(facts) => (&facts.channel, &facts.key),
            Self::Close { channel, key, .. } => (channel, key),
        }
    }
}

/// Which conflicts to list, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::postgres) struct ConflictQuery<'a> {
    /// Only open ones (true) or closed ones (false).
    pub(in crate::postgres) open: Option<bool>,
    /// Only of this connection.
    pub(in crate::postgres) channel: Option<&'a ChannelId>,
    /// Below this id.
    pub(in crate::postgres) before: Option<u64>,
    /// At most so many.
    pub(in crate::postgres) limit: usize,
}

/// Opens conflicts, or gives open ones the newest numbers, and closes others, in this order.
pub(in crate::postgres) async fn apply(conn: &Conn, org: &Org, turns: &[Turn<'_>]) -> Result<()> {
    for round in rounds(turns, |turn| turn.listing()) {
        let mut flagged = Vec::new();
        let mut closed = Vec::new();
        for turn in round {
            match *turn {
                Turn::Flag(facts) => flagged.push(facts),
                Turn::Close { channel, key, at } => closed.push((channel, key, at)),
            }
        }
        flag(conn, org, flagged).await?;
        close(conn, org, &closed).await?;
    }
    Ok(())
}

/// Opens the conflicts of listings, or gives the open ones the newest numbers.
async fn flag(conn: &Conn, org: &Org, mut given: Vec<&ConflictFacts>) -> Result<()> {
    const UPDATE: &str = "
        WITH given AS MATERIALIZED (
          SELECT $1::smallint AS shard, $2::text AS org, facts.*
          FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::bigint[], $10::bigint[]
          ) WITH ORDINALITY
            AS facts (channel, listing_key, sku, master, base, expected, observed, at, place)
        )
        UPDATE conflict
        SET sku = given.sku,
          master = given.master,
          base = given.base,
          expected = given.expected,
          observed = given.observed,
          seen_at = given.at
        FROM given
        WHERE conflict.shard = given.shard
          AND conflict.org = given.org
          AND conflict.channel = given.channel
          AND conflict.listing_key = given.listing_key
          AND conflict.closed_at IS NULL
        RETURNING given.place - 1";
    // Another one that opened a listing's conflict meanwhile breaks the index: decided anew.
    const INSERT: &str = "
        INSERT INTO conflict (
          shard, org, channel, listing_key, sku, master, base, expected, observed, opened_at,
          seen_at, id
        )
        SELECT $1, $2, channel, listing_key, sku, master, base, expected, observed, at, at,
          $11 + place - 1
        FROM unnest(
          $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
          $9::bigint[], $10::bigint[]
        ) WITH ORDINALITY
          AS given (channel, listing_key, sku, master, base, expected, observed, at, place)";
    if given.is_empty() {
        return Ok(());
    }
    let facts = FactColumns::of(org, &given);
    let updated = all(conn, UPDATE, &facts.params(), |columns| columns.small::<usize>()).await?;
    let mut place = 0;
    given.retain(|_| {
        place += 1;
        !updated.contains(&(place - 1))
    });
    if given.is_empty() {
        return Ok(());
    }
    let first = next_numbers(conn, org, "conflict", given.len()).await?;
    let facts = FactColumns::of(org, &given);
    let mut params = facts.params().to_vec();
    params.push(&first);
    execute(conn, INSERT, &params).await?;
    Ok(())
}

/// Facts of conflicts as arrays.
#[derive(Default)]
struct FactColumns<'a> {
    shard: i16,
    org: &'a str,
    channels: Vec<&'a str>,
    keys: Vec<&'a str>,
    skus: Vec<&'a str>,
    master: Vec<i64>,
    base: Vec<Option<i64>>,
    expected: Vec<i64>,
    observed: Vec<i64>,
    at: Vec<i64>,
}

impl<'a> FactColumns<'a> {
    fn of(org: &'a Org, given: &[&'a ConflictFacts]) -> Self {
        let mut columns = Self { shard: shard_of(org), org: org.as_str(), ..Self::default() };
        for facts in given {
            columns.channels.push(facts.channel.as_str());
            columns.keys.push(facts.key.as_str());
            columns.skus.push(facts.sku.as_str());
            columns.master.push(facts.master);
            columns.base.push(facts.base);
            columns.expected.push(facts.expected);
            columns.observed.push(facts.observed);
            columns.at.push(facts.at.micros());
        }
        columns
    }

    fn params(&self) -> [Param<'_>; 10] {
        [
            &self.shard,
            &self.org,
            &self.channels,
            &self.keys,
            &self.skus,
            &self.master,
            &self.base,
            &self.expected,
            &self.observed,
            &self.at,
        ]
    }
}

/// Closes the open conflicts of listings, where there are.
async fn close(
    conn: &Conn,
    org: &Org,
    given: &[(&ChannelId, &ListingKey, Timestamp)],
) -> Result<()> {
    const SQL: &str = "
        WITH given AS MATERIALIZED (
          SELECT $1::smallint AS shard, $2::text AS org, listing.*
          FROM unnest($3::text[], $4::text[], $5::bigint[]) AS listing (channel, listing_key, at)
        )
        UPDATE conflict
        SET closed_at = given.at
        FROM given
        WHERE conflict.shard = given.shard
          AND conflict.org = given.org
          AND conflict.channel = given.channel
          AND conflict.listing_key = given.listing_key
          AND conflict.closed_at IS NULL";
    if given.is_empty() {
        return Ok(());
    }
    let params: [Param<'_>; 5] = [
        &shard_of(org),
        &org.as_str(),
        &given.iter().map(|(channel, ..)| channel.as_str()).collect::<Vec<_>>(),
        &given.iter().map(|(_, key, _)| key.as_str()).collect::<Vec<_>>(),
        &given.iter().map(|(.., at)| at.micros()).collect::<Vec<_>>(),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Closes open conflicts whose listing is gone, sells another SKU or follows another listing by
/// now; returns how many.
///
/// Nobody could resolve them any more: the ledger knows no such listing in conflict.
pub(in crate::postgres) async fn close_orphans(
    conn: &Conn,
    org: &Org,
    at: Timestamp,
) -> Result<usize> {
    const SQL: &str = "
        UPDATE conflict
        SET closed_at = $3,
          resolved_at = $3,
          resolved_by = 'trueup',
          resolution = 'unmapped'
        WHERE shard = $1
          AND org = $2
          AND closed_at IS NULL
          AND NOT EXISTS (
            SELECT 1
            FROM listing l
            WHERE l.shard = conflict.shard
              AND l.org = conflict.org
              AND l.channel = conflict.channel
              AND l.listing_key = conflict.listing_key
              AND l.sku = conflict.sku
              AND NOT l.follows
          )";
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &at.micros()];
    Ok(counted(execute(conn, SQL, &params).await?))
}

/// Lists conflicts, newest first.
pub(in crate::postgres) async fn list(
    conn: &Conn,
    org: &Org,
    query: ConflictQuery<'_>,
) -> Result<Page<Conflict>> {
    const SQL: &str = "
SELECT id, channel, listing_key, sku, master, base, expected, observed, opened_at, seen_at,
  closed_at, resolved_by, resolution, note
FROM conflict
WHERE shard = $1
  AND org = $2";
    let mut list = List::of(org, SQL);
    match query.open {
        Some(true) => list.when("closed_at IS NULL"),
        Some(false) => list.when("closed_at IS NOT NULL"),
        None => {}
    }
    list.by("channel = ?", query.channel.map(ChannelId::to_string));
    list.by("id < ?", query.before.map(stored).transpose()?);
    list.page(conn, "id DESC", query.limit, |columns| records::conflict(columns)).await
}

/// Returns a conflict.
pub(in crate::postgres) async fn get(conn: &Conn, org: &Org, id: u64) -> Result<Option<Conflict>> {
    const SQL: &str = "
        SELECT id, channel, listing_key, sku, master, base, expected, observed, opened_at,
          seen_at, closed_at, resolved_by, resolution, note
        FROM conflict
        WHERE shard = $1
          AND org = $2
          AND id = $3";
    first(conn, SQL, &[&shard_of(org), &org.as_str(), &stored(id)?], |columns| {
        records::conflict(columns)
    })
    .await
}

/// Notes who resolved a conflict and how; closing it is the ledger's ([`apply`]).
pub(in crate::postgres) async fn note_resolved(
    conn: &Conn,
    org: &Org,
    id: u64,
    resolved: &Resolved,
) -> Result<()> {
    const SQL: &str = "
        UPDATE conflict
        SET resolved_at = $4,
          resolved_by = $5,
          resolution = $6,
          note = $7
        WHERE shard = $1
          AND org = $2
          AND id = $3";
    let params: [Param<'_>; 7] = [
        &shard_of(org),
        &org.as_str(),
        &stored(id)?,
        &resolved.at.micros(),
        &Plain(&resolved.by),
        &Plain(&resolved.resolution),
        &resolved.note.as_deref().map(Plain),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Counts a channel's open conflicts.
pub(in crate::postgres) async fn count_open(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
) -> Result<u64> {
    const SQL: &str = "
        SELECT count(*)
        FROM conflict
        WHERE shard = $1
          AND org = $2
          AND channel = $3
          AND closed_at IS NULL";
    count(conn, SQL, &[&shard_of(org), &org.as_str(), &channel.as_str()]).await
}
