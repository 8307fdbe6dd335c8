//! A real redis-server: its own directory, a unix socket and a free loopback port, ready when PING answers.
//! It can be frozen, killed and started again on the same addresses and data. Nothing is persisted unless asked for.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::{Client, PATIENCE, Reply, free_port, wait_until};

const LOOPBACK: &str = "127.0.0.1";

pub struct RedisServer {
    process: Process, // before `dir`: fields are dropped in this order, and the server goes before its files
    dir: TempDir,
    host: String,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl RedisServer {
    pub fn start() -> RedisServer {
        Self::start_with(&[])
    }

    /// Further arguments as redis-server takes them: `&["--appendonly", "yes"]`.
    pub fn start_with(arguments: &[&str]) -> RedisServer {
        let arguments = arguments.iter().map(|a| a.to_string()).collect();
        Self::start_on(LOOPBACK, free_port(), arguments)
    }

    /// Its port takes TLS alone, from those who show a certificate.
    pub fn start_tls(certificates: &Certificates) -> RedisServer {
        let port = free_port();
        let settings = certificates.server_settings(port);
        let settings = settings.into_iter().map(|(name, value)| [format!("--{name}"), value]);
        let arguments = [["--port".to_owned(), "0".to_owned()]].into_iter().chain(settings);
        Self::start_on(LOOPBACK, port, arguments.flatten().collect())
    }

    /// With further variables in its environment.
    pub fn start_in(environment: Vec<(&'static str, String)>) -> RedisServer {
        Self::launched(LOOPBACK, free_port(), Vec::new(), environment)
    }

    /// At an address of the loopback's, which may be `::1`.
    pub fn start_on(host: &str, port: u16, arguments: Vec<String>) -> RedisServer {
        Self::launched(host, port, arguments, Vec::new())
    }

    fn launched(
        host: &str,
        port: u16,
        arguments: Vec<String>,
        environment: Vec<(&'static str, String)>,
    ) -> RedisServer {
        let dir = tempfile::Builder::new()
            .prefix("redis-")
            .tempdir()
            .expect("a temporary directory");
        let process = launch(dir.path(), host, port, &arguments, &environment);
        let mut server = RedisServer {
            process,
            dir,
            host: host.to_owned(),
            port,
            arguments,
            environment,
        };
        server.wait_until_ready();
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
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

    /// A connection to the server itself, past any proxy.
    pub fn client(&self) -> Client {
        Client::connect_unix(&self.socket()).expect("redis-server accepts connections")
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

    /// Starts it again after `kill`, with the addresses and the directory it had.
    pub fn restart(&mut self) {
        self.kill();
        let (dir, host) = (self.dir.path(), &self.host);
        self.process = launch(dir, host, self.port, &self.arguments, &self.environment);
        self.wait_until_ready();
    }

    /// One field of INFO, `used_memory` for instance.
    pub fn info(&self, field: &str) -> String {
        self.try_info(field).unwrap_or_else(|| panic!("INFO has no {field}"))
    }

    /// What a replica alone has, say, of a server that may be a primary for now. Sentinel closes the connections of one whose place it
    /// changes, this one's too.
    pub fn try_info(&self, field: &str) -> Option<String> {
        let reply = self.client().try_call(&["INFO", "everything"]).ok()?;
        let Reply::Bulk(text) = reply else {
            panic!("INFO is a bulk string")
        };
        String::from_utf8_lossy(&text)
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned))
    }

    fn wait_until_ready(&mut self) {
        let socket = self.socket();
        wait_until(PATIENCE, "redis-server answers PING", || {
            if let Some(status) = self.process.exited() {
                self.process.print_log_tail();
                panic!("redis-server ended as it started: {status}");
            }
            Client::connect_unix(&socket).is_ok_and(|mut client| {
                // Any answer but LOADING will do: a server with a password says NOAUTH and is ready.
                client.try_call(&["PING"]).is_ok_and(|reply| !reply.is_error("LOADING"))
            })
        });
    }
}

fn launch(dir: &Path, host: &str, port: u16, arguments: &[String], environment: &[(&'static str, String)]) -> Process {
    let mut command = Command::new("redis-server");
    command
        .current_dir(dir)
        .args(["--port", &port.to_string(), "--bind", host])
        .args([
            "--unixsocket",
            "redis.sock",
            "--save",
            "",
            "--appendonly",
            "no",
            "--enable-debug-command",
            "yes",
        ])
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (*name, value)));
    Process::spawn("redis-server", &mut command, &dir.join("redis.log"))
}
