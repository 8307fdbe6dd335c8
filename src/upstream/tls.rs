//! TLS to Redis: whom the proxy trusts, and as whom it comes. The stream itself is [`crate::stream`]'s.
//!
//! Each new connection goes by the certificates as they are in their files at that time, so that they can be replaced
//! while the proxy runs; connections that exist go on. The files are parsed again only when one of them looks changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tracing::{info, warn};

use crate::stream::{Stream, TlsStream};

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// None: the platform's certificate authorities.
    pub ca: Option<PathBuf>,
    /// Certificate (with what lies between it and its authority) and key, if the proxy shows any.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// None: the host that is connected to.
    pub server_name: Option<String>,
}

/// Why there is no TLS by these settings: the key of the configuration at fault, and what is wrong with its file.
#[derive(Debug, Error)]
#[error("{key}: {problem}")]
pub struct TlsError {
    pub key: &'static str,
    pub problem: String,
}

#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    server_name: Option<ServerName<'static>>,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    client: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
    /// Files that were found wrong after they had been right.
    refused: Vec<Stamp>,
}

/// What changes about a file when it is written or replaced, also behind a symbolic link.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Tls {
    pub fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        let name = settings.server_name.clone().map(ServerName::try_from).transpose();
        let server_name = name.map_err(|_| TlsError {
            key: "server_name",
            problem: "expected a host name or an IP address".to_owned(),
        })?;
        let stamps = stamps(&settings); // before the files are read: what changes meanwhile is seen next time
        let loaded = Mutex::new(Loaded {
            client: client(&settings)?,
            stamps,
            refused: Vec::new(),
        });
        Ok(Self {
            settings,
            server_name,
            loaded,
        })
    }

    /// A stream on which both sides have agreed; `host` is whom it leads to.
    pub async fn over(&self, socket: TcpStream, host: &str) -> io::Result<Stream> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let session = ClientConnection::new(self.client(), name).map_err(io::Error::other)?;
        let stream = TlsStream::handshake(socket, session).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// By the files as they are now. Files that are wrong now (half of a new pair is written, most likely) leave in use
    /// what was loaded last, and are looked at again when they change.
    fn client(&self) -> Arc<ClientConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.settings);
        if stamps != loaded.stamps && stamps != loaded.refused {
            match client(&self.settings) {
                Ok(client) => {
                    info!("the certificates for redis have changed, new connections use the new ones");
                    loaded.client = client;
                    loaded.stamps = stamps;
                }
                Err(error) => {
                    warn!(%error, "the certificates for redis have changed and are wrong, the old ones stay in use");
                    loaded.refused = stamps;
                }
            }
        }
        loaded.client.clone()
    }
}

fn stamps(settings: &TlsSettings) -> Vec<Stamp> {
    let identity = settings.identity.iter().flat_map(|(cert, key)| [cert, key]);
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    settings.ca.iter().chain(identity).map(stamp).collect()
}

fn client(settings: &TlsSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let refuse = |key: &'static str| move |problem: String| TlsError { key, problem };
    let roots = match &settings.ca {
        Some(path) => authorities(path).map_err(refuse("ca"))?,
        None => platform_authorities().map_err(refuse("ca"))?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse("ca")(error.to_string()))?
        .with_root_certificates(roots);
    let client = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert).map_err(refuse("cert"))?;
            let private = private_key(key).map_err(refuse("key"))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                let problem = format!("{} does not fit {}: {error}", key.display(), cert.display());
                refuse("key")(problem)
            })?
        }
    };
    Ok(Arc::new(client))
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{} holds a certificate that cannot be used: {error}", path.display()))?;
    }
    Ok(roots)
}

fn platform_authorities() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match (roots.is_empty(), found.errors.first()) {
        (false, _) => Ok(roots),
        (true, None) => Err("expected a file, as this machine has no certificate authorities of its own".to_owned()),
        (true, Some(error)) => Err(format!(
            "expected a file, as this machine's own cannot be read: {error}"
        )),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{} holds no certificate in PEM form", path.display())),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("{} is not PEM: {error}", path.display())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{} holds no private key in PEM form (PKCS#8, RSA or EC, without a passphrase)",
            path.display()
        ),
        error => format!("{} is not PEM: {error}", path.display()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("expected a file that can be read: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(cert: &str, key: &str) -> Result<Tls, TlsError> {
        let file = |name: &str| PathBuf::from(format!("tests/certificates/{name}"));
        Tls::load(TlsSettings {
            ca: Some(file("ec.pem")),
            identity: Some((file(cert), file(key))),
            server_name: None,
        })
    }

    #[test]
    fn keys_of_every_usual_form_are_taken() {
        load("rsa.pem", "rsa.key").expect("RSA (PKCS#1)");
        load("ec.pem", "ec.key").expect("EC (SEC1)");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name_and_the_key_that_names_it() {
        let cases = [
            (
                "rsa.pem",
                "ec.key",
                "key: tests/certificates/ec.key does not fit tests/certificates/rsa.pem",
            ),
            (
                "ec.key",
                "ec.key",
                "cert: tests/certificates/ec.key holds no certificate",
            ),
            (
                "ec.pem",
                "ec.pem",
                "key: tests/certificates/ec.pem holds no private key",
            ),
            (
                "ec.pem",
                "none.key",
                "key: expected a file that can be read: tests/certificates/none.key: ",
            ),
        ];
        for (cert, key, said) in cases {
            let error = load(cert, key).expect_err(said).to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
