//! A Sentinel set: one primary, two replicas and three sentinels that have found each other, on free ports. It elects soon
//! (300 ms), so that a failover is a matter of a second.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::{Client, RedisServer, free_port, wait_until};

pub const MASTER: &str = "jobs";
/// An election, its repetition, and a loaded machine.
const WITHIN: Duration = Duration::from_secs(20);

pub struct SentinelSet {
    sentinels: Vec<Sentinel>, // before the servers, so that none is elected as they go
    pub servers: Vec<RedisServer>,
    password: Option<&'static str>,
}

struct Sentinel {
    _process: Process, // before `dir`: it goes before its files
    _dir: TempDir,
    /// Without TLS: the tests' own.
    port: u16,
    tls_port: Option<u16>,
}

impl SentinelSet {
    pub fn start() -> SentinelSet {
        Self::with_password(None)
    }

    /// The sentinels ask for this one; the servers for none.
    pub fn with_password(password: Option<&'static str>) -> SentinelSet {
        let quick = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
        let servers = (0..3).map(|_| RedisServer::start_with(&quick)).collect();
        Self::watch(servers, password, None)
    }

    /// All of them speak TLS to each other and to the proxy, and nothing else.
    pub fn start_tls(certificates: &Certificates) -> SentinelSet {
        let servers = (0..3).map(|_| RedisServer::start_tls(certificates)).collect();
        Self::watch(servers, None, Some(certificates))
    }

    fn watch(
        servers: Vec<RedisServer>,
        password: Option<&'static str>,
        certificates: Option<&Certificates>,
    ) -> SentinelSet {
        let port = servers[0].port();
        for replica in &servers[1..] {
            replica.client().call(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        }
        for replica in &servers[1..] {
            wait_until(WITHIN, "the replicas follow", || {
                replica.info("master_link_status") == "up"
            });
        }
        let sentinels = (0..3).map(|_| Sentinel::start(port, password, certificates)).collect();
        let set = SentinelSet {
            sentinels,
            servers,
            password,
        };
        wait_until(WITHIN, "the sentinels know each other and the replicas", || {
            let knows = |sentinel: &Sentinel| {
                let master = sentinel.client(password).call(&["SENTINEL", "MASTER", MASTER]);
                let field = |name: &str| master.field(name).text();
                field("num-other-sentinels") == "2" && field("num-slaves") == "2" && field("flags") == "master"
            };
            set.sentinels.iter().all(knows)
        });
        set
    }

    /// One of them alone, as TOML: it names the others.
    pub fn addresses(&self) -> String {
        let sentinel = &self.sentinels[0];
        format!("[\"127.0.0.1:{}\"]", sentinel.tls_port.unwrap_or(sentinel.port))
    }

    pub fn client(&self) -> Client {
        self.sentinels[0].client(self.password)
    }

    /// The port of the primary that the sentinels name.
    pub fn primary(&self) -> u16 {
        let address = self.client().call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        address.items()[1].text().parse().expect("a port")
    }

    pub fn wait_for_another_than(&self, old: u16) {
        wait_until(WITHIN, "another primary", || self.primary() != old);
    }
}

impl Sentinel {
    fn start(primary: u16, password: Option<&str>, certificates: Option<&Certificates>) -> Sentinel {
        let dir = tempfile::Builder::new()
            .prefix("sentinel-")
            .tempdir()
            .expect("a temporary directory");
        let port = free_port();
        let mut settings = format!(
            "port {port}\nbind 127.0.0.1\n\
             sentinel monitor {MASTER} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {MASTER} 300\n\
             sentinel failover-timeout {MASTER} 3000\n"
        );
        if let Some(password) = password {
            settings += &format!("requirepass {password}\nsentinel sentinel-pass {password}\n");
        }
        let tls_port = certificates.map(|_| free_port());
        for (certificates, port) in certificates.into_iter().zip(tls_port) {
            let lines = certificates.server_settings(port).into_iter();
            settings.extend(lines.map(|(name, value)| format!("{name} {value}\n")));
        }
        let path = dir.path().join("sentinel.conf");
        fs::write(&path, settings).expect("the configuration can be written");
        let mut command = Command::new("redis-server");
        command.current_dir(dir.path()).arg(&path).arg("--sentinel");
        let process = Process::spawn("sentinel", &mut command, &dir.path().join("sentinel.log"));
        let sentinel = Sentinel {
            _process: process,
            _dir: dir,
            port,
            tls_port,
        };
        wait_until(WITHIN, "the sentinel answers", || {
            let client = Client::connect(&format!("127.0.0.1:{port}"));
            client.is_ok_and(|mut client| client.try_call(&["PING"]).is_ok())
        });
        sentinel
    }

    fn client(&self, password: Option<&str>) -> Client {
        let mut client = Client::connect(&format!("127.0.0.1:{}", self.port)).expect("a sentinel accepts connections");
        if let Some(password) = password {
            client.call(&["AUTH", password]);
        }
        client
    }
}
