//! `trueup serve`: the server, until SIGTERM or Ctrl-C.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::EnvFilter;
use trueup_sync::Clock;

use super::assembly::{Running, ServerOptions, SystemClock};
use super::demo::StopSignals;
use super::place::{Place, PlaceArgs};
use super::say::say;
use crate::config::{self, Config, Log, LogFormat};

/// The port that is listened on when none is named.
const PORT: u16 = 4620;

/// Runs the server.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen [default: 127.0.0.1:4620].
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Where the store is [default: the directory trueup-data].
    #[command(flatten)]
    pub place: PlaceArgs,
    /// A TOML file with the other settings.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The URL under which vendors and people reach the server.
    #[arg(long)]
    pub public_url: Option<String>,
    /// What this node is called among those of one database [default: its address].
    #[arg(long)]
    pub node_name: Option<String>,
    /// The URL under which the other nodes of the database reach this one [default: http:// and
    /// the address that it listens on].
    #[arg(long)]
    pub node_url: Option<String>,
    /// Let channel endpoints and webhook addresses be private or loopback.
    #[arg(long)]
    pub allow_private_endpoints: bool,
}

/// Runs the server until it is told to stop, then lets requests under way end.
///
/// # Errors
/// When it could not start or not close its store.
pub async fn run(args: ServeArgs) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(args.config.as_deref())?;
    log(&config.log)?;
    let tokens = config.tokens(config::jwt_secret()?)?;
    if let Some(keys) = &tokens.keys {
        keys.load(SystemClock.now()).await?;
    }
    let default_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let options = ServerOptions {
        listen: args.listen.or(config.listen).unwrap_or(default_listen),
        place: args.place.place(&config).unwrap_or_else(Place::usual),
        tokens: Some(tokens),
        keys: config.keys()?,
        public_url: args.public_url.or_else(|| config.public_url.clone()),
        node_name: args.node_name.or_else(|| config.node_name.clone()),
        node_url: args.node_url.or_else(|| config.node_url.clone()),
        allow_private_endpoints: args.allow_private_endpoints || config.allow_private_endpoints,
        request_timeout: config.request_timeout()?,
        orders_overlap: trueup_sync::ORDERS_OVERLAP,
    };
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let running = Running::start(options, Some(metrics)).await?;
    // Before anybody is told the address: who knows it may ask us to stop.
    let signals = StopSignals::listen()?;
    say(format_args!("listening on {}", running.url()));
    signals.first().await;
    say("stopping: requests under way may end");
    running.stop().await?;
    say("stopped");
    Ok(())
}

fn log(log: &Log) -> Result<(), Box<dyn std::error::Error>> {
    let named = config::log_filter()?.or_else(|| log.filter.clone());
    let filter = named.unwrap_or_else(|| "info".to_owned());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
