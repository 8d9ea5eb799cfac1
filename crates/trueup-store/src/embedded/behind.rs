//! Rows that are behind memory: what is written a while after the lines that it follows from,
//! so that what changes often is written once, in the order of the tables.
//!
//! SKUs and levels are sums over lines, and reservations are found by order and by SKU through
//! tables that grow in random places. A *round* takes all of them that are behind, sorts them,
//! and each commit writes a piece. Writing one twice is the same as writing it once: a SKU's row
//! says which version it is of, and lines up to it are passed over at the next start.

use rusqlite::Connection;
use trueup_core::{OrderId, Org, Reservation, ReservationId, Sku};

use super::ledger;
use super::rows::RowsError;

/// What reservations are to be found by.
#[derive(Debug, Default)]
pub(super) struct Keys {
    orders: Vec<(Org, OrderId, ReservationId)>,
    skus: Vec<(Org, Sku, ReservationId)>,
}

impl Keys {
    /// Adds what a reservation is to be found by.
    pub(super) fn add(&mut self, org: &Org, reservation: &Reservation) {
        self.orders.push((org.clone(), reservation.order.clone(), reservation.id));
        for item in &reservation.items {
            self.skus.push((org.clone(), item.sku.clone(), reservation.id));
        }
    }

    pub(super) fn append(&mut self, mut more: Self) {
        self.orders.append(&mut more.orders);
        self.skus.append(&mut more.skus);
    }

    fn len(&self) -> usize {
        self.orders.len() + self.skus.len()
    }

    fn sort(&mut self) {
        self.orders.sort_unstable();
        self.skus.sort_unstable();
    }

    /// Writes up to so many, from one on, in the order of the tables; returns how many.
    pub(super) fn write(
        &self,
        conn: &Connection,
        from: usize,
        most: usize,
    ) -> Result<usize, RowsError> {
        let mut written = 0;
        for (org, order, id) in self.orders.iter().skip(from).take(most) {
            ledger::write_order(conn, org, order, *id)?;
            written += 1;
        }
        let from = (from + written).saturating_sub(self.orders.len());
        for (org, sku, id) in self.skus.iter().skip(from).take(most - written) {
            ledger::write_asked(conn, org, sku, *id)?;
            written += 1;
        }
        Ok(written)
    }

    /// Returns the reservations of an order among these.
    pub(super) fn of_order<'a>(
        &'a self,
        org: &'a Org,
        order: &'a OrderId,
    ) -> impl Iterator<Item = ReservationId> + 'a {
        let of_it =
            move |(o, known, _): &&(Org, OrderId, ReservationId)| o == org && known == order;
        self.orders.iter().filter(of_it).map(|(_, _, id)| *id)
    }
}

/// A round under way.
#[derive(Debug)]
struct Round {
    skus: Vec<(Org, Sku)>,
    keys: Keys,
    written: usize,
    /// Rows are as new as this line when it has been written.
    upto: i64,
}

impl Round {
    fn len(&self) -> usize {
        self.skus.len() + self.keys.len()
    }
}

/// Everything that is behind.
#[derive(Debug)]
pub(super) struct Behind {
    /// The number of the next round; a SKU is in it once, and says so by this number.
    pub(super) round: u32,
    skus: Vec<(Org, Sku)>,
    keys: Keys,
    under_way: Option<Round>,
}

/// How far a commit has come with what is behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    written: usize,
    is_last: bool,
}

impl Behind {
    /// Returns how many rows are behind.
    pub(super) fn len(&self) -> usize {
        let under_way = self.under_way.as_ref().map_or(0, |round| round.len() - round.written);
        under_way + self.waiting()
    }

    /// Returns how many rows wait for the next round.
    pub(super) fn waiting(&self) -> usize {
        self.skus.len() + self.keys.len()
    }

    pub(super) fn is_round_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Notes a SKU that is not in the next round yet.
    pub(super) fn add_sku(&mut self, org: &Org, sku: Sku) {
        self.skus.push((org.clone(), sku));
    }

    pub(super) fn add_keys(&mut self, keys: Keys) {
        self.keys.append(keys);
    }

    /// Begins a round of all that is behind, unless one is under way; `upto` is the newest line.
    pub(super) fn begin_round(&mut self, upto: i64) {
        if self.under_way.is_some() || self.waiting() == 0 {
            return;
        }
        let mut skus = std::mem::take(&mut self.skus);
        let mut keys = std::mem::take(&mut self.keys);
        skus.sort_unstable();
        keys.sort();
        self.under_way = Some(Round { skus, keys, written: 0, upto });
        // 0 is of no round.
        self.round = self.round.checked_add(1).unwrap_or(1);
    }

    /// Writes a piece of the round under way: up to so many rows.
    pub(super) fn write(
        &self,
        conn: &Connection,
        most: usize,
        mut write_sku: impl FnMut(&Org, &Sku) -> Result<(), RowsError>,
    ) -> Result<Option<Step>, RowsError> {
        let Some(round) = self.under_way.as_ref().filter(|_| most > 0) else { return Ok(None) };
        let mut written = 0;
        for (org, sku) in round.skus.iter().skip(round.written).take(most) {
            write_sku(org, sku)?;
            written += 1;
        }
        let from = (round.written + written).saturating_sub(round.skus.len());
        written += round.keys.write(conn, from, most - written)?;
        let is_last = round.written + written == round.len();
        if is_last {
            ledger::write_upto(conn, round.upto)?;
        }
        Ok(Some(Step { written, is_last }))
    }

    /// Notes that a piece has become durable.
    pub(super) fn written(&mut self, step: Step) {
        if step.is_last {
            self.under_way = None;
        } else if let Some(round) = &mut self.under_way {
            round.written += step.written;
        }
    }

    /// Writes all that is behind.
    pub(super) fn write_all(
        &self,
        conn: &Connection,
        mut write_sku: impl FnMut(&Org, &Sku) -> Result<(), RowsError>,
    ) -> Result<(), RowsError> {
        self.write(conn, usize::MAX, &mut write_sku)?;
        for (org, sku) in &self.skus {
            write_sku(org, sku)?;
        }
        self.keys.write(conn, 0, usize::MAX)?;
        Ok(())
    }

    /// Notes that all rows are as new as memory.
    pub(super) fn clear(&mut self) {
        *self = Self { round: self.round.checked_add(1).unwrap_or(1), ..Self::default() };
    }

    /// Returns the reservations of an order that are not found by it yet.
    pub(super) fn of_order<'a>(
        &'a self,
        org: &'a Org,
        order: &'a OrderId,
    ) -> impl Iterator<Item = ReservationId> + 'a {
        let under_way = self.under_way.iter().flat_map(|round| round.keys.of_order(org, order));
        under_way.chain(self.keys.of_order(org, order))
    }
}

impl Default for Behind {
    fn default() -> Self {
        Self { round: 1, skus: Vec::new(), keys: Keys::default(), under_way: None }
    }
}
