//! Discovery: the channel's catalogue beside our SKUs.

use std::collections::{BTreeMap, BTreeSet};

use trueup_channels::{CatalogueEntry, Reading};
use trueup_core::{ListingKey, Sku};
use trueup_store::{ListingQuery, Mapping, RuleSettings, SkuQuery};

use crate::engine::{DISCOVERY_ITEMS_MAX, Discovery, EngineError, Proposal};
use crate::link::Link;
use crate::shared::Shared;

/// The most pages of a catalogue that are read.
const CATALOGUE_PAGES_MAX: usize = 5_000;
/// How many SKUs one page of the ledger has.
const SKU_PAGE: usize = 1_000;

/// Our side: every SKU, and every SKU by what is left of it without case, spaces and dashes.
struct Ours {
    skus: BTreeSet<Sku>,
    alike: BTreeMap<String, Sku>,
    mapped: BTreeMap<ListingKey, Sku>,
}

/// Reads the channel's catalogue and proposes mappings; returns them with those to make.
pub(crate) async fn discover(
    shared: &Shared,
    link: &Link,
) -> Result<(Discovery, Vec<Mapping>), EngineError> {
    let entries = catalogue(link).await?;
    let ours = ours(shared, link).await?;
    let mut carried: BTreeMap<&str, usize> = BTreeMap::new();
    for sku in entries.iter().filter_map(|entry| entry.sku.as_deref()) {
        *carried.entry(sku).or_default() += 1;
    }
    let mut discovery = Discovery::default();
    let mut mappings = Vec::new();
    let mut listed = BTreeSet::new();
    for entry in &entries {
        let repeated = entry.sku.as_deref().is_some_and(|sku| carried.get(sku) > Some(&1));
        let key = link.kind.listing(&link.settings, entry.fields.clone());
        let (proposal, mapping) = propose(link, entry, repeated, key, &ours);
        listed.extend(proposal.sku.clone());
        if discovery.proposals.len() < DISCOVERY_ITEMS_MAX {
            discovery.proposals.push(proposal);
        }
        mappings.extend(mapping);
    }
    let unlisted = ours.skus.iter().filter(|sku| !listed.contains(*sku));
    discovery.unlisted = unlisted.take(DISCOVERY_ITEMS_MAX).cloned().collect();
    Ok((discovery, mappings))
}

type Keyed = Result<(ListingKey, BTreeMap<String, String>), Vec<trueup_channels::SettingError>>;

fn propose(
    link: &Link,
    entry: &CatalogueEntry,
    repeated: bool,
    keyed: Keyed,
    ours: &Ours,
) -> (Proposal, Option<Mapping>) {
    let mut proposal = Proposal {
        channel_sku: entry.sku.clone(),
        title: entry.title.clone(),
        fields: entry.fields.clone(),
        sku: None,
        status: "no_sku",
        suggestion: None,
        quantity: match &entry.reading {
            Reading::Quantity(quantity) => Some(*quantity),
            Reading::Unknown(_) => None,
        },
    };
    let keyed = keyed.ok();
    if let Some(sku) = keyed.as_ref().and_then(|(key, _)| ours.mapped.get(key)) {
        proposal.sku = Some(sku.clone());
        proposal.status = "already_mapped";
        return (proposal, None);
    }
    let text = entry.sku.as_deref().filter(|text| !text.trim().is_empty());
    let Some(text) = text else { return (proposal, None) };
    let sku = Sku::new(text).ok().filter(|sku| ours.skus.contains(sku));
    match (sku, keyed) {
        (Some(sku), _) if repeated || entry.duplicate => {
            proposal.status = "duplicate";
            proposal.suggestion = Some(sku);
            (proposal, None)
        }
        (Some(sku), Some((key, fields))) => {
            proposal.status = "matched";
            proposal.sku = Some(sku.clone());
            proposal.fields.clone_from(&fields);
            let mapping = Mapping {
                channel: link.id.clone(),
                key,
                sku,
                fields,
                strategy: None,
                rules: RuleSettings::default(),
                channel_fulfilled: entry.channel_fulfilled,
                enabled: true,
            };
            (proposal, Some(mapping))
        }
        (Some(sku), None) => {
            // The entry lacks an identifier that a mapping needs.
            proposal.status = "near_miss";
            proposal.suggestion = Some(sku);
            (proposal, None)
        }
        (None, _) => {
            proposal.suggestion = ours.alike.get(&essence(text)).cloned();
            let near = proposal.suggestion.is_some();
            proposal.status = if near { "near_miss" } else { "unknown_sku" };
            (proposal, None)
        }
    }
}

async fn catalogue(link: &Link) -> Result<Vec<CatalogueEntry>, EngineError> {
    let mut entries = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..CATALOGUE_PAGES_MAX {
        let page = link.channel.catalogue(&link.transport, cursor.as_deref()).await;
        let page = page.map_err(EngineError::Channel)?;
        entries.extend(page.items);
        if page.next.is_none() || page.next == cursor {
            break;
        }
        cursor = page.next;
    }
    Ok(entries)
}

async fn ours(shared: &Shared, link: &Link) -> Result<Ours, EngineError> {
    let mut ours = Ours { skus: BTreeSet::new(), alike: BTreeMap::new(), mapped: BTreeMap::new() };
    let mut query = SkuQuery { limit: SKU_PAGE, ..SkuQuery::default() };
    loop {
        let page = shared.store.skus(&link.org, query.clone()).await?;
        query.after = page.items.last().map(|answer| answer.sku.clone());
        for answer in page.items {
            ours.alike.insert(essence(answer.sku.as_str()), answer.sku.clone());
            ours.skus.insert(answer.sku);
        }
        if !page.more || query.after.is_none() {
            break;
        }
    }
    let query = ListingQuery { channel: Some(link.id.clone()), ..ListingQuery::default() };
    let mapped = &mut ours.mapped;
    let look = |view: trueup_store::ListingView| {
        mapped.insert(view.mapping.key, view.mapping.sku);
    };
    shared.each_listing(&link.org, query, look).await?;
    Ok(ours)
}

/// Returns what is left of a SKU without case, spaces, dashes and underscores.
fn essence(sku: &str) -> String {
    let plain = |c: &char| !(c.is_whitespace() || matches!(c, '-' | '_' | '.'));
    sku.chars().filter(plain).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_differ_in_case_and_spacing_only() {
        assert_eq!(essence(" sku-100 "), essence("SKU 100"));
        assert_eq!(essence("sku_100"), essence("SKU100"));
        assert_ne!(essence("SKU-100"), essence("SKU-101"));
    }
}
