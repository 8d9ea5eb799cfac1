//! Pausing a SKU, or everything of an org: nothing is sent, what is owed is kept, and orders are
//! heard and booked all the same.

use trueup_core::{Org, Rejection, Sku};
use trueup_store::{Page, Pause};

use crate::engine::{Engine, EngineError};

/// What is paused of an org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pauses {
    /// Everything, where it is.
    pub org: Option<Pause>,
    /// SKUs, by SKU.
    pub skus: Page<Pause>,
}

impl Engine {
    /// Pauses a SKU, or everything; paused before, it is of now.
    ///
    /// # Errors
    /// That the SKU is not in the ledger, or the store's.
    pub async fn pause(
        &self,
        org: &Org,
        sku: Option<&Sku>,
        note: Option<String>,
        actor: &str,
    ) -> Result<Pause, EngineError> {
        self.must_hold(org)?;
        let store = &self.shared().store;
        if let Some(sku) = sku
            && store.sku(org, sku).await?.is_none()
        {
            return Err(Rejection::SkuNotFound(sku.clone()).into());
        }
        let at = self.shared().now();
        let pause = Pause { sku: sku.cloned(), at, actor: actor.to_owned(), note };
        store.put_pause(org, pause.clone()).await?;
        Ok(pause)
    }

    /// Lets a SKU, or everything, go on; what is owed by now is sent. Returns whether it was paused.
    ///
    /// # Errors
    /// The store's.
    pub async fn unpause(&self, org: &Org, sku: Option<&Sku>) -> Result<bool, EngineError> {
        self.must_hold(org)?;
        let was_paused = self.shared().store.delete_pause(org, sku).await?;
        for link in self.shared().links_of(org) {
            match sku {
                Some(sku) => link.ring_dirty([sku.clone()]),
                None => link.ring_sweep(),
            }
        }
        Ok(was_paused)
    }

    /// Lists what is paused.
    ///
    /// # Errors
    /// The store's.
    pub async fn pauses(
        &self,
        org: &Org,
        after: Option<&Sku>,
        limit: usize,
    ) -> Result<Pauses, EngineError> {
        let store = &self.shared().desk;
        Ok(Pauses {
            org: store.pause(org, None).await?,
            skus: store.pauses(org, after, limit).await?,
        })
    }
}
