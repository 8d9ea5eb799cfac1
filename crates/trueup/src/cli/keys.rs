//! Where the key is that secrets are encrypted with, and how it is read and put there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use trueup_sync::{KeyRing, SecretKey};

use super::place::Place;

/// The file of the data directory that holds the key, when none is configured.
pub const KEY_FILE: &str = "secret.key";
/// What the file is called that holds the next key while `rekey` is at work.
const NEXT_ENDING: &str = "new";

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or made.
    #[error("read or make {}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// The file does not hold a key.
    #[error("{} does not hold a key of 32 bytes in hexadecimal", .0.display())]
    NotAKey(PathBuf),
    /// The store is in a database, which has no directory where a key could be made and kept.
    #[error("no key is configured that secrets in a database could be encrypted with")]
    NotConfigured,
}

impl KeyError {
    /// Returns what to try, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotConfigured => Some(
                "make one with: openssl rand -hex 32; set TRUEUP_SECRET_KEY or secret_key_file to \
                 it, and keep it",
            ),
            Self::File(..) | Self::NotAKey(_) => None,
        }
    }
}

/// What is configured of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySettings {
    /// The key itself; it stands over a file.
    pub given: Option<SecretKey>,
    /// Earlier keys, which still open what they sealed.
    pub previous: Vec<SecretKey>,
    /// The file that holds the key; `None` = [`KEY_FILE`] of the data directory.
    pub file: Option<PathBuf>,
}

impl KeySettings {
    /// Returns the file that holds the key, where it is in a file.
    #[must_use]
    pub fn path(&self, place: &Place) -> Option<PathBuf> {
        match (&self.given, &self.file) {
            (Some(_), _) => None,
            (None, Some(file)) => Some(file.clone()),
            (None, None) => own_file(place),
        }
    }

    /// Reads the keys: the active one, and with it what an interrupted `rekey` or a key that
    /// stood in the data directory before may have sealed with. Makes a key in the data
    /// directory when none is configured and none is there.
    ///
    /// # Errors
    /// A file that cannot be read or made, or that holds something else. A configured file is
    /// never made: when it is missing, something is not where it should be. For a database one
    /// must be configured: every node needs the same.
    pub fn ring(&self, place: &Place) -> Result<KeyRing, KeyError> {
        let own = own_file(place);
        let mut older = self.previous.clone();
        let active = match &self.given {
            Some(key) => key.clone(),
            None => {
                let path = self.file.as_ref().or(own.as_ref()).ok_or(KeyError::NotConfigured)?;
                older.extend(read(&next(path))?);
                match read(path)? {
                    Some(key) => key,
                    None if Some(path) == own.as_ref() => make(path)?,
                    None => {
                        return Err(KeyError::File(path.clone(), io::ErrorKind::NotFound.into()));
                    }
                }
            }
        };
        if let Some(own) = &own {
            older.extend(read(own)?);
            older.extend(read(&next(own))?);
        }
        let mut seen = vec![active.clone()];
        older.retain(|key| {
            let is_new = !seen.contains(key);
            seen.push(key.clone());
            is_new
        });
        Ok(KeyRing { active, older })
    }
}

/// Returns the file of a data directory that holds the key when none is configured.
fn own_file(place: &Place) -> Option<PathBuf> {
    place.directory().map(|dir| dir.join(KEY_FILE))
}

/// Returns the name of the file that holds the next key.
#[must_use]
pub fn next(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(NEXT_ENDING);
    PathBuf::from(name)
}

/// Reads a key; `None` where there is no such file.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read(path: &Path) -> Result<Option<SecretKey>, KeyError> {
    match fs::read_to_string(path) {
        Ok(text) => match SecretKey::from_hex(&text) {
            Some(key) => Ok(Some(key)),
            None => Err(KeyError::NotAKey(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KeyError::File(path.to_owned(), error)),
    }
}

fn make(path: &Path) -> Result<SecretKey, KeyError> {
    let key = SecretKey::random();
    write_new(path, &key)?;
    Ok(key)
}

/// Writes a key into a file that is not there yet and that only its owner may read; durably.
///
/// # Errors
/// The file is there, or cannot be written.
pub fn write_new(path: &Path, key: &SecretKey) -> Result<(), KeyError> {
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{}", key.to_hex())?;
        file.sync_all()?;
        sync_directory(path)
    };
    written().map_err(|error| KeyError::File(path.to_owned(), error))
}

/// Puts the next key in the place of the key; durably, and never half.
///
/// # Errors
/// The file cannot be renamed.
pub fn take_over(path: &Path) -> Result<(), KeyError> {
    let renamed = fs::rename(next(path), path).and_then(|()| sync_directory(path));
    renamed.map_err(|error| KeyError::File(path.to_owned(), error))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::new([byte; 32])
    }

    #[test]
    fn a_key_is_made_once_and_only_where_none_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Directory(dir.path().to_owned());
        let made = KeySettings::default().ring(&place).unwrap();
        assert_eq!(KeySettings::default().ring(&place).unwrap(), made);
        assert_eq!(made.older, []);
        let missing = KeySettings { file: Some(dir.path().join("none")), ..Default::default() };
        assert!(matches!(missing.ring(&place), Err(KeyError::File(..))));
        fs::write(dir.path().join("none"), "not a key").unwrap();
        assert!(matches!(missing.ring(&place), Err(KeyError::NotAKey(_))));
    }

    #[test]
    fn for_a_database_a_key_is_configured_and_never_made() {
        let database = Place::Database("postgres://db/trueup".to_owned().into());
        let none = KeySettings::default();
        assert!(matches!(none.ring(&database), Err(KeyError::NotConfigured)));
        assert_eq!(none.path(&database), None);
        let given = KeySettings { given: Some(key(1)), ..KeySettings::default() };
        assert_eq!(given.ring(&database).unwrap(), KeyRing { active: key(1), older: vec![] });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, &key(2)).unwrap();
        let in_file = KeySettings { file: Some(path.clone()), ..KeySettings::default() };
        assert_eq!(in_file.ring(&database).unwrap(), KeyRing { active: key(2), older: vec![] });
        assert_eq!(in_file.path(&database), Some(path));
    }

    #[test]
    fn every_key_that_may_have_sealed_something_is_in_the_ring() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(KEY_FILE);
        let place = Place::Directory(dir.path().to_owned());
        write_new(&own, &key(1)).unwrap();
        write_new(&next(&own), &key(2)).unwrap();
        let ring = KeySettings::default().ring(&place).unwrap();
        assert_eq!(ring, KeyRing { active: key(1), older: vec![key(2)] });
        let given = KeySettings { given: Some(key(3)), previous: vec![key(4)], file: None };
        let ring = given.ring(&place).unwrap();
        assert_eq!(ring, KeyRing { active: key(3), older: vec![key(4), key(1), key(2)] });
        take_over(&own).unwrap();
        let ring = KeySettings::default().ring(&place).unwrap();
        assert_eq!(ring, KeyRing { active: key(2), older: vec![] });
    }
}
