//! Working for what this node holds: links are started for the shards that it gains, and ended for
//! those that it loses or hands over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use trueup_store::{Ownership, Shard};

use crate::caller::Vault;
use crate::engine::{EngineError, note_broken, start_link};
use crate::link::Link;
use crate::shared::Shared;

/// How long it rests after the store failed, before it is tried again.
const STORE_REST: Duration = Duration::from_secs(1);

/// The shards that are worked for, and the epochs of their leases.
#[derive(Debug, Default)]
pub(crate) struct Working(BTreeMap<Shard, i64>);

impl Working {
    /// Returns whether a shard is worked for.
    pub(crate) fn is_for(&self, shard: Shard) -> bool {
        self.0.contains_key(&shard)
    }
}

/// What is to be done so that the work is what is held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    /// Lost: ended at once, whatever it is in the middle of.
    lost: BTreeSet<Shard>,
    /// To be handed over: ended after what is under way.
    leaving: BTreeSet<Shard>,
    /// To be begun, with the epochs of their leases.
    gained: BTreeMap<Shard, i64>,
}

impl Steps {
    fn new(working: &Working, held: &Ownership) -> Self {
        let mut steps = Self::default();
        for (shard, epoch) in &working.0 {
            match held.shards.get(shard) {
                Some(holding) if holding.epoch != *epoch => drop(steps.lost.insert(*shard)),
                None => drop(steps.lost.insert(*shard)),
                Some(_) => {}
            }
        }
        for (shard, holding) in &held.shards {
            if holding.is_leaving {
                if !steps.lost.contains(shard) {
                    steps.leaving.insert(*shard);
                }
            } else if working.0.get(shard) != Some(&holding.epoch) {
                steps.gained.insert(*shard, holding.epoch);
            }
        }
        steps
    }

    fn is_nothing(&self) -> bool {
        self.lost.is_empty() && self.leaving.is_empty() && self.gained.is_empty()
    }
}

/// Follows what is held until the engine stops.
pub(crate) async fn follow(shared: Arc<Shared>, mut held: watch::Receiver<Ownership>) {
    let mut failed = false;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = held.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(STORE_REST), if failed => {}
        }
        let now = held.borrow_and_update().clone();
        let stepped = step(&shared, &now).await;
        failed = stepped.is_err();
        if let Err(error) = stepped {
            tracing::warn!(%error, "the work for shards could not be begun or handed over");
        }
    }
}

/// Makes the work what is held.
///
/// # Errors
/// The store's; the same again does what is left.
pub(crate) async fn step(shared: &Arc<Shared>, held: &Ownership) -> Result<(), EngineError> {
    let steps = Steps::new(&shared.working.read(), held);
    if steps.is_nothing() {
        return Ok(());
    }
    let Steps { lost, leaving, gained } = steps;
    shared.working.write().0.retain(|shard, _| !lost.contains(shard) && !leaving.contains(shard));
    let ending = |of: &BTreeSet<Shard>| -> Vec<Arc<Link>> {
        let links = shared.links.lock();
        links.values().filter(|link| of.contains(&Shard::of(&link.org))).cloned().collect()
    };
    let (cut_off, finishing) = (ending(&lost), ending(&leaving));
    shared.links.lock().retain(|(org, _), _| {
        let shard = Shard::of(org);
        !lost.contains(&shard) && !leaving.contains(&shard)
    });
    futures::future::join_all(cut_off.into_iter().map(Link::cut_off)).await;
    if !leaving.is_empty() {
        futures::future::join_all(finishing.into_iter().map(Link::finish)).await;
        tracing::info!(shards = leaving.len(), "shards are handed over");
        shared.store.hand_over(leaving.into_iter().collect()).await?;
    }
    let shards: BTreeSet<Shard> = gained.keys().copied().collect();
    let begun = begin(shared, gained).await;
    if begun.is_err() {
        // What was begun of it is begun again with the rest.
        let half_begun = ending(&shards);
        shared.links.lock().retain(|(org, _), _| !shards.contains(&Shard::of(org)));
        futures::future::join_all(half_begun.into_iter().map(Link::cut_off)).await;
    }
    begun
}

/// Begins the work for shards.
async fn begin(shared: &Arc<Shared>, gained: BTreeMap<Shard, i64>) -> Result<(), EngineError> {
    if gained.is_empty() {
        return Ok(());
    }
    // What whoever had them before has left.
    let shards = gained.keys().copied().collect();
    shared.store.abandon_runs(shards, shared.now()).await?;
    for (org, row) in shared.store.all_connections().await? {
        if !gained.contains_key(&Shard::of(&org)) {
            continue;
        }
        let opened = shared
            .settings_of(&row)
            .and_then(|settings| shared.open(&org, &row, settings, Vault::of_row()));
        match opened {
            Ok(link) => start_link(shared, link).await,
            Err(error) => note_broken(shared, &org, &row, &error).await?,
        }
    }
    shared.working.write().0.extend(gained);
    // What has come in meanwhile.
    shared.inbox_bell.notify_one();
    shared.deliveries_bell.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use trueup_store::Holding;

    use super::*;

    fn shard(number: usize) -> Shard {
        Shard::all().nth(number).unwrap()
    }

    #[test]
    fn the_steps_make_the_work_what_is_held() {
        let working = Working((0..4).map(|number| (shard(number), 1)).collect());
        let holding = |epoch, is_leaving| Holding { epoch, is_leaving };
        let held = [
            (1, holding(1, false)),
            (2, holding(2, false)),
            (3, holding(1, true)),
            (4, holding(7, false)),
            (5, holding(7, true)),
        ];
        let shards = held.into_iter().map(|(number, holding)| (shard(number), holding)).collect();
        let steps = Steps::new(&working, &Ownership { shards });
        // What was lost and taken again is ended and begun anew.
        assert_eq!(steps.lost, BTreeSet::from([shard(0), shard(2)]));
        assert_eq!(steps.leaving, BTreeSet::from([shard(3), shard(5)]));
        assert_eq!(steps.gained, BTreeMap::from([(shard(2), 2), (shard(4), 7)]));
        let nothing = Steps::new(&Working::default(), &Ownership::default());
        assert!(nothing.is_nothing());
    }
}
