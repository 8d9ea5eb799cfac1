//! `trueup token`: a token for an org, signed with the server's shared secret.

use clap::Args;
use trueup_core::Org;
use trueup_sync::Clock;

use super::assembly::SystemClock;
use super::say::data;
use crate::auth::{Mint, Scope, mint};
use crate::config;

/// Makes a token signed with `TRUEUP_JWT_SECRET`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The orgs it is good for.
    #[arg(long = "org", required = true)]
    pub orgs: Vec<Org>,
    /// Its scopes, separated by spaces or commas.
    #[arg(long, default_value_t = every_scope())]
    pub scope: String,
    /// Who it stands for in the audit trail.
    #[arg(long, default_value = "cli")]
    pub subject: String,
    /// For how many seconds it is good.
    #[arg(long, default_value_t = 86_400)]
    pub ttl_seconds: u32,
}

/// Returns all scopes as a token says them.
pub(crate) fn every_scope() -> String {
    Scope::ALL.map(Scope::as_str).join(" ")
}

/// Prints a token to stdout.
///
/// # Errors
/// When the secret is missing or short, or a scope is not known.
pub fn run(args: &TokenArgs) -> Result<(), Box<dyn std::error::Error>> {
    Ok(data(token(args)?)?)
}

/// Makes a token.
///
/// # Errors
/// When the secret is missing or short, or a scope is not known.
pub fn token(args: &TokenArgs) -> Result<String, Box<dyn std::error::Error>> {
    let secret = config::jwt_secret()?.ok_or("TRUEUP_JWT_SECRET is not set")?;
    let words = args.scope.split([' ', ',']).filter(|word| !word.is_empty());
    let scopes: Vec<Scope> = words
        .map(|word| Scope::parse(word).ok_or_else(|| format!("{word:?} is not a scope")))
        .collect::<Result<_, _>>()?;
    let token = mint(
        &secret,
        &Mint {
            subject: &args.subject,
            orgs: &args.orgs,
            scopes: &scopes,
            now: SystemClock.now(),
            ttl_seconds: args.ttl_seconds,
            issuer: None,
            audience: None,
        },
    )?;
    Ok(token)
}
