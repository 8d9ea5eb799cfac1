//! What the machine can do at best: an endpoint that does nothing, and the disk's sync latency.
//!
//! The endpoint takes the body of a reserve request and gives an answer of the same shape and
//! size, with no authentication, no stock and no disk.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use hdrhistogram::Histogram;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::load::{latencies, note};
use crate::cli::say::say;

/// The path of the empty endpoint, as long as that of the reserve request.
pub(super) const FLOOR_PATH: &str = "/empty-endpoint/inventory/reserve";
/// What is appended before each sync.
const SYNC_BYTES: usize = 4 * 1024;
/// The most syncs in one measure.
const SYNCS_MAX: u64 = 100_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    items: Vec<Item>,
    order_id: String,
    ttl_seconds: u32,
}

#[derive(Serialize, Deserialize)]
struct Item {
    sku: String,
    quantity: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    reservation_id: &'static str,
    order_id: String,
    status: &'static str,
    items: Vec<Item>,
    created_at: &'static str,
    expires_at: &'static str,
}

/// Serves the empty endpoint on a free loopback port until the process is killed, and says
/// `listening on http://ADDR` on stderr.
///
/// # Errors
/// When no port can be bound or the listener fails.
pub async fn serve_floor() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(format_args!("listening on http://{}", listener.local_addr()?));
    axum::serve(listener, Router::new().route(FLOOR_PATH, post(answer))).await
}

async fn answer(Json(asked): Json<Asked>) -> (StatusCode, Json<Answered>) {
    let late = asked.ttl_seconds > 900;
    let answered = Answered {
        reservation_id: "rsv_01989c1e7a5b7c3d8e9f0a1b2c3d4e5f",
        order_id: asked.order_id,
        status: "active",
        items: asked.items,
        created_at: "2026-04-25T10:00:00.123456Z",
        expires_at: if late {
            "2026-04-26T10:00:00.123456Z"
        } else {
            "2026-04-25T10:15:00.123456Z"
        },
    };
    (StatusCode::CREATED, Json(answered))
}

/// Appends 4 KiB and syncs, over and over, and returns how long each took in microseconds.
/// Blocks: run it off the runtime's threads.
pub(super) fn measure_syncs(dir: &Path, length: Duration) -> io::Result<Histogram<u64>> {
    let path = dir.join("sync-probe");
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
    let mut took = latencies();
    let began = Instant::now();
    for _ in 0..SYNCS_MAX {
        let before = Instant::now();
        file.write_all(&[0x5a; SYNC_BYTES])?;
        file.sync_data()?;
        note(&mut took, before.elapsed());
        if began.elapsed() >= length {
            break;
        }
    }
    std::fs::remove_file(path)?;
    Ok(took)
}
