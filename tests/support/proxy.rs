//! The proxy's own binary, started with a configuration written for the test: a free port, a unix socket, a free admin
//! port, one Redis behind it or one embedded. Ready when it answers PING.
//! A WARN or ERROR in its log that the test did not announce (`allow_log`) fails the test when the proxy is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::{Client, PATIENCE, RedisServer, free_port, wait_until};

const STOPPING: Duration = Duration::from_secs(10); // an embedded Redis may have to write its last data first

/// What is to be started; `start` starts it.
pub struct ProxyPlan {
    host: String,
    settings: BTreeMap<String, String>,
    allowed: Vec<String>,
}

pub struct Proxy {
    process: Process, // before `dir`: fields are dropped in this order, and the proxy goes before its files
    dir: TempDir,
    port: u16,
    admin_port: u16,
    allowed: Vec<String>,
}

impl Proxy {
    /// In front of `redis`, over its TCP port.
    pub fn before(redis: &RedisServer) -> ProxyPlan {
        ProxyPlan::new()
            .set("upstream.mode", "\"single\"")
            .set("upstream.address", &quoted(&redis.address()))
    }

    /// In front of the primary that the sentinels (a list, as TOML) name.
    pub fn before_sentinels(sentinels: &str, master: &str) -> ProxyPlan {
        ProxyPlan::new()
            .set("upstream.mode", "\"sentinel\"")
            .set("upstream.sentinels", sentinels)
            .set("upstream.master", &quoted(master))
            .allow_findings(&["role", "sentinels"])
    }

    /// In front of the cluster of which the seeds (a list, as TOML) are nodes.
    pub fn before_cluster(seeds: &str) -> ProxyPlan {
        ProxyPlan::new()
            .set("upstream.mode", "\"cluster\"")
            .set("upstream.seeds", seeds)
            .allow_findings(&["role", "slots"])
    }

    /// With a redis-server child of its own.
    pub fn embedded() -> ProxyPlan {
        ProxyPlan::new().set("upstream.mode", "\"embedded\"")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("millrace.sock")
    }

    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.address()).expect("the proxy accepts connections")
    }

    pub fn freeze(&self) {
        self.process.freeze();
    }

    pub fn thaw(&self) {
        self.process.thaw();
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after `kill`, with the same configuration, addresses and data.
    pub fn restart(&mut self) {
        self.kill();
        self.process = launch(self.dir.path());
        self.wait_until_ready();
    }

    /// Asks it to end, as a service manager does; it must end by itself and say success.
    pub fn stop(&mut self) {
        let status = self.process.terminate(STOPPING);
        assert!(status.success(), "the proxy was asked to stop and ended with {status}");
    }

    /// Lines of its log at WARN or ERROR that no `allow_log` announced.
    pub fn unexpected_log_lines(&self) -> Vec<String> {
        let announced = |line: &str| self.allowed.iter().any(|allowed| line.contains(allowed.as_str()));
        let bad = |line: &str| {
            line.contains(r#""level":"WARN""#) || line.contains(r#""level":"ERROR""#) || line.contains("panicked at")
        };
        self.log()
            .lines()
            .filter(|line| bad(line) && !announced(line))
            .map(str::to_owned)
            .collect()
    }

    fn wait_until_ready(&mut self) {
        let address = self.address();
        wait_until(PATIENCE, "the proxy answers PING", || {
            if let Some(status) = self.process.exited() {
                self.process.print_log_tail();
                panic!("the proxy ended as it started: {status}");
            }
            Client::connect(&address).is_ok_and(|mut client| client.try_call(&["PING"]).is_ok())
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Asked, not killed: an embedded Redis is to be stopped too, and stopping is part of what every test shows.
        self.process.terminate(STOPPING);
        if !std::thread::panicking() {
            let lines = self.unexpected_log_lines();
            assert!(
                lines.is_empty(),
                "the proxy's log holds what the test did not announce:\n{}",
                lines.join("\n")
            );
        }
    }
}

impl ProxyPlan {
    fn new() -> ProxyPlan {
        let settings = BTreeMap::from([
            ("log.format".to_owned(), "\"json\"".to_owned()),
            ("log.level".to_owned(), "\"info\"".to_owned()),
        ]);
        ProxyPlan {
            host: "127.0.0.1".into(),
            settings,
            // The tests' servers keep nothing on disk unless asked to, and the proxy says so.
            allowed: vec![r#""check":"persistence""#.into()],
        }
    }

    /// One key by its full name, its value as TOML: `.set("limits.max_clients", "5")`.
    pub fn set(mut self, key: &str, value: &str) -> ProxyPlan {
        self.settings.insert(key.into(), value.into());
        self
    }

    pub fn workers(self, workers: usize) -> ProxyPlan {
        self.set("listen.workers", &workers.to_string())
    }

    /// Another address than the loopback's; `Proxy::client` still comes over the loopback.
    pub fn listening_on(mut self, host: &str) -> ProxyPlan {
        self.host = host.into();
        self
    }

    /// A WARN or ERROR line that holds `text` is part of this test.
    pub fn allow_log(mut self, text: &str) -> ProxyPlan {
        self.allowed.push(text.into());
        self
    }

    /// A proxy looks at what is behind it as it starts, and a test may break that before it has looked.
    fn allow_findings(mut self, checks: &[&str]) -> ProxyPlan {
        self.allowed
            .extend(checks.iter().map(|check| format!(r#""check":"{check}""#)));
        self
    }

    pub fn start(mut self) -> Proxy {
        let dir = tempfile::Builder::new()
            .prefix("proxy-")
            .tempdir()
            .expect("a temporary directory");
        let (port, admin_port) = (free_port(), free_port());
        self.settings
            .insert("listen.address".into(), quoted(&format!("{}:{port}", self.host)));
        self.settings.insert(
            "listen.unix_socket".into(),
            quoted(&dir.path().join("millrace.sock").to_string_lossy()),
        );
        self.settings
            .insert("admin.address".into(), quoted(&format!("127.0.0.1:{admin_port}")));
        let data_dir = quoted(&dir.path().join("data").to_string_lossy());
        self.settings
            .entry("upstream.embedded.data_dir".into())
            .or_insert(data_dir);
        let toml: String = self
            .settings
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        fs::write(dir.path().join("proxy.toml"), toml).expect("the configuration can be written");
        let process = launch(dir.path());
        let mut proxy = Proxy {
            process,
            dir,
            port,
            admin_port,
            allowed: self.allowed,
        };
        proxy.wait_until_ready();
        proxy
    }
}

static ANOTHER: OnceLock<PathBuf> = OnceLock::new();

/// From now on this binary is started, not the one that was built with us.
pub fn use_binary(path: PathBuf) {
    ANOTHER.get_or_init(|| path);
}

fn launch(dir: &Path) -> Process {
    let ours = Path::new(env!("CARGO_BIN_EXE_millrace"));
    let mut command = Command::new(ANOTHER.get().map_or(ours, PathBuf::as_path));
    command
        .current_dir(dir)
        .args(["--config", "proxy.toml"])
        .env_remove("RUST_LOG");
    Process::spawn("millrace", &mut command, &dir.join("millrace.log"))
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
