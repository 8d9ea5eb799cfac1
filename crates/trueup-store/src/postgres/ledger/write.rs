//! Writing what was decided: each kind of row with one statement over arrays.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use trueup_core::book::LineKey;
use trueup_core::{
    ChannelId, Event, ListingKey, ListingState, Movement, Org, Reservation, Sku, SkuState,
    Timestamp,
};

use super::decisions::{Decided, Done, Kept, Known, OrgKnown};
use super::load::id_bytes;
use crate::encoding::events::{Told, told};
use crate::encoding::{codec, holds, items, json, levels, parts};
use crate::postgres::delivery_id;
use crate::postgres::error::{PgError, Result};
use crate::postgres::pool::{MICROS_NOW, Tx};
use crate::postgres::records::conflicts::Turn;
use crate::postgres::records::{answers, conflicts, deliveries, listings, order_lines};
use crate::postgres::sql::{self, Conn, Param, Plain};
use uuid::Uuid;

const BUNDLES: &str = "
    INSERT INTO bundle (shard, org, sku, seq, parts)
    SELECT $1, org, sku, seq, parts
    FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[])
      AS w (org, sku, seq, parts)
    ON CONFLICT (shard, org, sku, seq) DO UPDATE
    SET parts = excluded.parts";

fn doorbell_sql() -> String {
    format!(
        "INSERT INTO doorbell (shard, org, sku, node, at)
         SELECT $1, org, sku, $4::text::uuid, {MICROS_NOW}
         FROM unnest($2::text[], $3::text[]) AS w (org, sku)
         ON CONFLICT (shard, org, sku) DO UPDATE
         SET node = excluded.node,
           at = excluded.at"
    )
}

/// One that is there by now is somebody else's.
const ADD_RESERVATIONS: &str = "
    INSERT INTO reservation (shard, org, id, order_id, status, items, holds, created_at,
      expires_at, ended_at)
    SELECT $1, w.*
    FROM unnest($2::text[], $3::bytea[], $4::text[], $5::smallint[], $6::text[], $7::text[],
      $8::bigint[], $9::bigint[], $10::bigint[]) AS w";

const CHANGE_RESERVATIONS: &str = "
    UPDATE reservation r
    SET status = w.status,
      items = w.items,
      holds = w.holds,
      expires_at = w.expires_at,
      ended_at = w.ended_at
    FROM unnest($2::text[], $3::bytea[], $4::smallint[], $5::text[], $6::text[], $7::bigint[],
      $8::bigint[]) AS w (org, id, status, items, holds, expires_at, ended_at)
    WHERE r.shard = $1
      AND r.org = w.org
      AND r.id = w.id";

const ASKED: &str = "
    INSERT INTO reservation_sku (shard, org, sku, id)
    SELECT $1, w.*
    FROM unnest($2::text[], $3::text[], $4::bytea[]) AS w";

const ASKED_MORE: &str = "
    INSERT INTO reservation_sku (shard, org, sku, id)
    SELECT $1, w.*
    FROM unnest($2::text[], $3::text[], $4::bytea[]) AS w
    ON CONFLICT DO NOTHING";

/// What was done in an org, beside what was known before.
struct OrgAfter<'a> {
    org: &'a Org,
    before: Option<&'a OrgKnown>,
    done: &'a Done,
}

/// Everything that a batch writes.
pub(super) struct Writes<'a> {
    shard: i16,
    /// The node that says on the doorbell what it has published; `None` = nobody has to be told.
    doorbell: Option<Uuid>,
    known: &'a Known,
    now: Timestamp,
    orgs: Vec<OrgAfter<'a>>,
    answers: &'a [Kept],
    dirty: Vec<(&'a Org, &'a Sku)>,
}

impl<'a> Writes<'a> {
    /// Takes what was decided, and what it was decided on.
    pub(super) fn new(
        shard: i16,
        doorbell: Option<Uuid>,
        known: &'a Known,
        decided: &'a Decided,
    ) -> Self {
        let after = |(org, done)| OrgAfter { org, before: known.orgs.get(org), done };
        let orgs = decided.orgs.iter().map(after).collect();
        let dirty = decided.dirty.iter().map(|(org, sku)| (org, sku)).collect();
        Self { shard, doorbell, known, now: decided.now, orgs, answers: &decided.answers, dirty }
    }

    /// Returns whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.orgs.iter().all(|org| org.done.events.is_empty())
    }

    /// Returns the statements that write it, where each of them is sent without waiting for
    /// another one; `None` where some wait.
    pub(super) fn few(&self) -> Option<[Cow<'static, str>; 10]> {
        let is_few = self.orgs.iter().all(|after| {
            self.known.subscribers.get(after.org).is_none_or(Vec::is_empty)
                && !after.done.events.iter().any(is_of_records)
        });
        is_few.then(|| {
            [
                States::insert_sql().into(),
                States::update_sql().into(),
                Lines::INSERT.into(),
                CHANGE_RESERVATIONS.into(),
                ADD_RESERVATIONS.into(),
                ASKED.into(),
                ASKED_MORE.into(),
                BUNDLES.into(),
                doorbell_sql().into(),
                answers::WRITE.into(),
            ]
        })
    }

    /// Writes all of it.
    pub(super) async fn write(&self, tx: &Tx) -> Result<()> {
        futures::try_join!(
            self.write_skus(tx),
            self.write_movements(tx),
            self.write_reservations(tx),
            self.write_bundles(tx),
            self.write_answers(tx),
            self.write_doorbell(tx),
            self.write_deliveries(tx),
            self.write_records(tx),
        )?;
        Ok(())
    }

    async fn write_skus(&self, conn: &Conn) -> Result<()> {
        let (mut new, mut old) = (States::default(), States::default());
        for after in &self.orgs {
            for (sku, state) in &after.done.entries.skus {
                let Some(state) = state else { continue };
                match after.before.and_then(|before| before.skus.get(sku)).and_then(Option::as_ref)
                {
                    Some(before) if before == state => {}
                    Some(_) => old.push(after.org, sku, state)?,
                    None => new.push(after.org, sku, state)?,
                }
            }
        }
        futures::try_join!(new.insert(conn, self.shard), old.update(conn, self.shard))?;
        Ok(())
    }

    async fn write_movements(&self, conn: &Conn) -> Result<()> {
        let mut lines = Lines::default();
        for after in &self.orgs {
            for event in &after.done.events {
                if let Event::Moved(movement) = event {
                    lines.push(after.org, movement);
                }
            }
        }
        lines.insert(conn, self.shard).await
    }

    async fn write_reservations(&self, conn: &Conn) -> Result<()> {
        let (mut new, mut old) = (Reservations::default(), Reservations::default());
        let (mut asked, mut asked_more) = (Asked::default(), Asked::default());
        for after in &self.orgs {
            for (id, reservation) in &after.done.entries.reservations {
                let Some(reservation) = reservation else { continue };
                let known = after.before.and_then(|before| before.reservations.get(id));
                match known.and_then(Option::as_ref) {
                    None => {
                        new.push(after.org, reservation)?;
                        asked.push(after.org, reservation);
                    }
                    Some(known) if known == reservation => {}
                    Some(known) => {
                        old.push(after.org, reservation)?;
                        if known.items != reservation.items {
                            asked_more.push(after.org, reservation);
                        }
                    }
                }
            }
        }
        // An order's reservation ends before its next one holds.
        futures::try_join!(
            old.change(conn, self.shard),
            new.add(conn, self.shard),
            asked.write(conn, self.shard, ASKED),
            asked_more.write(conn, self.shard, ASKED_MORE),
        )?;
        Ok(())
    }

    async fn write_bundles(&self, conn: &Conn) -> Result<()> {
        let mut defined: BTreeMap<(&Org, &Sku, u64), String> = BTreeMap::new();
        for after in &self.orgs {
            for (sku, version, made_of) in &after.done.bundles {
                defined.insert((after.org, sku, *version), parts::write(made_of)?);
            }
        }
        if defined.is_empty() {
            return Ok(());
        }
        let orgs: Vec<&str> = defined.keys().map(|(org, _, _)| org.as_str()).collect();
        let skus: Vec<&str> = defined.keys().map(|(_, sku, _)| sku.as_str()).collect();
        let seqs: Vec<i64> = defined.keys().map(|(_, _, seq)| seq.cast_signed()).collect();
        let texts: Vec<&str> = defined.values().map(String::as_str).collect();
        sql::execute(conn, BUNDLES, &[&self.shard, &orgs, &skus, &seqs, &texts]).await?;
        Ok(())
    }

    async fn write_answers(&self, conn: &Conn) -> Result<()> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let new = |kept: &'a Kept| answers::NewAnswer {
            org: &kept.org,
            key: &kept.key,
            fingerprint: &kept.fingerprint,
            answer: &kept.answer,
            at: self.now,
        };
        let rows: Vec<_> = self.answers.iter().map(new).collect();
        answers::write(conn, self.shard, &rows).await
    }

    async fn write_doorbell(&self, conn: &Conn) -> Result<()> {
        let Some(node) = self.doorbell.filter(|_| !self.dirty.is_empty()) else { return Ok(()) };
        let orgs: Vec<&str> = self.dirty.iter().map(|(org, _)| org.as_str()).collect();
        let skus: Vec<&str> = self.dirty.iter().map(|(_, sku)| sku.as_str()).collect();
        let params: [Param<'_>; 4] = [&self.shard, &orgs, &skus, &node.to_string()];
        sql::execute(conn, &doorbell_sql(), &params).await?;
        Ok(())
    }

    /// Writes outgoing events for the orgs that have somebody to tell.
    async fn write_deliveries(&self, conn: &Conn) -> Result<()> {
        let mut bodies: Vec<(&Org, &[deliveries::Subscriber], Told, String)> = Vec::new();
        for after in &self.orgs {
            let Some(subscribers) = self.known.subscribers.get(after.org) else { continue };
            let order_of = |id| {
                let found = after.done.entries.reservations.get(&id).and_then(Option::as_ref);
                Ok::<_, PgError>(found.map(|found| found.order.clone()))
            };
            for event in told(&after.done.events, order_of)? {
                let body = json(&event.body)?;
                bodies.push((after.org, subscribers, event, body));
            }
        }
        let mut rows = Vec::new();
        for (org, subscribers, event, body) in &bodies {
            for subscriber in subscribers.iter().filter(|one| one.wants(event.event)) {
                rows.push(deliveries::NewDelivery {
                    org,
                    id: delivery_id(),
                    subscription: &subscriber.id,
                    event: event.event,
                    body,
                    at: event.at,
                });
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        deliveries::write(conn, self.shard, &rows).await
    }

    /// Writes what is known of listings, order lines and conflicts.
    async fn write_records(&self, conn: &Conn) -> Result<()> {
        for after in &self.orgs {
            write_records_of(conn, after).await?;
        }
        Ok(())
    }
}

async fn write_records_of(conn: &Conn, after: &OrgAfter<'_>) -> Result<()> {
    let mut states: BTreeMap<(&ChannelId, &ListingKey), &ListingState> = BTreeMap::new();
    let mut lines: BTreeMap<LineKey, order_lines::OrderLine<'_>> = BTreeMap::new();
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for event in &after.done.events {
        match event {
            Event::Listing(state) => {
                states.insert((&state.channel, &state.key), state);
            }
            Event::LineBooked { channel, order, line, sku, booked, at } => {
                let key: LineKey = (channel.clone(), order.clone(), line.clone());
                let known = after.before.and_then(|before| before.lines.get(&key));
                let is_new = known.is_none_or(Option::is_none);
                let row = order_lines::OrderLine { key: key.clone(), sku, booked, at: *at, is_new };
                lines.insert(key, row);
            }
            Event::ConflictFlagged(facts) => turns.push(Turn::Flag(facts)),
            Event::ConflictClosed { channel, key, at } => {
                turns.push(Turn::Close { channel, key, at: *at });
            }
            Event::Moved(_)
            | Event::BundleDefined { .. }
            | Event::BundleTouched { .. }
            | Event::PublishAsked { .. }
            | Event::Held(_)
            | Event::Ended { .. }
            | Event::Extended { .. }
            | Event::LowStock { .. }
            | Event::Oversold { .. } => {}
        }
    }
    if !states.is_empty() {
        let states: Vec<&ListingState> = states.into_values().collect();
        listings::write_states(conn, after.org, &states).await?;
    }
    if !lines.is_empty() {
        let lines: Vec<_> = lines.into_values().collect();
        order_lines::write(conn, after.org, &lines).await?;
    }
    if !turns.is_empty() {
        conflicts::apply(conn, after.org, &turns).await?;
    }
    Ok(())
}

/// Returns whether a fact is one of listings, order lines or conflicts.
fn is_of_records(event: &Event) -> bool {
    match event {
        Event::Listing(_)
        | Event::LineBooked { .. }
        | Event::ConflictFlagged(_)
        | Event::ConflictClosed { .. } => true,
        Event::Moved(_)
        | Event::BundleDefined { .. }
        | Event::BundleTouched { .. }
        | Event::PublishAsked { .. }
        | Event::Held(_)
        | Event::Ended { .. }
        | Event::Extended { .. }
        | Event::LowStock { .. }
        | Event::Oversold { .. } => false,
    }
}

/// Rows of SKUs, by column.
#[derive(Default)]
struct States<'a> {
    orgs: Vec<&'a str>,
    skus: Vec<&'a str>,
    versions: Vec<i64>,
    publish_versions: Vec<i64>,
    updated_at: Vec<i64>,
    safety_stocks: Vec<i64>,
    thresholds: Vec<Option<i64>>,
    backorder_limits: Vec<i64>,
    low_since: Vec<Option<i64>>,
    on_hand: Vec<i64>,
    reserved: Vec<i64>,
    levels: Vec<String>,
    parts: Vec<String>,
    used_in: Vec<String>,
}

impl<'a> States<'a> {
    const ROWS: &'static str = "
        unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
          $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[],
          $14::text[], $15::text[])
          AS w (org, sku, version, publish_version, updated_at, safety_stock,
            low_stock_threshold, backorder_limit, low_since, on_hand, reserved, levels, parts,
            used_in)";

    fn push(&mut self, org: &'a Org, sku: &'a Sku, state: &SkuState) -> Result<()> {
        let totals = state.totals();
        let used_in: Vec<&str> = state.used_in.iter().map(Sku::as_str).collect();
        self.orgs.push(org.as_str());
        self.skus.push(sku.as_str());
        self.versions.push(state.version.cast_signed());
        self.publish_versions.push(state.publish_version.cast_signed());
        self.updated_at.push(state.updated_at.micros());
        self.safety_stocks.push(state.safety_stock.delta().get());
        self.thresholds.push(state.low_stock_threshold.map(|below| below.delta().get()));
        self.backorder_limits.push(state.backorder_limit.delta().get());
        self.low_since.push(state.low_since.map(Timestamp::micros));
        self.on_hand.push(totals.on_hand.get());
        self.reserved.push(totals.reserved.delta().get());
        self.levels.push(levels::write(&state.levels)?);
        self.parts.push(parts::write(&state.parts)?);
        self.used_in.push(json(&used_in)?);
        Ok(())
    }

    fn params<'p>(&'p self, shard: &'p i16) -> [Param<'p>; 15] {
        [
            shard,
            &self.orgs,
            &self.skus,
            &self.versions,
            &self.publish_versions,
            &self.updated_at,
            &self.safety_stocks,
            &self.thresholds,
            &self.backorder_limits,
            &self.low_since,
            &self.on_hand,
            &self.reserved,
            &self.levels,
            &self.parts,
            &self.used_in,
        ]
    }

    /// Adds rows; one that is there by now is somebody else's.
    async fn insert(&self, conn: &Conn, shard: i16) -> Result<()> {
        if self.orgs.is_empty() {
            return Ok(());
        }
        sql::execute(conn, &Self::insert_sql(), &self.params(&shard)).await?;
        Ok(())
    }

    fn insert_sql() -> String {
        format!(
            "INSERT INTO sku (shard, org, sku, version, publish_version, updated_at, safety_stock,
               low_stock_threshold, backorder_limit, low_since, on_hand, reserved, levels, parts,
               used_in)
             SELECT $1, w.*
             FROM {}",
            Self::ROWS
        )
    }

    /// Writes rows that are locked.
    async fn update(&self, conn: &Conn, shard: i16) -> Result<()> {
        if self.orgs.is_empty() {
            return Ok(());
        }
        let written = sql::execute(conn, &Self::update_sql(), &self.params(&shard)).await?;
        if sql::counted(written) != self.orgs.len() {
            return Err(PgError::Corrupt("a SKU that is locked is gone".to_owned()));
        }
        Ok(())
    }

    fn update_sql() -> String {
        format!(
            "UPDATE sku s
             SET version = w.version,
               publish_version = w.publish_version,
               updated_at = w.updated_at,
               safety_stock = w.safety_stock,
               low_stock_threshold = w.low_stock_threshold,
               backorder_limit = w.backorder_limit,
               low_since = w.low_since,
               on_hand = w.on_hand,
               reserved = w.reserved,
               levels = w.levels,
               parts = w.parts,
               used_in = w.used_in
             FROM {}
             WHERE s.shard = $1
               AND s.org = w.org
               AND s.sku = w.sku",
            Self::ROWS
        )
    }
}

/// Ledger lines, by column.
#[derive(Default)]
struct Lines<'a> {
    orgs: Vec<&'a str>,
    skus: Vec<&'a str>,
    seqs: Vec<i64>,
    at: Vec<i64>,
    kinds: Vec<i16>,
    locations: Vec<&'a str>,
    /// Delta, reserved delta, quantity and reserved after, the location's quantity and reserved
    /// after, safety stock.
    numbers: [Vec<i64>; 7],
    thresholds: Vec<Option<i64>>,
    backorder_limits: Vec<i64>,
    publish: Vec<bool>,
    reasons: Vec<Option<Plain<&'a str>>>,
    actors: Vec<Plain<&'a str>>,
    sources: Vec<i16>,
    references: Vec<Option<Plain<&'a str>>>,
}

impl<'a> Lines<'a> {
    const INSERT: &'static str = "
        INSERT INTO movement (shard, org, sku, seq, at, kind, location, delta, reserved_delta,
          quantity_after, reserved_after, location_quantity_after, location_reserved_after,
          safety_stock, low_stock_threshold, backorder_limit, publish, reason, actor, source,
          reference)
        SELECT $1, w.*
        FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::smallint[],
          $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
          $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::boolean[],
          $18::text[], $19::text[], $20::smallint[], $21::text[]) AS w";

    fn push(&mut self, org: &'a Org, m: &'a Movement) {
        self.orgs.push(org.as_str());
        self.skus.push(m.sku.as_str());
        self.seqs.push(m.seq.cast_signed());
        self.at.push(m.at.micros());
        self.kinds.push(codec::kind_code(m.kind).into());
        self.locations.push(m.location.as_str());
        let numbers = [
            m.delta.get(),
            m.reserved_delta.get(),
            m.quantity_after.get(),
            m.reserved_after.delta().get(),
            m.location_quantity_after.get(),
            m.location_reserved_after.delta().get(),
            m.safety_stock.delta().get(),
        ];
        for (column, number) in self.numbers.iter_mut().zip(numbers) {
            column.push(number);
        }
        self.thresholds.push(m.low_stock_threshold.map(|below| below.delta().get()));
        self.backorder_limits.push(m.backorder_limit.delta().get());
        self.publish.push(m.publish);
        self.reasons.push(m.reason.as_deref().map(Plain));
        self.actors.push(Plain(&*m.actor));
        self.sources.push(codec::source_code(m.source).into());
        self.references.push(m.reference.as_deref().map(Plain));
    }

    async fn insert(&self, conn: &Conn, shard: i16) -> Result<()> {
        if self.orgs.is_empty() {
            return Ok(());
        }
        let [delta, reserved_delta, quantity, reserved, at_place, reserved_at_place, safety] =
            &self.numbers;
        let params: [Param<'_>; 21] = [
            &shard,
            &self.orgs,
            &self.skus,
            &self.seqs,
            &self.at,
            &self.kinds,
            &self.locations,
            delta,
            reserved_delta,
            quantity,
            reserved,
            at_place,
            reserved_at_place,
            safety,
            &self.thresholds,
            &self.backorder_limits,
            &self.publish,
            &self.reasons,
            &self.actors,
            &self.sources,
            &self.references,
        ];
        sql::execute(conn, Self::INSERT, &params).await?;
        Ok(())
    }
}

/// Reservations, by column.
#[derive(Default)]
struct Reservations<'a> {
    orgs: Vec<&'a str>,
    ids: Vec<[u8; 16]>,
    orders: Vec<&'a str>,
    statuses: Vec<i16>,
    items: Vec<String>,
    holds: Vec<String>,
    created: Vec<i64>,
    expires: Vec<i64>,
    ended: Vec<Option<i64>>,
}

impl<'a> Reservations<'a> {
    fn push(&mut self, org: &'a Org, reservation: &'a Reservation) -> Result<()> {
        self.orgs.push(org.as_str());
        self.ids.push(id_bytes(&reservation.id));
        self.orders.push(reservation.order.as_str());
        self.statuses.push(codec::status_code(reservation.status).into());
        self.items.push(items::write(&reservation.items)?);
        self.holds.push(holds::write(&reservation.holds)?);
        self.created.push(reservation.created_at.micros());
        self.expires.push(reservation.expires_at.micros());
        self.ended.push(reservation.ended_at.map(Timestamp::micros));
        Ok(())
    }

    fn ids(&self) -> Vec<&[u8]> {
        self.ids.iter().map(<[u8; 16]>::as_slice).collect()
    }

    /// Adds rows.
    async fn add(&self, conn: &Conn, shard: i16) -> Result<()> {
        if self.orgs.is_empty() {
            return Ok(());
        }
        let params: [Param<'_>; 10] = [
            &shard,
            &self.orgs,
            &self.ids(),
            &self.orders,
            &self.statuses,
            &self.items,
            &self.holds,
            &self.created,
            &self.expires,
            &self.ended,
        ];
        sql::execute(conn, ADD_RESERVATIONS, &params).await?;
        Ok(())
    }

    /// Writes rows that are there.
    async fn change(&self, conn: &Conn, shard: i16) -> Result<()> {
        if self.orgs.is_empty() {
            return Ok(());
        }
        let params: [Param<'_>; 8] = [
            &shard,
            &self.orgs,
            &self.ids(),
            &self.statuses,
            &self.items,
            &self.holds,
            &self.expires,
            &self.ended,
        ];
        let written = sql::execute(conn, CHANGE_RESERVATIONS, &params).await?;
        if sql::counted(written) != self.orgs.len() {
            return Err(PgError::Corrupt("a reservation that is known is gone".to_owned()));
        }
        Ok(())
    }
}

/// Which reservations ask for which SKUs.
#[derive(Default)]
struct Asked<'a>(BTreeSet<(&'a str, &'a str, [u8; 16])>);

impl<'a> Asked<'a> {
    fn push(&mut self, org: &'a Org, reservation: &'a Reservation) {
        let id = id_bytes(&reservation.id);
        let items = reservation.items.iter();
        self.0.extend(items.map(|item| (org.as_str(), item.sku.as_str(), id)));
    }

    async fn write(&self, conn: &Conn, shard: i16, statement: &str) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let orgs: Vec<&str> = self.0.iter().map(|(org, _, _)| *org).collect();
        let skus: Vec<&str> = self.0.iter().map(|(_, sku, _)| *sku).collect();
        let ids: Vec<&[u8]> = self.0.iter().map(|(_, _, id)| id.as_slice()).collect();
        sql::execute(conn, statement, &[&shard, &orgs, &skus, &ids]).await?;
        Ok(())
    }
}
