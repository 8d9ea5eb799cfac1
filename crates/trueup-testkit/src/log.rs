//! The requests that a simulator saw, newest last, so that a test can look at what was sent.
//!
//! Secrets are not kept: token requests lose their body, and only harmless headers stay.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;

/// The most requests that are kept; the oldest goes first.
pub const LOG_ENTRIES_MAX: usize = 10_000;
/// The most bytes of bodies that are kept together.
pub const LOG_BYTES_MAX: usize = 32 << 20;
/// The most bytes that are kept of one body.
pub const LOG_BODY_BYTES_MAX: usize = 256 << 10;

/// Headers worth keeping that cannot hold a secret.
pub(crate) const LOGGED_HEADERS: [&str; 8] = [
    "content-type",
    "content-language",
    "user-agent",
    "x-amz-date",
    "x-ebay-api-call-name",
    "x-ebay-api-siteid",
    "x-ebay-api-compatibility-level",
    "idempotency-key",
];

/// One request that a simulator saw.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedRequest {
    /// Counts from 1 since the simulator started.
    pub number: u64,
    /// When it arrived.
    pub at: String,
    /// The HTTP method.
    pub method: String,
    /// The path as sent (percent-encoded).
    pub path: String,
    /// The query string, without the question mark.
    pub query: String,
    /// Harmless headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The start of the body; empty for token requests.
    pub body: String,
    /// The status answered; 0 when the connection was cut.
    pub status: u16,
}

#[derive(Debug, Default)]
pub(crate) struct RequestLog(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<LoggedRequest>,
    bytes: usize,
    seen: u64,
}

impl RequestLog {
    pub(crate) fn add(&self, mut entry: LoggedRequest) {
        let mut kept = self.0.lock();
        kept.seen += 1;
        entry.number = kept.seen;
        kept.bytes += entry.body.len();
        kept.entries.push_back(entry);
        while kept.entries.len() > LOG_ENTRIES_MAX || kept.bytes > LOG_BYTES_MAX {
            let Some(oldest) = kept.entries.pop_front() else { break };
            kept.bytes -= oldest.body.len();
        }
    }

    pub(crate) fn all(&self) -> Vec<LoggedRequest> {
        self.0.lock().entries.iter().cloned().collect()
    }

    pub(crate) fn seen(&self) -> u64 {
        self.0.lock().seen
    }

    pub(crate) fn clear(&self) {
        let mut kept = self.0.lock();
        kept.entries.clear();
        kept.bytes = 0;
    }
}
