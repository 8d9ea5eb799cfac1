//! SKUs that channels are to be told of.

use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use tokio::sync::Notify;
use trueup_core::{Org, Sku};

/// What is to be told and to nobody yet, each SKU once.
#[derive(Debug, Default)]
pub(super) struct Bell {
    dirty: Mutex<FxHashSet<(Org, Sku)>>,
    rung: Notify,
}

impl Bell {
    /// Adds SKUs, and wakes who waits.
    pub(super) fn ring(&self, more: impl IntoIterator<Item = (Org, Sku)>) {
        let mut dirty = self.dirty.lock();
        dirty.extend(more);
        if !dirty.is_empty() {
            self.rung.notify_one();
        }
    }

    /// Waits until there are some, and takes them all.
    pub(super) async fn wait(&self) -> Vec<(Org, Sku)> {
        loop {
            let rung = self.rung.notified();
            let dirty = std::mem::take(&mut *self.dirty.lock());
            if !dirty.is_empty() {
                return dirty.into_iter().collect();
            }
            rung.await;
        }
    }
}
