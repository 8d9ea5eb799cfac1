//! Listings on several connections that show one number, in rows: who leads is decided by
//! [`crate::scopes`], and what is known of the number goes from one to the next in the transaction
//! that changes them.

use rusqlite::{Connection, named_params, params};
use trueup_core::{ChannelId, ListingKey, Org, Sku};

use super::{List, Result, all, execute, text};
use crate::encoding::columns::ReadColumns;
use crate::encoding::json;
use crate::encoding::records;
use crate::scopes::{self, Member, TakeOver};
use crate::{ListingScope, Page, ScopeLeader};

/// Notes the scopes of listings and settles who leads.
pub(crate) fn set<'a>(
    conn: &Connection,
    org: &Org,
    scopes: impl IntoIterator<Item = (&'a ChannelId, &'a ListingKey, Option<&'a str>)>,
) -> Result<()> {
    // One that comes into a scope that is led follows; the election may change that.
    const SQL: &str = "
        UPDATE listing
        SET scope = :scope,
          follows = :scope IS NOT NULL AND EXISTS (
            SELECT 1
            FROM listing o
            WHERE o.org = :org
              AND o.scope = :scope
              AND o.follows = 0
          )
        WHERE org = :org
          AND channel = :channel
          AND listing_key = :key
          AND scope IS NOT :scope";
    let mut touched = Vec::new();
    for (channel, key, scope) in scopes {
        let left = of_listing(conn, org, channel, key)?;
        let params = named_params! {
            ":org": org.as_str(),
            ":channel": channel.as_str(),
            ":key": key.as_str(),
            ":scope": scope,
        };
        execute(conn, SQL, params)?;
        touched.extend(left.into_iter().chain(scope.map(str::to_owned)));
    }
    touched.sort_unstable();
    touched.dedup();
    elect(conn, org, &touched, |_| false)
}

fn of_listing(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    key: &ListingKey,
) -> Result<Option<String>> {
    const SQL: &str = "
        SELECT scope
        FROM listing
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?";
    let params = [org.as_str(), channel.as_str(), key.as_str()];
    Ok(super::first(conn, SQL, params, |columns| columns.take())?.flatten())
}

/// Settles who leads in the scopes of a connection that are shared.
pub(crate) fn settle(conn: &Connection, org: &Org, channel: &ChannelId) -> Result<()> {
    let scopes = shared_by(conn, org, channel, None)?;
    elect(conn, org, &scopes, |_| false)
}

/// Lets others take over from listings of a connection, or of one SKU on it, that are about to
/// go.
pub(crate) fn hand_over(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    sku: Option<&Sku>,
    goes: impl Fn(&Member) -> bool,
) -> Result<()> {
    let scopes = shared_by(conn, org, channel, sku)?;
    elect(conn, org, &scopes, |member| member.channel == *channel && goes(member))
}

fn shared_by(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    sku: Option<&Sku>,
) -> Result<Vec<String>> {
    // The planner would take the index of scopes, and read every listing of the org.
    const SQL: &str = "
        SELECT DISTINCT l.scope
        FROM listing l INDEXED BY listing_by_channel_sku
        WHERE l.scope IS NOT NULL
          AND EXISTS (
            SELECT 1
            FROM listing o
            WHERE o.org = l.org
              AND o.scope = l.scope
              AND o.rowid <> l.rowid
          )
          AND l.org = ?";
    let mut list = List::of(org, SQL);
    list.by("l.channel = ?", Some(text(channel.as_str())));
    list.by("l.sku = ?", sku.map(|sku| text(sku.as_str())));
    list.all(conn, |columns| columns.take())
}

/// Settles who leads in scopes, as if some listings were gone.
fn elect(
    conn: &Connection,
    org: &Org,
    scopes: &[String],
    goes: impl Fn(&Member) -> bool,
) -> Result<()> {
    if scopes.is_empty() {
        return Ok(());
    }
    // Those that may be told by themselves, then those that may be told when asked.
    const SQL: &str = "
        SELECT l.scope, l.channel, l.listing_key, l.sku, l.follows,
          CASE
            WHEN l.enabled = 1 AND l.channel_fulfilled = 0 AND c.state = 'active'
              AND c.dry_run = 0
              THEN 1 - c.sync_inventory
            ELSE 2
          END
        FROM listing l
        LEFT JOIN connection c ON c.org = l.org AND c.id = l.channel
        WHERE l.org = ?
          AND l.scope IN (SELECT value FROM json_each(?))
          AND (
            l.follows = 1
            OR EXISTS (
              SELECT 1 FROM listing o
              WHERE o.org = l.org AND o.scope = l.scope AND o.follows = 1
            )
          )
        ORDER BY l.scope, l.rowid";
    let members =
        all(conn, SQL, params![org.as_str(), json(&scopes)?], |columns| records::member(columns))?;
    for TakeOver { from, to } in scopes::elect(&members, goes) {
        take_over(conn, org, from, to)?;
    }
    Ok(())
}

fn take_over(conn: &Connection, org: &Org, from: Option<&Member>, to: &Member) -> Result<()> {
    // What its number is, and what of it is owed, must not be lost; versions and adopted
    // differences are the SKU's.
    const KNOW: &str = "
        UPDATE listing
        SET follows = 0,
          base = o.base,
          base_at = o.base_at,
          booked_at = o.booked_at,
          in_flight_quantity = iif(o.sku = listing.sku, o.in_flight_quantity, NULL),
          in_flight_version = iif(o.sku = listing.sku, o.in_flight_version, NULL),
          in_flight_at = iif(o.sku = listing.sku, o.in_flight_at, NULL),
          acked_version = iif(o.sku = listing.sku, o.acked_version, 0),
          acked_at = o.acked_at,
          provisional = iif(o.sku = listing.sku, o.provisional, 0),
          forced = 1,
          epoch = (max(o.epoch, listing.epoch) + 1) % 4294967296,
          in_conflict = 0,
          parked_code = NULL,
          parked_detail = NULL,
          parked_at = NULL,
          attempts = 0,
          revised_count = o.revised_count,
          revised_at = o.revised_at
        FROM listing o
        WHERE listing.org = :org
          AND listing.channel = :channel
          AND listing.listing_key = :key
          AND o.org = :org
          AND o.channel = :from_channel
          AND o.listing_key = :from_key";
    const FORGET: &str = "
        UPDATE listing
        SET base = NULL,
          base_at = NULL,
          booked_at = NULL,
          in_flight_quantity = NULL,
          in_flight_version = NULL,
          in_flight_at = NULL,
          provisional = 0,
          forced = 0,
          in_conflict = 0,
          parked_code = NULL,
          parked_detail = NULL,
          parked_at = NULL,
          attempts = 0
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?";
    // Without one before it, it begins as a listing that was never told anything.
    const BEGIN: &str = "
        UPDATE listing
        SET follows = 0,
          forced = 1
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?";
    let place = |member: &Member| {
        [org.as_str().to_owned(), member.channel.to_string(), member.key.to_string()]
    };
    let Some(from) = from else {
        execute(conn, BEGIN, place(to))?;
        return Ok(());
    };
    const STEP_DOWN: &str = "
        UPDATE listing
        SET follows = 1
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?";
    execute(conn, STEP_DOWN, place(from))?;
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": to.channel.as_str(),
        ":key": to.key.as_str(),
        ":from_channel": from.channel.as_str(),
        ":from_key": from.key.as_str(),
    };
    execute(conn, KNOW, params)?;
    execute(conn, FORGET, place(from))?;
    Ok(())
}

/// Lists a connection's listings with their scopes, by key.
pub(crate) fn list(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    after: Option<&ListingKey>,
    limit: usize,
) -> Result<Page<ListingScope>> {
    const SQL: &str = "
        SELECT listing_key, channel_fulfilled, scope
        FROM listing
        WHERE org = ?";
    let mut list = List::of(org, SQL);
    list.by("channel = ?", Some(text(channel.as_str())));
    list.by("listing_key > ?", after.map(|key| text(key.as_str())));
    list.page(conn, "listing_key", limit, |columns| {
        Ok(ListingScope {
            key: columns.name()?,
            channel_fulfilled: columns.take()?,
            scope: columns.take()?,
        })
    })
}

/// Returns the listings that are told the numbers of scopes.
pub(crate) fn leaders(conn: &Connection, org: &Org, scopes: &[String]) -> Result<Vec<ScopeLeader>> {
    const SQL: &str = "
        SELECT scope, channel, listing_key, sku
        FROM listing
        WHERE org = ?
          AND scope IN (SELECT value FROM json_each(?))
          AND follows = 0";
    all(conn, SQL, params![org.as_str(), json(&scopes)?], |columns| records::scope_leader(columns))
}
