//! Answers recorded under idempotency keys, to be given again.
//!
//! They are appended, and found by a digest of org and key. The table of digests grows in random
//! places and is written behind; until then a digest is among the [`Young`].

use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use trueup_core::{Org, Timestamp};

use super::{Digested, PURGED_AT_ONCE_MAX, Result, all, execute, first};
use crate::RecordedAnswer;
use crate::encoding::columns::ReadColumns;
use crate::encoding::json;

/// An answer with the fingerprint of its request.
pub(crate) type Recorded = ([u8; 32], RecordedAnswer);

/// Returns the digest of a key of an org.
pub(crate) fn digest(org: &Org, key: &str) -> i64 {
    super::digest(Digested::Key, org, key)
}

/// Answers that are not in the table of digests yet, by digest.
#[derive(Debug, Default)]
pub(crate) struct Young(FxHashMap<i64, SmallVec<[i64; 1]>>);

impl Young {
    pub(crate) fn add(&mut self, digest: i64, n: i64) {
        self.0.entry(digest).or_default().push(n);
    }

    pub(crate) fn remove(&mut self, digest: i64, n: i64) {
        if let Some(known) = self.0.get_mut(&digest) {
            known.retain(|known| *known != n);
            if known.is_empty() {
                self.0.remove(&digest);
            }
        }
    }

    /// Returns the numbers of answers with a digest, oldest first.
    pub(crate) fn of(&self, digest: i64) -> SmallVec<[i64; 1]> {
        self.0.get(&digest).cloned().unwrap_or_default()
    }
}

/// Returns the answer recorded under a key of an org with its digest; `young` are the numbers of
/// answers with that digest.
pub(crate) fn get(
    conn: &Connection,
    (org, key): (&Org, &str),
    digest: i64,
    young: &[i64],
) -> Result<Option<Recorded>> {
    const BY_NUMBER: &str = "
        SELECT fingerprint, status, headers, body
        FROM recorded_answer
        WHERE n = ?
          AND org = ?
          AND idempotency_key = ?";
    const BY_DIGEST: &str = "
        SELECT a.fingerprint, a.status, a.headers, a.body
        FROM answer_digest d
        JOIN recorded_answer a ON a.n = d.n
        WHERE d.digest = ?
          AND a.org = ?
          AND a.idempotency_key = ?
        ORDER BY d.n
        LIMIT 1";
    let read = |columns: &mut super::Columns<'_, '_>| {
        let fingerprint = columns.take()?;
        let answer = RecordedAnswer {
            status: columns.take()?,
            headers: columns.json()?,
            body: columns.take()?,
        };
        Ok((fingerprint, answer))
    };
    let found = first(conn, BY_DIGEST, params![digest, org.as_str(), key], read)?;
    if found.is_some() {
        return Ok(found);
    }
    for n in young {
        let found = first(conn, BY_NUMBER, params![n, org.as_str(), key], read)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Appends an answer, to be found once its digest is written; returns its number.
pub(crate) fn append(
    conn: &Connection,
    org: &Org,
    key: &str,
    fingerprint: &[u8; 32],
    answer: &RecordedAnswer,
    at: Timestamp,
) -> Result<i64> {
    const SQL: &str = "
        INSERT INTO recorded_answer (
          org, idempotency_key, fingerprint, status, headers, body, at
        )
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    let params = params![
        org.as_str(),
        key,
        fingerprint,
        answer.status,
        json(&answer.headers)?,
        answer.body,
        at.micros(),
    ];
    execute(conn, SQL, params)?;
    Ok(conn.last_insert_rowid())
}

/// Lets an answer be found by its digest.
pub(crate) fn write_digest(conn: &Connection, digest: i64, n: i64) -> Result<()> {
    execute(conn, "INSERT OR IGNORE INTO answer_digest VALUES (?, ?)", [digest, n])?;
    Ok(())
}

/// Returns the number of the newest answer.
pub(crate) fn newest(conn: &Connection) -> Result<i64> {
    const SQL: &str = "SELECT coalesce(max(n), 0) FROM recorded_answer";
    Ok(first(conn, SQL, [], |columns| columns.take())?.unwrap_or(0))
}

/// Returns the digests and numbers of the answers after one, of all orgs.
pub(crate) fn after(conn: &Connection, n: i64) -> Result<Vec<(i64, i64)>> {
    const SQL: &str = "SELECT n, org, idempotency_key FROM recorded_answer WHERE n > ? ORDER BY n";
    all(conn, SQL, [n], |columns| {
        let n = columns.take()?;
        let (org, key): (Org, String) = (columns.name()?, columns.take()?);
        Ok((digest(&org, &key), n))
    })
}

/// Removes answers of every org that were recorded before an instant, at most
/// [`PURGED_AT_ONCE_MAX`], oldest first; returns how many. The newest stays, so that no number is
/// given twice.
pub(crate) fn purge_before(conn: &Connection, at: Timestamp) -> Result<usize> {
    const OLD: &str = "
        SELECT n, org, idempotency_key
        FROM recorded_answer
        WHERE at < ?
          AND n < (SELECT max(n) FROM recorded_answer)
          AND n < (SELECT min(n) FROM recorded_answer) + ?
        ORDER BY n";
    let old = all(conn, OLD, params![at.micros(), PURGED_AT_ONCE_MAX], |columns| {
        let n: i64 = columns.take()?;
        let (org, key): (Org, String) = (columns.name()?, columns.take()?);
        Ok((digest(&org, &key), n))
    })?;
    for (digest, n) in &old {
        execute(conn, "DELETE FROM answer_digest WHERE digest = ? AND n = ?", [digest, n])?;
        execute(conn, "DELETE FROM recorded_answer WHERE n = ?", [n])?;
    }
    Ok(old.len())
}
