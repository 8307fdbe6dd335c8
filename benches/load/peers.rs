//! The servers that Millrace is held against: beanstalkd and nutcracker (twemproxy), as Debian builds them.
//! Started on free loopback ports with their logs in a temporary directory, ended when dropped.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::process::Process;
use crate::support::{Client, PATIENCE, RedisServer, free_port, wait_until};

pub struct Peer {
    process: Process, // before `dir`: fields are dropped in this order
    _dir: TempDir,
    port: u16,
}

impl Peer {
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// beanstalkd without its binlog, as Redis here is without its append-only file; `None` where it is not installed.
    pub fn beanstalkd() -> Option<Peer> {
        installed("beanstalkd", "-v")?;
        let (dir, port) = (directory(), free_port());
        let mut command = Command::new("beanstalkd");
        command.args(["-l", "127.0.0.1", "-p", &port.to_string()]);
        let peer = Peer {
            process: Process::spawn("beanstalkd", &mut command, &dir.path().join("log")),
            _dir: dir,
            port,
        };
        wait_until(PATIENCE, "beanstalkd answers", || {
            let Ok(mut stream) = TcpStream::connect(peer.address()) else {
                return false;
            };
            let mut line = String::new();
            stream.write_all(b"list-tube-used\r\n").is_ok() && BufReader::new(stream).read_line(&mut line).is_ok()
        });
        Some(peer)
    }

    /// nutcracker with one connection to `redis`; `None` where it is not installed.
    pub fn nutcracker(redis: &RedisServer) -> Option<Peer> {
        installed("nutcracker", "-V")?;
        let (dir, port) = (directory(), free_port());
        let config = format!(
            "bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  \
             preconnect: true\n  server_connections: 1\n  servers:\n   - {}:1\n",
            redis.address()
        );
        let config_path = dir.path().join("nutcracker.yml");
        fs::write(&config_path, config).expect("the configuration can be written");
        let mut command = Command::new("nutcracker");
        command
            .arg("-c")
            .arg(&config_path)
            .args(["-a", "127.0.0.1", "-s", &free_port().to_string()]);
        let peer = Peer {
            process: Process::spawn("nutcracker", &mut command, &dir.path().join("log")),
            _dir: dir,
            port,
        };
        wait_until(PATIENCE, "nutcracker passes a request on", || {
            Client::connect(&peer.address()).is_ok_and(|mut client| client.try_call(&["GET", "nothing"]).is_ok())
        });
        Some(peer)
    }
}

fn installed(program: &str, harmless: &str) -> Option<()> {
    let quiet = Command::new(program)
        .arg(harmless)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.ok().map(|_| ())
}

fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("peer-")
        .tempdir()
        .expect("a temporary directory")
}
