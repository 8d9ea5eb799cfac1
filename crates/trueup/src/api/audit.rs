//! What administrators do beside the ledger, kept in the history: who let which channel in, made
//! which key, mapped which listing. What happens to stock has its own trail, the ledger.

use serde_json::{Map, Value, json};
use trueup_core::{ChannelId, Sku};
use trueup_store::HistoryEntry;

use crate::api::App;
use crate::api::extract::{Admin, Caller};

/// The operation of its entries.
const OPERATION: &str = "administration";

/// Something that an administrator has done.
pub(super) struct Deed {
    action: &'static str,
    channel: Option<ChannelId>,
    sku: Option<Sku>,
    more: Map<String, Value>,
}

impl Deed {
    /// Begins with the word for it.
    pub(super) fn new(action: &'static str) -> Self {
        Self { action, channel: None, sku: None, more: Map::new() }
    }

    /// Adds the channel that was concerned.
    pub(super) fn on(mut self, channel: &ChannelId) -> Self {
        self.channel = Some(channel.clone());
        self
    }

    /// Adds the SKU that was concerned.
    pub(super) fn of(mut self, sku: &Sku) -> Self {
        self.sku = Some(sku.clone());
        self
    }

    /// Adds what else there is to say; never a secret.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

/// Notes what was done, after it was done. A failure to do so is logged and no more: what was done
/// is not undone by it.
pub(super) async fn note(app: &App, caller: &Caller<Admin>, deed: Deed) {
    let Deed { action, channel, sku, more } = deed;
    let mut detail = json!({ "action": action, "by": &*caller.actor });
    if let Value::Object(fields) = &mut detail {
        fields.extend(more);
    }
    let entry = HistoryEntry {
        id: 0,
        at: app.now(),
        operation: OPERATION.to_owned(),
        channel,
        sku,
        status: "ok".to_owned(),
        run: None,
        detail,
    };
    let org = &caller.org;
    if let Err(error) = app.store.add_history(org, vec![entry]).await {
        tracing::warn!(%org, action, by = &*caller.actor, %error, "the audit trail lacks an entry");
    }
}
