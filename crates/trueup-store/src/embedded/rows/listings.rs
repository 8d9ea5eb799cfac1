//! Mappings, and what is known of their listings.
//!
//! A row has three owners: the merchant's mapping, the ledger's state and the pushes' attempts.
//! Each function here writes the columns of one of them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, named_params, params};
use trueup_core::{ChannelId, ListingKey, ListingState, Org, Sku};

use super::columns::Columns;
use super::{List, Result, count, execute, first, text};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records::{self, ListingRow};
use crate::encoding::words::Word;
use crate::encoding::{json, parse_name, rules, stored};
use crate::scopes::Member;
use crate::{AttemptNote, FieldsNote, ListingQuery, Mapping, Page, RevisionsNote};

/// Owes a push by version or by force. `s` is the ledger's row of the SKU, if any.
const IS_DIRTY: &str = "(l.follows = 0 AND (l.forced = 1 OR l.acked_version < s.publish_version))";

/// May differ from what it should show; see [`ListingQuery::suspicious`].
const IS_SUSPICIOUS: &str = "l.follows = 0 AND (
    (l.observed_quantity IS NOT NULL AND l.observed_quantity IS NOT l.base)
    OR l.in_flight_quantity IS NOT NULL
    OR l.parked_code IS NOT NULL
    OR l.in_conflict = 1
    OR l.forced = 1
    OR l.acked_version < s.version
  )";

/// Makes or replaces mappings.
///
/// What is known of a listing stays where its key and SKU stay. Moved to another SKU it is as
/// if never pushed; only its epoch goes on, because versions of the two SKUs may be equal and a
/// token must not be used twice. A mapping that changed is no longer parked; an unchanged one
/// is not written. Follow with [`super::conflicts::close_orphans`].
pub(crate) fn put_mappings<'a>(
    conn: &Connection,
    org: &Org,
    mappings: impl IntoIterator<Item = &'a Mapping>,
) -> Result<()> {
    for mapping in mappings {
        forget_other_sku(conn, org, mapping)?;
        put_mapping(conn, org, mapping)?;
    }
    Ok(())
}

fn forget_other_sku(conn: &Connection, org: &Org, mapping: &Mapping) -> Result<()> {
    const SQL: &str = "
        UPDATE listing
        SET sku = :sku,
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
          forced = 0,
          epoch = (epoch + 1) % 4294967296,
          in_conflict = 0,
          parked_code = NULL,
          parked_detail = NULL,
          parked_at = NULL,
          attempts = 0
        WHERE org = :org
          AND channel = :channel
          AND listing_key = :key
          AND sku <> :sku";
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": mapping.channel.as_str(),
        ":key": mapping.key.as_str(),
        ":sku": mapping.sku.as_str(),
    };
    execute(conn, SQL, params)?;
    Ok(())
}

fn put_mapping(conn: &Connection, org: &Org, mapping: &Mapping) -> Result<()> {
    const SQL: &str = "
        INSERT INTO listing (
          org, channel, listing_key, sku, fields, strategy, rules, channel_fulfilled, enabled
        )
        VALUES (
          :org, :channel, :key, :sku, :fields, :strategy, :rules, :channel_fulfilled, :enabled
        )
        ON CONFLICT (org, channel, listing_key) DO UPDATE
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
          OR listing.strategy IS NOT excluded.strategy
          OR listing.rules <> excluded.rules
          OR listing.channel_fulfilled <> excluded.channel_fulfilled
          OR listing.enabled <> excluded.enabled";
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": mapping.channel.as_str(),
        ":key": mapping.key.as_str(),
        ":sku": mapping.sku.as_str(),
        ":fields": json(&mapping.fields)?,
        ":strategy": mapping.strategy.map(Word::word),
        ":rules": rules::write(&mapping.rules)?,
        ":channel_fulfilled": mapping.channel_fulfilled,
        ":enabled": mapping.enabled,
    };
    execute(conn, SQL, params)?;
    Ok(())
}

/// Removes a SKU's mappings on a channel but those of these listings; returns how many it
/// removed.
///
/// Follow with [`super::conflicts::close_orphans`].
pub(crate) fn delete_mappings(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    sku: &Sku,
    but: &BTreeSet<ListingKey>,
) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM listing
        WHERE org = ?
          AND channel = ?
          AND sku = ?
          AND listing_key NOT IN (SELECT value FROM json_each(?))";
    let goes = |row: &Member| row.sku == *sku && !but.contains(&row.key);
    super::scopes::hand_over(conn, org, channel, Some(sku), goes)?;
    let but: Vec<&str> = but.iter().map(ListingKey::as_str).collect();
    execute(conn, SQL, params![org.as_str(), channel.as_str(), sku.as_str(), json(&but)?])
}

/// Returns what is known of a listing, with the settings in force.
pub(crate) fn state(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    key: &ListingKey,
) -> Result<Option<ListingState>> {
    const SQL: &str = "
        SELECT
          l.channel, l.listing_key, l.sku, l.channel_fulfilled, l.follows, l.strategy, l.rules,
          c.strategy, c.rules,
          l.base, l.base_at, l.booked_at, l.in_flight_quantity, l.in_flight_version, l.in_flight_at,
          l.acked_version, l.acked_at, l.observed_quantity, l.observed_at,
          l.provisional, l.forced, l.epoch, l.in_conflict
        FROM listing l
        LEFT JOIN connection c ON c.org = l.org AND c.id = l.channel
        WHERE l.org = ?
          AND l.channel = ?
          AND l.listing_key = ?";
    let params = [org.as_str(), channel.as_str(), key.as_str()];
    first(conn, SQL, params, |columns| {
        let settings = records::settings(columns)?;
        records::listing_state(columns, &settings)
    })
}

/// Writes what is known of a listing; does nothing where the mapping is gone or has moved to
/// another SKU.
pub(crate) fn put_state(conn: &Connection, org: &Org, state: &ListingState) -> Result<()> {
    const SQL: &str = "
        UPDATE listing
        SET base = :base,
          base_at = :base_at,
          booked_at = :booked_at,
          in_flight_quantity = :in_flight_quantity,
          in_flight_version = :in_flight_version,
          in_flight_at = :in_flight_at,
          acked_version = :acked_version,
          acked_at = :acked_at,
          observed_quantity = :observed_quantity,
          observed_at = :observed_at,
          provisional = :provisional,
          forced = :forced,
          epoch = :epoch,
          in_conflict = :in_conflict
        WHERE org = :org
          AND channel = :channel
          AND listing_key = :key
          AND sku = :sku";
    let params = named_params! {
        ":org": org.as_str(),
        ":channel": state.channel.as_str(),
        ":key": state.key.as_str(),
        ":sku": state.sku.as_str(),
        ":base": state.base,
        ":base_at": state.base_at.map(|at| at.micros()),
        ":booked_at": state.booked_at.map(|at| at.micros()),
        ":in_flight_quantity": state.in_flight.map(|sent| sent.quantity),
        ":in_flight_version": state.in_flight.map(|sent| stored(sent.version)).transpose()?,
        ":in_flight_at": state.in_flight.map(|sent| sent.at.micros()),
        ":acked_version": stored(state.acked_version)?,
        ":acked_at": state.acked_at.map(|at| at.micros()),
        ":observed_quantity": state.observed.map(|seen| seen.quantity),
        ":observed_at": state.observed.map(|seen| seen.at.micros()),
        ":provisional": state.provisional.get(),
        ":forced": state.forced,
        ":epoch": state.epoch,
        ":in_conflict": state.in_conflict,
    };
    execute(conn, SQL, params)?;
    Ok(())
}

/// Notes failures in a row and parking; passes over listings that are gone.
pub(crate) fn note_attempts(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    notes: &[AttemptNote],
) -> Result<()> {
    const SQL: &str = "
        UPDATE listing
        SET attempts = ?,
          parked_code = ?,
          parked_detail = ?,
          parked_at = ?
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?";
    for AttemptNote { key, attempts, parked } in notes {
        let parked = parked.as_ref();
        let params = params![
            attempts,
            parked.map(|parked| &parked.code),
            parked.map(|parked| &parked.detail),
            parked.map(|parked| parked.at.micros()),
            org.as_str(),
            channel.as_str(),
            key.as_str(),
        ];
        execute(conn, SQL, params)?;
    }
    Ok(())
}

/// Counts one revision of each of these listings, from one on where a new day has begun.
pub(crate) fn note_revisions(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    note: &RevisionsNote,
) -> Result<()> {
    const SQL: &str = "
        UPDATE listing
        SET revised_count = CASE
            WHEN revised_at >= :day_began THEN min(revised_count + 1, 4294967295)
            ELSE 1
          END,
          revised_at = :at
        WHERE org = :org
          AND channel = :channel
          AND listing_key = :key";
    for key in &note.keys {
        let params = named_params! {
            ":org": org.as_str(),
            ":channel": channel.as_str(),
            ":key": key.as_str(),
            ":at": note.at.micros(),
            ":day_began": note.day_began.micros(),
        };
        execute(conn, SQL, params)?;
    }
    Ok(())
}

/// Adds to the identifiers of mappings; passes over those that are gone.
pub(crate) fn note_fields(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    notes: &[FieldsNote],
) -> Result<()> {
    const READ: &str = "
        SELECT fields
        FROM listing
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?";
    const WRITE: &str = "
        UPDATE listing
        SET fields = ?
        WHERE org = ?
          AND channel = ?
          AND listing_key = ?";
    for FieldsNote { key, fields: told } in notes {
        let place = [org.as_str(), channel.as_str(), key.as_str()];
        let known = first(conn, READ, place, |columns| columns.json::<BTreeMap<String, String>>())?;
        let Some(mut fields) = known else { continue };
        for (name, value) in told {
            match value {
                Some(value) => fields.insert(name.clone(), value.clone()),
                None => fields.remove(name),
            };
        }
        let params = params![json(&fields)?, org.as_str(), channel.as_str(), key.as_str()];
        execute(conn, WRITE, params)?;
    }
    Ok(())
}

/// Lists listings by SKU, key and channel.
///
/// The cursor is SKU and key, which listings of two channels may share: a page ends before such
/// a group that it cannot hold whole. A group larger than the limit makes the page longer.
pub(crate) fn query(
    conn: &Connection,
    org: &Org,
    query: &ListingQuery,
) -> Result<Page<ListingRow>> {
    let mut limit = query.limit;
    loop {
        // One above the limit, to see where the last group ends; the list itself looks further.
        let found = list(conn, org, query, limit.saturating_add(1))?;
        match records::whole_groups(found, limit) {
            Some(page) => return Ok(page),
            None => limit = limit.saturating_add(1),
        }
    }
}

fn list(
    conn: &Connection,
    org: &Org,
    query: &ListingQuery,
    limit: usize,
) -> Result<Page<ListingRow>> {
    const SQL: &str = "
SELECT
  l.channel, l.listing_key, l.sku, l.channel_fulfilled, l.follows, l.strategy, l.rules,
  c.strategy, c.rules,
  l.base, l.base_at, l.booked_at, l.in_flight_quantity, l.in_flight_version, l.in_flight_at,
  l.acked_version, l.acked_at, l.observed_quantity, l.observed_at,
  l.provisional, l.forced, l.epoch, l.in_conflict,
  l.fields, l.enabled, l.parked_code, l.parked_detail, l.parked_at, l.attempts,
  l.revised_count, l.revised_at, l.scope,
  CASE
    WHEN l.follows = 1 THEN (
      SELECT json_array(o.channel, o.listing_key)
      FROM listing o
      WHERE o.org = l.org AND o.scope = l.scope AND o.follows = 0
    )
  END,
  EXISTS (SELECT 1 FROM pause p WHERE p.org = l.org AND p.sku IN ('', l.sku))
FROM listing l
LEFT JOIN connection c ON c.org = l.org AND c.id = l.channel
LEFT JOIN sku s ON s.org = l.org AND s.sku = l.sku
WHERE l.org = ?";
    let mut list = List::of(org, SQL);
    list.by("l.channel = ?", query.channel.as_ref().map(|id| text(id.as_str())));
    if let Some(skus) = &query.skus {
        let names: Vec<&str> = skus.iter().map(Sku::as_str).collect();
        list.by("l.sku IN (SELECT value FROM json_each(?))", Some(text(&json(&names)?)));
    }
    if let Some(keys) = &query.keys {
        let names: Vec<&str> = keys.iter().map(ListingKey::as_str).collect();
        let within = "l.listing_key IN (SELECT value FROM json_each(?))";
        list.by(within, Some(text(&json(&names)?)));
    }
    if query.dirty {
        list.when(IS_DIRTY);
    }
    if query.suspicious {
        list.when(IS_SUSPICIOUS);
    }
    if let Some((sku, key)) = &query.after {
        let after = [text(sku.as_str()), text(key.as_str())];
        list.by_all("(l.sku, l.listing_key) > (?, ?)", after);
    }
    // A few keys are looked up one by one; an index in this order holds the whole channel.
    let order = if query.keys.is_some() { "+l.sku" } else { "l.sku" };
    list.page(conn, &format!("{order}, l.listing_key, l.channel"), limit, |columns| {
        records::listing(columns, read_leader)
    })
}

/// Counts a channel's listings that owe a push or whose push has no outcome yet. Those that are
/// told nothing meanwhile do not count: of no SKU, disabled, the channel's own, followers, in
/// conflict, paused, and parked until their value changes.
pub(crate) fn count_pending(conn: &Connection, org: &Org, channel: &ChannelId) -> Result<u64> {
    const SQL: &str = "
        SELECT count(*)
        FROM listing l
        JOIN sku s ON s.org = l.org AND s.sku = l.sku
        WHERE l.org = ?
          AND l.channel = ?
          AND l.enabled = 1
          AND l.channel_fulfilled = 0
          AND l.follows = 0
          AND l.in_conflict = 0
          AND NOT EXISTS (SELECT 1 FROM pause p WHERE p.org = l.org AND p.sku IN ('', l.sku))
          AND (
            l.parked_code IS NULL
            OR (l.parked_code = 'invalid_value' AND s.updated_at > l.parked_at)
          )
          AND (
            l.forced = 1
            OR l.acked_version < s.publish_version
            OR l.in_flight_quantity IS NOT NULL
          )";
    count(conn, SQL, [org.as_str(), channel.as_str()])
}

fn read_leader(columns: &mut Columns<'_, '_>) -> Result<Option<(ChannelId, ListingKey)>> {
    let Some((channel, key)) = columns.optional_json::<(String, String)>()? else {
        return Ok(None);
    };
    Ok(Some((parse_name(&channel)?, parse_name(&key)?)))
}
