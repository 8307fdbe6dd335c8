//! The mirror of the configuration file: every key that may stand in it, with its default. The doc comments of the
//! fields are what docs/config.md says of them. Values are parsed here (units), but not judged: that is `validate`,
//! and nothing beyond src/config/ ever sees these types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::{Addresses, Count, Endpoint, OptionalAddress, Period, Rate, Size};
use super::{LogFormat, LogLevel};
use crate::secret::Secret;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub listen: Listen,
    pub upstream: Upstream,
    pub queues: BTreeMap<String, Queue>,
    pub limits: Limits,
    pub admin: Admin,
    pub auth: Auth,
    pub log: Log,
    pub keys: Keys,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// IP address and port, or a list of them. An empty list serves the unix socket alone.
    pub address: Addresses,
    /// A unix socket to listen on besides.
    pub unix_socket: Option<PathBuf>,
    /// Threads that serve clients, 0 to 256. 0 is one a core.
    pub workers: Count,
    /// *Not yet supported.* TLS for clients: `cert`, `key` and, to ask them for certificates, `client_ca`.
    pub tls: Option<ListenTls>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

/// The Redis behind the proxy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// `embedded`: a redis-server of the proxy's own. `single`: the one at `address`. `sentinel`: the
    /// one that the sentinels name. `cluster`: all primaries of the cluster that the `seeds` belong to.
    pub mode: Mode,
    /// In single mode: host and port, or the path of a unix socket ("/run/redis.sock" or "unix:redis.sock").
    pub address: Endpoint,
    /// In sentinel mode: some of the sentinels.
    pub sentinels: Vec<Endpoint>,
    /// In sentinel mode: the name under which the sentinels know the primary.
    pub master: String,
    /// The sentinels' own user, apart from Redis's.
    pub sentinel_username: Option<String>,
    /// The sentinels' own password.
    pub sentinel_password: Option<Secret>,
    /// In cluster mode: any of the cluster's nodes; those that are up name the others.
    pub seeds: Vec<Endpoint>,
    /// The user to authenticate as; Redis's `default` if a password stands alone. Not used in embedded mode.
    pub username: Option<String>,
    /// The password. Not used in embedded mode.
    pub password: Option<Secret>,
    /// A file that holds the password, instead of `password`; each new connection reads it again. One line break at its
    /// end is not part of it.
    pub password_file: Option<PathBuf>,
    /// The database in which the queues live and clients begin, as `SELECT` numbers them.
    pub database: Count,
    /// TLS to Redis, and in sentinel mode to the sentinels too: `ca` (else the platform's certificate authorities are
    /// trusted), `cert` and `key` (the proxy's own, PEM), `server_name` (else the host connected to must stand in the
    /// server's certificate). `{}` takes all defaults. The files are read again when they change. Not used in embedded
    /// mode.
    pub tls: Option<UpstreamTls>,
    /// *Not yet supported.* Which nodes answer plain read-only commands: `primary`, `replica`, `prefer-replica`. Queue
    /// commands always go to primaries.
    pub read_from: ReadFrom,
    /// How long a connection to Redis may take to come about, 1ms to 1h.
    pub connect_timeout: Period,
    /// How long Redis may answer nothing at all before its connection is given up, 1ms to 1h. Blocking commands
    /// excepted.
    pub response_timeout: Period,
    /// How long a request waits for a Redis that is away before it gets an error, up to 1d.
    pub failover_timeout: Period,
    /// *Not yet supported.* Connections to each primary, for each worker.
    pub connections: Count,
    pub embedded: Embedded,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Embedded,
    Single,
    Sentinel,
    Cluster,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadFrom {
    #[default]
    Primary,
    Replica,
    PreferReplica,
}

/// Embedded mode: a redis-server (or valkey-server) 6.2 or newer, started and watched by the proxy, that listens on a
/// unix socket only and keeps every write in an append-only file (synced each second).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Embedded {
    /// A name to be found in PATH, or a path. If it is `redis-server` and there is none, `valkey-server` is tried.
    pub binary: String,
    /// Its data, socket, log and lock; created with mode 0700 if it is missing. Two proxies never share one.
    pub data_dir: PathBuf,
}

/// What a new queue starts with, by pattern: `*` stands for any characters, `?` for one. For each key the longest
/// pattern that fits the queue's name and sets the key wins. `[queues."*"]` holds these defaults:
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// How long a worker has a job to itself, unless the pop or the job says otherwise; 1ms to 3650d.
    pub lease: Option<Period>,
    /// The greatest number of deliveries; when the last one fails the job is dead. 1 to 1000000.
    pub retries: Option<Count>,
    /// The wait after the first failure; it doubles with each one. Up to 3650d.
    pub backoff: Option<Period>,
    /// The longest such wait, up to 3650d.
    pub max_backoff: Option<Period>,
    /// Over how many partitions the queue spreads from its first push on, up to 64. 0: one in embedded, single and sentinel
    /// mode, one for each primary in cluster mode, and more when there are more primaries. Not more than its `concurrency` or
    /// `max_len`, which they share.
    pub partitions: Option<Count>,
    /// Ready and delayed jobs that the queue takes before it answers QFULL. 0: no bound.
    pub max_len: Option<Count>,
    /// Deliveries lost with their worker before a job is dead, up to 1000000. 0: only `retries` counts.
    pub max_lapses: Option<Count>,
    /// A job ready for longer goes before higher priorities, up to 3650d. 0s: strict priorities.
    pub max_wait: Option<Period>,
    /// Dead jobs that are kept, the latest ones. 0: no bound.
    pub dead_max_len: Option<Count>,
    /// How long a dead job is kept, up to 3650d. 0s: no bound.
    pub dead_ttl: Option<Period>,
    /// How long a result is kept, unless the acknowledgement says otherwise; 1ms to 3650d.
    pub result_ttl: Option<Period>,
    /// Jobs of one group that may be leased at once, 1 to 1000000.
    pub group_concurrency: Option<Count>,
    /// Deliveries of each group, one second's worth at once: "100/s", "5000/m". Empty: no bound.
    pub group_rate: Option<Rate>,
    /// Jobs leased at once over the whole queue. 0: no bound.
    pub concurrency: Option<Count>,
    /// Deliveries of the whole queue, one second's worth at once: "100/s", "5000/m". Empty: no bound.
    pub rate: Option<Rate>,
    /// Replicas that must confirm a push before its reply; if fewer do in time it is `NOREPLICAS`, and the job is stored.
    pub replicas: Option<Count>,
    /// How long they may take, 1ms to 3650d; never longer than half of `response_timeout`.
    pub replica_timeout: Option<Period>,
    /// Payloads larger than this are stored compressed (zstd), if they get smaller by that. 0: never.
    pub compress_over: Option<Size>,
}

/// What clients may ask for at most, so that the proxy's memory is bounded.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Clients connected at once, 1 to 1000000; one more is told so and closed.
    pub max_clients: Count,
    /// Bytes of one payload, 1 to 512MiB. Any other argument may be as large as its request.
    pub max_payload: Size,
    /// Arguments of one request, 1 to 1048576.
    pub max_arguments: Count,
    /// Bytes of one request, 16KiB to 64GiB. Before authentication it is always 16 KiB.
    pub max_request: Size,
    /// Bytes of replies that wait for one client; one that reads more slowly than this is closed. At least 1KiB.
    pub client_output: Size,
    /// Requests in flight for one client before its socket is read no further, 1 to 1048576.
    pub client_pipeline: Count,
    /// Bytes of all buffered requests and replies, at least 1MiB; above it new requests get OOM. 0: half of the
    /// machine's (or the container's) memory.
    pub memory: Size,
    /// A client silent for so long is closed, up to 3650d. 0s: never.
    pub idle_timeout: Period,
}

/// The proxy's own HTTP port: /metrics and /healthz.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// IP address and port. "" opens none.
    pub address: OptionalAddress,
    /// *Not yet supported.* Asked of those who change something.
    pub token: Option<Secret>,
}

/// Who may connect. Without users, only clients on loopback addresses and on the unix socket are served, as in Redis's
/// protected mode.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
}

/// One user each; `AUTH password` alone is the user `default`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// SHA-256 of the password, in 64 hexadecimal digits: `printf %s "$password" | sha256sum`.
    pub password_sha256: Secret,
    /// *Not yet supported.* Patterns of the queues that the user may touch.
    pub queues: Option<Vec<String>>,
    /// *Not yet supported.* Commands that the user may call: names, `@categories`, `-names`.
    pub commands: Option<Vec<String>>,
}

/// The proxy's log, on standard error.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`. The environment's RUST_LOG wins, with tracing's directives.
    pub level: LogLevel,
    /// `text`, or `json`: one object a line.
    pub format: LogFormat,
}

/// How the proxy names what it keeps in Redis.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// The proxy's own keys begin with it: 1 to 32 of `A-Z a-z 0-9 . _ : -`. Another prefix is another set of queues.
    pub prefix: String,
}

// ---- defaults: the same as the shipped proxy.toml, which a test holds against them ----------------------------------

impl Default for File {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            upstream: Upstream::default(),
            queues: BTreeMap::from([("*".to_owned(), Queue::with_every_key())]),
            limits: Limits::default(),
            admin: Admin::default(),
            auth: Auth::default(),
            log: Log::default(),
            keys: Keys::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: Addresses(vec![([127, 0, 0, 1], 6380).into()]),
            unix_socket: None,
            workers: Count(0),
            tls: None,
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            mode: Mode::Embedded,
            address: Endpoint::local(6379),
            sentinels: vec![Endpoint::local(26379)],
            master: "mymaster".to_owned(),
            sentinel_username: None,
            sentinel_password: None,
            seeds: vec![Endpoint::local(7000)],
            username: None,
            password: None,
            password_file: None,
            database: Count(0),
            tls: None,
            read_from: ReadFrom::Primary,
            connect_timeout: Period(Duration::from_secs(1)),
            response_timeout: Period(Duration::from_secs(5)),
            failover_timeout: Period(Duration::from_secs(15)),
            connections: Count(1),
            embedded: Embedded::default(),
        }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            binary: "redis-server".to_owned(),
            data_dir: PathBuf::from("millrace-data"),
        }
    }
}

impl Queue {
    pub fn with_every_key() -> Self {
        let seconds = |seconds| Some(Period(Duration::from_secs(seconds)));
        Self {
            lease: seconds(30),
            retries: Some(Count(20)),
            backoff: seconds(1),
            max_backoff: seconds(3_600),
            partitions: Some(Count(0)),
            max_len: Some(Count(0)),
            max_lapses: Some(Count(0)),
            max_wait: seconds(0),
            dead_max_len: Some(Count(100_000)),
            dead_ttl: seconds(30 * 86_400),
            result_ttl: seconds(3_600),
            group_concurrency: Some(Count(1)),
            group_rate: Some(Rate(None)),
            concurrency: Some(Count(0)),
            rate: Some(Rate(None)),
            replicas: Some(Count(0)),
            replica_timeout: Some(Period(Duration::from_millis(500))),
            compress_over: Some(Size(0)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: Count(10_000),
            max_payload: Size(64 << 20),
            max_arguments: Count(1 << 20),
            max_request: Size(128 << 20),
            client_output: Size(256 << 20),
            client_pipeline: Count(4096),
            memory: Size(0),
            idle_timeout: Period(Duration::ZERO),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: OptionalAddress(Some(([127, 0, 0, 1], 9380).into())),
            token: None,
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self { prefix: "q".to_owned() }
    }
}
