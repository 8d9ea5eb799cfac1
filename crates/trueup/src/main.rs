//! The one binary: see `trueup help`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Answers are made by one thread and freed by another: this allocator minds that less.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    trueup::cli::run().await
}
