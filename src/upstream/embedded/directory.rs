//! The embedded Redis's data directory: made, locked against other proxies, and cleared of a Redis that an earlier
//! proxy left running there. It reads and changes none of the data.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{EmbeddedError, system};

/// How long a Redis that an earlier proxy left may take to end after each way of telling it.
const TIME_TO_END: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// A directory that is this proxy's as long as this value lives.
pub struct DataDirectory {
    /// Absolute, without links: what the kernel says is the working directory of a Redis that runs in it.
    path: PathBuf,
    /// Locked. The kernel gives the lock up with the process, however it ends.
    lock: File,
}

impl DataDirectory {
    pub fn claim(path: &Path) -> Result<Self, EmbeddedError> {
        let cannot = |what: &str, path: &Path, source| system(format!("{what} {}", path.display()), source);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| cannot("create the data directory", path, source))?;
        let path = path
            .canonicalize()
            .map_err(|source| cannot("open the data directory", path, source))?;
        let metadata = fs::metadata(&path).map_err(|source| cannot("open the data directory", &path, source))?;
        if metadata.permissions().mode() & 0o022 != 0 {
            // Somebody else's file could stand where Redis expects its own. Not for us to change: it may be /tmp.
            return Err(EmbeddedError::Exposed { directory: path });
        }
        let lock = lock(&path)?;
        let directory = Self { path, lock };
        if SocketAddr::from_pathname(directory.socket()).is_err() {
            return Err(EmbeddedError::PathTooLong {
                socket: directory.socket(),
            });
        }
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn socket(&self) -> PathBuf {
        super::socket_in(&self.path)
    }

    pub fn pid_file(&self) -> PathBuf {
        self.path.join("redis.pid")
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("redis.log")
    }

    pub fn configuration(&self) -> PathBuf {
        self.path.join("redis.conf")
    }

    // Whoever holds the lock is the only proxy here; so a Redis that runs here was left by a proxy that is gone, and two
    // of them must never write to one append-only file.
    //   1. What listens on the directory's socket is asked to SHUTDOWN: its data is safe in its append-only file.
    //   2. If it does not end, or no longer listens, the process that the pid file names gets SIGTERM, then SIGKILL, but
    //      only if the kernel says that it works in this very directory: the number may be another process's by now.
    pub async fn end_orphan(&self) -> Result<(), EmbeddedError> {
        if !self.is_occupied().await {
            return Ok(());
        }
        warn!(directory = %self.path.display(), "an earlier proxy left its redis running, ending it");
        let asked = timeout(TIME_TO_END, ask_to_shut_down(&self.socket())).await;
        if matches!(asked, Ok(Ok(()))) && self.is_free_in_time().await {
            return Ok(());
        }
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            if let Some(pid) = self.running() {
                // SAFETY: it only sends a signal, to a process that was seen to be ours a moment ago.
                unsafe { libc::kill(pid, signal) };
            }
            if self.is_free_in_time().await {
                return Ok(());
            }
        }
        let pid = fs::read_to_string(self.pid_file()).unwrap_or_else(|_| "unknown".to_owned());
        Err(EmbeddedError::Orphan {
            directory: self.path.clone(),
            pid: pid.trim().to_owned(),
        })
    }

    async fn is_free_in_time(&self) -> bool {
        let deadline = Instant::now() + TIME_TO_END;
        while self.is_occupied().await {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    async fn is_occupied(&self) -> bool {
        self.running().is_some() || UnixStream::connect(self.socket()).await.is_ok()
    }

    /// The process of the pid file, if it is a Redis that works in this directory.
    fn running(&self) -> Option<libc::pid_t> {
        let pid: libc::pid_t = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        // Without Linux's /proc nothing can be said of it, and step 1 is all there is.
        let process = PathBuf::from(format!("/proc/{pid}"));
        let works_here = fs::read_link(process.join("cwd")).ok()? == self.path;
        let name = fs::read_to_string(process.join("comm")).ok()?;
        (pid > 1 && works_here && ["redis", "valkey"].iter().any(|kind| name.contains(kind))).then_some(pid)
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        // Closing would not do: a process between fork and exec has the file open too, and the lock with it.
        let _ = self.lock.unlock();
    }
}

/// The lock file holds its holder's pid, for whoever comes second.
fn lock(directory: &Path) -> Result<File, EmbeddedError> {
    let path = directory.join("millrace.lock");
    let cannot = |source: io::Error| system(format!("lock {}", path.display()), source);
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let mut file = open.map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = if holder.trim().is_empty() {
                "unknown"
            } else {
                holder.trim()
            }
            .to_owned();
            return Err(EmbeddedError::InUse {
                directory: directory.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(source)) => return Err(cannot(source)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(cannot)?;
    Ok(file)
}

/// Ends when the other side has closed. NOSAVE: no snapshot; the append-only file is flushed and synced all the same.
async fn ask_to_shut_down(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"SHUTDOWN NOSAVE\r\n").await?;
    let mut refusal = Vec::new();
    stream.take(1024).read_to_end(&mut refusal).await?;
    Ok(())
}
