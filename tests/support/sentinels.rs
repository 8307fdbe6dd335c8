//! A Sentinel set: one primary, two replicas and three sentinels that have found each other, on free ports. It elects soon
//! (300 ms), so that a failover is a matter of a second.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::{Client, RedisServer, Relay, Reply, free_port, wait_until};

pub const MASTER: &str = "jobs";
/// An election, its repetition, and a loaded machine.
const WITHIN: Duration = Duration::from_secs(20);

pub struct SentinelSet {
    sentinels: Vec<Sentinel>, // before the servers, so that none is elected as they go
    pub servers: Vec<RedisServer>,
    /// To each server, if it is known by that address alone.
    pub lines: Vec<Relay>,
    password: Option<&'static str>,
}

struct Sentinel {
    process: Process, // before `dir`: it goes before its files
    dir: TempDir,
    is_down: bool,
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
        Self::watch(quick_servers(), Vec::new(), password, None)
    }

    /// Each server is behind a line: there it is found by all, the sentinels and its replicas among them.
    pub fn start_behind_lines() -> SentinelSet {
        let servers = quick_servers();
        let line = |server: &RedisServer| {
            let line = Relay::to(&server.address());
            let port = line.port().to_string();
            server.client().call(&["CONFIG", "SET", "replica-announce-port", &port]);
            line
        };
        let lines = servers.iter().map(line).collect();
        Self::watch(servers, lines, None, None)
    }

    /// All of them speak TLS to each other and to the proxy, and nothing else.
    pub fn start_tls(certificates: &Certificates) -> SentinelSet {
        let servers = (0..3).map(|_| RedisServer::start_tls(certificates)).collect();
        Self::watch(servers, Vec::new(), None, Some(certificates))
    }

    fn watch(
        servers: Vec<RedisServer>,
        lines: Vec<Relay>,
        password: Option<&'static str>,
        certificates: Option<&Certificates>,
    ) -> SentinelSet {
        let port = lines.first().map_or(servers[0].port(), Relay::port);
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
            lines,
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

    /// Each sentinel is behind a line from here on: there it is found by all, the other sentinels among them.
    pub fn move_sentinels_behind_lines(&self) -> Vec<Relay> {
        let addresses = self.all_addresses().into_iter().zip(&self.sentinels);
        let line = |(address, sentinel): (String, &Sentinel)| {
            let line = Relay::to(&address);
            let port = line.port().to_string();
            let mut client = sentinel.client(self.password);
            client.call(&["SENTINEL", "CONFIG", "SET", "announce-port", &port]);
            line
        };
        let lines: Vec<_> = addresses.map(line).collect();
        wait_until(WITHIN, "the lines are known", || {
            let are_lines = |sentinel: &Sentinel| {
                let others = sentinel.client(self.password).call(&["SENTINEL", "SENTINELS", MASTER]);
                let mut ports = others.items().iter().map(|other| other.field("port").text());
                ports.all(|port| lines.iter().any(|line| line.port().to_string() == port))
            };
            self.sentinels.iter().all(are_lines)
        });
        lines
    }

    /// One of them alone, as TOML: it names the others.
    pub fn addresses(&self) -> String {
        format!("{:?}", &self.all_addresses()[..1])
    }

    pub fn all_addresses(&self) -> Vec<String> {
        let address = |sentinel: &Sentinel| format!("127.0.0.1:{}", sentinel.tls_port.unwrap_or(sentinel.port));
        self.sentinels.iter().map(address).collect()
    }

    pub fn client_of(&self, index: usize) -> Client {
        self.sentinels[index].client(self.password)
    }

    /// Of a sentinel that is up.
    pub fn client(&self) -> Client {
        let up = self.sentinels.iter().find(|sentinel| !sentinel.is_down);
        up.expect("a sentinel is up").client(self.password)
    }

    /// By which the servers are known, in their order.
    pub fn ports(&self) -> Vec<u16> {
        match self.lines.is_empty() {
            true => self.servers.iter().map(RedisServer::port).collect(),
            false => self.lines.iter().map(Relay::port).collect(),
        }
    }

    pub fn server_at(&mut self, port: u16) -> &mut RedisServer {
        let found = self.ports().iter().position(|known| *known == port);
        &mut self.servers[found.expect("it is one of the set")]
    }

    /// A server that says nothing for so long is taken for dead; an election that comes to nothing is repeated after
    /// twice `pause`, and none is held sooner after the last.
    pub fn elect(&self, after: Duration, pause: Duration) {
        let (after, pause) = (after.as_millis().to_string(), pause.as_millis().to_string());
        for sentinel in &self.sentinels {
            let mut client = sentinel.client(self.password);
            client.call(&["SENTINEL", "SET", MASTER, "down-after-milliseconds", &after]);
            client.call(&["SENTINEL", "SET", MASTER, "failover-timeout", &pause]);
        }
    }

    /// Every sentinel forgets what it knows of the master, and is told that the server at this port is it.
    pub fn set_up_anew(&self, port: u16) {
        for sentinel in &self.sentinels {
            let mut client = sentinel.client(self.password);
            client.call(&["SENTINEL", "REMOVE", MASTER]);
            client.call(&["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port.to_string(), "2"]);
        }
    }

    pub fn kill_sentinel(&mut self, index: usize) {
        self.sentinels[index].is_down = true;
        self.sentinels[index].process.kill();
    }

    pub fn restart_sentinel(&mut self, index: usize) {
        let sentinel = &mut self.sentinels[index];
        sentinel.process = launch(sentinel.dir.path());
        sentinel.is_down = false;
        sentinel.wait_until_ready();
    }

    pub fn freeze_sentinel(&mut self, index: usize) {
        self.sentinels[index].is_down = true;
        self.sentinels[index].process.freeze();
    }

    pub fn thaw_sentinel(&mut self, index: usize) {
        self.sentinels[index].process.thaw();
        self.sentinels[index].is_down = false;
    }

    /// The port of the primary that the sentinels name.
    pub fn primary(&self) -> u16 {
        named_by(&mut self.client())
    }

    pub fn wait_for_another_than(&self, old: u16) {
        wait_until(WITHIN, "another primary", || self.primary() != old);
    }

    /// Whether one of the sentinels names another primary already.
    pub fn any_names_another_than(&self, old: u16) -> bool {
        let up = self.sentinels.iter().filter(|sentinel| !sentinel.is_down);
        let mut named = up.map(|sentinel| named_by(&mut sentinel.client(self.password)));
        named.any(|port| port != old)
    }

    /// Until the replicas follow the primary, and every sentinel sees all of them and the other sentinels. Which one that is
    /// may change meanwhile: on a loaded machine the sentinels may take one for dead that is not.
    pub fn wait_until_whole(&self) {
        wait_until(WITHIN, "the set is whole again", || {
            let primary = self.primary();
            let replicas = self.servers.iter().zip(self.ports());
            let mut replicas = replicas.filter(|(_, port)| *port != primary);
            replicas.all(|(replica, _)| follows(replica, primary))
                && self.sentinels.iter().all(|sentinel| self.sees_all(sentinel))
        });
    }

    fn sees_all(&self, sentinel: &Sentinel) -> bool {
        let mut client = sentinel.client(self.password);
        let master = client.call(&["SENTINEL", "MASTER", MASTER]);
        let replicas = client.call(&["SENTINEL", "REPLICAS", MASTER]);
        let others = client.call(&["SENTINEL", "SENTINELS", MASTER]);
        let are = |all: &Reply, flags: &str| all.items().iter().all(|one| one.field("flags").text() == flags);
        master.field("flags").text() == "master"
            && master.field("port").text() == self.primary().to_string()
            && replicas.items().len() == 2
            && are(&replicas, "slave")
            && are(&others, "sentinel")
    }
}

fn follows(replica: &RedisServer, primary: u16) -> bool {
    replica.try_info("master_link_status").as_deref() == Some("up")
        && replica.try_info("master_port") == Some(primary.to_string())
}

fn quick_servers() -> Vec<RedisServer> {
    let quick = ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"];
    (0..3).map(|_| RedisServer::start_with(&quick)).collect()
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
        fs::write(dir.path().join("sentinel.conf"), settings).expect("the configuration can be written");
        let sentinel = Sentinel {
            process: launch(dir.path()),
            dir,
            is_down: false,
            port,
            tls_port,
        };
        sentinel.wait_until_ready();
        sentinel
    }

    fn wait_until_ready(&self) {
        wait_until(WITHIN, "the sentinel answers", || {
            let client = Client::connect(&format!("127.0.0.1:{}", self.port));
            client.is_ok_and(|mut client| client.try_call(&["PING"]).is_ok())
        });
    }

    fn client(&self, password: Option<&str>) -> Client {
        let mut client = Client::connect(&format!("127.0.0.1:{}", self.port)).expect("a sentinel accepts connections");
        if let Some(password) = password {
            client.call(&["AUTH", password]);
        }
        client
    }
}

fn launch(dir: &Path) -> Process {
    let mut command = Command::new("redis-server");
    command.current_dir(dir).args(["sentinel.conf", "--sentinel"]);
    Process::spawn("sentinel", &mut command, &dir.join("sentinel.log"))
}

fn named_by(sentinel: &mut Client) -> u16 {
    let address = sentinel.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
    address.items()[1].text().parse().expect("a port")
}
