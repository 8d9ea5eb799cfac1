//! Digests of orders and of SKUs, by which reservations are found.
//!
//! Digests are spread evenly, so a table in their order grows in random places, at a page for
//! nearly each row once it is long. Where many are written at once they go into a *pack* instead:
//! sorted, and appended in chunks of one row each. A search looks into every pack: it costs the
//! more the longer the history is, and recording costs the same.

use rusqlite::{Connection, params};
use trueup_core::ReservationId;

use super::rows::RowsError;

/// What a reservation is found by, and the reservation.
pub(super) type Digested = (i64, ReservationId);

/// From how many on they go into a pack: fewer would make more packs than a search can look into.
pub(super) const PACK_MIN: usize = 16_384;

/// The most of one chunk: its row fills a page of the file.
pub(super) const CHUNK_MAX: usize = 160;

/// A digest and an id, both big-endian.
const ENTRY_BYTES: usize = 8 + 16;

/// Writes one that is found by itself.
pub(super) fn write_row(conn: &Connection, (digest, id): Digested) -> Result<(), RowsError> {
    conn.prepare_cached("INSERT OR IGNORE INTO reservation_digest VALUES (?, ?)")?
        .execute(params![digest, id.0.to_be_bytes()])?;
    Ok(())
}

/// Appends a chunk to a pack. Chunks come in the order of their digests, none above
/// [`CHUNK_MAX`]; a pack that is not complete holds what is there.
pub(super) fn write_chunk(
    conn: &Connection,
    pack: i64,
    chunk: &[Digested],
) -> Result<(), RowsError> {
    let Some((first, _)) = chunk.first() else { return Ok(()) };
    let mut entries = Vec::with_capacity(chunk.len() * ENTRY_BYTES);
    for (digest, id) in chunk {
        entries.extend_from_slice(&digest.to_be_bytes());
        entries.extend_from_slice(&id.0.to_be_bytes());
    }
    conn.prepare_cached("INSERT INTO reservation_pack VALUES (?, ?, ?)")?
        .execute(params![pack, first, entries])?;
    Ok(())
}

/// Returns the reservations with a digest, newest first.
pub(super) fn of(conn: &Connection, digest: i64) -> Result<Vec<ReservationId>, RowsError> {
    let mut found = Vec::new();
    let mut rows = conn.prepare_cached("SELECT id FROM reservation_digest WHERE digest = ?")?;
    let mut rows = rows.query([digest])?;
    while let Some(row) = rows.next()? {
        found.push(ReservationId(u128::from_be_bytes(row.get(0)?)));
    }
    let mut packs = conn.prepare_cached("SELECT min(pack) FROM reservation_pack WHERE pack > ?")?;
    // Of equal digests, the first may stand at the end of the chunk before theirs.
    let mut chunks = conn.prepare_cached(
        "SELECT first, entries
         FROM reservation_pack
         WHERE pack = ? AND first <= ?
         ORDER BY first DESC",
    )?;
    let mut pack = i64::MIN;
    while let Some(next) = packs.query_row([pack], |row| row.get::<_, Option<i64>>(0))? {
        pack = next;
        let mut rows = chunks.query(params![pack, digest])?;
        while let Some(row) = rows.next()? {
            let entries = row.get_ref(1)?.as_blob().map_err(super::ledger::corrupt)?;
            collect(entries, digest, &mut found)?;
            if row.get::<_, i64>(0)? < digest {
                break;
            }
        }
    }
    // One that was written again after a crash is there twice.
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.dedup();
    Ok(found)
}

/// Takes the ids with a digest out of a chunk.
fn collect(entries: &[u8], digest: i64, found: &mut Vec<ReservationId>) -> Result<(), RowsError> {
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(RowsError::Corrupt("a chunk of a pack is cut off".to_owned()));
    }
    let digest_of = |entry: &[u8; ENTRY_BYTES]| {
        let [a, b, c, d, e, f, g, h, ..] = *entry;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    };
    let from = entries.partition_point(|entry| digest_of(entry) < digest);
    for entry in entries.iter().skip(from).take_while(|entry| digest_of(entry) == digest) {
        let id = entry.last_chunk::<16>().copied().unwrap_or_default();
        found.push(ReservationId(u128::from_be_bytes(id)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::schema;

    fn empty() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn).unwrap();
        conn
    }

    fn put_pack(conn: &Connection, pack: i64, mut entries: Vec<Digested>) {
        entries.sort_unstable();
        for chunk in entries.chunks(CHUNK_MAX) {
            write_chunk(conn, pack, chunk).unwrap();
        }
    }

    fn found(conn: &Connection, digest: i64) -> Vec<u128> {
        of(conn, digest).unwrap().into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn every_entry_of_every_pack_is_found_and_nothing_else() {
        let conn = empty();
        // Even digests of both signs, so that each odd one falls between two.
        let digests = || (-500..500_i64).map(|digest| digest * 2);
        put_pack(&conn, 7, digests().map(|d| (d, ReservationId(1))).collect());
        put_pack(&conn, -3, digests().map(|d| (d, ReservationId(3))).collect());
        for digest in digests() {
            write_row(&conn, (digest, ReservationId(2))).unwrap();
        }
        for digest in digests() {
            assert_eq!(found(&conn, digest), [3, 2, 1]);
            assert_eq!(found(&conn, digest + 1), []);
        }
        assert_eq!(found(&conn, i64::MIN), []);
        assert_eq!(found(&conn, i64::MAX), []);
    }

    #[test]
    fn equal_digests_are_found_over_all_their_chunks() {
        let conn = empty();
        let many = 3 * CHUNK_MAX as u128 + 17;
        let mut entries: Vec<Digested> = (0..many).map(|id| (42, ReservationId(id))).collect();
        entries.extend((0..100).map(|id| (41, ReservationId(id))));
        entries.extend((0..100).map(|id| (43, ReservationId(id))));
        put_pack(&conn, 1, entries);
        assert_eq!(found(&conn, 42), (0..many).rev().collect::<Vec<_>>());
        assert_eq!(found(&conn, 41).len(), 100);
        assert_eq!(found(&conn, 43).len(), 100);
    }

    #[test]
    fn what_was_written_twice_is_found_once() {
        let conn = empty();
        let entries: Vec<Digested> = (0..1_000).map(|n| (n / 2, ReservationId(9))).collect();
        put_pack(&conn, 1, entries.clone());
        // The first half again, under another number, as after a crash in the middle of a round.
        put_pack(&conn, 2, entries[..500].to_vec());
        write_row(&conn, (0, ReservationId(9))).unwrap();
        assert_eq!(found(&conn, 0), [9]);
        assert_eq!(found(&conn, 499), [9]);
    }

    #[test]
    fn a_chunk_that_is_cut_off_is_refused() {
        let conn = empty();
        put_pack(&conn, 1, vec![(5, ReservationId(1)), (6, ReservationId(2))]);
        conn.execute_batch("UPDATE reservation_pack SET entries = substr(entries, 1, 40)").unwrap();
        assert!(matches!(of(&conn, 5), Err(RowsError::Corrupt(_))));
    }
}
