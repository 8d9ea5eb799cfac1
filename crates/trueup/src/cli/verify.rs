//! `trueup verify`: adds the ledger up, and compares channels with what they should show.

use clap::Args;
use serde_json::json;
use trueup_core::Org;
use trueup_store::{ListingQuery, ListingView, Mapping, Store, StoreError};

use super::place::{Opened, PlaceArgs};
use super::say::data;

/// The most listings read at once.
const PAGE: usize = 1_000;

/// Recomputes every level from the ledger and compares channels with what they should show.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Where the store is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The org.
    #[arg(long)]
    pub org: Org,
    /// Answer with JSON.
    #[arg(long)]
    pub json: bool,
}

/// Verifies one org; returns whether all agrees.
///
/// # Errors
/// When the store cannot be opened or read, or the answer cannot be written.
pub async fn run(args: VerifyArgs) -> Result<bool, Box<dyn std::error::Error>> {
    let Opened { store, .. } = args.place.named()?.open().await?;
    let found = store.verify(&args.org).await?;
    let (listings, drifted) = compare(&*store, &args.org).await?;
    store.close().await?;
    let clean = found.faults.is_empty() && drifted.is_empty();
    if args.json {
        data(json!({
            "clean": clean,
            "skus": found.skus,
            "movements": found.movements,
            "reservations": found.reservations,
            "listings": listings,
            "faults": found.faults,
            "drifted": drifted,
        }))?;
        return Ok(clean);
    }
    data(format_args!(
        "{} SKUs, {} movements, {} reservations, {listings} listings",
        found.skus, found.movements, found.reservations
    ))?;
    for fault in &found.faults {
        data(format_args!("ledger: {fault}"))?;
    }
    for drift in &drifted {
        data(format_args!("channel: {drift}"))?;
    }
    data(if clean { "clean" } else { "NOT clean" })?;
    Ok(clean)
}

async fn compare(store: &dyn Store, org: &Org) -> Result<(usize, Vec<String>), StoreError> {
    let mut listings = 0;
    let mut drifted = Vec::new();
    let mut after = None;
    loop {
        let query = ListingQuery { after, limit: PAGE, ..ListingQuery::default() };
        let page = store.listings(org, query).await?;
        listings += page.items.len();
        drifted.extend(page.items.iter().filter_map(drift));
        after = page.items.last().map(|v| (v.mapping.sku.clone(), v.mapping.key.clone()));
        if !page.more {
            return Ok((listings, drifted));
        }
    }
}

/// Says how a listing differs from what it should show, by what it last acknowledged or showed.
fn drift(view: &ListingView) -> Option<String> {
    let sku = view.sku.as_ref()?;
    if view.mapping.channel_fulfilled || !view.mapping.enabled {
        return None;
    }
    let published = sku.publish(&view.state.rules).published;
    let base = view.state.base;
    if base.and_then(|base| u64::try_from(base).ok()) == Some(published) {
        return None;
    }
    let shown = base.map_or_else(|| "nothing known".to_owned(), |base| base.to_string());
    let Mapping { channel, sku, .. } = &view.mapping;
    Some(format!("{sku} on {channel}: {shown}, {published} expected"))
}
