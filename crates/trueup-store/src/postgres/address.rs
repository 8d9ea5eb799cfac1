//! Where the database is and how it is spoken to: a URL as libpq takes it, with what
//! tokio-postgres does not know itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How many connections a node makes where the URL does not say.
const CONNECTIONS_DEFAULT: usize = 32;

/// Whose certificate is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trust {
    /// Whoever answers: what is sent is encrypted, and that is all.
    Anybody,
    /// Who has a certificate for the host's name from an authority of this machine, or of a file.
    Named(Option<PathBuf>),
}

/// Where a database is.
#[derive(Clone)]
pub(super) struct Address {
    config: Config,
    trust: Trust,
    connections_max: usize,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tells no password.
        f.debug_struct("Address")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .finish_non_exhaustive()
    }
}

impl Address {
    /// Returns which database it is, for people; tells neither user nor password.
    pub(super) fn shown(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port =
            self.config.get_ports().first().map_or_else(String::new, |port| format!(":{port}"));
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("postgres://{host}{port}/{database}")
    }

    /// Parses `postgres://…`.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold no part of the password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (before, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut root, mut connections_max) = (None, None, CONNECTIONS_DEFAULT);
        let mut passed: Vec<&str> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "sslmode" => mode = Some(value()),
                "sslrootcert" => root = Some(PathBuf::from(value())),
                "connections" => {
                    connections_max = value()
                        .parse()
                        .ok()
                        .filter(|count| *count > 1)
                        .ok_or("connections= must be a number of at least 2")?;
                }
                _ => passed.push(pair),
            }
        }
        let plain = if passed.is_empty() {
            before.to_owned()
        } else {
            format!("{before}?{}", passed.join("&"))
        };
        // What the parser says may quote what it was given.
        let parsed: Result<Config, _> = plain.parse();
        let mut config = parsed.map_err(|_| "it is not a URL of a PostgreSQL database")?;
        if config.get_hosts().is_empty() {
            return Err("it names no host".to_owned());
        }
        let trust = match mode.as_deref().unwrap_or("prefer") {
            "disable" => (SslMode::Disable, Trust::Anybody),
            "prefer" => (SslMode::Prefer, Trust::Anybody),
            "require" if root.is_none() => (SslMode::Require, Trust::Anybody),
            "require" | "verify-full" => (SslMode::Require, Trust::Named(root)),
            _ => return Err("sslmode= must be disable, prefer, require or verify-full".to_owned()),
        };
        config.ssl_mode(trust.0);
        Ok(Self { config, trust: trust.1, connections_max })
    }

    /// Returns what tokio-postgres takes.
    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }

    /// Returns how many connections a node makes at most.
    pub(super) fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Returns how TLS is spoken, where it is.
    ///
    /// # Errors
    /// When certificates cannot be read.
    pub(super) fn tls(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = match &self.trust {
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth(),
            Trust::Named(file) => {
                builder.with_root_certificates(roots(file.as_ref())?).with_no_client_auth()
            }
        };
        Ok(MakeRustlsConnect::new(config))
    }
}

fn roots(file: Option<&PathBuf>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err("this machine has no certificates of authorities".to_owned());
        }
        return Ok(roots);
    };
    let unread = |error: &dyn fmt::Display| format!("read {}: {error}", file.display());
    for found in CertificateDer::pem_file_iter(file).map_err(|error| unread(&error))? {
        roots.add(found.map_err(|error| unread(&error))?).map_err(|error| unread(&error))?;
    }
    if roots.is_empty() {
        return Err(format!("{} holds no certificate", file.display()));
    }
    Ok(roots)
}

/// Takes any certificate, as libpq does unless it is told to look at them.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> Result<(SslMode, Trust), String> {
        Address::parse(url).map(|address| (address.config.get_ssl_mode(), address.trust))
    }

    #[test]
    fn a_url_says_whom_to_trust() {
        let file = Some(PathBuf::from("/etc/ca.pem"));
        assert_eq!(mode("postgres://a@h/d"), Ok((SslMode::Prefer, Trust::Anybody)));
        assert_eq!(mode("postgres://h/d?sslmode=disable").unwrap().0, SslMode::Disable);
        assert_eq!(mode("postgres://h/d?sslmode=require"), Ok((SslMode::Require, Trust::Anybody)));
        assert_eq!(
            mode("postgres://h/d?sslmode=verify-full"),
            Ok((SslMode::Require, Trust::Named(None)))
        );
        assert_eq!(
            mode("postgres://h/d?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem"),
            Ok((SslMode::Require, Trust::Named(file)))
        );
        assert!(mode("postgres://h/d?sslmode=allow").is_err());
    }

    #[test]
    fn a_refusal_and_debug_output_tell_no_password() {
        let refused = Address::parse("postgres://u:hunter2@h:port/d").unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
        let shown = format!("{:?}", Address::parse("postgres://u:hunter2@h/d").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_socket_directory_and_a_number_of_connections_may_be_given() {
        let address = Address::parse("postgres://u@/d?host=/tmp/x&connections=7").unwrap();
        assert_eq!((address.connections_max(), address.config.get_hosts().len()), (7, 1));
        assert!(Address::parse("postgres://u@/d?host=/tmp/x&connections=1").is_err());
    }
}
