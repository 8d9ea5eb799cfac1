//! The end of a conflict: the ledger closes it, and who decided and how is noted beside it.

use trueup_core::Timestamp;

use crate::Resolved;

/// Who closed a conflict of which nothing is noted (yet).
pub(crate) const BY_NOBODY: &str = "unknown";
/// How a conflict was closed of which nothing is noted (yet).
pub(crate) const HOW_UNKNOWN: &str = "unknown";

/// Returns the end of a conflict, where the ledger has closed it.
pub(crate) fn resolved(
    closed_at: Option<Timestamp>,
    by: Option<String>,
    resolution: Option<String>,
    note: Option<String>,
) -> Option<Resolved> {
    closed_at.map(|at| Resolved {
        at,
        by: by.unwrap_or_else(|| BY_NOBODY.to_owned()),
        resolution: resolution.unwrap_or_else(|| HOW_UNKNOWN.to_owned()),
        note,
    })
}
