//! Taking the end of a conflict back: what it changed of the master is put back, as far as it was
//! not sold since, and the listing waits for an operator again.

use serde_json::json;
use trueup_core::{
    Answer, Carried, Command, Delta, MovementKind, Org, Rejection, Reopen, Sku, SkuState, Source,
};
use trueup_store::{Conflict, HistoryEntry, ListingQuery, ListingView, MovementQuery, Resolved};

use crate::engine::{Engine, EngineError};

/// Conflicts looked at once, and the most pages of them that are looked through for a newer one
/// of the same listing.
const PAGE_CONFLICTS: usize = 500;
const PAGES_MAX: usize = 20;
/// The most ledger lines that one end of a conflict can have made of a SKU.
const LINES_MAX: usize = 1_000;

/// A conflict that waits again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reopened {
    /// The conflict, with an id of its own.
    pub conflict: Conflict,
    /// By how many units its end had changed the master.
    pub carried: i64,
    /// By how many units the master was put back.
    pub restored: i64,
}

impl Engine {
    /// Takes the end of a conflict back.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::NotReopenable`] where it is open, was not ended by
    /// an operator, or its listing had another one since; [`EngineError::PushUnderWay`]; or what
    /// the ledger refuses.
    pub async fn reopen(
        &self,
        org: &Org,
        id: u64,
        note: Option<String>,
        actor: &str,
    ) -> Result<Reopened, EngineError> {
        let shared = self.shared();
        self.must_hold(org)?;
        let found = shared.store.conflict(org, id).await?;
        let found = found.ok_or(EngineError::NotFound("conflict"))?;
        let resolved = found.resolved.as_ref().ok_or(EngineError::NotReopenable)?;
        if self.newest_of_listing(org, &found).await? != Some(id) {
            return Err(EngineError::NotReopenable);
        }
        let view = self.listing_of(org, &found).await?.ok_or(EngineError::NotReopenable)?;
        if view.state.in_flight.is_some() {
            return Err(EngineError::PushUnderWay);
        }
        let carried = self.carried(org, &found, resolved, &view).await?;
        // An order that was booked since may be what the channel had changed.
        let is_booked = view.state.booked_at.is_some_and(|at| at >= resolved.at);
        let moved = found.observed.saturating_sub(found.base.unwrap_or(found.expected));
        let words = note.unwrap_or_else(|| format!("conflict {id} was opened again"));
        let command = Command::Reopen(Reopen {
            channel: found.channel.clone(),
            key: found.key.clone(),
            carried,
            moved: if is_booked { 0 } else { moved },
            note: Some(words.as_str().into()),
        });
        let restored = match shared.submit_as(org, command, Source::Api, actor).await {
            Ok(Answer::Reopened(_, restored)) => restored.get(),
            Ok(_) | Err(EngineError::Rejected(Rejection::ConflictOpen)) => {
                return Err(EngineError::NotReopenable);
            }
            Err(error) => return Err(error),
        };
        let carried = units_of(carried).get();
        let opened = self.newest_of_listing(org, &found).await?;
        let opened = match opened {
            Some(opened) => shared.store.conflict(org, opened).await?,
            None => None,
        };
        let conflict = opened.ok_or(EngineError::NotFound("conflict"))?;
        let detail = json!({
            "conflictId": conflict.id, "reopens": id, "by": actor, "note": words,
            "carried": carried, "restored": restored,
        });
        let entry = shared.entry(&found.channel, "inventory_conflict", "open", detail);
        shared.note(org, vec![HistoryEntry { sku: Some(found.sku.clone()), ..entry }]).await;
        if let Some(link) = shared.link(org, &found.channel) {
            link.ring_dirty([found.sku.clone()]);
        }
        Ok(Reopened { conflict, carried, restored })
    }

    /// Returns the newest conflict of the listing that a conflict is of.
    async fn newest_of_listing(
        &self,
        org: &Org,
        of: &Conflict,
    ) -> Result<Option<u64>, EngineError> {
        let store = &self.shared().store;
        let mut before = None;
        for _ in 0..PAGES_MAX {
            let page =
                store.conflicts(org, None, Some(&of.channel), before, PAGE_CONFLICTS).await?;
            if let Some(newest) = page.items.iter().find(|conflict| conflict.key == of.key) {
                return Ok(Some(newest.id));
            }
            before = page.items.last().map(|conflict| conflict.id);
            if !page.more {
                break;
            }
        }
        Ok(None)
    }

    /// Returns the listing of a conflict, while it sells the same SKU.
    async fn listing_of(
        &self,
        org: &Org,
        of: &Conflict,
    ) -> Result<Option<ListingView>, EngineError> {
        let query = ListingQuery {
            channel: Some(of.channel.clone()),
            skus: Some(vec![of.sku.clone()]),
            keys: Some(vec![of.key.clone()]),
            limit: 1,
            ..ListingQuery::default()
        };
        Ok(self.shared().store.listings(org, query).await?.items.pop())
    }

    /// Finds what the end of a conflict changed of the master: the lines of that instant.
    async fn carried(
        &self,
        org: &Org,
        of: &Conflict,
        resolved: &Resolved,
        view: &ListingView,
    ) -> Result<Carried, EngineError> {
        let kind = match resolved.resolution.as_str() {
            "master" => return Ok(Carried::Nothing),
            "channel" => MovementKind::ChannelAdopted,
            "quantity" => MovementKind::Count,
            // Nobody decided: its listing was unmapped.
            _ => return Err(EngineError::NotReopenable),
        };
        let (sku, per_unit) = counted_by(&of.sku, view.sku.as_ref().map(|sku| &sku.state));
        let query = MovementQuery {
            from: Some(resolved.at),
            to: Some(resolved.at.just_after()),
            kind: Some(kind),
            limit: LINES_MAX,
            ..MovementQuery::default()
        };
        let lines = self.shared().store.movements(org, &sku, query).await?.items;
        let channel = of.channel.as_str();
        let ours = lines.iter().filter(|line| line.reference.as_deref() == Some(channel));
        let units: i64 = ours.map(|line| line.delta.get()).sum::<i64>() / per_unit;
        let units = Delta::new(units).unwrap_or(Delta::ZERO);
        Ok(match kind {
            MovementKind::ChannelAdopted => Carried::Adopted(units),
            _ => Carried::Counted(units),
        })
    }
}

fn units_of(carried: Carried) -> Delta {
    match carried {
        Carried::Nothing => Delta::ZERO,
        Carried::Adopted(units) | Carried::Counted(units) => units,
    }
}

/// Returns in which SKU's lines changes of a SKU stand, and how many units there are one of it: of
/// a bundle, its first part's.
fn counted_by(sku: &Sku, state: Option<&SkuState>) -> (Sku, i64) {
    let part = state.and_then(|state| state.parts.first());
    let part = part.map(|part| (part.sku.clone(), part.quantity.delta().get().max(1)));
    part.unwrap_or_else(|| (sku.clone(), 1))
}
