//! Channels' catalogues as they were last read, and how their listings stand to the ledger.

use std::collections::BTreeMap;

use rusqlite::{Connection, named_params, params};
use trueup_core::{ChannelId, ListingKey, Org, Sku};

use super::{List, Result, all, execute, text};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::encoding::{at_most, containing, json, parse_skus};
use crate::{
    CatalogueFilter, CatalogueQuery, ChannelListing, ChannelListingView, MatchNote, Page,
    SUGGESTIONS_MAX,
};

/// The listing with its mapping of now, narrowed to an org.
const SELECT: &str = "
SELECT
  c.name, c.listing_key, c.sku, c.essence, c.title, c.fields, c.quantity, c.channel_fulfilled,
  c.found, c.suggestions, c.was_mapped, c.run, c.seen_at,
  l.listing_key, l.sku, l.fields, l.strategy, l.rules, l.channel_fulfilled, l.enabled
FROM channel_listing c
LEFT JOIN listing l
  ON l.org = c.org AND l.channel = c.channel AND l.listing_key = c.listing_key
WHERE c.org = ?";

/// Keeps listings as they were read, in place of what was known of them.
pub(crate) fn put(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    rows: &[ChannelListing],
) -> Result<()> {
    const SQL: &str = "
        INSERT OR REPLACE INTO channel_listing (
          org, channel, name, listing_key, sku, essence, title, fields, quantity,
          channel_fulfilled, found, suggestions, was_mapped, run, seen_at
        )
        VALUES (
          :org, :channel, :name, :key, :sku, :essence, :title, :fields, :quantity,
          :channel_fulfilled, :found, :suggestions, :was_mapped, :run, :seen_at
        )";
    for row in rows {
        let suggestions: Vec<&str> = row.suggestions.iter().map(Sku::as_str).collect();
        let params = named_params! {
            ":org": org.as_str(),
            ":channel": channel.as_str(),
            ":name": row.name,
            ":key": row.key.as_ref().map(ListingKey::as_str),
            ":sku": row.sku,
            ":essence": row.essence,
            ":title": row.title,
            ":fields": json(&row.fields)?,
            ":quantity": row.quantity,
            ":channel_fulfilled": row.channel_fulfilled,
            ":found": row.found.word(),
            ":suggestions": json(&suggestions)?,
            ":was_mapped": row.was_mapped,
            ":run": row.run,
            ":seen_at": row.seen_at.micros(),
        };
        execute(conn, SQL, params)?;
    }
    Ok(())
}

/// Lists a channel's catalogue by name.
pub(crate) fn query(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    query: &CatalogueQuery,
) -> Result<Page<ChannelListingView>> {
    let mut list = List::of(org, SELECT);
    list.by("c.channel = ?", Some(text(channel.as_str())));
    match query.filter {
        Some(CatalogueFilter::Mapped) => list.when("l.listing_key IS NOT NULL"),
        Some(CatalogueFilter::Unmapped) => list.when("l.listing_key IS NULL"),
        Some(CatalogueFilter::Is(found)) => {
            list.by("c.found = ?", Some(text(found.word())));
            list.when("l.listing_key IS NULL");
        }
        None => {}
    }
    if let Some(search) = &query.search {
        let pattern = text(&containing(search));
        let clause = "(c.sku LIKE ? ESCAPE '\\' OR c.title LIKE ? ESCAPE '\\' \
             OR c.name LIKE ? ESCAPE '\\')";
        list.by_all(clause, [pattern.clone(), pattern.clone(), pattern]);
    }
    list.by("c.run = ?", query.run.as_deref().map(text));
    list.by("c.name > ?", query.after.as_deref().map(text));
    list.page(conn, "c.name", query.limit, |columns| {
        records::channel_listing(columns, channel, |columns| columns.kept(parse_skus))
    })
}

/// Lists what a run read and has a SKU, by SKU and name.
pub(crate) fn by_sku(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    run: &str,
    after: Option<&(String, String)>,
    limit: usize,
) -> Result<Page<ChannelListingView>> {
    let mut list = List::of(org, SELECT);
    list.by("c.channel = ?", Some(text(channel.as_str())));
    list.when("c.sku IS NOT NULL");
    list.by("c.run = ?", Some(text(run)));
    if let Some((sku, name)) = after {
        list.by_all("(c.sku, c.name) > (?, ?)", [text(sku), text(name)]);
    }
    list.page(conn, "c.sku, c.name", limit, |columns| {
        records::channel_listing(columns, channel, |columns| columns.kept(parse_skus))
    })
}

/// Notes how listings were matched; passes over those that are gone.
pub(crate) fn note_matches(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    notes: &[MatchNote],
) -> Result<()> {
    const SQL: &str = "
        UPDATE channel_listing
        SET found = ?,
          was_mapped = ?
        WHERE org = ?
          AND channel = ?
          AND name = ?";
    for note in notes {
        let params =
            params![note.found.word(), note.was_mapped, org.as_str(), channel.as_str(), note.name];
        execute(conn, SQL, params)?;
    }
    Ok(())
}

/// Adds SKUs to what listings of their essence may be, where these match no SKU exactly.
pub(crate) fn suggest(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    run: &str,
    skus: &[(String, Sku)],
) -> Result<()> {
    const SQL: &str = "
        UPDATE channel_listing
        SET found = 'near_miss',
          suggestions = json_insert(suggestions, '$[#]', :sku)
        WHERE org = :org
          AND channel = :channel
          AND essence = :essence
          AND run = :run
          AND found IN ('unknown_sku', 'near_miss')
          AND json_array_length(suggestions) < :most";
    for (essence, sku) in skus {
        let params = named_params! {
            ":org": org.as_str(),
            ":channel": channel.as_str(),
            ":essence": essence,
            ":run": run,
            ":sku": sku.as_str(),
            ":most": at_most(SUGGESTIONS_MAX),
        };
        execute(conn, SQL, params)?;
    }
    Ok(())
}

/// Counts what a run read by how it stands.
pub(crate) fn counts(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    run: &str,
) -> Result<BTreeMap<String, u64>> {
    const SQL: &str = "
        SELECT
          CASE
            WHEN l.listing_key IS NOT NULL AND (c.was_mapped = 1 OR c.found <> 'matched')
              THEN 'already_mapped'
            ELSE c.found
          END,
          count(*)
        FROM channel_listing c
        LEFT JOIN listing l
          ON l.org = c.org AND l.channel = c.channel AND l.listing_key = c.listing_key
        WHERE c.org = ?
          AND c.channel = ?
          AND c.run = ?
        GROUP BY 1";
    let counted = all(conn, SQL, [org.as_str(), channel.as_str(), run], |columns| {
        Ok((columns.take()?, columns.count()?))
    });
    Ok(counted?.into_iter().collect())
}

/// Forgets up to so many listings that a run did not read; returns how many.
pub(crate) fn forget(
    conn: &Connection,
    org: &Org,
    channel: &ChannelId,
    but_of_run: &str,
    most: usize,
) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM channel_listing
        WHERE rowid IN (
          SELECT rowid
          FROM channel_listing
          WHERE org = ?
            AND channel = ?
            AND run <> ?
          LIMIT ?
        )";
    execute(conn, SQL, params![org.as_str(), channel.as_str(), but_of_run, at_most(most)])
}
