//! Locking what is decided on, and reading it after that.
//!
//! The rows of SKUs are the locks. They are taken in key order, by a statement of their own; what
//! is read by later statements is as the holder before has left it. A reservation is changed by
//! whoever holds the locks of its SKUs; a listing's and an order line's row is locked when it is
//! read. What is not there yet is kept from being made twice by its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::future::try_join_all;
use trueup_core::book::Since;
use trueup_core::{
    ChannelId, ListingKey, OrderId, Org, ReservationId, ReservationStatus, Sku, SkuState, Timestamp,
};

use super::decisions::{Known, OrgKnown, Wanted, Wanting};
use super::due::due;
use super::rows::{
    MOVEMENT_COLUMNS, RESERVATION_COLUMNS, STATE_COLUMNS, micros, optional_id, read_movement,
    read_reservation, read_state,
};
use crate::encoding::columns::ReadColumns;
use crate::encoding::{at_most, parse_name};
use crate::postgres::error::{PgError, Result};
use crate::postgres::pool::{MICROS_NOW, Tx};
use crate::postgres::records::{answers, deliveries, listings, order_lines};
use crate::postgres::sql::{self, Param};
use crate::postgres::{Shared, lease};

/// The most reservations that one batch retires.
pub(super) const EXPIRE_MAX: usize = 1_000;

/// What is decided for whom: what a batch reads besides what its commands name.
pub(super) struct About<'a> {
    /// Orgs and idempotency keys, in pairs.
    pub(super) key_orgs: Vec<&'a str>,
    pub(super) keys: Vec<&'a str>,
    /// The instant, where the database's clock does not say it.
    pub(super) now: Option<Timestamp>,
    /// Whose node it is.
    pub(super) shared: &'a Shared,
}

/// The locks of a transaction and what was read under them.
pub(super) struct Loader<'a> {
    tx: &'a Tx,
    shard: i16,
    about: &'a About<'a>,
    wanting: Wanting,
    locked: BTreeSet<(Org, Sku)>,
    pub(super) known: Known,
    /// What the database's clock said after the locks, in microseconds.
    pub(super) clock: i64,
    /// Whether this node works for the shard, until the transaction ends.
    pub(super) is_holder: bool,
}

impl<'a> Loader<'a> {
    pub(super) fn new(tx: &'a Tx, shard: i16, about: &'a About<'a>) -> Self {
        let (wanting, locked, known) = (Wanting::new(), BTreeSet::new(), Known::default());
        Self { tx, shard, about, wanting, locked, known, clock: 0, is_holder: false }
    }

    /// Begins the transaction, locks what is known to be wanted and reads it; one time there and
    /// back.
    pub(super) async fn begin(&mut self, wanting: Wanting) -> Result<()> {
        self.wanting = wanting;
        let begin = self.tx.begin();
        let (states, read) = self.lock_and_read(begin, self.to_lock()).await?;
        self.take(states, read);
        Ok(())
    }

    /// Locks and reads what was missing.
    ///
    /// # Errors
    /// [`PgError::Again`] where a SKU comes before one that is locked: the transaction is to begin
    /// again with the locks of both.
    pub(super) async fn more(&mut self, missing: Wanting) -> Result<()> {
        for (org, wanted) in missing {
            self.wanting.entry(org).or_default().append(wanted);
        }
        let to_lock = self.to_lock();
        if to_lock.first().is_some_and(|first| self.locked.last().is_some_and(|last| first < last))
        {
            return Err(PgError::Again);
        }
        // All of it again: what was read before these locks were held may be of before.
        let (states, read) = self.lock_and_read(async { Ok(()) }, to_lock).await?;
        self.take(states, read);
        Ok(())
    }

    /// Returns when the newest of the SKUs changed.
    pub(super) fn newest(&self) -> Timestamp {
        let states = self.known.orgs.values().flat_map(|known| known.skus.values().flatten());
        states.map(|state| state.updated_at).max().unwrap_or(Timestamp::EPOCH)
    }

    /// Returns everything that was wanted so far.
    pub(super) fn wanting(&self) -> &Wanting {
        &self.wanting
    }

    fn to_lock(&self) -> BTreeSet<(Org, Sku)> {
        let wanted = self.wanting.iter().flat_map(|(org, wanted)| {
            wanted.skus.iter().map(move |sku| (org.clone(), sku.clone()))
        });
        wanted.filter(|place| !self.locked.contains(place)).collect()
    }

    async fn lock_and_read(
        &self,
        begin: impl Future<Output = Result<()>>,
        to_lock: BTreeSet<(Org, Sku)>,
    ) -> Result<(BTreeMap<(Org, Sku), Option<SkuState>>, Read)> {
        // Prepared before anything is sent: what is sent goes in this order.
        let sql = format!(
            "SELECT s.org, s.sku, {STATE_COLUMNS}
             FROM unnest($2::text[], $3::text[]) AS w (org, sku)
             JOIN sku s ON s.shard = $1 AND s.org = w.org AND s.sku = w.sku
             ORDER BY s.org, s.sku
             FOR UPDATE OF s"
        );
        let lock = async {
            if to_lock.is_empty() {
                return Ok(Vec::new());
            }
            let orgs: Vec<&str> = to_lock.iter().map(|(org, _)| org.as_str()).collect();
            let skus: Vec<&str> = to_lock.iter().map(|(_, sku)| sku.as_str()).collect();
            sql::all(self.tx, &sql, &[&self.shard, &orgs, &skus], |columns| {
                Ok(((columns.name()?, columns.name()?), read_state(columns)?))
            })
            .await
        };
        self.tx.prepare_cached(&sql).await?;
        let (begun, locked, read) = futures::join!(begin, lock, self.read());
        begun?;
        let mut states: BTreeMap<(Org, Sku), Option<SkuState>> =
            to_lock.into_iter().map(|place| (place, None)).collect();
        for (place, state) in locked? {
            states.insert(place, Some(state));
        }
        Ok((states, read?))
    }

    fn take(&mut self, states: BTreeMap<(Org, Sku), Option<SkuState>>, read: Read) {
        for ((org, sku), state) in states {
            let known = self.known.orgs.entry(org.clone()).or_default();
            known.skus.insert(sku.clone(), state);
            self.locked.insert((org, sku));
        }
        for (org, found) in read.orgs {
            let known = self.known.orgs.entry(org).or_default();
            let skus = std::mem::take(&mut known.skus);
            *known = OrgKnown { skus, ..found };
        }
        (self.known.answers, self.known.due) = (read.answers, read.due);
        (self.known.arriving, self.is_holder) = (read.arriving, read.is_holder);
        (self.known.subscribers, self.clock) = (read.subscribers, read.clock);
    }

    /// Reads everything that is wanted, but for SKUs.
    async fn read(&self) -> Result<Read> {
        let orgs =
            try_join_all(self.wanting.iter().map(|(org, wanted)| self.read_org(org, wanted)));
        let names: Vec<&str> = self.wanting.keys().map(Org::as_str).collect();
        let (mut read, is_holder, answers, subscribers, orgs) = futures::try_join!(
            self.read_shard(),
            lease::hold(self.about.shared, self.tx, self.shard),
            self.read_answers(),
            deliveries::subscribers(self.tx, self.shard, &names),
            orgs,
        )?;
        read.is_holder = is_holder;
        read.orgs = orgs.into_iter().collect();
        read.answers = answers.into_iter().collect();
        read.subscribers = subscribers.into_iter().collect();
        Ok(read)
    }

    /// Reads what is so of the shard, whatever is asked: the clock, the orgs that are not open yet,
    /// and what is due. In one statement, for each has its price.
    async fn read_shard(&self) -> Result<Read> {
        let due = due("$1", "$3");
        let sql = format!(
            "SELECT {MICROS_NOW}, NULL::text, NULL::bytea, NULL::bigint
             UNION ALL
             SELECT NULL, org, NULL, NULL
             FROM arrival
             WHERE shard = $1
               AND opened_at IS NULL
             UNION ALL
             SELECT NULL, due.org, due.id, due.expires_at
             FROM ({due}) due"
        );
        let params: [Param<'_>; 3] = [&self.shard, &micros(self.about.now), &at_most(EXPIRE_MAX)];
        let rows = sql::all(self.tx, &sql, &params, |columns| {
            let (clock, org): (Option<i64>, Option<&str>) = (columns.take()?, columns.take()?);
            let (org, id) = (org.map(parse_name::<Org>).transpose()?, optional_id(columns)?);
            let expires_at: Option<i64> = columns.take()?;
            Ok((clock, org, id.map(|id| (expires_at, id))))
        });
        let mut rows = rows.await?;
        // A history is the same on every store: those of one instant go by their ids.
        rows.sort_by_key(|(_, _, due)| *due);
        let mut read = Read::default();
        for row in rows {
            match row {
                (Some(clock), _, _) => read.clock = clock,
                (None, Some(org), Some((_, id))) => read.due.entry(org).or_default().push(id),
                (None, Some(org), None) => drop(read.arriving.insert(org)),
                (None, None, _) => return Err(PgError::Corrupt("nothing of a shard".to_owned())),
            }
        }
        Ok(read)
    }

    async fn read_answers(&self) -> Result<HashMap<(Org, String), answers::Recorded>> {
        if self.about.keys.is_empty() {
            return Ok(HashMap::new());
        }
        answers::load(self.tx, self.shard, &self.about.key_orgs, &self.about.keys).await
    }

    async fn read_org(&self, org: &Org, wanted: &Wanted) -> Result<(Org, OrgKnown)> {
        let mut known = OrgKnown::default();
        let reservations = self.read_reservations(org, wanted);
        let (found, sold, listings, lines, moved) = futures::try_join!(
            reservations,
            self.read_sold(org, wanted),
            self.read_listings(org, wanted),
            self.read_lines(org, wanted),
            self.read_moved(org, wanted),
        )?;
        known.reservations = wanted.reservations.iter().map(|id| (*id, None)).collect();
        known.orders = wanted.orders.iter().map(|order| (order.clone(), None)).collect();
        for reservation in found {
            if reservation.status == ReservationStatus::Active
                && let Some(active) = known.orders.get_mut(&reservation.order)
            {
                *active = Some(reservation.id);
            }
            known.reservations.insert(reservation.id, Some(reservation));
        }
        known.sold = wanted.sold.iter().map(|order| (order.clone(), false)).collect();
        known.sold.extend(sold.into_iter().map(|order| (order, true)));
        known.listings = wanted.listings.iter().map(|place| (place.clone(), None)).collect();
        for listing in listings {
            let place = (listing.channel.clone(), listing.key.clone());
            known.listings.insert(place, Some(listing));
        }
        known.lines = wanted.lines.iter().map(|place| (place.clone(), None)).collect();
        known.lines.extend(lines.into_iter().map(|(place, line)| (place, Some(line))));
        known.moved = wanted.moved.iter().cloned().zip(moved).collect();
        Ok((org.clone(), known))
    }

    /// Reads reservations by their ids, and the active ones of orders.
    async fn read_reservations(
        &self,
        org: &Org,
        wanted: &Wanted,
    ) -> Result<Vec<trueup_core::Reservation>> {
        if wanted.reservations.is_empty() && wanted.orders.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT {RESERVATION_COLUMNS}
             FROM reservation r
             WHERE r.shard = $1
               AND r.org = $2
               AND r.id = ANY($3::bytea[])
             UNION
             SELECT {RESERVATION_COLUMNS}
             FROM reservation r
             WHERE r.shard = $1
               AND r.org = $2
               AND r.order_id = ANY($4::text[])
               AND r.status = 1"
        );
        let ids: Vec<[u8; 16]> = wanted.reservations.iter().map(id_bytes).collect();
        let ids: Vec<&[u8]> = ids.iter().map(<[u8; 16]>::as_slice).collect();
        let orders: Vec<&str> = wanted.orders.iter().map(OrderId::as_str).collect();
        let params: [Param<'_>; 4] = [&self.shard, &org.as_str(), &ids, &orders];
        sql::all(self.tx, &sql, &params, read_reservation).await
    }

    /// Returns those of the orders that have sold something; locks all their reservations, so that
    /// no other one is sold again meanwhile.
    async fn read_sold(&self, org: &Org, wanted: &Wanted) -> Result<Vec<OrderId>> {
        // The status is looked at once the locks are held.
        const SQL: &str = "
            SELECT order_id, status
            FROM reservation
            WHERE shard = $1
              AND org = $2
              AND order_id = ANY($3::text[])
            ORDER BY id
            FOR UPDATE";
        if wanted.sold.is_empty() {
            return Ok(Vec::new());
        }
        let orders: Vec<&str> = wanted.sold.iter().map(OrderId::as_str).collect();
        let params: [Param<'_>; 3] = [&self.shard, &org.as_str(), &orders];
        let found = sql::all(self.tx, SQL, &params, |columns| {
            let (order, status): (OrderId, i16) = (columns.name()?, columns.take()?);
            let committed =
                i16::from(crate::encoding::codec::status_code(ReservationStatus::Committed));
            Ok((status == committed).then_some(order))
        });
        Ok(found.await?.into_iter().flatten().collect())
    }

    async fn read_listings(
        &self,
        org: &Org,
        wanted: &Wanted,
    ) -> Result<Vec<trueup_core::ListingState>> {
        if wanted.listings.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<(ChannelId, ListingKey)> = wanted.listings.iter().cloned().collect();
        listings::load_states(self.tx, org, &keys).await
    }

    async fn read_lines(
        &self,
        org: &Org,
        wanted: &Wanted,
    ) -> Result<Vec<(trueup_core::book::LineKey, trueup_core::LineBooked)>> {
        if wanted.lines.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<trueup_core::book::LineKey> = wanted.lines.iter().cloned().collect();
        order_lines::load(self.tx, org, &keys).await
    }

    /// Returns what was recorded at each place after its instant, in the order of what is wanted.
    async fn read_moved(&self, org: &Org, wanted: &Wanted) -> Result<Vec<Since>> {
        let sql = format!(
            "SELECT {MOVEMENT_COLUMNS}
             FROM movement m
             WHERE m.shard = $1
               AND m.org = $2
               AND m.sku = $3
               AND m.location = $4
               AND m.at > $5"
        );
        let mut all = Vec::with_capacity(wanted.moved.len());
        for (sku, location, at) in &wanted.moved {
            let params: [Param<'_>; 5] =
                [&self.shard, &org.as_str(), &sku.as_str(), &location.as_str(), &at.micros()];
            let lines =
                sql::all(self.tx, &sql, &params, |columns| read_movement(columns, sku)).await?;
            let mut since = Since::default();
            lines.iter().for_each(|line| since.note(line, *at));
            all.push(since);
        }
        Ok(all)
    }
}

/// What one time there and back has read.
#[derive(Default)]
struct Read {
    orgs: BTreeMap<Org, OrgKnown>,
    answers: rustc_hash::FxHashMap<(Org, String), answers::Recorded>,
    due: BTreeMap<Org, Vec<ReservationId>>,
    subscribers: rustc_hash::FxHashMap<Org, Vec<deliveries::Subscriber>>,
    arriving: BTreeSet<Org>,
    clock: i64,
    is_holder: bool,
}

/// Returns a reservation's id as rows keep it.
pub(super) fn id_bytes(id: &ReservationId) -> [u8; 16] {
    id.0.to_be_bytes()
}
