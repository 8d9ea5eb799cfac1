//! `trueup migrate`: moves an org, or everything, out of a data directory into a database.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use trueup_core::Org;
use trueup_store::migrate::{MigrateError, Migration, OrgPlan, OrgReport};

use super::place::{Place, StoreUrl};
use super::say::{Progress, data, say};
use crate::config::{Config, ConfigError, STORE};

/// Moves an org, or everything, out of a data directory into a PostgreSQL database.
///
/// No server may have the directory open. What is copied is compared row by row before the
/// database lets anybody see it. It may be stopped or killed at any moment and run again.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The directory that it moves out of.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The database that it moves into, as postgres://user@host/database [env: `TRUEUP_STORE`,
    /// which other users of the machine cannot see].
    #[arg(long, value_name = "URL")]
    pub to: Option<StoreUrl>,
    /// The org; by default every one moves.
    #[arg(long)]
    pub org: Option<Org>,
    /// The TOML file of the settings of the server that will serve the database.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Say what would be moved, and whether it would be taken, and change nothing.
    #[arg(long, conflicts_with = "anew")]
    pub dry_run: bool,
    /// Remove what was copied before of orgs that are not open yet, and begin anew.
    #[arg(long)]
    pub anew: bool,
    /// Answer with JSON.
    #[arg(long)]
    pub json: bool,
}

type Failure = Box<dyn std::error::Error>;

/// Moves what is to be moved; may be interrupted at any moment and run again.
///
/// # Errors
/// When a side cannot be opened, the keys of the target's server do not open what is sealed, the
/// target has something of it already, or both sides are not the same in the end.
pub async fn run(args: MigrateArgs) -> Result<(), Failure> {
    let config = Config::load(args.config.as_deref())?;
    let to = args.to.clone().or_else(|| config.store.clone()).ok_or_else(no_target)?;
    say("reading the directory");
    let mut migration = Migration::open(&args.from, to.reveal(), args.org.clone()).await?;
    check_keys(&migration, &config, to).await?;
    if args.anew {
        migration.forget().await?;
    }
    migration.check().await?;
    if args.dry_run {
        tell_plan(&migration, args.json)?;
        migration.close();
        return Ok(());
    }
    let reports = copy(&mut migration).await;
    let target = migration.to().to_owned();
    migration.close();
    tell_reports(&target, &reports?, args.json)?;
    say("the directory is as it was; a server refuses what has moved out of it (file MOVED)");
    Ok(())
}

fn no_target() -> ConfigError {
    ConfigError::Value {
        name: "--to".to_owned(),
        detail: "is missing: which database?".to_owned(),
        hint: Some(format!("name it with --to, or set {STORE}")),
    }
}

/// Secrets move as they are sealed: the key is carried over by the operator, and before the rows.
async fn check_keys(migration: &Migration, config: &Config, to: StoreUrl) -> Result<(), Failure> {
    let sealed = migration.sealed().await?;
    if sealed.is_empty() {
        return Ok(());
    }
    let ring = config.keys()?.ring(&Place::Database(to))?;
    Ok(trueup_sync::check_sealed(&ring, &sealed)?)
}

async fn copy(migration: &mut Migration) -> Result<Vec<OrgReport>, MigrateError> {
    let rows: u64 = migration.plan().iter().map(OrgPlan::rows).sum();
    // Each of them is copied, and read again on both sides.
    let mut bar = Progress::new("rows copied and compared", rows.saturating_mul(2));
    migration.run(&mut |progress| bar.steps(progress.rows)).await
}

fn tell_plan(migration: &Migration, is_json: bool) -> Result<(), Failure> {
    if is_json {
        let orgs: Vec<Value> = migration.plan().iter().map(plan_json).collect();
        data(json!({ "to": migration.to(), "orgs": orgs }))?;
        return Ok(());
    }
    data(format_args!("to {}:", migration.to()))?;
    for plan in migration.plan() {
        let tables: Vec<String> =
            plan.tables.iter().map(|(table, rows)| format!("{rows} of {table}")).collect();
        data(format_args!("{}: {} rows: {}", plan.org, plan.rows(), tables.join(", ")))?;
    }
    Ok(())
}

fn plan_json(plan: &OrgPlan) -> Value {
    let tables: serde_json::Map<String, Value> =
        plan.tables.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
    json!({ "org": plan.org.as_str(), "rows": plan.rows(), "tables": tables })
}

fn tell_reports(to: &str, reports: &[OrgReport], is_json: bool) -> Result<(), Failure> {
    if is_json {
        let orgs: Vec<Value> = reports.iter().map(report_json).collect();
        data(json!({ "to": to, "orgs": orgs }))?;
        return Ok(());
    }
    for OrgReport { org, tables, on_hand, reserved, verification } in reports {
        let Some(found) = verification else {
            data(format_args!("{org}: was moved to {to} before"))?;
            continue;
        };
        data(format_args!(
            "{org}: moved to {to}: {on_hand} units on hand and {reserved} reserved on both \
             sides; {} SKUs, {} movements, {} reservations add up",
            found.skus, found.movements, found.reservations
        ))?;
        for table in tables {
            let digest = table.digest.get(..16).unwrap_or_default();
            data(format_args!("  {}: {} rows are the same, {digest}", table.table, table.rows))?;
        }
    }
    Ok(())
}

fn report_json(report: &OrgReport) -> Value {
    let OrgReport { org, tables, on_hand, reserved, verification } = report;
    let table = |of: &trueup_store::migrate::TableReport| json!({ "table": of.table, "rows": of.rows, "digest": of.digest });
    let Some(found) = verification else {
        return json!({ "org": org.as_str(), "before": true });
    };
    json!({
        "org": org.as_str(),
        "before": false,
        "tables": tables.iter().map(table).collect::<Vec<_>>(),
        "onHand": on_hand,
        "reserved": reserved,
        "skus": found.skus,
        "movements": found.movements,
        "reservations": found.reservations,
    })
}

/// Says what may help where a move came to no end.
#[must_use]
pub fn hint(error: &MigrateError) -> Option<&'static str> {
    match error {
        MigrateError::Source(trueup_store::embedded::OpenError::InUse(_)) => {
            Some("stop the server that has it: what is sold while it moves would be lost")
        }
        MigrateError::Source(error) => super::hint_to_directory(error),
        MigrateError::Target(error) => super::hint_to_database(error),
        MigrateError::Departed { .. } => {
            Some("the file MOVED of the directory says what moves where")
        }
        MigrateError::Taken { .. } => {
            Some("an org moves to where nothing of it is; name another database")
        }
        MigrateError::OfAnother(_) | MigrateError::Differs { .. } => {
            Some("--anew removes what was copied of it, which nobody could see yet")
        }
        MigrateError::DoesNotAddUp { .. } => Some(
            "both sides hold the same: see trueup verify on a copy of the directory without MOVED",
        ),
        MigrateError::Store(_) => Some("run it again: it goes on where it was"),
        MigrateError::NoSuchOrg(_) => Some("--dry-run without --org says which there are"),
    }
}
