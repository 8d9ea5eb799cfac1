//! Who wants to be told what, and what is being told.
//!
//! Whoever adds a delivery holds its subscription by `FOR KEY SHARE` until the commit: who removes
//! the subscription waits, and then removes the delivery with it.

use std::collections::HashMap;

use trueup_core::{Org, Timestamp};

use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::encoding::{at_most, json};
use crate::port::{Delivery, Page, Subscription};
use crate::postgres::error::Result;
use crate::postgres::shard::shard_of;
use crate::postgres::sql::{Columns, Conn, List, Param, Plain, all, execute, first};

/// Who is told of which events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgres) struct Subscriber {
    /// The subscription's id.
    pub(in crate::postgres) id: String,
    /// Which events; empty = all.
    pub(in crate::postgres) events: Vec<String>,
}

impl Subscriber {
    /// Returns whether it is told of an event.
    pub(in crate::postgres) fn wants(&self, event: &str) -> bool {
        self.events.is_empty() || self.events.iter().any(|wanted| wanted == event)
    }
}

/// A delivery to be made.
#[derive(Debug, Clone)]
pub(in crate::postgres) struct NewDelivery<'a> {
    /// The tenant.
    pub(in crate::postgres) org: &'a Org,
    /// Its id.
    pub(in crate::postgres) id: String,
    /// The subscription.
    pub(in crate::postgres) subscription: &'a str,
    /// The event.
    pub(in crate::postgres) event: &'a str,
    /// The body.
    pub(in crate::postgres) body: &'a str,
    /// When the event happened.
    pub(in crate::postgres) at: Timestamp,
}

/// Lists an org's subscriptions by id.
pub(in crate::postgres) async fn subscriptions(
    conn: &Conn,
    org: &Org,
) -> Result<Vec<Subscription>> {
    const SQL: &str = "
        SELECT id, url, events, sealed_secret, enabled, description, created_at
        FROM subscription
        WHERE shard = $1
          AND org = $2
        ORDER BY id";
    all(conn, SQL, &[&shard_of(org), &org.as_str()], read_subscription).await
}

/// Returns a subscription.
pub(in crate::postgres) async fn subscription(
    conn: &Conn,
    org: &Org,
    id: &str,
) -> Result<Option<Subscription>> {
    const SQL: &str = "
        SELECT id, url, events, sealed_secret, enabled, description, created_at
        FROM subscription
        WHERE shard = $1
          AND org = $2
          AND id = $3";
    first(conn, SQL, &[&shard_of(org), &org.as_str(), &Plain(id)], read_subscription).await
}

/// Makes or replaces a subscription.
pub(in crate::postgres) async fn put_subscription(
    conn: &Conn,
    org: &Org,
    row: &Subscription,
) -> Result<()> {
    const SQL: &str = "
        INSERT INTO subscription (
          shard, org, id, url, events, sealed_secret, enabled, description, created_at
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (shard, org, id) DO UPDATE
        SET url = excluded.url,
          events = excluded.events,
          sealed_secret = excluded.sealed_secret,
          enabled = excluded.enabled,
          description = excluded.description,
          created_at = excluded.created_at";
    let params: [Param<'_>; 9] = [
        &shard_of(org),
        &org.as_str(),
        &Plain(&row.id),
        &Plain(&row.url),
        &row.events.iter().map(Plain).collect::<Vec<_>>(),
        &row.sealed_secret,
        &row.enabled,
        &row.description.as_deref().map(Plain),
        &row.created_at.micros(),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Removes a subscription with its deliveries; returns whether it was there.
pub(in crate::postgres) async fn delete_subscription(
    conn: &Conn,
    org: &Org,
    id: &str,
) -> Result<bool> {
    // First, so that no delivery comes after the look for them.
    const SUBSCRIPTION: &str = "
        DELETE FROM subscription
        WHERE shard = $1
          AND org = $2
          AND id = $3";
    const DELIVERIES: &str = "
        DELETE FROM delivery
        WHERE shard = $1
          AND org = $2
          AND subscription = $3";
    let (shard, org, id) = (shard_of(org), org.as_str(), Plain(id));
    let params: [Param<'_>; 3] = [&shard, &org, &id];
    let was_there = execute(conn, SUBSCRIPTION, &params).await? > 0;
    execute(conn, DELIVERIES, &params).await?;
    Ok(was_there)
}

/// Returns the enabled subscriptions of orgs of a shard, by id, and holds them until the
/// transaction ends; an org without any is not there.
pub(in crate::postgres) async fn subscribers(
    conn: &Conn,
    shard: i16,
    orgs: &[&str],
) -> Result<HashMap<Org, Vec<Subscriber>>> {
    const SQL: &str = "
        SELECT org, id, events
        FROM subscription
        WHERE shard = $1
          AND org = ANY($2)
          AND enabled
        ORDER BY org, id
        FOR KEY SHARE";
    let rows = all(conn, SQL, &[&shard, &orgs], |columns| {
        let org: Org = columns.name()?;
        Ok((org, Subscriber { id: columns.take()?, events: columns.take()? }))
    })
    .await?;
    let mut found: HashMap<Org, Vec<Subscriber>> = HashMap::new();
    for (org, subscriber) in rows {
        found.entry(org).or_default().push(subscriber);
    }
    Ok(found)
}

/// Adds deliveries of a shard, pending, made and due at their instants. Their ids should grow, for
/// lists are sorted by them. Whoever they are for is held: see [`subscribers`].
pub(in crate::postgres) async fn write(
    conn: &Conn,
    shard: i16,
    rows: &[NewDelivery<'_>],
) -> Result<()> {
    const SQL: &str = "
        INSERT INTO delivery (
          shard, org, id, subscription, event, body, state, attempts, next_at, created_at
        )
        SELECT $1, org, id, subscription, event, body, 'pending', 0, at, at
        FROM unnest(
          $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[]
        ) AS given (org, id, subscription, event, body, at)";
    if rows.is_empty() {
        return Ok(());
    }
    let params: [Param<'_>; 7] = [
        &shard,
        &rows.iter().map(|row| row.org.as_str()).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.subscription).collect::<Vec<_>>(),
        &rows.iter().map(|row| Plain(row.event)).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.body).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.at.micros()).collect::<Vec<_>>(),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

/// Adds an event for every enabled subscription that wants it; `ids` makes the deliveries' ids.
pub(in crate::postgres) async fn add_event(
    conn: &Conn,
    org: &Org,
    event: &str,
    body: &serde_json::Value,
    at: Timestamp,
    ids: &(dyn Fn() -> String + Sync),
) -> Result<()> {
    let shard = shard_of(org);
    let subscribers = subscribers(conn, shard, &[org.as_str()]).await?;
    let body = json(body)?;
    let rows: Vec<NewDelivery<'_>> = subscribers
        .values()
        .flatten()
        .filter(|subscriber| subscriber.wants(event))
        .map(|Subscriber { id, .. }| NewDelivery {
            org,
            id: ids(),
            subscription: id,
            event,
            body: &body,
            at,
        })
        .collect();
    write(conn, shard, &rows).await
}

/// Lists deliveries of every org of shards that are due to enabled subscriptions, longest due first.
pub(in crate::postgres) async fn due(
    conn: &Conn,
    shards: &[i16],
    now: Timestamp,
    limit: usize,
) -> Result<Vec<(Org, Delivery)>> {
    // Of each shard no more than of all, and bodies only of those.
    const SQL: &str = "
        SELECT d.org, d.id, d.subscription, d.event, d.body, d.state, d.attempts, d.next_at,
          d.last_result, d.created_at
        FROM (
          SELECT o.shard, o.org, o.id
          FROM unnest($1::smallint[]) AS one (shard)
          CROSS JOIN LATERAL (
            SELECT p.shard, p.org, p.id, p.next_at
            FROM delivery p
            JOIN subscription s ON s.shard = p.shard AND s.org = p.org AND s.id = p.subscription
            WHERE p.shard = one.shard
              AND s.shard = one.shard
              AND p.state = 'pending'
              AND p.next_at <= $2
              AND s.enabled
              AND NOT EXISTS (
                SELECT 1
                FROM arrival a
                WHERE a.shard = p.shard
                  AND a.org = p.org
                  AND a.opened_at IS NULL
              )
            ORDER BY p.next_at, p.id
            LIMIT $3
          ) o
          ORDER BY o.next_at, o.id
          LIMIT $3
        ) oldest
        JOIN delivery d USING (shard, org, id)
        ORDER BY d.next_at, d.id";
    all(conn, SQL, &[&shards, &now.micros(), &at_most(limit)], |columns| {
        Ok((columns.name()?, records::delivery(columns)?))
    })
    .await
}

/// Lists a subscription's deliveries, newest first, below an id.
pub(in crate::postgres) async fn list(
    conn: &Conn,
    org: &Org,
    subscription: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Page<Delivery>> {
    const SQL: &str = "
SELECT id, subscription, event, body, state, attempts, next_at, last_result, created_at
FROM delivery
WHERE shard = $1
  AND org = $2";
    let mut list = List::of(org, SQL);
    list.by("subscription = ?", Some(Plain(subscription.to_owned())));
    list.by("id < ?", before.map(|id| Plain(id.to_owned())));
    list.page(conn, "id DESC", limit, |columns| records::delivery(columns)).await
}

/// Returns a delivery.
pub(in crate::postgres) async fn get(conn: &Conn, org: &Org, id: &str) -> Result<Option<Delivery>> {
    const SQL: &str = "
        SELECT id, subscription, event, body, state, attempts, next_at, last_result, created_at
        FROM delivery
        WHERE shard = $1
          AND org = $2
          AND id = $3";
    first(conn, SQL, &[&shard_of(org), &org.as_str(), &Plain(id)], |columns| {
        records::delivery(columns)
    })
    .await
}

/// Makes or replaces a delivery; does nothing where its subscription is gone.
pub(in crate::postgres) async fn put(conn: &Conn, org: &Org, row: &Delivery) -> Result<()> {
    const HOLD: &str = "
        SELECT 1
        FROM subscription
        WHERE shard = $1
          AND org = $2
          AND id = $3
        FOR KEY SHARE";
    const SQL: &str = "
        INSERT INTO delivery (
          shard, org, id, subscription, event, body, state, attempts, next_at, last_result,
          created_at
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (shard, org, id) DO UPDATE
        SET subscription = excluded.subscription,
          event = excluded.event,
          body = excluded.body,
          state = excluded.state,
          attempts = excluded.attempts,
          next_at = excluded.next_at,
          last_result = excluded.last_result,
          created_at = excluded.created_at";
    let (shard, org, subscription) = (shard_of(org), org.as_str(), Plain(&row.subscription));
    let place: [Param<'_>; 3] = [&shard, &org, &subscription];
    if first(conn, HOLD, &place, |columns| columns.take::<i32>()).await?.is_none() {
        return Ok(());
    }
    let params: [Param<'_>; 11] = [
        &shard,
        &org,
        &Plain(&row.id),
        &subscription,
        &Plain(&row.event),
        &Plain(&row.body),
        &row.state.word(),
        &i64::from(row.attempts),
        &row.next_at.micros(),
        &row.last_result.as_deref().map(Plain),
        &row.created_at.micros(),
    ];
    execute(conn, SQL, &params).await?;
    Ok(())
}

fn read_subscription(columns: &mut Columns<'_>) -> Result<Subscription> {
    Ok(Subscription {
        id: columns.take()?,
        url: columns.take()?,
        events: columns.take()?,
        sealed_secret: columns.take()?,
        enabled: columns.take()?,
        description: columns.take()?,
        created_at: columns.instant()?,
    })
}
