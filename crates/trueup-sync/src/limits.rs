//! Quotas of calls: read when a connection starts, then now and then, and when the vendor says
//! that it was asked too much.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trueup_store::ConnectionState;

use crate::link::Link;
use crate::shared::Shared;

/// How often quotas are read.
const READ_EVERY: Duration = Duration::from_secs(3_600);
/// The shortest pause between two readings, however often the vendor complains.
const READ_PAUSE: Duration = Duration::from_secs(60);

/// Reads a connection's quotas until it is stopped; ends where the vendor tells none.
pub(crate) async fn watch(shared: Arc<Shared>, link: Arc<Link>) {
    while !link.stop.is_cancelled() {
        if may_ask(&shared, &link).await {
            let told_at = shared.now();
            match link.channel.limits(&link.transport).await {
                Ok(None) => return,
                Ok(Some(quotas)) => link.transport.allow(&quotas, told_at),
                Err(error) => {
                    // Without them the vendor itself says when it was too much.
                    let (org, channel) = (&link.org, &link.id);
                    tracing::info!(%org, %channel, %error, "the quotas could not be read");
                }
            }
        }
        let read = Instant::now();
        tokio::select! {
            () = link.stop.cancelled() => return,
            () = tokio::time::sleep_until(read + READ_EVERY) => {}
            () = link.transport.slowed_down() => {
                tokio::select! {
                    () = link.stop.cancelled() => return,
                    () = tokio::time::sleep_until(read + READ_PAUSE) => {}
                }
            }
        }
    }
}

/// A paused connection asks its vendor nothing.
async fn may_ask(shared: &Shared, link: &Link) -> bool {
    match shared.store.connection(&link.org, &link.id).await {
        Ok(row) => row.is_some_and(|row| row.state == ConnectionState::Active),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be read");
            false
        }
    }
}
