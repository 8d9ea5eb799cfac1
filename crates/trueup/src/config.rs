//! Configuration: a TOML file, then the environment, read once at start.
//!
//! Secrets come from the environment only, so that the file may be shown and kept anywhere.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use trueup_sync::SecretKey;

use crate::auth::{KeySource, KeySourceError, SECRET_BYTES_MIN, TokenSettings};
use crate::cli::keys::KeySettings;
use crate::cli::place::StoreUrl;

/// The environment variable of the shared secret for tokens.
pub const JWT_SECRET: &str = "TRUEUP_JWT_SECRET";
/// The environment variable of the key that secrets are encrypted with (64 hex digits).
pub const SECRET_KEY: &str = "TRUEUP_SECRET_KEY";
/// The environment variable of earlier keys, with commas between them.
pub const SECRET_KEY_PREVIOUS: &str = "TRUEUP_SECRET_KEY_PREVIOUS";
/// The most earlier keys.
pub const SECRET_KEYS_PREVIOUS_MAX: usize = 16;
/// The environment variable of the directory of the embedded store.
pub const DATA_DIR: &str = "TRUEUP_DATA_DIR";
/// The environment variable of the URL of a store in a database.
pub const STORE: &str = "TRUEUP_STORE";
/// The environment variable of the log filter.
const LOG_FILTER: &str = "TRUEUP_LOG";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read the configuration {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is not TOML, or says what it cannot say.
    #[error("read the configuration {}: {words}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        words: String,
        /// What to try.
        hint: Option<String>,
    },
    /// A value does not make sense.
    #[error("{name} {detail}")]
    Value {
        /// The setting or the environment variable.
        name: String,
        /// What is wrong with it.
        detail: String,
        /// What to try.
        hint: Option<String>,
    },
    /// The public keys could not be set up.
    #[error("set up the token keys")]
    Keys(#[from] KeySourceError),
}

impl ConfigError {
    /// Returns what to try, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Parse { hint, .. } | Self::Value { hint, .. } => hint.as_deref(),
            Self::Read(..) | Self::Keys(_) => None,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// What the file may say; everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to listen on.
    pub listen: Option<SocketAddr>,
    /// The directory of the embedded store.
    pub data_dir: Option<PathBuf>,
    /// The URL of a PostgreSQL database that the store is in, without a password: `TRUEUP_STORE`
    /// takes one with it.
    pub store: Option<StoreUrl>,
    /// The URL under which the server is reached from outside.
    pub public_url: Option<String>,
    /// What this node is called among those of one database.
    pub node_name: Option<String>,
    /// The URL under which the other nodes of the database reach this one.
    pub node_url: Option<String>,
    /// The file that holds the key that secrets are encrypted with; by default it is kept in
    /// the data directory. `TRUEUP_SECRET_KEY` stands over it. With a database one of the two
    /// must be given.
    pub secret_key_file: Option<PathBuf>,
    /// Whether channel endpoints and webhook addresses may be private or loopback.
    pub allow_private_endpoints: bool,
    /// How tokens are checked.
    pub jwt: Jwt,
    /// What is logged and how.
    pub log: Log,
    /// Bounds that an operator may choose.
    pub limits: Limits,
}

/// How tokens are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// The algorithms that are taken; by default HS256 with a secret, else RS256, ES256 and
    /// EdDSA with keys.
    pub algorithms: Option<Vec<String>>,
    /// A file with public keys (JWKS).
    pub jwks_file: Option<PathBuf>,
    /// A URL with public keys (JWKS).
    pub jwks_url: Option<String>,
    /// Who must have made a token.
    pub issuer: Option<String>,
    /// Whom a token must be for.
    pub audience: Option<String>,
}

/// What is logged and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// Which lines, such as `info,trueup_sync=debug`.
    pub filter: Option<String>,
}

/// Bounds that an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How long a vendor's answer may take, in seconds: 1 to 300.
    pub channel_timeout_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { channel_timeout_seconds: 30 }
    }
}

/// Reads the process's environment; the one place that does.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
fn environment(name: &str) -> Result<Option<String>, ConfigError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(value(name, "is not UTF-8", None)),
    }
}

fn value(name: &str, detail: impl Into<String>, hint: Option<&str>) -> ConfigError {
    let hint = hint.map(str::to_owned);
    ConfigError::Value { name: name.to_owned(), detail: detail.into(), hint }
}

/// Returns the shared secret of tokens, where one is set.
///
/// # Errors
/// When it is too short.
pub fn jwt_secret() -> Result<Option<Vec<u8>>, ConfigError> {
    environment(JWT_SECRET)?.map(parse_jwt_secret).transpose()
}

fn parse_jwt_secret(secret: String) -> Result<Vec<u8>, ConfigError> {
    if secret.len() < SECRET_BYTES_MIN {
        let detail = format!("must have at least {SECRET_BYTES_MIN} bytes");
        return Err(value(JWT_SECRET, detail, Some("make one with: openssl rand -base64 48")));
    }
    Ok(secret.into_bytes())
}

fn parse_secret_key(name: &str, key: &str) -> Result<SecretKey, ConfigError> {
    SecretKey::from_hex(key).ok_or_else(|| {
        let hint = Some("make one with: openssl rand -hex 32");
        value(name, "must be 64 hex digits", hint)
    })
}

fn parse_previous_keys(keys: &str) -> Result<Vec<SecretKey>, ConfigError> {
    let keys: Vec<&str> = keys.split(',').collect();
    if keys.len() > SECRET_KEYS_PREVIOUS_MAX {
        let detail = format!("holds more than {SECRET_KEYS_PREVIOUS_MAX} keys");
        return Err(value(SECRET_KEY_PREVIOUS, detail, Some("run: trueup rekey")));
    }
    keys.into_iter().map(|key| parse_secret_key(SECRET_KEY_PREVIOUS, key)).collect()
}

/// Returns which log lines are wanted, where the environment says so (`TRUEUP_LOG`).
///
/// # Errors
/// When it is not text.
pub fn log_filter() -> Result<Option<String>, ConfigError> {
    environment(LOG_FILTER)
}

impl Config {
    /// Reads the file, if one is given, and lays the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting, with a hint where there is one.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut config = match file {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError::Read(path.to_owned(), error))?;
                Self::parse(path, &text)?
            }
        };
        config.overlay(environment)?;
        config.check()?;
        Ok(config)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let words = error.to_string();
            let hint = hint(error.message());
            ConfigError::Parse { path: path.to_owned(), words, hint }
        })?;
        if config.store.as_ref().is_some_and(StoreUrl::has_password) {
            let hint = format!("put the URL into {STORE} instead");
            return Err(value("store", "holds a password, which no file should", Some(&hint)));
        }
        if config.store.is_some() && config.data_dir.is_some() {
            return Err(value("store", "and data_dir are two stores; name one", None));
        }
        Ok(config)
    }

    fn overlay(
        &mut self,
        environment: impl Fn(&str) -> Result<Option<String>, ConfigError>,
    ) -> Result<(), ConfigError> {
        if let Some(listen) = environment("TRUEUP_LISTEN")? {
            let refused = |_| {
                let hint = Some("an address and a port, such as 127.0.0.1:4620");
                value("TRUEUP_LISTEN", "is not an address to listen on", hint)
            };
            self.listen = Some(listen.parse().map_err(refused)?);
        }
        match (environment(DATA_DIR)?, environment(STORE)?) {
            (Some(_), Some(_)) => {
                return Err(value(STORE, format!("and {DATA_DIR} are two stores; set one"), None));
            }
            (Some(dir), None) => {
                (self.data_dir, self.store) = (Some(PathBuf::from(dir)), None);
            }
            (None, Some(url)) => (self.data_dir, self.store) = (None, Some(StoreUrl::from(url))),
            (None, None) => {}
        }
        if let Some(url) = environment("TRUEUP_PUBLIC_URL")? {
            self.public_url = Some(url);
        }
        if let Some(name) = environment("TRUEUP_NODE_NAME")? {
            self.node_name = Some(name);
        }
        if let Some(url) = environment("TRUEUP_NODE_URL")? {
            self.node_url = Some(url);
        }
        if let Some(filter) = environment(LOG_FILTER)? {
            self.log.filter = Some(filter);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let is_http = |url: &str| {
            url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        };
        if self.public_url.as_deref().is_some_and(|url| !is_http(url)) {
            return Err(value("public_url", "must be an http or https URL", None));
        }
        if self.node_url.as_deref().is_some_and(|url| !is_http(url)) {
            return Err(value("node_url", "must be an http or https URL", None));
        }
        if self.jwt.jwks_file.is_some() && self.jwt.jwks_url.is_some() {
            return Err(value("jwt", "takes jwks_file or jwks_url, not both", None));
        }
        let is_trusted = |url: &str| url::Url::parse(url).is_ok_and(|url| is_trusted(&url));
        if self.jwt.jwks_url.as_deref().is_some_and(|url| !is_trusted(url)) {
            let detail = "must be an https URL (http only on this machine)";
            return Err(value("jwt.jwks_url", detail, None));
        }
        self.request_timeout().map(|_| ())
    }

    /// Returns where the keys are that secrets are encrypted with.
    ///
    /// # Errors
    /// When one of the environment is not 64 hex digits.
    pub fn keys(&self) -> Result<KeySettings, ConfigError> {
        self.keys_of(environment)
    }

    fn keys_of(
        &self,
        environment: impl Fn(&str) -> Result<Option<String>, ConfigError>,
    ) -> Result<KeySettings, ConfigError> {
        let given = environment(SECRET_KEY)?;
        let given = given.map(|key| parse_secret_key(SECRET_KEY, &key)).transpose()?;
        let previous = environment(SECRET_KEY_PREVIOUS)?;
        let previous = previous.map(|keys| parse_previous_keys(&keys)).transpose()?;
        let file = self.secret_key_file.clone();
        Ok(KeySettings { given, previous: previous.unwrap_or_default(), file })
    }

    /// Returns how long a vendor's answer may take.
    ///
    /// # Errors
    /// When it is out of bounds.
    pub fn request_timeout(&self) -> Result<Duration, ConfigError> {
        match self.limits.channel_timeout_seconds {
            seconds @ 1..=300 => Ok(Duration::from_secs(seconds)),
            _ => Err(value("limits.channel_timeout_seconds", "must be from 1 to 300", None)),
        }
    }

    /// Returns the algorithms that tokens may be signed with.
    fn algorithms(&self, has_secret: bool) -> Result<Vec<Algorithm>, ConfigError> {
        let has_keys = self.jwt.jwks_file.is_some() || self.jwt.jwks_url.is_some();
        let Some(words) = &self.jwt.algorithms else {
            let shared = has_secret.then_some(Algorithm::HS256);
            let public = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
            let public = public.into_iter().filter(|_| has_keys);
            return Ok(shared.into_iter().chain(public).collect());
        };
        let known = Some("known: HS256, RS256, ES256, EdDSA");
        let refused = |detail: String| Err(value("jwt.algorithms", detail, known));
        let mut algorithms = Vec::new();
        for word in words {
            let (algorithm, possible) = match word.as_str() {
                "HS256" => (Algorithm::HS256, has_secret),
                "RS256" => (Algorithm::RS256, has_keys),
                "ES256" => (Algorithm::ES256, has_keys),
                "EdDSA" => (Algorithm::EdDSA, has_keys),
                _ => return refused(format!("does not know {word:?}")),
            };
            if !possible {
                let needs = if word == "HS256" { JWT_SECRET } else { "jwks_file or jwks_url" };
                return refused(format!("has {word}, which needs {needs}"));
            }
            algorithms.push(algorithm);
        }
        Ok(algorithms)
    }

    /// Returns how tokens are checked. A key set is not read yet: [`KeySource::load`] shows a
    /// wrong path at start.
    ///
    /// # Errors
    /// When there is neither a shared secret nor a key set to check with.
    pub fn tokens(&self, secret: Option<Vec<u8>>) -> Result<TokenSettings, ConfigError> {
        let algorithms = self.algorithms(secret.is_some())?;
        if algorithms.is_empty() {
            let hint = "set it to 32 bytes or more, or configure jwt.jwks_file or jwt.jwks_url";
            return Err(value(JWT_SECRET, "is not set", Some(hint)));
        }
        let keys = match (&self.jwt.jwks_file, &self.jwt.jwks_url) {
            (Some(file), _) => Some(KeySource::file(file.clone())),
            (None, Some(url)) => Some(KeySource::url(url.clone())?),
            (None, None) => None,
        };
        Ok(TokenSettings {
            algorithms,
            secret,
            keys,
            issuer: self.jwt.issuer.clone(),
            audience: self.jwt.audience.clone(),
        })
    }
}

fn is_trusted(url: &url::Url) -> bool {
    let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    url.scheme() == "https" || (url.scheme() == "http" && local)
}

/// Guesses what an unknown key was meant to be, out of serde's list of known ones.
fn hint(words: &str) -> Option<String> {
    let rest = words.strip_prefix("unknown field `")?;
    let (unknown, known) = rest.split_once("`, expected ")?;
    let names = known.split('`').skip(1).step_by(2);
    let nearest = names.min_by_key(|name| distance(unknown, name))?;
    let near = distance(unknown, nearest) <= unknown.len().div_ceil(3).max(1);
    near.then(|| format!("did you mean `{nearest}`?"))
}

/// Returns how many letters must be added, dropped or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut config = Config::parse(Path::new("trueup.toml"), text)?;
        config.overlay(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })?;
        config.check()?;
        Ok(config)
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn the_environment_lies_over_the_file() {
        let text = "listen = \"0.0.0.0:80\"\n[jwt]\nissuer = \"shop\"\n";
        let config = load(text, &[("TRUEUP_LISTEN", "127.0.0.1:1")]).unwrap();
        assert_eq!(config.listen, Some("127.0.0.1:1".parse().unwrap()));
        let tokens = config.tokens(Some(SECRET.into())).unwrap();
        assert_eq!(tokens.issuer.as_deref(), Some("shop"));
        assert_eq!(tokens.algorithms, [Algorithm::HS256]);
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn a_store_is_in_one_place() {
        let url = |text: &str| Some(StoreUrl::from(text.to_owned()));
        let in_file = "store = \"postgres://u@db/a\"";
        assert_eq!(load(in_file, &[]).unwrap().store, url("postgres://u@db/a"));
        let (dir, store) = ((DATA_DIR, "/b"), (STORE, "postgres://u:p@db/b"));
        let in_directory = load(in_file, &[dir]).unwrap();
        assert_eq!((in_directory.store, in_directory.data_dir), (None, Some("/b".into())));
        let in_database = load("data_dir = \"/a\"", &[store]).unwrap();
        assert_eq!((in_database.store, in_database.data_dir), (url("postgres://u:p@db/b"), None));
        assert!(load("", &[dir, store]).is_err());
        let refused = load("store = \"postgres://u:hunter2@db/a\"", &[store]).unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
        assert!(refused.hint().is_some_and(|hint| hint.contains(STORE)));
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_hint() {
        let error = load("lisen = \"x\"", &[]).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean `listen`?"));
        let error = load("[jwt]\njwks = \"x\"", &[]).unwrap_err();
        assert!(error.to_string().contains("unknown field"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for text in [
            "[jwt]\njwks_url = \"http://example.com/keys\"",
            "[jwt]\njwks_url = \"https://a/\"\njwks_file = \"b\"",
            "public_url = \"ftp://example.com\"",
            "node_url = \"example.com\"",
            "listen = \"here\"",
            "[limits]\nchannel_timeout_seconds = 0",
            "store = \"postgres://u:hunter2@db/trueup\"",
            "store = \"postgres://db/trueup\"\ndata_dir = \"/var/lib/trueup\"",
        ] {
            assert!(load(text, &[]).is_err(), "{text}");
        }
        for (text, secret) in [
            ("", None),
            ("[jwt]\nalgorithms = [\"HS256\"]", None),
            ("[jwt]\nalgorithms = [\"none\"]", Some(SECRET)),
            ("[jwt]\nalgorithms = [\"RS256\"]", Some(SECRET)),
        ] {
            let config = load(text, &[]).unwrap();
            assert!(config.tokens(secret.map(Into::into)).is_err(), "{text}");
        }
        assert!(parse_jwt_secret("short".to_owned()).is_err());
        assert!(parse_secret_key(SECRET_KEY, "00").is_err());
        let key = "ab".repeat(32);
        assert_eq!(parse_previous_keys(&format!("{key}, {key}")).unwrap().len(), 2);
        for wrong in ["", "00", &format!("{key},"), &vec![key; 17].join(",")] {
            assert!(parse_previous_keys(wrong).is_err(), "{wrong}");
        }
    }
}
