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
