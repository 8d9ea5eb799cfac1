//! The one binary: see `trueup help`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    trueup::cli::run().await
}
