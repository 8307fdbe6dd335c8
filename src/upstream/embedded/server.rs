//! The child itself: which binary, how it is configured, started, asked whether it answers, and ended. What to do when
//! it dies is decided one floor up.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::directory::DataDirectory;
use super::{EmbeddedError, system};

/// The oldest with all that the scripts and the proxy's own connections need.
const OLDEST: (u32, u32) = (6, 2);

/// From SIGTERM to SIGKILL. Redis has its append-only file to flush and sync; a supervisor's patience with the proxy
/// (Kubernetes: 30 s) must not be used up.
const TIME_TO_END: Duration = Duration::from_secs(20);

const FIRST_LOOK: Duration = Duration::from_millis(5);
const SLOWEST_LOOK: Duration = Duration::from_millis(100);
const LOADING_NOTICE: Duration = Duration::from_secs(5);

pub struct Server {
    binary: String,
    pub version: String,
    pub directory: DataDirectory,
}

/// How a child's life ended.
pub enum Ending {
    Asked,
    Died(String),
}

/// What a PING brought.
enum Answer {
    Ready,
    Loading,
    Nothing,
}

impl Server {
    /// The binary asked for, or valkey-server where the default, redis-server, is not installed.
    pub fn find(binary: &str, directory: DataDirectory) -> Result<Self, EmbeddedError> {
        let (binary, version) = match (version(binary), binary) {
            (Err(EmbeddedError::Missing { .. }), "redis-server") => match version("valkey-server") {
                Err(EmbeddedError::Missing { .. }) => {
                    return Err(EmbeddedError::Missing {
                        binary: binary.to_owned(),
                    });
                }
                found => ("valkey-server", found?),
            },
            (found, binary) => (binary, found?),
        };
        Ok(Self {
            binary: binary.to_owned(),
            version,
            directory,
        })
    }

    pub fn spawn(&self) -> Result<Child, EmbeddedError> {
        let cannot = |what: &str, path: &Path, source| system(format!("{what} {}", path.display()), source);
        let (configuration, log) = (self.directory.configuration(), self.directory.log());
        fs::write(&configuration, self.configuration()).map_err(|source| cannot("write", &configuration, source))?;
        // What it says before it has read where its log is, goes there too.
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
        let output = open.and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = output.map_err(|source| cannot("write", &log, source))?;
        let mut command = Command::new(&self.binary);
        command.arg(&configuration).stdin(Stdio::null()).stdout(out).stderr(err);
        // A group of its own: Ctrl-C in the terminal is for the proxy, which ends its child when it has drained.
        command.process_group(0).kill_on_drop(true);
        bind_to_this_thread(&mut command);
        command
            .spawn()
            .map_err(|source| system(format!("start {}", self.binary), source))
    }

    /// Nothing of a configuration that the machine may have in /etc is read.
    fn configuration(&self) -> String {
        let quoted = |path: &Path| quote(path.as_os_str().as_encoded_bytes());
        format!(
            "# Written by Millrace at every start: changes are lost.\n\
             port 0\n\
             unixsocket {}\n\
             unixsocketperm 700\n\
             dir {}\n\
             pidfile {}\n\
             logfile {}\n\
             daemonize no\n\
             supervised no\n\
             # The append-only file is the truth; snapshots beside it would only cost.\n\
             appendonly yes\n\
             appendfsync everysec\n\
             save \"\"\n\
             # A queue's jobs are not a cache.\n\
             maxmemory-policy noeviction\n\
             # The workers' few connections and a visitor with redis-cli; more would ask for more file descriptors.\n\
             maxclients 1000\n",
            quoted(&self.directory.socket()),
            quoted(self.directory.path()),
            quoted(&self.directory.pid_file()),
            quoted(&self.directory.log()),
        )
    }

    /// Polls, since a process says nothing to its parent when it begins to listen.
    pub async fn until_it_answers(&self) {
        let socket = self.directory.socket();
        let mut pause = FIRST_LOOK;
        let mut noticed = Instant::now();
        loop {
            match ping(&socket).await {
                Answer::Ready => return,
                Answer::Loading if noticed.elapsed() >= LOADING_NOTICE => {
                    info!("embedded redis is loading its data");
                    noticed = Instant::now();
                }
                Answer::Loading | Answer::Nothing => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
    }

    pub fn died(&self, how: String) -> EmbeddedError {
        const LINES: usize = 5;
        let log = self.directory.log();
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let tail: Vec<&str> = text
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(LINES)
            .collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        EmbeddedError::Died {
            binary: self.binary.clone(),
            how,
            log,
            tail,
        }
    }
}

/// SIGTERM, on which Redis flushes and syncs its append-only file; SIGKILL if that takes too long.
pub async fn end(child: &mut Child) {
    let Some(pid) = child.id() else { return };
    // SAFETY: it only sends a signal, and `pid` is a child that nobody has waited for, so the number is still its own.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
    if timeout(TIME_TO_END, child.wait()).await.is_err() {
        warn!(pid, "embedded redis does not end, killing it");
        if let Err(error) = child.kill().await {
            warn!(pid, %error, "embedded redis cannot be killed");
        }
    }
}

/// On Linux the kernel sends the child SIGTERM when this thread ends, so that no proxy, however it dies, leaves a
/// Redis behind. Elsewhere the next start finds it and ends it.
fn bind_to_this_thread(command: &mut Command) {
    #[cfg(target_os = "linux")]
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: both are async-signal-safe, as what runs between fork and exec must be.
        unsafe {
            libc::umask(0o077); // the append-only file is as private as the directory should be
            #[cfg(target_os = "linux")]
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 || libc::getppid().cast_unsigned() != parent {
                return Err(io::Error::last_os_error()); // or the parent died before it could be watched
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// "7.0.15", as the binary itself says.
fn version(binary: &str) -> Result<String, EmbeddedError> {
    let output = match std::process::Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(EmbeddedError::Missing {
                binary: binary.to_owned(),
            });
        }
        output => output.map_err(|source| system(format!("start {binary}"), source))?,
    };
    let said = String::from_utf8_lossy(&output.stdout);
    // Redis server v=7.0.15 sha=00000000:0 …, Valkey server v=8.1.1 …
    let found = said.split_whitespace().find_map(|word| word.strip_prefix("v="));
    let mut numbers = found.unwrap_or_default().split('.').map(str::parse::<u32>);
    let (Some(found), Some(Ok(major)), Some(Ok(minor))) = (found, numbers.next(), numbers.next()) else {
        return Err(EmbeddedError::Stranger {
            binary: binary.to_owned(),
            said: said.trim().to_owned(),
        });
    };
    if (major, minor) < OLDEST {
        return Err(EmbeddedError::TooOld {
            binary: binary.to_owned(),
            found: found.to_owned(),
        });
    }
    Ok(found.to_owned())
}

async fn ping(socket: &Path) -> Answer {
    const PATIENCE: Duration = Duration::from_secs(1);
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok::<_, io::Error>(line)
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(line)) if line.starts_with("-LOADING") => Answer::Loading,
        Ok(Ok(line)) if !line.is_empty() => Answer::Ready,
        _ => Answer::Nothing,
    }
}

/// In the quotes of Redis's configuration file, in which any byte can be written.
fn quote(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\') || *byte == b' ';
    let escaped = bytes.iter().map(|byte| {
        if plain(byte) {
            char::from(*byte).to_string()
        } else {
            format!("\\x{byte:02x}")
        }
    });
    format!("\"{}\"", escaped.collect::<String>())
}
