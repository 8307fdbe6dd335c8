//! A child process of a test: its log in a file, signals by its own pid, killed when dropped.
//! When the test is failing as it is dropped, the end of its log is printed: what the server thought of it all.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const TAIL_LINES: usize = 40; // a screen

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    reaped: bool,
}

impl Process {
    /// Starts `command` with its output appended to `log` (so that a restarted server goes on in the same file).
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Process {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log file opens");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Process {
            name: name.into(),
            child,
            log: log.into(),
            reaped: false,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub fn signal(&self, signal: libc::c_int) {
        assert!(!self.reaped, "{} has ended: its pid may be another's by now", self.name);
        // SAFETY: the pid is of a child that was not yet waited for, so it cannot have been given to another process.
        unsafe { libc::kill(self.pid() as libc::pid_t, signal) };
    }

    /// Stops it where it stands (SIGSTOP): its sockets stay open and nobody answers.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if !self.reaped {
            self.signal(libc::SIGKILL);
            self.child.wait().expect("a killed child can be waited for");
            self.reaped = true;
        }
    }

    /// Whether and how it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child can be waited for");
        self.reaped |= status.is_some();
        status
    }

    /// Asks it to end (SIGTERM) and waits; killed when it has not ended by then, which is told as its status.
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        if let Some(status) = self.exited() {
            return status;
        }
        self.signal(libc::SIGTERM);
        let started = Instant::now();
        while started.elapsed() < deadline {
            if let Some(status) = self.exited() {
                return status;
            }
            std::thread::sleep(super::POLL);
        }
        self.kill();
        ExitStatus::from_raw(libc::SIGKILL)
    }

    pub fn print_log_tail(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        eprintln!(
            "--- {} (pid {}), the end of its log:\n{}\n---",
            self.name,
            self.pid(),
            tail.join("\n")
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_log_tail();
        }
        self.kill();
    }
}
