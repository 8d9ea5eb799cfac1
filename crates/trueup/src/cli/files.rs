//! `trueup import` and `trueup export`: stock as CSV, on a database or on a data directory that no
//! server has open.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use trueup_core::{Answer, Command, Org, SetOnHand, Source};
use trueup_store::{Outcome, SkuQuery, Store, Submission};

use super::place::{Opened, PlaceArgs};
use super::say::{Progress, say};
use crate::api::{csv_in, csv_out};

/// Counts in one command.
const CHUNK_ITEMS: usize = 10_000;
/// SKUs read at once.
const PAGE_SKUS: usize = 1_000;

/// Reads stock from a CSV file.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// `sku,quantity[,location,reason,low_stock_threshold,safety_stock]`, or Shopify's own.
    pub file: PathBuf,
    /// Where the store is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The org.
    #[arg(long)]
    pub org: Org,
}

/// Writes stock as CSV to stdout.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where the store is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The org.
    #[arg(long)]
    pub org: Org,
}

type Failure = Box<dyn std::error::Error>;

/// Imports a file; good lines are kept, wrong ones are named. Returns whether all were good.
///
/// # Errors
/// When the file or the store could not be read or written.
pub async fn import(args: ImportArgs) -> Result<bool, Failure> {
    let body = std::fs::read(&args.file)
        .map_err(|error| format!("read {}: {error}", args.file.display()))?;
    let read = csv_in::read(&body).map_err(|problem| problem.detail().to_owned())?;
    let Opened { store, .. } = args.place.named()?.open().await?;
    let mut wrong = read.errors.len();
    for error in &read.errors {
        say(format_args!("line {}: {}: {}", error.line, error.code, error.detail));
    }
    let mut updated = 0_u64;
    let mut progress = Progress::new("counts", u64::try_from(read.counts.len())?);
    for chunk in read.counts.chunks(CHUNK_ITEMS) {
        let items: Vec<SetOnHand> = chunk.iter().map(|(_, count)| count.clone()).collect();
        let submission = Submission {
            org: args.org.clone(),
            command: Command::Bulk { items, atomic: false },
            actor: Arc::from("import"),
            source: Source::Import,
            idempotency: None,
        };
        let Outcome::Decided(Ok(Answer::Bulk(outcomes))) = store.submit(submission).await? else {
            return Err("the ledger gave no answer to a bulk update".into());
        };
        for ((line, _), (_, outcome)) in chunk.iter().zip(outcomes) {
            match outcome {
                Ok(_) => updated += 1,
                Err(rejection) => {
                    wrong += 1;
                    say(format_args!("line {line}: {}: {rejection}", rejection.code()));
                }
            }
            progress.step();
        }
    }
    drop(progress);
    store.close().await?;
    say(format_args!("{updated} counts taken, {wrong} lines wrong"));
    Ok(wrong == 0)
}

/// Exports every SKU of an org.
///
/// # Errors
/// When the store could not be read or stdout is closed.
pub async fn export(args: ExportArgs) -> Result<(), Failure> {
    let Opened { store, .. } = args.place.named()?.open().await?;
    let written = write_all(&*store, &args.org).await;
    store.close().await?;
    written
}

async fn write_all(store: &dyn Store, org: &Org) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(out, "{}", csv_out::COLUMNS.join(","))?;
    let mut after = None;
    loop {
        let query = SkuQuery { after, limit: PAGE_SKUS, ..SkuQuery::default() };
        let page = store.skus(org, query).await?;
        for answer in &page.items {
            out.write_all(&csv_out::lines(answer))?;
        }
        after = page.items.last().map(|answer| answer.sku.clone());
        if !page.more {
            return Ok(out.flush()?);
        }
    }
}
