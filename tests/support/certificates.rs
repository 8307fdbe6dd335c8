//! Certificate authorities made for a test, and what they sign, as files that servers and the proxy read.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// One authority, a server's certificate for the names asked for, and a client's, all in a directory of their own.
pub struct Certificates {
    dir: TempDir,
}

impl Certificates {
    pub fn new(server_names: &[&str]) -> Certificates {
        let dir = tempfile::Builder::new()
            .prefix("certificates-")
            .tempdir()
            .expect("a temporary directory");
        let certificates = Certificates { dir };
        certificates.sign(server_names);
        certificates
    }

    /// Signs everything anew, by another authority, into the same files.
    pub fn replace(&self, server_names: &[&str]) {
        self.sign(server_names);
    }

    fn sign(&self, server_names: &[&str]) {
        let mut params = named("authority", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        self.write("ca.pem", &params.self_signed(&key).expect("a certificate").pem());
        let authority = Issuer::new(params, key);
        for (name, names) in [("server", server_names), ("client", &["client"][..])] {
            let key = KeyPair::generate().expect("a key");
            let certificate = named(name, names).signed_by(&key, &authority).expect("a certificate");
            self.write(&format!("{name}.pem"), &certificate.pem());
            self.write(&format!("{name}.key"), &key.serialize_pem());
        }
    }

    /// Replaced as a whole, as whoever rotates certificates does it.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.path(name)).expect("a directory that can be written");
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// As redis-server and its sentinel take them; who connects must show a certificate, replicas and sentinels too.
    pub fn server_settings(&self, port: u16) -> Vec<(String, String)> {
        let path = |name| self.path(name).display().to_string();
        let settings = [
            ("tls-port", port.to_string()),
            ("tls-cert-file", path("server.pem")),
            ("tls-key-file", path("server.key")),
            ("tls-client-cert-file", path("client.pem")),
            ("tls-client-key-file", path("client.key")),
            ("tls-ca-cert-file", path("ca.pem")),
            ("tls-auth-clients", "yes".to_owned()),
            ("tls-replication", "yes".to_owned()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// `upstream.tls` with everything that they ask for, as TOML.
    pub fn proxy_settings(&self) -> String {
        let path = |name| self.path(name).display().to_string();
        let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
        format!("{{ ca = {ca:?}, cert = {cert:?}, key = {key:?} }}")
    }
}

/// A name of its own for each: OpenSSL takes a certificate with its authority's name for a self-signed one.
fn named(subject: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
    let mut params = CertificateParams::new(hosts).expect("names of hosts");
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}
