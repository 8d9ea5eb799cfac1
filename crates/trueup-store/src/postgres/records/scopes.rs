//! Listings on several connections that show one number, in rows: who leads is decided by
//! [`crate::scopes`], and what is known of the number goes from one to the next in the transaction
//! that changes them.
//!
//! Whoever changes a scope, or what decides who leads it, takes the org's turn first ([`begin`]),
//! and locks the listings of the scope before it reads what is known of them, which decisions of
//! the ledger change.

use std::collections::{BTreeSet, HashMap, HashSet};

use trueup_core::{ChannelId, ListingKey, Org, Sku};

use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::port::{ListingScope, Page, ScopeLeader};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{self, Conn, List, Param, Plain};
use crate::scopes::{self, Member, TakeOver};

/// What an org's turn of changing listings is called, and the counter of its mappings.
pub(super) const TURN: &str = "listing";

/// The row of `listing` at the place `n`, as `t`. Every row is locked before it is changed by it.
///
/// It is looked up by its key whatever the planner knows. Joined, a new database's listings, of which
/// it knows nothing yet, would all be read for each place.
pub(super) const AT_PLACE: &str = "CROSS JOIN LATERAL (
          SELECT ctid AS id
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = n.channel
            AND listing_key = n.listing_key
          OFFSET 0
        ) t";

/// Lets changes of an org's mappings, of scopes and of what connections send go one after the
/// other, until the transaction ends.
pub(super) async fn begin(conn: &Conn, org: &Org) -> Result<()> {
    sql::one_at_a_time(conn, org, TURN).await
}

/// Notes the scopes of listings and settles who leads.
pub(in crate::postgres) async fn set(
    conn: &Conn,
    org: &Org,
    scopes: &[(&ChannelId, &ListingKey, Option<&str>)],
) -> Result<()> {
    begin(conn, org).await?;
    lock(conn, org, scopes).await?;
    let scopes: Vec<_> = scopes
        .iter()
        .map(|(channel, key, scope)| {
            (*channel, *key, scope.map(|of| Plain(of).kept().into_owned()))
        })
        .collect();
    let mut known = known(conn, org, &scopes).await?;
    let mut led = led(conn, org, &scopes).await?;
    let mut touched = HashSet::new();
    for (channel, key, scope) in &scopes {
        touched.extend(scope.clone());
        let Some(of) = known.get_mut(&(*channel, *key)) else { continue };
        touched.extend(of.scope.clone());
        of.enter(scope.as_deref(), &mut led);
    }
    known.retain(|_, of| of.is_changed);
    if !known.is_empty() {
        write(conn, org, &known).await?;
    }
    elect(conn, org, touched.into_iter().collect(), |_| false).await
}

/// Where a listing stands, and is about to.
struct Place {
    scope: Option<String>,
    follows: bool,
    is_changed: bool,
}

impl Place {
    /// Comes into a scope: one that is led is followed; the election may change that.
    fn enter(&mut self, scope: Option<&str>, led: &mut HashSet<String>) {
        if self.scope.as_deref() == scope {
            return;
        }
        if let Some(left) = self.scope.take().filter(|_| !self.follows) {
            led.remove(&left);
        }
        self.scope = scope.map(str::to_owned);
        self.follows = scope.is_some_and(|scope| !led.insert(scope.to_owned()));
        self.is_changed = true;
    }
}

type Places<'a> = HashMap<(&'a ChannelId, &'a ListingKey), Place>;

/// Locks listings, and those of the scopes that they leave and come into, in key order.
pub(super) async fn lock(
    conn: &Conn,
    org: &Org,
    scopes: &[(&ChannelId, &ListingKey, Option<&str>)],
) -> Result<()> {
    const SQL: &str = "
        WITH named AS (
          SELECT * FROM unnest($3::text[], $4::text[]) AS n (channel, listing_key)
        ),
        place AS (
          SELECT channel, listing_key
          FROM named
          UNION
          SELECT l.channel, l.listing_key
          FROM unnest($5::text[]) AS n (scope)
          CROSS JOIN LATERAL (
            SELECT channel, listing_key
            FROM listing
            WHERE shard = $1
              AND org = $2
              AND scope = n.scope
            OFFSET 0
          ) l
          UNION
          SELECT o.channel, o.listing_key
          FROM named n
          CROSS JOIN LATERAL (
            SELECT scope
            FROM listing
            WHERE shard = $1
              AND org = $2
              AND channel = n.channel
              AND listing_key = n.listing_key
            OFFSET 0
          ) l
          CROSS JOIN LATERAL (
            SELECT channel, listing_key
            FROM listing
            WHERE shard = $1
              AND org = $2
              AND scope = l.scope
            OFFSET 0
          ) o
        )
        SELECT count(*)
        FROM (
          SELECT channel, listing_key
          FROM place
          ORDER BY channel COLLATE \"C\", listing_key COLLATE \"C\"
        ) p
        CROSS JOIN LATERAL (
          SELECT nth
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = p.channel
            AND listing_key = p.listing_key
          FOR UPDATE
        ) held";
    let channels: Vec<&str> = scopes.iter().map(|(channel, ..)| channel.as_str()).collect();
    let keys: Vec<&str> = scopes.iter().map(|(_, key, _)| key.as_str()).collect();
    let entered: Vec<Plain<&str>> =
        scopes.iter().filter_map(|(.., scope)| scope.map(Plain)).collect();
    let params: [Param<'_>; 5] = [&shard_of(org), &org.as_str(), &channels, &keys, &entered];
    sql::count(conn, SQL, &params).await?;
    Ok(())
}

/// Returns where listings stand.
async fn known<'a>(
    conn: &Conn,
    org: &Org,
    scopes: &[(&'a ChannelId, &'a ListingKey, Option<String>)],
) -> Result<Places<'a>> {
    const SQL: &str = "
        SELECT n.nth, l.scope, l.follows
        FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS n (channel, listing_key, nth)
        CROSS JOIN LATERAL (
          SELECT scope, follows
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = n.channel
            AND listing_key = n.listing_key
          OFFSET 0
        ) l";
    let channels: Vec<&str> = scopes.iter().map(|(channel, ..)| channel.as_str()).collect();
    let keys: Vec<&str> = scopes.iter().map(|(_, key, _)| key.as_str()).collect();
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channels, &keys];
    let found = sql::all(conn, SQL, &params, |columns| {
        let nth: usize = columns.small()?;
        let (scope, follows) = (columns.take()?, columns.take()?);
        Ok((nth, Place { scope, follows, is_changed: false }))
    });
    let place = |(nth, place): (usize, Place)| {
        let (channel, key, _) = scopes.get(nth.checked_sub(1)?)?;
        Some(((*channel, *key), place))
    };
    Ok(found.await?.into_iter().filter_map(place).collect())
}

/// Returns those of the scopes that come up that are led.
async fn led(
    conn: &Conn,
    org: &Org,
    scopes: &[(&ChannelId, &ListingKey, Option<String>)],
) -> Result<HashSet<String>> {
    let entered: Vec<&str> = scopes.iter().filter_map(|(.., scope)| scope.as_deref()).collect();
    if entered.is_empty() {
        return Ok(HashSet::new());
    }
    const SQL: &str = "
        SELECT l.scope
        FROM unnest($3::text[]) AS n (scope)
        CROSS JOIN LATERAL (
          SELECT scope
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND scope = n.scope
            AND NOT follows
          OFFSET 0
        ) l";
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &entered];
    Ok(sql::all(conn, SQL, &params, |columns| columns.take()).await?.into_iter().collect())
}

async fn write(conn: &Conn, org: &Org, places: &Places<'_>) -> Result<()> {
    // All leave before one comes in, so that no scope is led by two in between.
    let leave = format!(
        "
        UPDATE listing l
        SET scope = NULL
        FROM unnest($3::text[], $4::text[]) AS n (channel, listing_key)
        {AT_PLACE}
        WHERE l.ctid = t.id
          AND l.scope IS NOT NULL"
    );
    let enter = format!(
        "
        UPDATE listing l
        SET scope = n.scope,
          follows = n.follows
        FROM unnest($3::text[], $4::text[], $5::text[], $6::boolean[])
          AS n (channel, listing_key, scope, follows)
        {AT_PLACE}
        WHERE l.ctid = t.id"
    );
    let channels: Vec<&str> = places.keys().map(|(channel, _)| channel.as_str()).collect();
    let keys: Vec<&str> = places.keys().map(|(_, key)| key.as_str()).collect();
    let scopes: Vec<Option<&str>> = places.values().map(|of| of.scope.as_deref()).collect();
    let follows: Vec<bool> = places.values().map(|of| of.follows).collect();
    let params: [Param<'_>; 6] =
        [&shard_of(org), &org.as_str(), &channels, &keys, &scopes, &follows];
    let [shard, of, channels, keys, ..] = params;
    sql::execute(conn, &leave, &[shard, of, channels, keys]).await?;
    sql::execute(conn, &enter, &params).await?;
    Ok(())
}

/// Settles who leads in the scopes of a connection that are shared; who calls it has the turn.
pub(super) async fn settle(conn: &Conn, org: &Org, channel: &ChannelId) -> Result<()> {
    let scopes = shared_by(conn, org, channel, None).await?;
    elect(conn, org, scopes, |_| false).await
}

/// Lets others take over from listings of a connection, or of one SKU on it, that are about to
/// go; who calls it has the turn.
pub(super) async fn hand_over(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    sku: Option<&Sku>,
    goes: impl Fn(&Member) -> bool,
) -> Result<()> {
    let scopes = shared_by(conn, org, channel, sku).await?;
    elect(conn, org, scopes, |member| member.channel == *channel && goes(member)).await
}

async fn shared_by(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    sku: Option<&Sku>,
) -> Result<Vec<String>> {
    const SQL: &str = "
        SELECT DISTINCT l.scope
        FROM listing l
        WHERE l.scope IS NOT NULL
          AND EXISTS (
            SELECT 1
            FROM listing o
            WHERE o.shard = l.shard
              AND o.org = l.org
              AND o.scope = l.scope
              AND (o.channel, o.listing_key) <> (l.channel, l.listing_key)
          )
          AND l.shard = $1
          AND l.org = $2";
    let mut list = List::of(org, SQL);
    list.by("l.channel = ?", Some(channel.as_str().to_owned()));
    list.by("l.sku = ?", sku.map(|sku| sku.as_str().to_owned()));
    list.all(conn, |columns| columns.take()).await
}

/// Settles who leads in scopes, as if some listings were gone.
async fn elect(
    conn: &Conn,
    org: &Org,
    scopes: Vec<String>,
    goes: impl Fn(&Member) -> bool,
) -> Result<()> {
    if scopes.is_empty() {
        return Ok(());
    }
    // Those that may be told by themselves, then those that may be told when asked.
    // Of scopes in which nobody follows there is nobody to take over.
    const SQL: &str = "
        WITH followed AS MATERIALIZED (
          SELECT DISTINCT given.scope
          FROM unnest($3::text[]) AS given (scope)
          CROSS JOIN LATERAL (
            SELECT nth
            FROM listing
            WHERE shard = $1
              AND org = $2
              AND scope = given.scope
              AND follows
            LIMIT 1
          ) o
        )
        SELECT l.scope, l.channel, l.listing_key, l.sku, l.follows,
          CASE
            WHEN NOT l.enabled OR l.channel_fulfilled OR c.dry_run
              OR c.state IS DISTINCT FROM 'active'
              THEN 2
            WHEN c.sync_inventory THEN 0
            ELSE 1
          END::bigint
        FROM followed
        CROSS JOIN LATERAL (
          SELECT *
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND scope = followed.scope
          OFFSET 0
        ) l
        LEFT JOIN connection c ON c.shard = $1 AND c.org = $2 AND c.id = l.channel
        ORDER BY l.scope, l.nth";
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &scopes];
    let members = sql::all(conn, SQL, &params, |columns| records::member(columns)).await?;
    take_over(conn, org, &scopes::elect(&members, goes)).await
}

async fn take_over(conn: &Conn, org: &Org, changes: &[TakeOver<'_>]) -> Result<()> {
    let follow: Vec<(&Member, &Member)> =
        changes.iter().filter_map(|change| Some((change.from?, change.to))).collect();
    let begin: Vec<&Member> =
        changes.iter().filter(|change| change.from.is_none()).map(|change| change.to).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let members = changes.iter().flat_map(|change| change.from.into_iter().chain([change.to]));
    let places: Vec<_> = members.map(|member| (&member.channel, &member.key, None)).collect();
    lock(conn, org, &places).await?;
    if !begin.is_empty() {
        begin_to_lead(conn, org, &begin).await?;
    }
    if !follow.is_empty() {
        hand_on(conn, org, &follow).await?;
    }
    Ok(())
}

/// Without one before it, a listing begins as one that was never told anything.
async fn begin_to_lead(conn: &Conn, org: &Org, members: &[&Member]) -> Result<()> {
    let sql = format!(
        "
        UPDATE listing l
        SET follows = FALSE,
          forced = TRUE
        FROM unnest($3::text[], $4::text[]) AS n (channel, listing_key)
        {AT_PLACE}
        WHERE l.ctid = t.id"
    );
    let (channels, keys) = places(members.iter().copied());
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channels, &keys];
    sql::execute(conn, &sql, &params).await?;
    Ok(())
}

/// Lets the second of each pair lead in place of the first; both are locked.
async fn hand_on(conn: &Conn, org: &Org, pairs: &[(&Member, &Member)]) -> Result<()> {
    let step_down = format!(
        "
        UPDATE listing l
        SET follows = TRUE
        FROM unnest($3::text[], $4::text[]) AS n (channel, listing_key)
        {AT_PLACE}
        WHERE l.ctid = t.id"
    );
    // What its number is, and what of it is owed, must not be lost; versions and adopted
    // differences are the SKU's.
    let know = format!(
        "
        UPDATE listing l
        SET follows = FALSE,
          base = o.base,
          base_at = o.base_at,
          booked_at = o.booked_at,
          in_flight_quantity = CASE WHEN o.sku = l.sku THEN o.in_flight_quantity END,
          in_flight_version = CASE WHEN o.sku = l.sku THEN o.in_flight_version END,
          in_flight_at = CASE WHEN o.sku = l.sku THEN o.in_flight_at END,
          acked_version = CASE WHEN o.sku = l.sku THEN o.acked_version ELSE 0 END,
          acked_at = o.acked_at,
          provisional = CASE WHEN o.sku = l.sku THEN o.provisional ELSE 0 END,
          forced = TRUE,
          epoch = (greatest(o.epoch, l.epoch) + 1) % 4294967296,
          in_conflict = FALSE,
          parked_code = NULL,
          parked_detail = NULL,
          parked_at = NULL,
          attempts = 0,
          revised_count = o.revised_count,
          revised_at = o.revised_at
        FROM unnest($3::text[], $4::text[], $5::text[], $6::text[])
          AS n (from_channel, from_key, channel, listing_key)
        CROSS JOIN LATERAL (
          SELECT *
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND channel = n.from_channel
            AND listing_key = n.from_key
          OFFSET 0
        ) o
        {AT_PLACE}
        WHERE l.ctid = t.id"
    );
    let forget = format!(
        "
        UPDATE listing l
        SET base = NULL,
          base_at = NULL,
          booked_at = NULL,
          in_flight_quantity = NULL,
          in_flight_version = NULL,
          in_flight_at = NULL,
          provisional = 0,
          forced = FALSE,
          in_conflict = FALSE,
          parked_code = NULL,
          parked_detail = NULL,
          parked_at = NULL,
          attempts = 0
        FROM unnest($3::text[], $4::text[]) AS n (channel, listing_key)
        {AT_PLACE}
        WHERE l.ctid = t.id"
    );
    let (from_channels, from_keys) = places(pairs.iter().map(|(from, _)| *from));
    let (channels, keys) = places(pairs.iter().map(|(_, to)| *to));
    let params: [Param<'_>; 6] =
        [&shard_of(org), &org.as_str(), &from_channels, &from_keys, &channels, &keys];
    let [shard, of, from_channels, from_keys, ..] = params;
    sql::execute(conn, &step_down, &[shard, of, from_channels, from_keys]).await?;
    sql::execute(conn, &know, &params).await?;
    sql::execute(conn, &forget, &[shard, of, from_channels, from_keys]).await?;
    Ok(())
}

fn places<'a>(members: impl Iterator<Item = &'a Member>) -> (Vec<&'a str>, Vec<&'a str>) {
    members.map(|member| (member.channel.as_str(), member.key.as_str())).unzip()
}

/// Lists a connection's listings with their scopes, by key.
pub(in crate::postgres) async fn list(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    after: Option<&ListingKey>,
    limit: usize,
) -> Result<Page<ListingScope>> {
    const SQL: &str = "
        SELECT listing_key, channel_fulfilled, scope
        FROM listing
        WHERE shard = $1
          AND org = $2";
    let mut list = List::of(org, SQL);
    list.by("channel = ?", Some(channel.as_str().to_owned()));
    list.by("listing_key > ?", after.map(|key| key.as_str().to_owned()));
    list.page(conn, "listing_key", limit, |columns| {
        Ok(ListingScope {
            key: columns.name()?,
            channel_fulfilled: columns.take()?,
            scope: columns.take()?,
        })
    })
    .await
}

/// Returns the listings that are told the numbers of scopes.
pub(in crate::postgres) async fn leaders(
    conn: &Conn,
    org: &Org,
    scopes: &[String],
) -> Result<Vec<ScopeLeader>> {
    const SQL: &str = "
        SELECT l.scope, l.channel, l.listing_key, l.sku
        FROM unnest($3::text[]) AS n (scope)
        CROSS JOIN LATERAL (
          SELECT scope, channel, listing_key, sku
          FROM listing
          WHERE shard = $1
            AND org = $2
            AND scope = n.scope
            AND NOT follows
          OFFSET 0
        ) l";
    let scopes: BTreeSet<&str> = scopes.iter().map(String::as_str).collect();
    let scopes: Vec<Plain<&str>> = scopes.into_iter().map(Plain).collect();
    let params: [Param<'_>; 3] = [&shard_of(org), &org.as_str(), &scopes];
    sql::all(conn, SQL, &params, |columns| records::scope_leader(columns)).await
}
