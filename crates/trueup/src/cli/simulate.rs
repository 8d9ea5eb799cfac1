//! `trueup simulate`: the simulated vendors alone, for users' own CI.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use trueup_testkit::{AnySimulator, amazon, ebay, shopify, spawn_all};

use super::demo::stopped;
use super::say::{data, say};

/// A vendor to simulate.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SimulatedVendor {
    /// Shopify.
    Shopify,
    /// Amazon.
    Amazon,
    /// eBay.
    Ebay,
}

/// Serves simulated vendors on a loopback address until it is stopped.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Where to listen (loopback only).
    #[arg(long, default_value = "127.0.0.1:9100")]
    pub listen: SocketAddr,
    /// Which vendors; all of them by default.
    #[arg(long = "vendor", value_enum)]
    pub vendors: Vec<SimulatedVendor>,
    /// End by itself after so many seconds.
    #[arg(long)]
    pub seconds: Option<u64>,
}

/// Runs the simulators; prints their URL to stdout.
///
/// # Errors
/// When the address is not loopback or is taken.
pub async fn run(args: SimulateArgs) -> std::io::Result<()> {
    use SimulatedVendor::{Amazon, Ebay, Shopify};
    let chosen = if args.vendors.is_empty() { vec![Shopify, Amazon, Ebay] } else { args.vendors };
    let simulator = |vendor| -> AnySimulator {
        match vendor {
            Shopify => shopify::Simulator::default().into(),
            Amazon => amazon::Simulator::default().into(),
            Ebay => ebay::Simulator::default().into(),
        }
    };
    let simulators: Vec<AnySimulator> = chosen.into_iter().map(simulator).collect();
    let server = spawn_all(&simulators, args.listen).await?;
    data(&server.url)?;
    for simulator in &simulators {
        let vendor = simulator.shared().vendor().as_str();
        say(format_args!("{vendor}: control at {}/_sim/{vendor}/state", server.url));
    }
    stopped(args.seconds).await;
    server.shutdown().await;
    Ok(())
}
