//! Starts everything in its order, waits for the signal to stop, and stops it in the reverse order.
//! What a worker does then is [`crate::worker`]'s.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::command::Table;
use crate::config::{Config, Endpoint, Source};
use crate::counters::Counters;
use crate::hub::Shared;
use crate::resp::Protocol;
use crate::script::Scripts;
use crate::session::{User, Users};
use crate::upstream::embedded::Embedded;
use crate::upstream::link::{self, Greeting, PipeKind};
use crate::upstream::topology::Topology;
use crate::worker::{self, Listeners};
use crate::{admin, doctor, resp, upstream};

/// Connections that wait to be accepted, for each worker.
const BACKLOG: i32 = 1024;

/// Runs until SIGTERM or Ctrl-C.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    raise_file_limit(config.limits.max_clients);
    // The listeners first: what is wrong with them should be said before anything is started.
    let listeners = bind_all(&config)?;
    let admin = config.admin.map(admin::bind).transpose()?;
    let embedded = match &config.upstream.source {
        Source::Embedded(settings) => tokio::select! {
            embedded = Embedded::start(settings) => Some(embedded?),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        },
        Source::Single(_) | Source::Sentinel(_) | Source::Cluster(_) => None,
    };
    let mut topology = upstream::find(&config)?;
    let facts = learn(&mut topology, &config).await;
    let stop = CancellationToken::new();
    let (shared, threads) = start_workers(config, topology, facts, listeners, &stop)?;
    let admin = admin.map(|listener| admin::start(listener, shared.clone(), stop.clone()));
    let admin = admin.transpose()?;
    info!(addresses = ?shared.config.listen.addresses, workers = threads.len(), "serving clients");

    let examined = async {
        doctor::warn_of_dangers(&shared.config, shared.topology.clone()).await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = examined => {}
    }
    info!("stopping");
    stop.cancel();
    for thread in threads {
        if thread.join().is_err() {
            error!("a worker ended badly");
        }
    }
    drop(admin);
    if let Some(path) = &shared.config.listen.unix_socket {
        let _ = std::fs::remove_file(path); // a new start removes it too
    }
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    Ok(())
}

fn start_workers(
    config: Config,
    topology: Topology,
    facts: Facts,
    listeners: Vec<Listeners>,
    stop: &CancellationToken,
) -> anyhow::Result<(Arc<Shared>, Vec<thread::JoinHandle<()>>)> {
    let (mailboxes, mails): (Vec<_>, Vec<_>) = listeners.iter().map(|_| mpsc::unbounded_channel()).unzip();
    let commands = facts.table.entries().len();
    let users = config.users.iter().map(|user| User {
        name: user.name.as_str().into(),
        password: user.password_sha256,
    });
    let shared = Arc::new(Shared {
        users: Users::new(users.collect()),
        scripts: Arc::new(Scripts::new()),
        table: facts.table,
        redis_version: facts.version,
        databases: facts.databases,
        mode: match config.upstream.source {
            Source::Embedded(_) => "embedded",
            Source::Single(_) => "single",
            Source::Sentinel(_) => "sentinel",
            Source::Cluster(_) => "cluster",
        },
        topology,
        started: Instant::now(),
        counters: listeners.iter().map(|_| Arc::new(Counters::new(commands))).collect(),
        mailboxes,
        next_client: AtomicU64::new(1),
        parcels: AtomicU64::new(0),
        config: Arc::new(config),
    });
    let mut threads = Vec::new();
    for (number, (listeners, mail)) in listeners.into_iter().zip(mails).enumerate() {
        let (shared, stop) = (shared.clone(), stop.clone());
        let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            if let Err(error) = worker::run(number, shared, listeners, mail, stop) {
                error!(%error, "a worker cannot run");
                std::process::exit(1); // half a proxy would look healthy
            }
        });
        threads.push(thread.context("start a worker")?);
    }
    Ok((shared, threads))
}

/// What is asked of Redis once, at the start.
struct Facts {
    table: Table,
    version: String,
    databases: u32,
}

/// Redis may not be there yet; the proxy serves all the same, with what it knows by itself.
async fn learn(topology: &mut Topology, config: &Config) -> Facts {
    match ask_primary(topology, config).await {
        Ok(facts) => facts,
        Err(error) => {
            warn!(%error, "redis cannot be asked for its commands, the built-in table serves");
            Facts {
                table: Table::builtin(),
                version: "7.0.15".into(),
                databases: 16,
            }
        }
    }
}

/// Sentinels and clusters may take a moment to name one.
async fn ask_primary(topology: &mut Topology, config: &Config) -> anyhow::Result<Facts> {
    let patience = config.upstream.connect_timeout * 2; // one round of questions, and a margin
    let _ = tokio::time::timeout(patience, topology.known()).await; // what follows says why
    let snapshot = topology.snapshot();
    let primary = snapshot.first_primary();
    let primary = primary.ok_or_else(|| anyhow::Error::msg(snapshot.trouble.clone()))?;
    ask(primary, config).await
}

async fn ask(endpoint: &Endpoint, config: &Config) -> anyhow::Result<Facts> {
    let kind = PipeKind {
        waits: None,
        protocol: Protocol::Resp3,
        database: 0,
    };
    let greeting = Greeting {
        kind,
        name: "millrace-start",
        scripts: None,
        channels: &[],
    };
    let stream = link::connect(endpoint, config, &greeting).await?;
    let call = async |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        link::call(&stream, &words).await
    };
    let table = Table::from_answer(&call(&["COMMAND"]).await?).unwrap_or_else(|error| {
        warn!(%error, "redis's list of commands is not understood, the built-in table serves");
        Table::builtin()
    });
    let databases = call(&["CONFIG", "GET", "databases"]).await?;
    let info = call(&["INFO", "server"]).await?;
    let info = String::from_utf8_lossy(&info);
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    Ok(Facts {
        table,
        version: version.unwrap_or("7.0.15").trim().to_owned(),
        databases: last_integer(&databases).unwrap_or(16),
    })
}

/// The value in the reply to a CONFIG GET of one number.
fn last_integer(reply: &[u8]) -> Option<u32> {
    let mut lines = reply.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let number = lines.rfind(|line| !line.is_empty())?;
    resp::scanner::parse_integer(number)?.try_into().ok()
}

fn bind_all(config: &Config) -> anyhow::Result<Vec<Listeners>> {
    let listen = &config.listen;
    (0..listen.workers)
        .map(|number| {
            let tcp = listen.addresses.iter();
            let tcp = tcp.map(|address| bind(*address).with_context(|| format!("listen on {address}")));
            let unix = match &listen.unix_socket {
                // One worker accepts for the socket: a unix socket has no SO_REUSEPORT.
                Some(path) if number == 0 => {
                    Some(bind_unix(path).with_context(|| format!("listen on {}", path.display()))?)
                }
                _ => None,
            };
            Ok(Listeners {
                tcp: tcp.collect::<anyhow::Result<_>>()?,
                unix,
            })
        })
        .collect()
}

/// Each worker has its own listener on the address; the kernel spreads the clients over them.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(SocketProtocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket that an earlier run left behind is removed; one that somebody listens on is not.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o770))?;
    Ok(listener)
}

/// Each client takes a file descriptor.
fn raise_file_limit(clients: usize) {
    let wanted = clients as u64 + 256;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only read or write the struct that they are given.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0
            && (limit.rlim_cur >= wanted || {
                limit.rlim_cur = wanted;
                limit.rlim_max = limit.rlim_max.max(wanted);
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
            })
    };
    if !raised {
        warn!(wanted, "the limit of open files is lower than max_clients needs");
    }
}
