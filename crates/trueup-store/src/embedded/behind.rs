//! Rows that are behind memory: what is written a while after the lines that it follows from,
//! so that what changes often is written once, in the order of the tables.
//!
//! SKUs and levels are sums over lines, and reservations and recorded answers are found through
//! tables of digests, which grow in random places. A *round* takes all of them that are behind,
//! sorts them, and each commit writes a piece. Writing one twice is the same as writing it once: a
//! SKU's row says which version it is of, and lines up to it are passed over at the next start.

use rusqlite::Connection;
use rustc_hash::FxHashSet;
use trueup_core::{Org, Reservation, ReservationId, Sku};

use super::rows::{self, Digested, RowsError};
use super::{digests, ledger};

/// How many SKUs, or how many digests, wait before commits take pieces of them along. The more,
/// the fewer pages each of them costs, and the longer a start after a crash takes.
const SKUS_MAX: usize = 131_072;
const KEYS_MAX: usize = 262_144;

/// For how many rows a chunk of a pack stands when a commit takes a piece along: by what it adds
/// to the log.
const CHUNK_ROWS: usize = 16;

/// Up to where something goes: the newest line and recorded answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Upto {
    pub(super) line: i64,
    pub(super) answer: i64,
}

/// What reservations and recorded answers are to be found by.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Digests of orders and SKUs, and reservations.
    reservations: Vec<(i64, ReservationId)>,
    /// Digests of idempotency keys, and numbers of answers.
    answers: Vec<(i64, i64)>,
}

impl Keys {
    /// Adds what a reservation is to be found by.
    pub(super) fn add(&mut self, org: &Org, reservation: &Reservation) {
        let id = reservation.id;
        self.add_order(org, reservation.order.as_str(), id);
        for item in &reservation.items {
            self.add_asked(org, &item.sku, id);
        }
    }

    /// Lets a reservation be found by its order.
    pub(super) fn add_order(&mut self, org: &Org, order: &str, id: ReservationId) {
        self.reservations.push((rows::digest(Digested::Order, org, order), id));
    }

    /// Lets a reservation be found by a SKU that it asks for.
    pub(super) fn add_asked(&mut self, org: &Org, sku: &Sku, id: ReservationId) {
        self.reservations.push((rows::digest(Digested::Asked, org, sku.as_str()), id));
    }

    /// Adds what a recorded answer is to be found by.
    pub(super) fn add_answer(&mut self, digest: i64, n: i64) {
        self.answers.push((digest, n));
    }

    /// Returns digests and numbers of answers.
    pub(super) fn answers(&self) -> &[(i64, i64)] {
        &self.answers
    }

    /// Returns the numbers of the answers with a digest.
    pub(super) fn answers_of(&self, digest: i64) -> impl Iterator<Item = i64> + '_ {
        self.answers.iter().filter(move |(known, _)| *known == digest).map(|(_, n)| *n)
    }

    fn append(&mut self, mut more: Self) {
        self.reservations.append(&mut more.reservations);
        self.answers.append(&mut more.answers);
    }

    fn len(&self) -> usize {
        self.reservations.len() + self.answers.len()
    }

    fn sort(&mut self) {
        self.reservations.sort_unstable();
        self.answers.sort_unstable();
    }

    /// Writes all of them, each so that it is found by itself.
    pub(super) fn write_rows(&self, conn: &Connection) -> Result<(), RowsError> {
        self.reservations.iter().try_for_each(|key| digests::write_row(conn, *key))?;
        self.answers
            .iter()
            .try_for_each(|(digest, n)| rows::answers::write_digest(conn, *digest, *n))
    }

    /// Writes some of them, from one on, in the order of the tables: what stands for up to so many
    /// rows. Returns how many. Where they are many, reservations go into the pack of that number.
    fn write(
        &self,
        conn: &Connection,
        pack: i64,
        from: usize,
        mut rows: usize,
    ) -> Result<usize, RowsError> {
        let mut reservations = self.reservations.get(from..).unwrap_or_default();
        let mut written = 0;
        if self.reservations.len() >= digests::PACK_MIN {
            while rows > 0 && !reservations.is_empty() {
                let (chunk, rest) =
                    reservations.split_at(reservations.len().min(digests::CHUNK_MAX));
                digests::write_chunk(conn, pack, chunk)?;
                reservations = rest;
                written += chunk.len();
                rows = rows.saturating_sub(CHUNK_ROWS);
            }
        } else {
            for key in reservations.iter().take(rows) {
                digests::write_row(conn, *key)?;
                written += 1;
            }
            rows -= written;
        }
        let first = (from + written).saturating_sub(self.reservations.len());
        for (digest, n) in self.answers.iter().skip(first).take(rows) {
            rows::answers::write_digest(conn, *digest, *n)?;
            written += 1;
        }
        Ok(written)
    }

    /// Returns the reservations with a digest among these.
    pub(super) fn with(&self, digest: i64) -> impl Iterator<Item = ReservationId> + '_ {
        self.reservations.iter().filter(move |(known, _)| *known == digest).map(|(_, id)| *id)
    }
}

/// A round under way.
#[derive(Debug)]
struct Round {
    skus: Vec<(Org, Sku)>,
    keys: Keys,
    written: usize,
    /// Nothing up to this is behind when it has been written.
    upto: Upto,
}

impl Round {
    fn len(&self) -> usize {
        self.skus.len() + self.keys.len()
    }
}

/// Everything that is behind.
#[derive(Debug, Default)]
pub(super) struct Behind {
    skus: FxHashSet<(Org, Sku)>,
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

    fn waiting(&self) -> usize {
        self.skus.len() + self.keys.len()
    }

    /// Returns whether so much waits that a round is to begin, however busy it is.
    pub(super) fn is_much(&self) -> bool {
        self.skus.len() > SKUS_MAX || self.keys.len() > KEYS_MAX
    }

    pub(super) fn is_round_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn add_sku(&mut self, org: &Org, sku: Sku) {
        self.skus.insert((org.clone(), sku));
    }

    pub(super) fn add_keys(&mut self, keys: Keys) {
        self.keys.append(keys);
    }

    /// Begins a round of all that is behind, unless one is under way; `upto` is what was committed.
    pub(super) fn begin_round(&mut self, upto: Upto) {
        if self.under_way.is_some() || self.waiting() == 0 {
            return;
        }
        let mut skus: Vec<(Org, Sku)> = self.skus.drain().collect();
        let mut keys = std::mem::take(&mut self.keys);
        skus.sort_unstable();
        keys.sort();
        self.under_way = Some(Round { skus, keys, written: 0, upto });
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
        written += round.keys.write(conn, round.upto.line, from, most - written)?;
        let is_last = round.written + written == round.len();
        if is_last {
            ledger::write_upto(conn, round.upto)?;
        }
        Ok(Some(Step { written, is_last }))
    }

    /// Notes that a piece has become durable; returns what is found by now if it was the last.
    pub(super) fn written(&mut self, step: Step) -> Option<Keys> {
        if step.is_last {
            return self.under_way.take().map(|round| round.keys);
        }
        if let Some(round) = &mut self.under_way {
            round.written += step.written;
        }
        None
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
        self.keys.write_rows(conn)
    }

    /// Notes that all rows are as new as memory; returns what is found by now.
    pub(super) fn clear(&mut self) -> Keys {
        let all = std::mem::take(self);
        let mut keys = all.keys;
        if let Some(round) = all.under_way {
            keys.append(round.keys);
        }
        keys
    }

    /// Returns digests and numbers of the answers that are behind, but for a round under way.
    pub(super) fn answers(&self) -> &[(i64, i64)] {
        self.keys.answers()
    }

    /// Returns the reservations with a digest that are not found by it yet.
    pub(super) fn with(&self, digest: i64) -> impl Iterator<Item = ReservationId> + '_ {
        let under_way = self.under_way.iter().flat_map(move |round| round.keys.with(digest));
        under_way.chain(self.keys.with(digest))
    }
}
