//! What a channel's catalogue held when it was last read, and how its listings stand to the
//! ledger.

use std::collections::BTreeMap;

use trueup_core::{ChannelId, ListingKey, Org, Sku};

use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::encoding::{at_most, containing, json, parse_name};
use crate::port::{
    CatalogueFilter, CatalogueQuery, ChannelListing, ChannelListingView, MatchNote, Page,
    SUGGESTIONS_MAX,
};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{self, Columns, Conn, List, Param, Plain, counted};

/// The listing with its mapping of now, narrowed to an org.
const SELECT: &str = "
SELECT
  c.name, c.listing_key, c.sku, c.essence, c.title, c.fields, c.quantity, c.channel_fulfilled,
  c.found, c.suggestions, c.was_mapped, c.run, c.seen_at,
  l.listing_key, l.sku, l.fields, l.strategy, l.rules, l.channel_fulfilled, l.enabled
FROM channel_listing c
LEFT JOIN LATERAL (
  SELECT *
  FROM listing
  WHERE shard = c.shard
    AND org = c.org
    AND channel = c.channel
    AND listing_key = c.listing_key
  OFFSET 0
) l ON TRUE
WHERE c.shard = $1
  AND c.org = $2";

/// Keeps listings as they were read, in place of what was known of them. Of several of one name,
/// the last counts.
pub(in crate::postgres) async fn put(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    rows: &[ChannelListing],
) -> Result<()> {
    const SQL: &str = "
        INSERT INTO channel_listing (
          shard, org, channel, name, listing_key, sku, essence, title, fields, quantity,
          channel_fulfilled, found, suggestions, was_mapped, run, seen_at
        )
        SELECT $1::smallint, $2::text, $3::text, n.name, n.listing_key, n.sku, n.essence, n.title,
          n.fields, n.quantity, n.channel_fulfilled, n.found,
          ARRAY(SELECT jsonb_array_elements_text(n.suggestions::jsonb)), n.was_mapped, n.run,
          n.seen_at
        FROM unnest(
          $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
          $11::boolean[], $12::text[], $13::text[], $14::boolean[], $15::text[], $16::bigint[]
        ) AS n (
          name, listing_key, sku, essence, title, fields, quantity,
          channel_fulfilled, found, suggestions, was_mapped, run, seen_at
        )
        ON CONFLICT (shard, org, channel, name) DO UPDATE
        SET listing_key = excluded.listing_key,
          sku = excluded.sku,
          essence = excluded.essence,
          title = excluded.title,
          fields = excluded.fields,
          quantity = excluded.quantity,
          channel_fulfilled = excluded.channel_fulfilled,
          found = excluded.found,
          suggestions = excluded.suggestions,
          was_mapped = excluded.was_mapped,
          run = excluded.run,
          seen_at = excluded.seen_at";
    let rows: BTreeMap<_, &ChannelListing> =
        rows.iter().map(|row| (Plain(&row.name).kept().into_owned(), row)).collect();
    let names: Vec<&str> = rows.keys().map(String::as_str).collect();
    let rows: Vec<&ChannelListing> = rows.values().copied().collect();
    let text = |of: fn(&ChannelListing) -> Option<&str>| -> Vec<Option<Plain<&str>>> {
        rows.iter().map(|row| of(row).map(Plain)).collect()
    };
    let jsons = |of: fn(&ChannelListing) -> crate::encoding::Result<String>| {
        rows.iter().map(|row| of(row)).collect::<crate::encoding::Result<Vec<String>>>()
    };
    let flags =
        |of: fn(&ChannelListing) -> bool| -> Vec<bool> { rows.iter().map(|row| of(row)).collect() };
    let params: [Param<'_>; 16] = [
        &shard_of(org),
        &org.as_str(),
        &channel.as_str(),
        &names,
        &text(|row| row.key.as_ref().map(ListingKey::as_str)),
        &text(|row| row.sku.as_deref()),
        &text(|row| row.essence.as_deref()),
        &text(|row| row.title.as_deref()),
        &jsons(|row| json(&row.fields))?,
        &rows.iter().map(|row| row.quantity).collect::<Vec<Option<i64>>>(),
        &flags(|row| row.channel_fulfilled),
        &rows.iter().map(|row| row.found.word()).collect::<Vec<&str>>(),
        &jsons(|row| json(&row.suggestions.iter().map(Sku::as_str).collect::<Vec<_>>()))?,
        &flags(|row| row.was_mapped),
        &text(|row| Some(&row.run)),
        &rows.iter().map(|row| row.seen_at.micros()).collect::<Vec<i64>>(),
    ];
    sql::execute(conn, SQL, &params).await?;
    Ok(())
}

/// Lists a channel's catalogue by name.
pub(in crate::postgres) async fn query(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    query: &CatalogueQuery,
) -> Result<Page<ChannelListingView>> {
    let mut list = List::of(org, SELECT);
    list.by("c.channel = ?", Some(channel.as_str().to_owned()));
    match query.filter {
        Some(CatalogueFilter::Mapped) => list.when("l.listing_key IS NOT NULL"),
        Some(CatalogueFilter::Unmapped) => list.when("l.listing_key IS NULL"),
        Some(CatalogueFilter::Is(found)) => {
            list.by("c.found = ?", Some(found.word()));
            list.when("l.listing_key IS NULL");
        }
        None => {}
    }
    if let Some(search) = &query.search {
        // Of columns that are compared by their bytes, only ASCII letters are the same in both
        // cases.
        let clause = "(c.sku ILIKE ? ESCAPE '\\' OR c.title ILIKE ? ESCAPE '\\' \
             OR c.name ILIKE ? ESCAPE '\\')";
        let pattern = Plain(containing(search));
        list.by_all(
            clause,
            vec![Box::new(pattern.clone()), Box::new(pattern.clone()), Box::new(pattern)],
        );
    }
    list.by("c.run = ?", query.run.clone().map(Plain));
    list.by("c.name > ?", query.after.clone().map(Plain));
    list.page(conn, "c.name", query.limit, |columns| {
        records::channel_listing(columns, channel, read_skus)
    })
    .await
}

/// Lists what a run read and has a SKU, by SKU and name; without texts that are far too long to be
/// one of ours.
pub(in crate::postgres) async fn by_sku(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    run: &str,
    after: Option<&(String, String)>,
    limit: usize,
) -> Result<Page<ChannelListingView>> {
    let mut list = List::of(org, SELECT);
    list.by("c.channel = ?", Some(channel.as_str().to_owned()));
    list.when("octet_length(c.sku) <= 1000");
    list.by("c.run = ?", Some(Plain(run.to_owned())));
    if let Some((sku, name)) = after {
        let after = (Plain(sku.clone()), Plain(name.clone()));
        list.by_all("(c.sku, c.name) > (?, ?)", vec![Box::new(after.0), Box::new(after.1)]);
    }
    list.page(conn, "c.sku, c.name", limit, |columns| {
        records::channel_listing(columns, channel, read_skus)
    })
    .await
}

/// Notes how listings were matched; passes over those that are gone. Of several notes of one
/// listing, the last counts.
pub(in crate::postgres) async fn note_matches(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    notes: &[MatchNote],
) -> Result<()> {
    const LOCK: &str = "
        SELECT count(*)
        FROM unnest($4::text[]) AS n (name)
        CROSS JOIN LATERAL (
          SELECT name
          FROM channel_listing
          WHERE shard = $1
            AND org = $2
            AND channel = $3
            AND name = n.name
          FOR UPDATE
        ) held";
    const SQL: &str = "
        UPDATE channel_listing c
        SET found = n.found,
          was_mapped = n.was_mapped
        FROM unnest($4::text[], $5::text[], $6::boolean[]) AS n (name, found, was_mapped)
        CROSS JOIN LATERAL (
          SELECT ctid AS id
          FROM channel_listing
          WHERE shard = $1
            AND org = $2
            AND channel = $3
            AND name = n.name
          OFFSET 0
        ) t
        WHERE c.ctid = t.id";
    let notes: BTreeMap<_, &MatchNote> =
        notes.iter().map(|note| (Plain(&note.name).kept().into_owned(), note)).collect();
    let names: Vec<&str> = notes.keys().map(String::as_str).collect();
    let found: Vec<&str> = notes.values().map(|note| note.found.word()).collect();
    let was_mapped: Vec<bool> = notes.values().map(|note| note.was_mapped).collect();
    let params: [Param<'_>; 6] =
        [&shard_of(org), &org.as_str(), &channel.as_str(), &names, &found, &was_mapped];
    let [shard, of, on, names, ..] = params;
    sql::count(conn, LOCK, &[shard, of, on, names]).await?;
    sql::execute(conn, SQL, &params).await?;
    Ok(())
}

/// Adds SKUs to what listings of their essence may be, where these match no SKU exactly.
pub(in crate::postgres) async fn suggest(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    run: &str,
    skus: &[(String, Sku)],
) -> Result<()> {
    const SQL: &str = "
        UPDATE channel_listing c
        SET found = 'near_miss',
          suggestions = (c.suggestions || n.skus)[1:$7]
        FROM (
          SELECT essence, array_agg(sku ORDER BY nth) AS skus
          FROM unnest($5::text[], $6::text[]) WITH ORDINALITY AS n (essence, sku, nth)
          GROUP BY essence
        ) n
        CROSS JOIN LATERAL (
          SELECT ctid AS id
          FROM channel_listing
          WHERE shard = $1
            AND org = $2
            AND channel = $3
            AND essence = n.essence
            AND octet_length(essence) <= 1000
            AND run = $4
            AND found IN ('unknown_sku', 'near_miss')
          OFFSET 0
        ) t
        WHERE c.ctid = t.id
          AND cardinality(c.suggestions) < $7";
    let essences: Vec<Plain<&str>> = skus.iter().map(|(of, _)| Plain(of.as_str())).collect();
    let names: Vec<&str> = skus.iter().map(|(_, sku)| sku.as_str()).collect();
    let most = i32::try_from(SUGGESTIONS_MAX).unwrap_or(i32::MAX);
    let params: [Param<'_>; 7] =
        [&shard_of(org), &org.as_str(), &channel.as_str(), &Plain(run), &essences, &names, &most];
    sql::execute(conn, SQL, &params).await?;
    Ok(())
}

/// Counts what a run read by how it stands.
pub(in crate::postgres) async fn counts(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    run: &str,
) -> Result<BTreeMap<String, u64>> {
    const SQL: &str = "
        SELECT
          CASE
            WHEN l.listing_key IS NOT NULL AND (c.was_mapped OR c.found <> 'matched')
              THEN 'already_mapped'
            ELSE c.found
          END AS stands,
          count(*)
        FROM channel_listing c
        LEFT JOIN LATERAL (
          SELECT listing_key
          FROM listing
          WHERE shard = c.shard
            AND org = c.org
            AND channel = c.channel
            AND listing_key = c.listing_key
          OFFSET 0
        ) l ON TRUE
        WHERE c.shard = $1
          AND c.org = $2
          AND c.channel = $3
          AND c.run = $4
        GROUP BY stands";
    let params: [Param<'_>; 4] = [&shard_of(org), &org.as_str(), &channel.as_str(), &Plain(run)];
    let counted = sql::all(conn, SQL, &params, |columns| Ok((columns.take()?, columns.count()?)));
    Ok(counted.await?.into_iter().collect())
}

/// Forgets up to so many listings that a run did not read; returns how many.
pub(in crate::postgres) async fn forget(
    conn: &Conn,
    org: &Org,
    channel: &ChannelId,
    but_of_run: &str,
    most: usize,
) -> Result<usize> {
    const SQL: &str = "
        DELETE FROM channel_listing
        WHERE ctid = ANY(ARRAY(
          SELECT ctid
          FROM channel_listing
          WHERE shard = $1
            AND org = $2
            AND channel = $3
            AND run <> $4
          LIMIT $5
        ))";
    let params: [Param<'_>; 5] =
        [&shard_of(org), &org.as_str(), &channel.as_str(), &Plain(but_of_run), &at_most(most)];
    Ok(counted(sql::execute(conn, SQL, &params).await?))
}

fn read_skus(columns: &mut Columns<'_>) -> Result<Vec<Sku>> {
    let names: Vec<&str> = columns.take()?;
    Ok(names.into_iter().map(parse_name).collect::<crate::encoding::Result<_>>()?)
}
