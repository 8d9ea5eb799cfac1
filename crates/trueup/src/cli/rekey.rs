//! `trueup rekey`: seals every secret of a store anew, with the next key or the configured one.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use trueup_sync::{KeyRing, RekeyError, SecretKey, rekey};

use super::keys::{self, KeySettings};
use super::place::{Opened, Place, PlaceArgs};
use super::say::{data, say};
use crate::config::{Config, ConfigError, SECRET_KEY};

/// Seals all credentials and signing secrets with another key, while the server is stopped.
///
/// A key in a file is replaced by a new one. A key in the environment is yours to replace: set
/// `TRUEUP_SECRET_KEY` to the new one and `TRUEUP_SECRET_KEY_PREVIOUS` to the one before.
#[derive(Debug, Args)]
pub struct RekeyArgs {
    /// Where the store is [default: the directory trueup-data].
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The TOML file of the server's settings.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// A file with the new key, 64 hex digits; by default a new one is made.
    #[arg(long)]
    pub new_key_file: Option<PathBuf>,
    /// Answer with JSON.
    #[arg(long)]
    pub json: bool,
}

/// Why keys are not changed, before anything is.
#[derive(Debug, thiserror::Error)]
pub enum RekeyRefused {
    /// A new key was named, and the key is not in a file that could be replaced.
    #[error("the key is in the environment: --new-key-file has no file to replace")]
    KeyIsGiven,
    /// An earlier run did not come to its end and has begun to use another key.
    #[error("{} holds the key of a change that was interrupted: run without --new-key-file", .0.display())]
    Interrupted(PathBuf),
    /// The file that was named is not there.
    #[error("{} is not there", .0.display())]
    NoSuchFile(PathBuf),
}

impl RekeyRefused {
    /// Returns what to try, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::KeyIsGiven => {
                Some("set TRUEUP_SECRET_KEY to the new key, TRUEUP_SECRET_KEY_PREVIOUS to the old")
            }
            Self::Interrupted(_) | Self::NoSuchFile(_) => None,
        }
    }
}

/// Changes the key; may be interrupted at any moment and run again.
///
/// # Errors
/// When the store is in use, a key cannot be read, a secret cannot be opened with any of them, or
/// the new key cannot be kept.
pub async fn run(args: RekeyArgs) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(args.config.as_deref())?;
    let place = args.place.place(&config).unwrap_or_else(Place::usual);
    let settings = config.keys()?;
    // A directory's lock comes first: a server that runs would go on sealing with the key before.
    let Opened { store, .. } = place.open().await?;
    let plan = Plan::make(&settings, &place, args.new_key_file.as_deref())?;
    let done = rekey(&*store, &plan.ring).await;
    store.close().await?;
    if let (Err(RekeyError::Closed { .. }), Some(made)) = (&done, &plan.made) {
        fs::remove_file(made)?;
    }
    let done = done?;
    if let Some(path) = &plan.replaces {
        keys::take_over(path)?;
    }
    let id = plan.ring.active.id();
    if args.json {
        data(json!({
            "keyId": id.to_string(),
            "resealed": done.resealed,
            "current": done.current,
            "keyFile": plan.replaces.as_ref().map(|path| path.display().to_string()),
        }))?;
        return Ok(());
    }
    data(format_args!(
        "{} secrets sealed with the key {id}, {} were so before",
        done.resealed, done.current
    ))?;
    match &plan.replaces {
        Some(path) => {
            say(format_args!("{} holds the new key", path.display()));
            say("keep the key before for as long as there are backups from before");
        }
        None => say(format_args!("earlier keys are no longer needed but for backups")),
    }
    Ok(())
}

/// What is to be done: the ring to seal with, and the file whose key is replaced at the end.
struct Plan {
    ring: KeyRing,
    replaces: Option<PathBuf>,
    /// The file that was made for the new key.
    made: Option<PathBuf>,
}

impl Plan {
    /// Decides on the new key. One that goes into a file is durable beside it before the first
    /// secret is sealed with it.
    fn make(
        settings: &KeySettings,
        place: &Place,
        named: Option<&Path>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let ring = settings.ring(place)?;
        // With an earlier key at hand, the configured one is the new one, wherever it is kept.
        let path = settings.path(place).filter(|_| settings.previous.is_empty());
        let Some(path) = path else {
            if named.is_some() {
                return Err(RekeyRefused::KeyIsGiven.into());
            }
            if ring.older.is_empty() {
                return Err(nothing_to_change().into());
            }
            return Ok(Self { ring, replaces: None, made: None });
        };
        let next = keys::next(&path);
        let mut made = None;
        let active = match (keys::read(&next)?, named) {
            (Some(_), Some(_)) => return Err(RekeyRefused::Interrupted(next).into()),
            (Some(begun), None) => begun,
            (None, named) => {
                let key = match named {
                    Some(named) => keys::read(named)?
                        .ok_or_else(|| RekeyRefused::NoSuchFile(named.to_owned()))?,
                    None => SecretKey::random(),
                };
                keys::write_new(&next, &key)?;
                made = Some(next);
                key
            }
        };
        let older = std::iter::once(ring.active).chain(ring.older).collect();
        Ok(Self { ring: KeyRing { active, older }, replaces: Some(path), made })
    }
}

fn nothing_to_change() -> ConfigError {
    ConfigError::Value {
        name: SECRET_KEY.to_owned(),
        detail: "is the only key there is: nothing can be sealed with another".to_owned(),
        hint: RekeyRefused::KeyIsGiven.hint().map(str::to_owned),
    }
}
