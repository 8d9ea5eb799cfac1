//! The command line: data to stdout, talk to stderr, errors with a hint.

pub mod assembly;
pub mod backup;
pub mod demo;
pub mod explain;
pub mod files;
pub mod keys;
pub mod link;
pub mod market;
pub mod migrate;
pub mod place;
pub mod rekey;
pub mod replay;
pub mod say;
pub mod serve;
pub mod simulate;
pub mod token;
pub mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use say::{data, say};

/// An inventory server: one true stock number per SKU, shown on every sales channel.
#[derive(Debug, Parser)]
#[command(name = "trueup", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::ServeArgs),
    /// Run a server with simulated channels and live sales.
    Demo(demo::DemoArgs),
    /// Run the simulated vendors alone.
    Simulate(simulate::SimulateArgs),
    /// Make a token signed with `TRUEUP_JWT_SECRET`.
    Token(token::TokenArgs),
    /// Make a link that signs in to the dashboard once.
    DashboardLink(link::LinkArgs),
    /// Read stock from a CSV file.
    Import(files::ImportArgs),
    /// Write stock as CSV to stdout.
    Export(files::ExportArgs),
    /// Replay an order history through the ledger and simulated channels.
    Replay(replay::ReplayArgs),
    /// Seal all secrets with another key.
    Rekey(rekey::RekeyArgs),
    /// Move orgs from a directory into a database.
    Migrate(migrate::MigrateArgs),
    /// Copy a directory's store while a server is at work on it, and verify the copy.
    Backup(backup::BackupArgs),
    /// Put a backup into a new directory.
    Restore(backup::RestoreArgs),
    /// Say why channels show what they show of a SKU.
    Explain(explain::ExplainArgs),
    /// Add the ledger up and compare channels with what they should show.
    Verify(verify::VerifyArgs),
    /// Measure durable reservations per second beside an empty endpoint.
    Bench(crate::bench::BenchOptions),
    /// The empty endpoint that `bench` measures beside the server.
    #[command(hide = true)]
    BenchFloor,
    /// Print the OpenAPI 3.1 description.
    Openapi,
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What a command ended with: all well, not well (said already), or an error to say.
type Ended = Result<bool, Box<dyn std::error::Error>>;

/// Runs the command line of this process.
pub async fn run() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(format_args!("error: {error}"));
            if let Some(hint) = hint(&*error) {
                say(format_args!("hint: {hint}"));
            }
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> Ended {
    match command {
        Command::Serve(args) => serve::run(args).await.map(|()| true),
        Command::Demo(args) => Ok(demo::run(args).await.map(|()| true)?),
        Command::Simulate(args) => Ok(simulate::run(args).await.map(|()| true)?),
        Command::Token(args) => token::run(&args).map(|()| true),
        Command::DashboardLink(args) => link::run(args).await.map(|()| true),
        Command::Import(args) => files::import(args).await,
        Command::Export(args) => files::export(args).await.map(|()| true),
        Command::Replay(args) => Ok(Box::pin(replay::run(args)).await?),
        Command::Rekey(args) => rekey::run(args).await.map(|()| true),
        Command::Migrate(args) => Box::pin(migrate::run(args)).await.map(|()| true),
        Command::Backup(args) => backup::back_up(args).await.map(|()| true),
        Command::Restore(args) => backup::restore(args).await.map(|()| true),
        Command::Explain(args) => explain::run(args).await.map(|()| true),
        Command::Verify(args) => verify::run(args).await,
        Command::Bench(options) => bench(options).await,
        Command::BenchFloor => Ok(crate::bench::serve_floor().await.map(|()| true)?),
        Command::Openapi => Ok(data(crate::api::openapi()).map(|()| true)?),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "trueup", &mut std::io::stdout());
            Ok(true)
        }
    }
}

async fn bench(mut options: crate::bench::BenchOptions) -> Ended {
    use crate::bench::{self, BenchCommand, BenchError, Direction};
    match options.what.take() {
        Some(BenchCommand::Push(options)) => bench_channels(Direction::Push, options).await,
        Some(BenchCommand::Pull(options)) => bench_channels(Direction::Pull, options).await,
        Some(BenchCommand::Growth(options)) => {
            let json = options.json;
            let report = Box::pin(bench::run_growth(options)).await?;
            tell(&report, json)?;
            Ok(report.is_valid())
        }
        Some(BenchCommand::Overload(options)) => {
            let json = options.json;
            let report = Box::pin(bench::run_overload(options)).await?;
            tell(&report, json)?;
            Ok(report.is_valid())
        }
        None => {
            let (json, plot) = (options.json, options.plot.clone());
            let report = bench::run(options).await?;
            tell(&report, json)?;
            if let Some(path) = plot {
                let written = std::fs::write(&path, report.plot());
                written.map_err(|source| BenchError::Plot { path, source })?;
            }
            Ok(report.is_valid())
        }
    }
}

async fn bench_channels(
    direction: crate::bench::Direction,
    options: crate::bench::ChannelOptions,
) -> Ended {
    let json = options.json;
    let report = Box::pin(crate::bench::run_channels(direction, options)).await?;
    tell(&report, json)?;
    Ok(report.is_valid())
}

/// Writes a report as a table for people, or as one JSON object for programs.
fn tell(report: &(impl std::fmt::Display + serde::Serialize), json: bool) -> std::io::Result<()> {
    use std::io::Write;
    if json {
        data(serde_json::to_string_pretty(report)?)
    } else {
        write!(std::io::stdout().lock(), "{report}")
    }
}

/// Says what may help with an error.
fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(config) = error.downcast_ref::<crate::config::ConfigError>() {
        return config.hint().map(str::to_owned);
    }
    if let Some(refused) = error.downcast_ref::<rekey::RekeyRefused>() {
        return refused.hint().map(str::to_owned);
    }
    if let Some(refused) = error.downcast_ref::<backup::BackupRefused>() {
        return refused.hint().map(str::to_owned);
    }
    if let Some(trueup_store::embedded::backup::BackupError::Open(open)) = error.downcast_ref() {
        return hint_to_directory(open).map(str::to_owned);
    }
    if let Some(open) = error.downcast_ref::<trueup_store::embedded::OpenError>() {
        return hint_to_directory(open).map(str::to_owned);
    }
    if let Some(bench) = error.downcast_ref::<crate::bench::BenchError>() {
        return bench.hint().map(str::to_owned);
    }
    if let Some(error) = error.downcast_ref::<trueup_store::migrate::MigrateError>() {
        return migrate::hint(error).map(str::to_owned);
    }
    if let Some(trueup_sync::RekeyError::Closed { .. }) = error.downcast_ref() {
        return Some("give every key they may have been sealed with; nothing was changed".into());
    }
    let words = match error.downcast_ref::<assembly::StartError>() {
        Some(assembly::StartError::Open(open)) => hint_to_open(open),
        Some(assembly::StartError::Key(key)) => key.hint(),
        Some(assembly::StartError::Listen(..) | assembly::StartError::Engine(_)) => None,
        None => {
            let open = error.downcast_ref().and_then(hint_to_open);
            open.or_else(|| error.downcast_ref::<keys::KeyError>()?.hint())
        }
    };
    words.map(str::to_owned)
}

/// Says what may help where a store was not opened.
fn hint_to_open(error: &place::OpenError) -> Option<&'static str> {
    match error {
        place::OpenError::Directory(error) => hint_to_directory(error),
        place::OpenError::Database(error) => hint_to_database(error),
    }
}

/// Says what may help where a directory was not opened.
fn hint_to_directory(error: &trueup_store::embedded::OpenError) -> Option<&'static str> {
    use trueup_store::embedded::OpenError;
    match error {
        OpenError::InUse(_) => {
            Some("stop the other process, or name another directory with --data-dir")
        }
        OpenError::Refused { .. } => {
            Some("nothing was changed; restore the directory from a backup, or name another")
        }
        OpenError::Newer { .. } => Some("use the newer program that wrote it"),
        OpenError::Departed { is_complete: true, .. } => Some(
            "serve it from there; to go back to what was here then, let nobody sell from there \
             and remove the file MOVED",
        ),
        OpenError::Departed { is_complete: false, .. } => Some(
            "run trueup migrate again, which goes on where it was; to stay here, remove the file \
             MOVED",
        ),
        OpenError::Io { .. } | OpenError::Sql { .. } => None,
    }
}

/// Says what may help where a database was not opened.
fn hint_to_database(error: &trueup_store::postgres::OpenError) -> Option<&'static str> {
    use trueup_store::postgres::OpenError;
    match error {
        OpenError::Database(_) => None,
        OpenError::Address(_) => {
            Some("it is like postgres://user:password@host:5432/database?sslmode=verify-full")
        }
    }
}
