//! Configuration: a TOML file, then the environment, read once at start.
//!
//! Secrets come from the environment only, so that the file may be shown and kept anywhere.

use std::path::{Path, PathBuf};

use jsonwebtoken::Algorithm;
use serde::Deserialize;

use crate::auth::{KeySource, KeySourceError, SECRET_BYTES_MIN, TokenSettings};

/// The environment variable of the shared secret for tokens.
pub const JWT_SECRET: &str = "TRUEUP_JWT_SECRET";
/// The environment variable of the key that credentials are encrypted with (64 hex digits).
pub const SECRET_KEY: &str = "TRUEUP_SECRET_KEY";

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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to listen on.
    pub listen: String,
    /// The directory of the embedded store.
    pub data_dir: PathBuf,
    /// The URL under which the server is reached from outside.
    pub public_url: Option<String>,
    /// Whether channel endpoints and webhook addresses may be private or loopback.
    pub allow_private_endpoints: bool,
    /// How tokens are checked.
    pub jwt: Jwt,
    /// What is logged and how.
    pub log: Log,
    /// Bounds that an operator may choose.
    pub limits: Limits,
    /// The shared secret for tokens, from the environment.
    #[serde(skip)]
    pub jwt_secret: Option<JwtSecret>,
    /// The key that credentials are encrypted with, from the environment.
    #[serde(skip)]
    pub secret_key: Option<[u8; 32]>,
}

/// A secret that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSecret(Vec<u8>);

impl JwtSecret {
    /// Returns the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
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
    /// The most connections at once.
    pub connections: usize,
    /// How long a vendor's answer may take, in seconds.
    pub channel_timeout_seconds: u64,
    /// How long stopping may take, in seconds.
    pub drain_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            data_dir: PathBuf::from("trueup-data"),
            public_url: None,
            allow_private_endpoints: false,
            jwt: Jwt::default(),
            log: Log::default(),
            limits: Limits::default(),
            jwt_secret: None,
            secret_key: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, channel_timeout_seconds: 30, drain_seconds: 30 }
    }
}

/// Reads the process's environment; the one place that does.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Config {
    /// Reads the file, if one is given, and lays the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting, with a hint where there is one.
    pub fn load(
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config = match file {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError::Read(path.to_owned(), error))?;
                Self::parse(path, &text)?
            }
        };
        config.overlay(&environment)?;
        config.check()?;
        Ok(config)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let words = error.to_string();
            let hint = hint(error.message());
            ConfigError::Parse { path: path.to_owned(), words, hint }
        })
    }

    fn overlay(
        &mut self,
        environment: &impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        if let Some(listen) = environment("TRUEUP_LISTEN") {
            self.listen = listen;
        }
        if let Some(dir) = environment("TRUEUP_DATA_DIR") {
            self.data_dir = PathBuf::from(dir);
        }
        if let Some(url) = environment("TRUEUP_PUBLIC_URL") {
            self.public_url = Some(url);
        }
        if let Some(filter) = environment("TRUEUP_LOG") {
            self.log.filter = Some(filter);
        }
        if let Some(secret) = environment(JWT_SECRET) {
            if secret.len() < SECRET_BYTES_MIN {
                let detail = format!("must have at least {SECRET_BYTES_MIN} bytes");
                let hint = Some("make one with: openssl rand -base64 48".to_owned());
                return Err(ConfigError::Value { name: JWT_SECRET.to_owned(), detail, hint });
            }
            self.jwt_secret = Some(JwtSecret(secret.into_bytes()));
        }
        if let Some(key) = environment(SECRET_KEY) {
            let mut bytes = [0; 32];
            if hex::decode_to_slice(key.trim(), &mut bytes).is_err() {
                let detail = "must be 64 hex digits".to_owned();
                let hint = Some("make one with: openssl rand -hex 32".to_owned());
                return Err(ConfigError::Value { name: SECRET_KEY.to_owned(), detail, hint });
            }
            self.secret_key = Some(bytes);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |name: &str, detail: &str| {
            Err(ConfigError::Value { name: name.to_owned(), detail: detail.to_owned(), hint: None })
        };
        if let Some(url) = &self.public_url
            && !url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        {
            return value("public_url", "must be an http or https URL");
        }
        if self.jwt.jwks_file.is_some() && self.jwt.jwks_url.is_some() {
            return value("jwt", "takes jwks_file or jwks_url, not both");
        }
        if let Some(url) = &self.jwt.jwks_url
            && !url::Url::parse(url).is_ok_and(|url| is_trusted(&url))
        {
            return value("jwt.jwks_url", "must be an https URL (http only on this machine)");
        }
        self.algorithms().map(|_| ())
    }

    /// Returns the algorithms that tokens may be signed with.
    fn algorithms(&self) -> Result<Vec<Algorithm>, ConfigError> {
        let has_keys = self.jwt.jwks_file.is_some() || self.jwt.jwks_url.is_some();
        let Some(words) = &self.jwt.algorithms else {
            let shared = self.jwt_secret.iter().map(|_| Algorithm::HS256);
            let public = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
            return Ok(shared.chain(public.into_iter().filter(|_| has_keys)).collect());
        };
        let refused = |detail: String| ConfigError::Value {
            name: "jwt.algorithms".to_owned(),
            detail,
            hint: Some("known: HS256, RS256, ES256, EdDSA".to_owned()),
        };
        let mut algorithms = Vec::new();
        for word in words {
            let (algorithm, possible) = match word.as_str() {
                "HS256" => (Algorithm::HS256, self.jwt_secret.is_some()),
                "RS256" => (Algorithm::RS256, has_keys),
                "ES256" => (Algorithm::ES256, has_keys),
                "EdDSA" => (Algorithm::EdDSA, has_keys),
                _ => return Err(refused(format!("does not know {word:?}"))),
            };
            if !possible {
                let needs = if word == "HS256" { JWT_SECRET } else { "jwks_file or jwks_url" };
                return Err(refused(format!("has {word}, which needs {needs}")));
            }
            algorithms.push(algorithm);
        }
        Ok(algorithms)
    }

    /// Returns how tokens are checked; `None` = API keys only. A key set is not read yet: call
    /// [`KeySource::load`] to see a wrong path at start.
    ///
    /// # Errors
    /// When the HTTP client for the key set cannot be made.
    pub fn token_settings(&self) -> Result<Option<TokenSettings>, ConfigError> {
        let algorithms = self.algorithms()?;
        if algorithms.is_empty() {
            return Ok(None);
        }
        let keys = match (&self.jwt.jwks_file, &self.jwt.jwks_url) {
            (Some(file), _) => Some(KeySource::file(file.clone())),
            (None, Some(url)) => Some(KeySource::url(url.clone())?),
            (None, None) => None,
        };
        Ok(Some(TokenSettings {
            algorithms,
            secret: self.jwt_secret.as_ref().map(|secret| secret.0.clone()),
            keys,
            issuer: self.jwt.issuer.clone(),
            audience: self.jwt.audience.clone(),
        }))
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
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        config.overlay(&find)?;
        config.check()?;
        Ok(config)
    }

    const SECRET: (&str, &str) = (JWT_SECRET, "0123456789abcdef0123456789abcdef");

    #[test]
    fn the_environment_lies_over_the_file() {
        let text = "listen = \"0.0.0.0:80\"\n[jwt]\nissuer = \"shop\"\n";
        let config = load(text, &[("TRUEUP_LISTEN", "127.0.0.1:1"), SECRET]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:1");
        assert_eq!(config.jwt.issuer.as_deref(), Some("shop"));
        assert_eq!(config.algorithms().unwrap(), [Algorithm::HS256]);
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
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
        for (text, variables) in [
            ("", vec![(JWT_SECRET, "short")]),
            ("", vec![(SECRET_KEY, "00")]),
            ("[jwt]\nalgorithms = [\"HS256\"]", vec![]),
            ("[jwt]\nalgorithms = [\"none\"]", vec![SECRET]),
            ("[jwt]\nalgorithms = [\"RS256\"]", vec![SECRET]),
            ("[jwt]\njwks_url = \"http://example.com/keys\"", vec![]),
            ("[jwt]\njwks_url = \"https://a/\"\njwks_file = \"b\"", vec![]),
            ("public_url = \"ftp://example.com\"", vec![]),
        ] {
            assert!(load(text, &variables).is_err(), "{text}");
        }
    }
}
