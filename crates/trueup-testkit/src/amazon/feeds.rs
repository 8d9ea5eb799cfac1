//! Processes `JSON_LISTINGS_FEED` documents and writes their reports.
//!
//! Source: amzn/selling-partner-api-models, listings-feed and processing-report schemas v2.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::SELLER_ID;
use super::state::{Document, Feed, State};
use super::wire::{self, BadPatch, Issue};
use crate::faults::FaultDial;
use crate::time::plus_ms;

/// The most messages in one feed.
pub const MESSAGES_MAX: usize = 25_000;
/// How long the address of a document is good, in milliseconds.
pub const DOCUMENT_MS_MAX: u64 = 300_000;

/// Processes every feed that has run its time; returns those that have ended now.
pub(crate) fn settle(
    state: &mut State,
    faults: &FaultDial,
    gzip: bool,
    now: Timestamp,
) -> Vec<(u64, Feed)> {
    let mut ended = Vec::new();
    let due: Vec<u64> = state
        .feeds
        .iter()
        .filter(|(_, feed)| feed.result.is_none() && !feed.fatal && feed.ends_at <= now)
        .map(|(id, _)| *id)
        .collect();
    for id in due {
        let Some(feed) = state.feeds.get(&id).cloned() else { continue };
        let report = process(state, faults, id, &feed);
        let result = report.map(|report| {
            let name = format!("amzn1.tortuga.sim.result.{id}");
            let bytes = report.to_string().into_bytes();
            let bytes = if gzip { zipped(&bytes) } else { bytes };
            let document = Document {
                content_type: "application/json; charset=UTF-8".into(),
                bytes: Some(bytes),
                gzip,
                expires_at: plus_ms(now, 12 * DOCUMENT_MS_MAX),
            };
            state.add_document(&name, document);
            name
        });
        if let Some(feed) = state.feeds.get_mut(&id) {
            feed.fatal = result.is_none();
            feed.result = result;
            ended.push((id, feed.clone()));
        }
    }
    ended
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).and_then(|()| out.finish()).expect("writing to memory cannot fail")
}

/// Applies a feed; returns its report, or nothing when it cannot be read or breaks off.
fn process(state: &mut State, faults: &FaultDial, id: u64, feed: &Feed) -> Option<Value> {
    let bytes = state.documents.get(&feed.input)?.bytes.clone()?;
    let body: Value = serde_json::from_slice(&bytes).ok()?;
    let messages = body.get("messages")?.as_array()?;
    let seller = body.pointer("/header/sellerId").and_then(Value::as_str);
    if messages.len() > MESSAGES_MAX || seller != Some(SELLER_ID) {
        return None;
    }
    let mut issues = Vec::new();
    let lies = faults.lies();
    let breaks = faults.breaks_feed();
    let reached = if breaks { messages.len() / 2 } else { messages.len() };
    for message in messages.iter().take(reached) {
        if let Err(issue) = carry_out(state, faults, message, feed.ends_at, lies) {
            issues.push(json!({
                "messageId": message.get("messageId").and_then(Value::as_u64).unwrap_or(1).max(1),
                "sku": message.get("sku").and_then(Value::as_str).unwrap_or("unknown"),
                "code": issue.code, "severity": "ERROR", "message": issue.message,
                "attributeName": issue.attribute.unwrap_or("sku"),
            }));
        }
    }
    if breaks {
        return None;
    }
    let (total, wrong) = (messages.len(), issues.len());
    state.counters.writes_refused += u64::try_from(wrong).unwrap_or(0);
    Some(json!({
        "header": {"sellerId": SELLER_ID, "version": "2.0", "feedId": id.to_string()},
        "issues": issues,
        "summary": {
            "errors": wrong, "warnings": 0, "messagesProcessed": total,
            "messagesAccepted": total - wrong, "messagesInvalid": wrong,
        },
    }))
}

fn carry_out(
    state: &mut State,
    faults: &FaultDial,
    message: &Value,
    at: Timestamp,
    lies: bool,
) -> Result<(), Issue> {
    let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    let sku = text("sku");
    if sku.is_empty() {
        return Err(Issue::new("4000001", "'sku' is required but not supplied."));
    }
    if text("operationType") != "PATCH" {
        return Err(Issue::new("4000001", "only operationType PATCH is simulated"));
    }
    if faults.poisons(sku) {
        return Err(Issue::new("8541", "The listing is suppressed."));
    }
    let changes = wire::changes(message).map_err(|bad| match bad {
        BadPatch::Request(words) => Issue::new("4000001", words),
        BadPatch::Listing(issue) => issue,
    })?;
    if lies {
        return Ok(());
    }
    for change in changes {
        // Amazon reports an unknown SKU as accepted and ignores it
        // (github.com/amzn/selling-partner-api-models issue 4402).
        if !state.accept(sku, change, at, at) {
            state.ignored += 1;
        }
    }
    Ok(())
}
