//! The configuration, read once before anything else runs.
//!
//! 1. [`layers`] lays the file over the defaults and the environment over both, and remembers where each key came from.
//! 2. [`file`] mirrors the file, key by key; [`units`] reads its durations, sizes, rates and addresses.
//! 3. `validate` turns the mirror into [`Config`]: in range, resolved, immutable. Later code cannot see the raw form.
//!
//! It opens no socket and starts nothing. What it refuses, it refuses with the place, the key and what was expected.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fmt};

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

#[cfg(test)]
mod docs;
mod environment;
mod file;
mod layers;
mod machine;
mod pattern;
#[cfg(test)]
mod tests;
mod units;
mod validate;

pub use layers::{ConfigError, Key, Layers, Place};
pub use units::{Endpoint, Rate};

use crate::secret::Password;
use crate::upstream::tls::Tls;
use pattern::Patterns;

/// Everything that the configuration decides, validated.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Listen,
    pub upstream: Upstream,
    queues: Patterns,
    pub limits: Limits,
    /// Where /metrics and /healthz are served, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Empty: protected mode.
    pub users: Vec<User>,
    pub log: Log,
    /// The proxy's own keys begin with it.
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// May be empty when there is a unix socket.
    pub addresses: Vec<SocketAddr>,
    pub unix_socket: Option<PathBuf>,
    /// At least 1.
    pub workers: usize,
}

#[derive(Clone, Debug)]
pub struct Upstream {
    pub source: Source,
    pub credentials: Option<Credentials>,
    /// None: TCP as it is.
    pub tls: Option<Arc<Tls>>,
    pub database: u32,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    pub failover_timeout: Duration,
    /// To each primary, for each worker.
    pub connections: usize,
}

/// How the primary is known.
#[derive(Clone, Debug)]
pub enum Source {
    Embedded(Embedded),
    Single(Endpoint),
    Sentinel(Sentinels),
    /// Any of its nodes.
    Cluster(Vec<Endpoint>),
}

/// Who is asked for the primary, and as whom.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// The primary's name with them.
    pub master: String,
    pub credentials: Option<Credentials>,
    /// As for Redis itself.
    pub tls: Option<Arc<Tls>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// A name to be found in PATH, or a path.
    pub binary: String,
    pub data_dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// None: Redis's `default` user.
    pub username: Option<String>,
    pub password: Password,
}

/// What a queue starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    pub lease: Duration,
    /// The greatest number of deliveries, at least 1.
    pub retries: u32,
    pub backoff: Duration,
    pub max_backoff: Duration,
    /// 0: no bound of its own.
    pub max_lapses: u32,
    /// 0: no bound, as for those above and the times below.
    pub dead_max_len: u64,
    pub dead_ttl: Duration,
    pub max_len: u64,
    /// Jobs leased at once.
    pub concurrency: u64,
    pub rate: Rate,
    pub max_wait: Duration,
    /// Jobs of one group leased at once, at least 1.
    pub group_concurrency: u32,
    pub group_rate: Rate,
    pub result_ttl: Duration,
    /// That must confirm a push.
    pub replicas: u32,
    pub replica_timeout: Duration,
    /// Bytes of a payload; 0: none is compressed.
    pub compress_over: u64,
    /// 0: one for each primary.
    pub partitions: u16,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Patterns::new([]).settings(b"")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_clients: usize,
    pub max_payload: usize,
    pub max_arguments: usize,
    pub max_request: usize,
    pub client_output: usize,
    pub client_pipeline: usize,
    /// Bytes of all buffered requests and replies, all workers together.
    pub memory: usize,
    /// None: a silent client is never closed.
    pub idle_timeout: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password_sha256: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LevelFilter,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Config {
    /// Before authentication no request may be larger than this.
    pub const MAX_REQUEST_UNAUTHENTICATED: usize = 16 << 10;

    /// From the file (or else from the defaults) and the process's environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Layers::read(file, env::vars_os())?.config()
    }

    /// What a new queue of this name starts with.
    pub fn queue(&self, name: &[u8]) -> QueueSettings {
        self.queues.settings(name)
    }

    /// The queues that ask for the most replicas, by their pattern, and how many these are.
    pub fn most_replicas(&self) -> Option<(&str, u64)> {
        self.queues.most_replicas()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}
