//! Mappings, and what is known of their listings.
//!
//! A row has three owners: the merchant's mapping, the ledger's state and the pushes' attempts.
//! Each function here writes the columns of one of them. Rows are locked in key order before
//! several are changed, as decisions of the ledger lock them.

use std::collections::{BTreeMap, BTreeSet};

use trueup_core::{ChannelId, ListingKey, ListingState, Org, Sku};

use super::scopes::{self, AT_PLACE};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records::{self, ListingRow};
use crate::encoding::words::Word;
use crate::encoding::{json, parse_name, rules, stored};
use crate::port::{AttemptNote, FieldsNote, ListingQuery, Mapping, Page, Parked, RevisionsNote};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{self, Columns, Conn, List, Param, Plain, counted};
use crate::scopes::Member;

/// Owes a push by version or by force. `s` is the ledger's row of the SKU, if any.
const IS_DIRTY: &str = "(NOT l.follows AND (l.forced OR l.acked_version < s.publish_version))";

/// May differ from what it should show; see [`ListingQuery::suspicious`].
const IS_SUSPICIOUS: &str = "(NOT l.follows AND (
    (l.observed_quantity IS NOT NULL AND l.observed_quantity IS DISTINCT FROM l.base)
    OR l.in_flight_quantity IS NOT NULL
    OR l.parked_code IS NOT NULL
    OR l.in_conflict
    OR l.forced
    OR l.acked_version < s.version
  ))";

/// What [`records::settings`] and [`records::listing_state`] take, of listing `l` and its connection
/// `c`.
const STATE: &str = "
  l.channel, l.listing_key, l.sku, l.channel_fulfilled, l.follows, l.strategy, l.rules,
  c.strategy, c.rules,
  l.base, l.base_at, l.booked_at, l.in_flight_quantity, l.in_flight_version, l.in_flight_at,
  l.acked_version, l.acked_at, l.observed_quantity, l.observed_at,
  l.provisional, l.forced, l.epoch, l.in_conflict";

/// The same as [`AT_PLACE`], of the connection `$3`.
const AT_KEY: &str = "CROSS JOIN LATERAL (
          SELECT ctid AS id
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = $3
            AND listing_key = n.listing_key
          OFFSET 0
        ) t";

/// Makes or replaces mappings.
///
/// What is known of a listing stays where its key and SKU stay. Moved to another SKU it is as
/// if never pushed; only its epoch goes on, because versions of the two SKUs may be equal and a
/// token must not be used twice. A mapping that changed is no longer parked; an unchanged one
/// is not written. Follow with [`scopes::set`] and [`super::conflicts::close_orphans`].
pub(in crate::postgres) async fn put_mappings(
    conn: &Conn,
    org: &Org,
    rows: &[(Mapping, Option<String>)],
) -> Result<()> {
    // The number of the first one; asking for it is also the turn that `scopes` speaks of.
    let first = sql::next_numbers(conn, org, scopes::TURN, rows.len()).await?;
    let places: Vec<_> =
        rows.iter().map(|(of, scope)| (&of.channel, &of.key, scope.as_deref())).collect();
    scopes::lock(conn, org, &places).await?;
    for mappings in rounds(rows, first) {
        forget_other_sku(conn, org, &mappings).await?;
        put_each(conn, org, &mappings).await?;
    }
    Ok(())
}

/// Numbers mappings, and parts them where a listing comes again: one statement does not write a
/// row twice.
fn rounds(rows: &[(Mapping, Option<String>)], first: i64) -> Vec<Vec<(&Mapping, i64)>> {
    let mut rounds: Vec<Vec<(&Mapping, i64)>> = Vec::new();
    let mut seen = BTreeSet::new();
    for ((mapping, _), number) in rows.iter().zip(first..) {
        let is_first = seen.insert((&mapping.channel, &mapping.key));
        match rounds.last_mut().filter(|_| is_first) {
            Some(round) => round.push((mapping, number)),
            None => {
                seen = BTreeSet::from([(&mapping.channel, &mapping.key)]);
                rounds.push(vec![(mapping, number)]);
            }
        }
    }
    rounds
}

async fn forget_other_sku(conn: &Conn, org: &Org, mappings: &[(&Mapping, i64)]) -> Result<()> {
    let sql = format!(
        "
        UPDATE listing l
        SET sku = n.sku,
          base = NULL,
          base_at = NULL,
          booked_at = NULL,
          in_flight_quantity = NULL,
          in_flight_version = NULL,
          in_flight_at = NULL,
          acked_version = 0,
          acked_at = NULL,
          observed_quantity = NULL,
          observed_at = NULL,
          provisional = 0,
          forced = FALSE,
          epoch = (epoch + 1) % 4294967296,
          in_conflict = FALSE,
          parked_code = NULL,
          parked_detail = NULL,
          parked_at = NULL,
          attempts = 0
        FROM unnest($3::text[], $4::text[], $5::text[]) AS n (channel, listing_key, sku)
        {AT_PLACE}
        WHERE l.ctid = t.id
          AND l.sku <> n.sku"
    );
    let channels: Vec<&str> = mappings.iter().map(|(of, _)| of.channel.as_str()).collect();
    let keys: Vec<&str> = mappings.iter().map(|(of, _)| of.key.as_str()).collect();
    let skus: Vec<&str> = mappings.iter().map(|(of, _)| of.sku.as_str()).collect();
    let params: [Param<'_>; 5] = [&shard_of(org), &org.as_str(), &channels, &keys, &skus];
    sql::execute(conn, &sql, &params).await?;
    Ok(())
}

async fn put_each(conn: &Conn, org: &Org, mappings: &[(&Mapping, i64)]) -> Result<()> {
    const SQL: &str = "
        INSERT INTO listing (
          shard, org, channel, listing_key, sku, fields, strategy, rules, channel_fulfilled,
          enabled, nth
        )
        SELECT $1::smallint, $2::text, m.*
        FROM unnest(
          $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[],
          $10::boolean[], $11::bigint[]
        ) AS m
        ON CONFLICT (shard, org, channel, listing_key) DO UPDATE
        SET fields = excluded.fields,
          strategy = excluded.strategy,
          rules = excluded.rules,
          channel_fulfilled = excluded.channel_fulfilled,
          enabled = excluded.enabled,
          parked_code = NULL,
          parked_detail = NULL,
          parked_at = NULL,
          attempts = 0
        WHERE listing.fields <> excluded.fields
          OR listing.strategy IS DISTINCT FROM excluded.strategy
          OR listing.rules <> excluded.rules
          OR listing.channel_fulfilled <> excluded.channel_fulfilled
          OR listing.enabled <> excluded.enabled";
    let of = |(mapping, _): &(&Mapping, i64)| json(&mapping.fields);
    let fields = mappings.iter().map(of).collect::<std::result::Result<Vec<String>, _>>()?;
    let of = |(mapping, _): &(&Mapping, i64)| rules::write(&mapping.rules);
    let rules = mappings.iter().map(of).collect::<std::result::Result<Vec<String>, _>>()?;
    let channels: Vec<&str> = mappings.iter().map(|(of, _)| of.channel.as_str()).collect();
    let keys: Vec<&str> = mappings.iter().map(|(of, _)| of.key.as_str()).collect();
    let skus: Vec<&str> = mappings.iter().map(|(of, _)| of.sku.as_str()).collect();
    let strategies: Vec<Option<&str>> =
        mappings.iter().map(|(of, _)| of.strategy.map(Word::word)).collect();
    let fulfilled: Vec<bool> = mappings.iter().map(|(of, _)| of.channel_fulfilled).collect();
    let enabled: Vec<bool> = mappings.iter().map(|(of, _)| of.enabled).collect();
    let numbers: Vec<i64> = mappings.iter().map(|(_, number)| *number).collect();
    let params: [Param<'_>; 11] = [
        &shard_of(org),
        &org.as_str(),
        &channels,
        &keys,
        &skus,
        &fields,
        &strategies,
        &rules,
        &fulfilled,
        &enabled,
        &numbers,
    ];
    sql::execute(conn, SQL, &params).await?;
    Ok(())
}

/// Removes a SKU's mappings on a channel but those of these listings; returns how many it
/// removed.
///
/// Follow with [`super::conflicts::close_orphans`].
pub(in crate::postgres) async fn delete_mappings(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    sku: &Sku,
    but: &BTreeSet<ListingKey>,
) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM listing
        WHERE shard = $1
          AND org = $2
          AND channel = $3
          AND sku = $4
          AND listing_key <> ALL($5::text[])";
    scopes::begin(conn, org).await?;
    let goes = |row: &Member| row.sku == *sku && !but.contains(&row.key);
    scopes::hand_over(conn, org, channel, Some(sku), goes).await?;
    let but: Vec<&str> = but.iter().map(ListingKey::as_str).collect();
    let params: [Param<'_>; 5] =
        [&shard_of(org), &org.as_str(), &channel.as_str(), &sku.as_str(), &but];
    Ok(counted(sql::execute(conn, SQL, &params).await?))
}

/// Returns what is known of listings, with the settings in force; passes over those that are not
/// there. Their rows are locked, in key order, until the transaction ends.
pub(in crate::postgres) async fn load_states(
    conn: &Conn,
    org: &Org,
    keys: &[(ChannelId, ListingKey)],
) -> Result<Vec<ListingState>> {
    let sql = format!(
        "SELECT {STATE}
        FROM unnest($3::text[], $4::text[]) AS n (channel, listing_key)
        CROSS JOIN LATERAL (
          SELECT *
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = n.channel
            AND listing_key = n.listing_key
          FOR UPDATE
        ) l
        LEFT JOIN connection c ON c.shard = $1 AND c.org = $2 AND c.id = l.channel"
    );
    let places: BTreeSet<&(ChannelId, ListingKey)> = keys.iter().collect();
    let (channels, keys): (Vec<&str>, Vec<&str>) =
        places.iter().map(|(channel, key)| (channel.as_str(), key.as_str())).unzip();
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channels, &keys];
    sql::all(conn, &sql, &params, |columns| {
        let settings = records::settings(columns)?;
        records::listing_state(columns, &settings)
    })
    .await
}

/// Writes what is known of listings that were loaded in this transaction, each key once; passes
/// over those that sell another SKU.
pub(in crate::postgres) async fn write_states(
    conn: &Conn,
    org: &Org,
    states: &[&ListingState],
) -> Result<()> {
    let sql = format!(
        "
        UPDATE listing l
        SET base = n.base,
          base_at = n.base_at,
          booked_at = n.booked_at,
          in_flight_quantity = n.in_flight_quantity,
          in_flight_version = n.in_flight_version,
          in_flight_at = n.in_flight_at,
          acked_version = n.acked_version,
          acked_at = n.acked_at,
          observed_quantity = n.observed_quantity,
          observed_at = n.observed_at,
          provisional = n.provisional,
          forced = n.forced,
          epoch = n.epoch,
          in_conflict = n.in_conflict
        FROM unnest(
          $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
          $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
          $14::bigint[], $15::bigint[], $16::bigint[], $17::boolean[], $18::bigint[],
          $19::boolean[]
        ) AS n (
          channel, listing_key, sku, base, base_at, booked_at,
          in_flight_quantity, in_flight_version, in_flight_at, acked_version, acked_at,
          observed_quantity, observed_at, provisional, forced, epoch,
          in_conflict
        )
        {AT_PLACE}
        WHERE l.ctid = t.id
          AND l.sku = n.sku"
    );
    let mut columns = StateColumns::default();
    for state in states {
        columns.push(state)?;
    }
    let params: [Param<'_>; 19] = [
        &shard_of(org),
        &org.as_str(),
        &columns.channels,
        &columns.keys,
        &columns.skus,
        &columns.base,
        &columns.base_at,
        &columns.booked_at,
        &columns.in_flight_quantity,
        &columns.in_flight_version,
        &columns.in_flight_at,
        &columns.acked_version,
        &columns.acked_at,
        &columns.observed_quantity,
        &columns.observed_at,
        &columns.provisional,
        &columns.forced,
        &columns.epoch,
        &columns.in_conflict,
    ];
    sql::execute(conn, &sql, &params).await?;
    Ok(())
}

/// States, a column each.
#[derive(Default)]
struct StateColumns<'a> {
    channels: Vec<&'a str>,
    keys: Vec<&'a str>,
    skus: Vec<&'a str>,
    base: Vec<Option<i64>>,
    base_at: Vec<Option<i64>>,
    booked_at: Vec<Option<i64>>,
    in_flight_quantity: Vec<Option<i64>>,
    in_flight_version: Vec<Option<i64>>,
    in_flight_at: Vec<Option<i64>>,
    acked_version: Vec<i64>,
    acked_at: Vec<Option<i64>>,
    observed_quantity: Vec<Option<i64>>,
    observed_at: Vec<Option<i64>>,
    provisional: Vec<i64>,
    forced: Vec<bool>,
    epoch: Vec<i64>,
    in_conflict: Vec<bool>,
}

impl<'a> StateColumns<'a> {
    fn push(&mut self, state: &'a ListingState) -> Result<()> {
        let sent_version = state.in_flight.map(|sent| stored(sent.version)).transpose()?;
        self.channels.push(state.channel.as_str());
        self.keys.push(state.key.as_str());
        self.skus.push(state.sku.as_str());
        self.base.push(state.base);
        self.base_at.push(state.base_at.map(|at| at.micros()));
        self.booked_at.push(state.booked_at.map(|at| at.micros()));
        self.in_flight_quantity.push(state.in_flight.map(|sent| sent.quantity));
        self.in_flight_version.push(sent_version);
        self.in_flight_at.push(state.in_flight.map(|sent| sent.at.micros()));
        self.acked_version.push(stored(state.acked_version)?);
        self.acked_at.push(state.acked_at.map(|at| at.micros()));
        self.observed_quantity.push(state.observed.map(|seen| seen.quantity));
        self.observed_at.push(state.observed.map(|seen| seen.at.micros()));
        self.provisional.push(state.provisional.get());
        self.forced.push(state.forced);
        self.epoch.push(i64::from(state.epoch));
        self.in_conflict.push(state.in_conflict);
        Ok(())
    }
}

/// Locks listings of a channel in key order, until the transaction ends.
async fn lock(conn: &Conn, org: &Org, channel: &ChannelId, keys: &[&str]) -> Result<()> {
    const SQL: &str = "
        SELECT count(*)
        FROM (
          SELECT DISTINCT listing_key COLLATE \"C\" AS listing_key
          FROM unnest($4::text[]) AS n (listing_key)
          ORDER BY listing_key
        ) n
        CROSS JOIN LATERAL (
          SELECT nth
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = $3
            AND listing_key = n.listing_key
          FOR UPDATE
        ) held";
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channel.as_str(), &keys];
    sql::count(conn, SQL, &params).await?;
    Ok(())
}

/// Notes failures in a row and parking; passes over listings that are gone. Of several notes of
/// one listing, the last counts.
pub(in crate::postgres) async fn note_attempts(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    notes: &[AttemptNote],
) -> Result<()> {
    let sql = format!(
        "
        UPDATE listing l
        SET attempts = n.attempts,
          parked_code = n.code,
          parked_detail = n.detail,
          parked_at = n.at
        FROM unnest($4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[])
          AS n (listing_key, attempts, code, detail, at)
        {AT_KEY}
        WHERE l.ctid = t.id"
    );
    let notes: BTreeMap<&str, &AttemptNote> =
        notes.iter().map(|note| (note.key.as_str(), note)).collect();
    let keys: Vec<&str> = notes.keys().copied().collect();
    let attempts: Vec<i64> = notes.values().map(|note| i64::from(note.attempts)).collect();
    let parked: Vec<Option<&Parked>> = notes.values().map(|note| note.parked.as_ref()).collect();
    let codes: Vec<_> = parked.iter().map(|of| of.map(|of| Plain(&of.code))).collect();
    let details: Vec<_> = parked.iter().map(|of| of.map(|of| Plain(&of.detail))).collect();
    let instants: Vec<Option<i64>> = parked.iter().map(|of| of.map(|of| of.at.micros())).collect();
    lock(conn, org, channel, &keys).await?;
    let params: [Param<'_>; 8] = [
        &shard_of(org),
        &org.as_str(),
        &channel.as_str(),
        &keys,
        &attempts,
        &codes,
        &details,
        &instants,
    ];
    sql::execute(conn, &sql, &params).await?;
    Ok(())
}

/// Counts one revision of each of these listings, from one on where a new day has begun.
pub(in crate::postgres) async fn note_revisions(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    note: &RevisionsNote,
) -> Result<()> {
    let sql = format!(
        "
        UPDATE listing l
        SET revised_count = least(
            CASE WHEN l.revised_at >= $6 THEN l.revised_count ELSE 0 END + n.count, 4294967295
          ),
          revised_at = $5
        FROM (
          SELECT listing_key, count(*) AS count
          FROM unnest($4::text[]) AS k (listing_key)
          GROUP BY listing_key
        ) n
        {AT_KEY}
        WHERE l.ctid = t.id"
    );
    let keys: Vec<&str> = note.keys.iter().map(ListingKey::as_str).collect();
    lock(conn, org, channel, &keys).await?;
    let params: [Param<'_>; 6] = [
        &shard_of(org),
        &org.as_str(),
        &channel.as_str(),
        &keys,
        &note.at.micros(),
        &note.day_began.micros(),
    ];
    sql::execute(conn, &sql, &params).await?;
    Ok(())
}

/// Adds to the identifiers of mappings; passes over those that are gone.
pub(in crate::postgres) async fn note_fields(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    notes: &[FieldsNote],
) -> Result<()> {
    const READ: &str = "
        SELECT l.listing_key, l.fields
        FROM unnest($4::text[]) AS n (listing_key)
        CROSS JOIN LATERAL (
          SELECT listing_key, fields
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = $3
            AND listing_key = n.listing_key
          FOR UPDATE
        ) l";
    let write = format!(
        "
        UPDATE listing l
        SET fields = n.fields
        FROM unnest($4::text[], $5::text[]) AS n (listing_key, fields)
        {AT_KEY}
        WHERE l.ctid = t.id"
    );
    let (shard, of, on) = (shard_of(org), org.as_str(), channel.as_str());
    let keys: BTreeSet<&str> = notes.iter().map(|note| note.key.as_str()).collect();
    let keys: Vec<&str> = keys.into_iter().collect();
    let params: [Param<'_>; 4] = [&shard, &of, &on, &keys];
    let known = sql::all(conn, READ, &params, |columns| {
        Ok((columns.name::<ListingKey>()?, columns.json::<BTreeMap<String, String>>()?))
    });
    let mut known: BTreeMap<ListingKey, BTreeMap<String, String>> =
        known.await?.into_iter().collect();
    for FieldsNote { key, fields: told } in notes {
        let Some(fields) = known.get_mut(key) else { continue };
        for (name, value) in told {
            match value {
                Some(value) => fields.insert(name.clone(), value.clone()),
                None => fields.remove(name),
            };
        }
    }
    let keys: Vec<&str> = known.keys().map(ListingKey::as_str).collect();
    let fields = known.values().map(json).collect::<std::result::Result<Vec<String>, _>>()?;
    let params: [Param<'_>; 5] = [&shard, &of, &on, &keys, &fields];
    sql::execute(conn, &write, &params).await?;
    Ok(())
}

/// Lists listings by SKU, key and channel.
///
/// The cursor is SKU and key, which listings of two channels may share: a page ends before such
/// a group that it cannot hold whole. A group larger than the limit makes the page longer.
pub(in crate::postgres) async fn query(
    conn: &Conn,
    org: &Org,
    query: &ListingQuery,
) -> Result<Page<ListingRow>> {
    let mut limit = query.limit;
    loop {
        // One above the limit, to see where the last group ends; the list itself looks further.
        let found = list(conn, org, query, limit.saturating_add(1)).await?;
        match records::whole_groups(found, limit) {
            Some(page) => return Ok(page),
            None => limit = limit.saturating_add(1),
        }
    }
}

async fn list(
    conn: &Conn,
    org: &Org,
    query: &ListingQuery,
    limit: usize,
) -> Result<Page<ListingRow>> {
    let sql = format!(
        "SELECT {STATE},
  l.fields, l.enabled, l.parked_code, l.parked_detail, l.parked_at, l.attempts,
  l.revised_count, l.revised_at, l.scope,
  CASE
    WHEN l.follows THEN (
      SELECT ARRAY[o.channel, o.listing_key]
      FROM listing o
      WHERE o.shard = l.shard AND o.org = l.org AND o.scope = l.scope AND NOT o.follows
    )
  END,
  EXISTS (
    SELECT 1
    FROM pause p
    WHERE p.shard = l.shard
      AND p.org = l.org
      AND p.sku IN ('', l.sku)
  )
FROM listing l
LEFT JOIN connection c ON c.shard = l.shard AND c.org = l.org AND c.id = l.channel
LEFT JOIN LATERAL (
  SELECT version, publish_version
  FROM sku
  WHERE shard = l.shard AND org = l.org AND sku = l.sku
  OFFSET 0
) s ON TRUE
WHERE l.shard = $1
  AND l.org = $2"
    );
    let mut list = List::of(org, &sql);
    list.by("l.channel = ?", query.channel.as_ref().map(|id| id.as_str().to_owned()));
    if let Some(skus) = &query.skus {
        let names: Vec<String> = skus.iter().map(Sku::to_string).collect();
        list.by("l.sku = ANY(?::text[])", Some(names));
    }
    if let Some(keys) = &query.keys {
        let names: Vec<String> = keys.iter().map(ListingKey::to_string).collect();
        list.by("l.listing_key = ANY(?::text[])", Some(names));
    }
    if query.dirty {
        list.when(IS_DIRTY);
    }
    if query.suspicious {
        list.when(IS_SUSPICIOUS);
    }
    if let Some((sku, key)) = &query.after {
        let (sku, key) = (sku.to_string(), key.to_string());
        list.by_all("(l.sku, l.listing_key) > (?, ?)", vec![Box::new(sku), Box::new(key)]);
    }
    // A few keys are looked up one by one; an index in this order holds the whole channel.
    let order = if query.keys.is_some() { "l.sku || ''" } else { "l.sku" };
    list.page(conn, &format!("{order}, l.listing_key, l.channel"), limit, |columns| {
        records::listing(columns, read_leader)
    })
    .await
}

/// Counts a channel's listings that owe a push or whose push has no outcome yet. Those that are
/// told nothing meanwhile do not count: of no SKU, disabled, the channel's own, followers, in
/// conflict, and parked until their value changes.
pub(in crate::postgres) async fn count_pending(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
) -> Result<u64> {
    const SQL: &str = "
        SELECT count(*)
        FROM listing l
        CROSS JOIN LATERAL (
          SELECT publish_version, updated_at
          FROM sku
          WHERE shard = l.shard
            AND org = l.org
            AND sku = l.sku
          OFFSET 0
        ) s
        WHERE l.shard = $1
          AND l.org = $2
          AND l.channel = $3
          AND l.enabled
          AND NOT l.channel_fulfilled
          AND NOT l.follows
          AND NOT l.in_conflict
          AND NOT EXISTS (
            SELECT 1
            FROM pause p
            WHERE p.shard = l.shard
              AND p.org = l.org
              AND p.sku IN ('', l.sku)
          )
          AND (
            l.parked_code IS NULL
            OR (l.parked_code = 'invalid_value' AND s.updated_at > l.parked_at)
          )
          AND (
            l.forced
            OR l.acked_version < s.publish_version
            OR l.in_flight_quantity IS NOT NULL
          )";
    sql::count(conn, SQL, &[&shard_of(org), &org.as_str(), &channel.as_str()]).await
}

fn read_leader(columns: &mut Columns<'_>) -> Result<Option<(ChannelId, ListingKey)>> {
    match columns.take::<Option<Vec<&str>>>()?.as_deref() {
        Some([channel, key]) => Ok(Some((parse_name(channel)?, parse_name(key)?))),
        Some(_) | None => Ok(None),
    }
}
