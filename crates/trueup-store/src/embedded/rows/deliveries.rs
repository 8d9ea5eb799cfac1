//! Who wants to be told what, and what is being told.

use rusqlite::{Connection, named_params, params};
use trueup_core::{Org, Timestamp};

use super::columns::Columns;
use super::{List, Result, all, execute, first, text};
use crate::encoding::columns::ReadColumns;
use crate::encoding::records;
use crate::encoding::words::Word;
use crate::encoding::{at_most, json};
use crate::{Delivery, Page, Subscription};

/// Lists an org's subscriptions by id.
pub(crate) fn subscriptions(conn: &Connection, org: &Org) -> Result<Vec<Subscription>> {
    const SQL: &str = "
        SELECT id, url, events, sealed_secret, enabled, description, created_at
        FROM subscription
        WHERE org = ?
        ORDER BY id";
    all(conn, SQL, [org.as_str()], read_subscription)
}

/// Returns a subscription.
pub(crate) fn subscription(conn: &Connection, org: &Org, id: &str) -> Result<Option<Subscription>> {
    const SQL: &str = "
        SELECT id, url, events, sealed_secret, enabled, description, created_at
        FROM subscription
        WHERE org = ?
          AND id = ?";
    first(conn, SQL, [org.as_str(), id], read_subscription)
}

/// Makes or replaces a subscription.
pub(crate) fn put_subscription(conn: &Connection, org: &Org, row: &Subscription) -> Result<()> {
    const SQL: &str = "
        INSERT INTO subscription (
          org, id, url, events, sealed_secret, enabled, description, created_at
        )
        VALUES (
          :org, :id, :url, :events, :sealed_secret, :enabled, :description, :created_at
        )
        ON CONFLICT (org, id) DO UPDATE
        SET url = excluded.url,
          events = excluded.events,
          sealed_secret = excluded.sealed_secret,
          enabled = excluded.enabled,
          description = excluded.description,
          created_at = excluded.created_at";
    let params = named_params! {
        ":org": org.as_str(),
        ":id": row.id,
        ":url": row.url,
        ":events": json(&row.events)?,
        ":sealed_secret": row.sealed_secret,
        ":enabled": row.enabled,
        ":description": row.description,
        ":created_at": row.created_at.micros(),
    };
    execute(conn, SQL, params)?;
    Ok(())
}

/// Removes a subscription with its deliveries; returns whether it was there.
pub(crate) fn delete_subscription(conn: &Connection, org: &Org, id: &str) -> Result<bool> {
    const DELIVERIES: &str = "
        DELETE FROM delivery
        WHERE org = ?
          AND subscription = ?";
    const SUBSCRIPTION: &str = "
        DELETE FROM subscription
        WHERE org = ?
          AND id = ?";
    execute(conn, DELIVERIES, [org.as_str(), id])?;
    Ok(execute(conn, SUBSCRIPTION, [org.as_str(), id])? > 0)
}

/// Returns whether anybody of the org is told anything: a cheap look before an event is made.
pub(crate) fn has_subscribers(conn: &Connection, org: &Org) -> Result<bool> {
    const SQL: &str = "
        SELECT EXISTS (
          SELECT 1
          FROM subscription
          WHERE org = ?
            AND enabled = 1
        )";
    Ok(first(conn, SQL, [org.as_str()], |columns| columns.take())?.unwrap_or(false))
}

/// Adds an event for every enabled subscription that wants it; returns for how many.
///
/// `ids` makes the deliveries' ids; they should grow, for lists are sorted by them.
pub(crate) fn add_event(
    conn: &Connection,
    org: &Org,
    event: &str,
    body: &serde_json::Value,
    at: Timestamp,
    ids: &mut dyn FnMut() -> String,
) -> Result<usize> {
    const WANTED_BY: &str = "
        SELECT id
        FROM subscription
        WHERE org = :org
          AND enabled = 1
          AND (
            json_array_length(events) = 0
            OR :event IN (SELECT value FROM json_each(events))
          )
        ORDER BY id";
    const SQL: &str = "
        INSERT INTO delivery (
          org, id, subscription, event, body, state, attempts, next_at, created_at
        )
        VALUES (?, ?, ?, ?, ?, 'pending', 0, ?, ?)";
    let wanted = named_params! { ":org": org.as_str(), ":event": event };
    let subscribers: Vec<String> = all(conn, WANTED_BY, wanted, |columns| columns.take())?;
    if subscribers.is_empty() {
        return Ok(0);
    }
    let body = json(body)?;
    for subscriber in &subscribers {
        let (id, at) = (ids(), at.micros());
        execute(conn, SQL, params![org.as_str(), id, subscriber, event, body, at, at])?;
    }
    Ok(subscribers.len())
}

/// Lists deliveries of every org that are due to enabled subscriptions, longest due first.
pub(crate) fn due(
    conn: &Connection,
    now: Timestamp,
    but: &str,
    limit: usize,
) -> Result<Vec<(Org, Delivery)>> {
    const SQL: &str = "
        SELECT d.org, d.id, d.subscription, d.event, d.body, d.state, d.attempts, d.next_at,
          d.last_result, d.created_at
        FROM delivery d
        CROSS JOIN subscription s
        WHERE d.state = 'pending'
          AND d.next_at <= ?
          AND d.org NOT IN (SELECT value FROM json_each(?))
          AND s.org = d.org
          AND s.id = d.subscription
          AND s.enabled = 1
        ORDER BY d.next_at, d.id
        LIMIT ?";
    all(conn, SQL, params![now.micros(), but, at_most(limit)], |columns| {
        Ok((columns.name()?, records::delivery(columns)?))
    })
}

/// Lists a subscription's deliveries, newest first, below an id.
pub(crate) fn list(
    conn: &Connection,
    org: &Org,
    subscription: &str,
    before: Option<&str>,
    limit: usize,
) -> Result<Page<Delivery>> {
    const SQL: &str = "
SELECT id, subscription, event, body, state, attempts, next_at, last_result, created_at
FROM delivery
WHERE org = ?";
    let mut list = List::of(org, SQL);
    list.by("subscription = ?", Some(text(subscription)));
    list.by("id < ?", before.map(text));
    list.page(conn, "id DESC", limit, |columns| records::delivery(columns))
}

/// Returns a delivery.
pub(crate) fn get(conn: &Connection, org: &Org, id: &str) -> Result<Option<Delivery>> {
    const SQL: &str = "
        SELECT id, subscription, event, body, state, attempts, next_at, last_result, created_at
        FROM delivery
        WHERE org = ?
          AND id = ?";
    first(conn, SQL, [org.as_str(), id], |columns| records::delivery(columns))
}

/// Makes or replaces a delivery; does nothing where its subscription is gone.
pub(crate) fn put(conn: &Connection, org: &Org, row: &Delivery) -> Result<()> {
    const SQL: &str = "
        INSERT INTO delivery (
          org, id, subscription, event, body, state, attempts, next_at, last_result, created_at
        )
        SELECT :org, :id, :subscription, :event, :body, :state, :attempts, :next_at,
          :last_result, :created_at
        WHERE EXISTS (
          SELECT 1
          FROM subscription
          WHERE org = :org
            AND id = :subscription
        )
        ON CONFLICT (org, id) DO UPDATE
        SET subscription = excluded.subscription,
          event = excluded.event,
          body = excluded.body,
          state = excluded.state,
          attempts = excluded.attempts,
          next_at = excluded.next_at,
          last_result = excluded.last_result,
          created_at = excluded.created_at";
    let params = named_params! {
        ":org": org.as_str(),
        ":id": row.id,
        ":subscription": row.subscription,
        ":event": row.event,
        ":body": row.body,
        ":state": row.state.word(),
        ":attempts": row.attempts,
        ":next_at": row.next_at.micros(),
        ":last_result": row.last_result,
        ":created_at": row.created_at.micros(),
    };
    execute(conn, SQL, params)?;
    Ok(())
}

fn read_subscription(columns: &mut Columns<'_, '_>) -> Result<Subscription> {
    Ok(Subscription {
        id: columns.take()?,
        url: columns.take()?,
        events: columns.json()?,
        sealed_secret: columns.take()?,
        enabled: columns.take()?,
        description: columns.take()?,
        created_at: columns.instant()?,
    })
}
