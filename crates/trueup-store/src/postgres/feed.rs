//! Telling live views on other nodes what has changed here. Losing some is no loss: whoever reads
//! live views reads the state, too.
//!
//! `NOTIFY` is sent by a task of its own, never in a transaction that decides anything: the
//! database lets commits that notify go one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::poll_fn;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;
use trueup_core::{ChannelId, Org, Sku};

use super::Shared;
use super::error::Result;
use super::sql;
use crate::port::Change;

/// What is notified and listened to.
const CHANNEL: &str = "trueup_changes";
/// How long changes are gathered before they are told.
const GATHER: Duration = Duration::from_millis(100);
/// The most changes that are told at once; what is beyond is not.
const GATHERED_MAX: usize = 1_000;
/// The most bytes of one notification; the database takes less than 8 000.
const PAYLOAD_BYTES_MAX: usize = 7_500;
/// How long it rests before it listens again on another connection.
const LISTEN_REST: Duration = Duration::from_secs(5);

/// What one node tells the others.
#[derive(Debug, Serialize, Deserialize)]
struct Told<'a> {
    /// The node's id.
    node: &'a str,
    changes: BTreeSet<Line>,
}

/// A change as it is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Stock(String, String),
    LowStock(String, String),
    Oversold(String, String, u64),
    Conflict(String, String, String),
    Run(String, String),
}

impl From<&Change> for Line {
    fn from(change: &Change) -> Self {
        let text = |text: &dyn std::fmt::Display| text.to_string();
        match change {
            Change::Stock { org, sku } => Self::Stock(text(org), text(sku)),
            Change::LowStock { org, sku } => Self::LowStock(text(org), text(sku)),
            Change::Oversold { org, sku, by } => Self::Oversold(text(org), text(sku), *by),
            Change::Conflict { org, channel, sku } => {
                Self::Conflict(text(org), text(channel), text(sku))
            }
            Change::Run { org, id } => Self::Run(text(org), id.clone()),
        }
    }
}

impl Line {
    /// Returns the change; `None` where it is none that this program knows.
    fn change(&self) -> Option<Change> {
        let org = |text: &str| Org::new(text).ok();
        let sku = |text: &str| Sku::new(text).ok();
        Some(match self {
            Self::Stock(of, name) => Change::Stock { org: org(of)?, sku: sku(name)? },
            Self::LowStock(of, name) => Change::LowStock { org: org(of)?, sku: sku(name)? },
            Self::Oversold(of, name, by) => {
                Change::Oversold { org: org(of)?, sku: sku(name)?, by: *by }
            }
            Self::Conflict(of, channel, name) => Change::Conflict {
                org: org(of)?,
                channel: ChannelId::new(channel).ok()?,
                sku: sku(name)?,
            },
            Self::Run(of, id) => Change::Run { org: org(of)?, id: id.clone() },
        })
    }

    /// Returns about how many bytes it takes.
    fn size(&self) -> usize {
        serde_json::to_string(self).map_or(PAYLOAD_BYTES_MAX, |text| text.len() + 1)
    }
}

/// Tells other nodes what changes here until it is to stop.
pub(super) async fn tell(shared: Arc<Shared>, mut own: Receiver<Change>, stop: CancellationToken) {
    loop {
        let first = tokio::select! {
            first = own.recv() => first,
            () = stop.cancelled() => return,
        };
        let mut gathered = BTreeSet::new();
        match first {
            Ok(change) => drop(gathered.insert(Line::from(&change))),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
        tokio::time::sleep(GATHER).await;
        gather(&mut own, &mut gathered);
        if shared.leases.is_alone() {
            continue;
        }
        for payload in payloads(&shared.node.to_string(), gathered) {
            if let Err(error) = notify(&shared, &payload).await {
                tracing::debug!(%error, "other nodes could not be told of changes");
            }
        }
    }
}

/// Takes what has changed meanwhile.
fn gather(own: &mut Receiver<Change>, gathered: &mut BTreeSet<Line>) {
    loop {
        match own.try_recv() {
            Ok(change) if gathered.len() < GATHERED_MAX => {
                gathered.insert(Line::from(&change));
            }
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

/// Puts changes into as few notifications as hold them.
fn payloads(node: &str, lines: BTreeSet<Line>) -> Vec<String> {
    let mut payloads = Vec::new();
    let (mut told, mut size) = (Told { node, changes: BTreeSet::new() }, 0);
    let mut put = |told: &Told<'_>| {
        if let Ok(text) = serde_json::to_string(told) {
            payloads.push(text);
        }
    };
    for line in lines {
        let more = line.size();
        if size + more > PAYLOAD_BYTES_MAX {
            put(&told);
            (told.changes, size) = (BTreeSet::new(), 0);
        }
        // One that is too long by itself is not told.
        if more <= PAYLOAD_BYTES_MAX {
            size += more;
            told.changes.insert(line);
        }
    }
    if !told.changes.is_empty() {
        put(&told);
    }
    payloads
}

async fn notify(shared: &Shared, payload: &str) -> Result<()> {
    let client = shared.pool.client().await?;
    sql::execute(&client, "SELECT pg_notify($1, $2)", &[&CHANNEL, &payload]).await?;
    Ok(())
}

/// Hears of what changes on other nodes until it is to stop.
pub(super) async fn listen(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let heard = tokio::select! {
            heard = hear(&shared) => heard,
            () = stop.cancelled() => return,
        };
        if let Err(error) = heard {
            tracing::debug!(%error, "changes on other nodes are not heard");
        }
        tokio::select! {
            () = tokio::time::sleep(LISTEN_REST) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Hears on a connection until it ends.
async fn hear(shared: &Shared) -> Result<()> {
    let (client, mut connection) = shared.pool.listener().await?;
    let mut messages = poll_fn(move |context| connection.poll_message(context));
    let sql = format!("LISTEN {CHANNEL}");
    let listening = client.batch_execute(&sql);
    let heard = async {
        while let Some(message) = messages.next().await {
            if let AsyncMessage::Notification(told) = message? {
                announce(shared, told.payload());
            }
        }
        Ok(())
    };
    // The connection goes on only while its messages are taken.
    let (listened, heard): (_, Result<()>) = futures::join!(listening, heard);
    listened?;
    heard
}

/// Tells those who wait here what another node has told.
fn announce(shared: &Shared, payload: &str) {
    let Ok(told) = serde_json::from_str::<Told<'_>>(payload) else { return };
    if told.node == shared.node.to_string() {
        return;
    }
    for change in told.changes.iter().filter_map(Line::change) {
        // Nobody listening is fine.
        drop(shared.changes.send(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stock(nth: usize) -> Change {
        let sku = Sku::new(&format!("SKU-{nth}-{}", "x".repeat(50))).unwrap();
        Change::Stock { org: Org::new("acme").unwrap(), sku }
    }

    #[test]
    fn all_changes_are_told_in_notifications_that_the_database_takes() {
        let changes: Vec<Change> = (0..500).map(stock).collect();
        let lines: BTreeSet<Line> = changes.iter().map(Line::from).collect();
        let payloads = payloads("n", lines.clone());
        assert!(payloads.len() > 1);
        assert!(payloads.iter().all(|payload| payload.len() < 8_000));
        let told = payloads
            .iter()
            .flat_map(|payload| serde_json::from_str::<Told<'_>>(payload).unwrap().changes);
        let told: BTreeSet<Line> = told.collect();
        assert_eq!(told, lines);
    }

    #[test]
    fn every_kind_of_change_is_told_as_it_is() {
        let (org, sku) = (Org::new("acme").unwrap(), Sku::new("A").unwrap());
        let channel = ChannelId::new("shopify").unwrap();
        for change in [
            stock(1),
            Change::LowStock { org: org.clone(), sku: sku.clone() },
            Change::Oversold { org: org.clone(), sku: sku.clone(), by: 3 },
            Change::Conflict { org: org.clone(), channel, sku },
            Change::Run { org, id: "run".to_owned() },
        ] {
            assert_eq!(Line::from(&change).change(), Some(change));
        }
    }
}
