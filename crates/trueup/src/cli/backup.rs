//! `trueup backup` and `trueup restore`: copies of a directory's store in a directory of backups.
//!
//! Each backup is a directory of its own, named after its instant: the store's file, and a note
//! ([`Note`]) of what is in it. It is made under another name and renamed when it has been verified,
//! so what has a note is whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use trueup_core::Timestamp;
use trueup_store::embedded::FILE_NAME;
use trueup_store::embedded::backup::{self, Contents};
use trueup_sync::Clock;
use uuid::Uuid;

use super::assembly::SystemClock;
use super::place::{Place, PlaceArgs};
use super::say::{data, say};
use crate::api::time::{Time, parse};

/// The file of a backup that says what is in it.
const NOTE_NAME: &str = "BACKUP";
const LOCK_NAME: &str = ".lock";
/// What a backup's directory is called before it is whole, and where it does not add up.
const MAKING: &str = ".making";
const UNCLEAN: &str = "unclean-";
const FORMAT: u32 = 1;
const PIECE_BYTES: usize = 1 << 20;

/// Copies the store of a directory, also while a server is at work on it, and verifies the copy.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where the store is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The directory of backups, made when it is missing.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Remove older backups there, so that this many remain.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
    /// Answer with JSON.
    #[arg(long)]
    pub json: bool,
}

/// Puts a backup into a new directory, and verifies what is there then.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The directory of backups, or one of them.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The newest backup in which nothing is later than this instant, as 2026-04-25T10:00:00Z; by
    /// default the newest.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    pub at: Option<Timestamp>,
    /// The directory that is made for the store; nothing may be there.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Answer with JSON.
    #[arg(long)]
    pub json: bool,
}

fn instant(text: &str) -> Result<Timestamp, &'static str> {
    parse(text).ok_or("is not an instant such as 2026-04-25T10:00:00Z")
}

/// Why there is no backup, or none is restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupRefused {
    /// The store is in a database.
    #[error("a store in PostgreSQL is backed up by PostgreSQL's own means")]
    Database,
    /// Another backup is being made there.
    #[error("another backup into {} is under way", .0.display())]
    Busy(PathBuf),
    /// What was copied does not add up.
    #[error("the ledger does not add up; what was copied is kept in {}", .0.display())]
    Unclean(PathBuf),
    /// There is no backup, or none that is old enough.
    #[error("there is no such backup in {}", .0.display())]
    None(PathBuf),
    /// Something is where the store is to be put.
    #[error("{} is there already", .0.display())]
    There(PathBuf),
    /// A backup is not what its note says.
    #[error("the backup {} is refused: {why}", .path.display())]
    Damaged {
        /// The backup's directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused.
    #[error("{attempt} {}: {source}", .path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl BackupRefused {
    /// Returns what to try, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Database => Some("see pg_basebackup and the archiving of its log"),
            Self::Unclean(_) => Some("trueup verify says more; earlier backups are as they were"),
            Self::None(_) => Some("look at the instants in their names"),
            Self::There(_) => Some("nothing is ever overwritten: name another directory"),
            Self::Damaged { .. } => Some("nothing was changed; restore another one"),
            Self::Busy(_) | Self::Io { .. } => None,
        }
    }
}

fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupRefused {
    let path = path.to_owned();
    move |source| BackupRefused::Io { attempt, path, source }
}

/// What is in a backup, as its note says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Note {
    format: u32,
    /// Nothing in it was decided later; whatever was acknowledged before it was begun is in it.
    taken_at: String,
    /// The version of the program that made it.
    program: String,
    /// The store's file.
    bytes: u64,
    sha256: String,
    /// How many secrets are in it, sealed with the server's key.
    sealed: usize,
    orgs: Vec<NotedOrg>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NotedOrg {
    org: String,
    skus: u64,
    movements: u64,
    reservations: u64,
}

impl Note {
    fn read(dir: &Path) -> Result<Option<Self>, BackupRefused> {
        let path = dir.join(NOTE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let note: Self = serde_json::from_slice(&text)
            .map_err(|error| damaged(dir, format!("its note cannot be read: {error}")))?;
        if note.format != FORMAT {
            return Err(damaged(dir, format!("its format is {}, not {FORMAT}", note.format)));
        }
        Ok(Some(note))
    }

    fn write(&self, dir: &Path) -> Result<(), BackupRefused> {
        let path = dir.join(NOTE_NAME);
        let written = || {
            let mut file = File::create_new(&path)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            writeln!(file)?;
            file.sync_all()
        };
        written().map_err(io_error("write", &path))
    }

    fn instant(&self) -> Option<Timestamp> {
        parse(&self.taken_at)
    }

    fn tell(&self, backup: &Path, is_json: bool) -> io::Result<()> {
        if is_json {
            return data(json!({ "backup": backup, "note": self }));
        }
        data(format_args!("{}: as of {}", backup.display(), self.taken_at))?;
        for NotedOrg { org, skus, movements, reservations } in &self.orgs {
            data(format_args!(
                "{org}: {skus} SKUs, {movements} movements, {reservations} reservations"
            ))?;
        }
        Ok(())
    }
}

fn damaged(path: &Path, why: impl Into<String>) -> BackupRefused {
    BackupRefused::Damaged { path: path.to_owned(), why: why.into() }
}

type Failure = Box<dyn std::error::Error>;

// --- Making one --------------------------------------------------------------------------

/// Makes a backup and verifies it.
///
/// # Errors
/// When the store cannot be read, the backup cannot be written, or does not add up.
pub async fn back_up(args: BackupArgs) -> Result<(), Failure> {
    let Place::Directory(from) = args.place.named()? else {
        return Err(BackupRefused::Database.into());
    };
    fs::create_dir_all(&args.to).map_err(io_error("create", &args.to))?;
    let _lock = lock(&args.to)?;
    let making = args.to.join(MAKING);
    remove_leftover(&making)?;
    fs::create_dir(&making).map_err(io_error("create", &making))?;
    say("copying");
    let taken_at = backup::copy(&from, &making, || SystemClock.now())?;
    say("verifying the copy");
    let contents = backup::examine(&making).await?;
    let name = name_of(taken_at);
    if let Some(fault) = first_fault(&contents) {
        let kept = args.to.join(format!("{UNCLEAN}{name}"));
        fs::rename(&making, &kept).map_err(io_error("rename", &making))?;
        say(fault);
        return Err(BackupRefused::Unclean(kept).into());
    }
    let note = note_of(&making, taken_at, &contents)?;
    note.write(&making)?;
    sync_directory(&making)?;
    let backup = args.to.join(name);
    fs::rename(&making, &backup).map_err(io_error("rename", &making))?;
    sync_directory(&args.to)?;
    if let Some(keep) = args.keep {
        forget(&args.to, keep)?;
    }
    Ok(note.tell(&backup, args.json)?)
}

/// Keeps others from making a backup in the same place.
fn lock(dir: &Path) -> Result<File, BackupRefused> {
    let path = dir.join(LOCK_NAME);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackupRefused::Busy(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

/// Removes what a backup left that was killed.
fn remove_leftover(making: &Path) -> Result<(), BackupRefused> {
    match fs::remove_dir_all(making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", making)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Names are in the order of instants.
fn name_of(at: Timestamp) -> String {
    let text = Time(at).to_string();
    let (seconds, micros) = (text.get(..19).unwrap_or(&text), at.micros().rem_euclid(1_000_000));
    format!("{}.{micros:06}Z", seconds.replace([':', '-'], ""))
}

fn first_fault(contents: &Contents) -> Option<String> {
    let mut faulty = contents.orgs.iter().filter_map(|(org, found)| {
        let count = found.faults.len();
        found.faults.first().map(|fault| format!("{org}: {fault} ({count} faults)"))
    });
    faulty.next()
}

fn noted(contents: &Contents) -> Vec<NotedOrg> {
    let note = |(org, found): &(trueup_core::Org, trueup_store::Verification)| NotedOrg {
        org: org.to_string(),
        skus: found.skus,
        movements: found.movements,
        reservations: found.reservations,
    };
    contents.orgs.iter().map(note).collect()
}

fn note_of(dir: &Path, taken_at: Timestamp, contents: &Contents) -> Result<Note, BackupRefused> {
    let path = dir.join(FILE_NAME);
    let file = File::open(&path).map_err(io_error("open", &path))?;
    file.sync_all().map_err(io_error("sync", &path))?;
    let (bytes, sha256) = read_through(file, |_| Ok(())).map_err(io_error("read", &path))?;
    Ok(Note {
        format: FORMAT,
        taken_at: Time(taken_at).to_string(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        bytes,
        sha256,
        sealed: contents.sealed,
        orgs: noted(contents),
    })
}

/// Reads a file to its end, piece by piece; returns its length and digest.
fn read_through(
    mut file: File,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0_u64;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((bytes, hex::encode(digest.finalize())));
        }
        digest.update(&piece[..read]);
        take(&piece[..read])?;
        bytes += u64::try_from(read).unwrap_or(u64::MAX);
    }
}

fn sync_directory(dir: &Path) -> Result<(), BackupRefused> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(io_error("sync", dir))
}

/// Removes the oldest backups of a directory.
fn forget(dir: &Path, keep: u32) -> Result<(), BackupRefused> {
    let mut backups = list(dir)?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let surplus = backups.len().saturating_sub(keep);
    for (path, _) in backups.drain(..surplus) {
        // Without its note it is none any more, whatever is left of it.
        let note = path.join(NOTE_NAME);
        fs::remove_file(&note).map_err(io_error("remove", &note))?;
        fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
    }
    Ok(())
}

/// Lists the backups of a directory, the oldest first.
fn list(dir: &Path) -> Result<Vec<(PathBuf, Note)>, BackupRefused> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let is_whole = name.is_some_and(|name| name.starts_with(|first: char| first.is_numeric()));
        if is_whole && let Some(note) = Note::read(&path)? {
            found.push((path, note));
        }
    }
    found.sort_by_cached_key(|(_, note)| note.instant());
    Ok(found)
}

// --- Restoring one -----------------------------------------------------------------------

/// Puts a backup into a new directory.
///
/// # Errors
/// When there is no such backup, it is damaged, or something is in its way.
pub async fn restore(args: RestoreArgs) -> Result<(), Failure> {
    let (backup, note) = choose(&args.from, args.at)?;
    let place = &args.data_dir;
    if place.symlink_metadata().is_ok() {
        return Err(BackupRefused::There(place.clone()).into());
    }
    let making = beside(place);
    fs::create_dir_all(&making).map_err(io_error("create", &making))?;
    let restored = fill(&making, &backup, &note).await;
    let restored = restored.and_then(|()| {
        fs::rename(&making, place).map_err(io_error("rename", &making))?;
        Ok(sync_directory(
            place.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?)
    });
    if let Err(error) = restored {
        drop(fs::remove_dir_all(&making));
        return Err(error);
    }
    note.tell(&backup, args.json)?;
    if note.sealed > 0 {
        say("hint: put the secret.key of that time beside it before a server is started on it");
    }
    say("channels have gone on since: pull each with dryRun before relying on the numbers");
    Ok(())
}

/// Finds the newest backup in which nothing is later than an instant.
fn choose(from: &Path, at: Option<Timestamp>) -> Result<(PathBuf, Note), BackupRefused> {
    let fits = |note: &Note| at.is_none_or(|at| note.instant().is_some_and(|taken| taken <= at));
    let mut found = match Note::read(from)? {
        Some(note) => vec![(from.to_owned(), note)],
        None => list(from)?,
    };
    found.retain(|(_, note)| fits(note));
    found.pop().ok_or_else(|| BackupRefused::None(from.to_owned()))
}

/// Returns a name of its own for what is not whole yet, on the same file system.
fn beside(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(format!(".restoring-{}", Uuid::now_v7().simple()));
    PathBuf::from(name)
}

/// Copies a backup and verifies the copy: by its digest, as a start would, and by its ledgers.
async fn fill(dir: &Path, from: &Path, note: &Note) -> Result<(), Failure> {
    let (file, to) = (from.join(FILE_NAME), dir.join(FILE_NAME));
    let source = File::open(&file).map_err(io_error("open", &file))?;
    let mut target = File::create_new(&to).map_err(io_error("create", &to))?;
    let copied = read_through(source, |piece| target.write_all(piece));
    let (bytes, sha256) = copied.map_err(io_error("copy", &file))?;
    if (bytes, &sha256) != (note.bytes, &note.sha256) {
        let why = format!("{FILE_NAME} has {bytes} bytes of digest {sha256}, unlike its note");
        return Err(damaged(from, why).into());
    }
    target.sync_all().map_err(io_error("sync", &to))?;
    backup::copy_mark(from, dir)?;
    let contents = backup::examine(dir).await?;
    if let Some(fault) = first_fault(&contents) {
        return Err(damaged(from, fault).into());
    }
    if noted(&contents) != note.orgs {
        return Err(damaged(from, "it does not hold what its note says").into());
    }
    Ok(sync_directory(dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_of_instants() {
        let at = |micros| name_of(Timestamp::from_micros(micros));
        assert_eq!(at(0), "19700101T000000.000000Z");
        assert_eq!(at(1_777_111_200_000_001), "20260425T100000.000001Z");
        assert!(at(1_777_111_200_999_999) < at(1_777_111_201_000_000));
    }
}
