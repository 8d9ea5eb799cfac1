//! Undoing a run: what its channel showed before it is shown again, as far as there is so much.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trueup_core::{ListingKey, Org, Quantity, Sku};
use trueup_store::{Change, HistoryEntry, Run, RunStatus};

use crate::engine::{Back, Engine, EngineError, PushScope};
use crate::link::Job;
use crate::worker::RUN_ITEMS_MAX;
use crate::worker::run::{PULL, PUSH, UNDO, new_run};

/// What of a run can be undone, and what cannot.
#[derive(Debug, Default, PartialEq, Eq)]
struct Undoing {
    back: BTreeMap<ListingKey, Back>,
    /// What is left as it is: SKU, listing, and why.
    left: Vec<(String, String, &'static str)>,
}

impl Undoing {
    fn of(run: &Run) -> Self {
        let mut undoing = Self::default();
        for item in run.items.as_array().into_iter().flatten() {
            undoing.take(item);
        }
        undoing
    }

    fn take(&mut self, item: &Value) {
        let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
        let (sku, key) = (text("sku"), text("listing"));
        let number = |name: &str| item.get(name).and_then(Value::as_i64);
        let (before, told) = (number("before"), number("quantity"));
        let mut leave = |why| self.left.push((sku.to_owned(), key.to_owned(), why));
        match (text("action"), before) {
            // The listing's movements stand in the ledger; orders may have explained them since.
            ("adopted", _) => leave("adopted"),
            ("pushed", None) => leave("before_unknown"),
            ("pushed", Some(before)) if told == Some(before) => {}
            ("pushed", Some(before)) => {
                let quantity = u64::try_from(before).ok().and_then(Quantity::new);
                let (Ok(sku), Ok(key)) = (Sku::new(sku), ListingKey::new(key)) else { return };
                let quantity = quantity.unwrap_or(Quantity::ZERO);
                self.back.insert(key.clone(), Back { sku, key, quantity });
            }
            // Nothing was told, or it is not known whether.
            ("failed" | "error", _) => leave("was_not_told"),
            _ => {}
        }
    }

    fn warnings(&self, run: &Run) -> Value {
        let warning = |(sku, listing, why): &(String, String, &'static str)| json!({ "sku": sku, "listing": listing, "code": why, "detail": words(why) });
        let mut warnings: Vec<Value> = self.left.iter().map(warning).collect();
        let total = run.counters.get("total").copied().unwrap_or(0);
        let kept = u64::try_from(RUN_ITEMS_MAX).unwrap_or(u64::MAX);
        if total > kept {
            let detail = format!("of {total} listings only the first {kept} were kept");
            warnings.push(json!({ "code": "not_kept", "detail": detail }));
        }
        Value::Array(warnings)
    }
}

fn words(why: &str) -> &'static str {
    match why {
        "adopted" => "the channel's own change was carried into master, where it is corrected",
        "before_unknown" => "what the listing showed before is not known",
        _ => "the run could not tell it anything",
    }
}

impl Engine {
    /// Begins a run that undoes another and returns its id: each listing is told what it showed
    /// before, and never more than is available now. What cannot be undone is in its warnings.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::NotUndoable`], or as [`Engine::push`].
    pub async fn undo_run(
        &self,
        org: &Org,
        id: &str,
        undo_id: Option<String>,
        actor: &str,
    ) -> Result<String, EngineError> {
        let run = self.shared().store.run(org, id).await?.ok_or(EngineError::NotFound("run"))?;
        let has_ended =
            matches!(run.status, RunStatus::Completed | RunStatus::Partial | RunStatus::Failed);
        let tells = [PUSH, PULL, UNDO].contains(&run.operation.as_str());
        if !has_ended || !tells || run.dry_run {
            return Err(EngineError::NotUndoable);
        }
        let (row, link) = self.running(org, &run.channel).await?;
        let undoing = Undoing::of(&run);
        let new = Run {
            warnings: undoing.warnings(&run),
            request: json!({ "undoes": run.id }),
            ..new_run(self.shared(), &link, UNDO, undo_id, row.dry_run)
        };
        let scope = PushScope::Back(undoing.back.into_values().collect());
        let begun = self.begin(&link, new, |run| Job::Push { run, scope, agreed: None }).await?;
        let detail = json!({ "by": actor, "undoneBy": begun });
        let entry = self.shared().entry(&run.channel, &run.operation, "undone", detail);
        self.shared().note(org, vec![HistoryEntry { run: Some(run.id.clone()), ..entry }]).await;
        self.shared().store.announce(Change::Run { org: org.clone(), id: run.id });
        Ok(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(item: &Value) -> Undoing {
        let mut undoing = Undoing::default();
        undoing.take(item);
        undoing
    }

    #[test]
    fn only_what_was_told_another_number_is_told_its_former_one() {
        let item = |action: &str, before: Option<i64>, quantity: Option<i64>| {
            json!({ "sku": "A", "listing": "a", "action": action, "before": before,
                "quantity": quantity })
        };
        let table = [
            (item("pushed", Some(10), Some(0)), Some(10), None),
            (item("pushed", Some(-2), Some(3)), Some(0), None),
            (item("pushed", Some(3), Some(3)), None, None),
            (item("pushed", None, Some(3)), None, Some("before_unknown")),
            (item("adopted", Some(3), Some(3)), None, Some("adopted")),
            (item("failed", Some(3), None), None, Some("was_not_told")),
            (item("matched", Some(3), Some(3)), None, None),
            (item("skipped", None, None), None, None),
        ];
        for (item, back, left) in table {
            let undoing = taken(&item);
            let told = undoing.back.into_values().next().map(|back| back.quantity.get());
            let why = undoing.left.first().map(|(_, _, why)| *why);
            assert_eq!((told, why), (back, left), "{item}");
        }
    }
}
