//! Embedded mode: a redis-server (or valkey-server) child of the proxy's own, so that there is nothing to set up.
//!
//! - [`directory`]: the data directory: its lock, and what an earlier proxy may have left running in it.
//! - [`server`]: the binary, its version, its configuration, how the child is started and how it is told to end.
//!
//! This file watches over the child. It carries no request: workers connect to `socket_path` as to any other Redis, and
//! live through a restart of it as through a restart of any other.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

mod directory;
mod server;
#[cfg(test)]
mod tests;

use crate::config;
use directory::DataDirectory;
use server::{Ending, Server};

/// Between a death and the next start; doubled each time, until the child has lived for `STEADY`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(30);

/// Why there is no embedded Redis. The texts are for whoever started the proxy.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error(
        "{binary} is not installed; install redis-server or valkey-server 6.2 or newer, or set upstream.mode = \"single\""
    )]
    Missing { binary: String },
    #[error("{binary} is version {found}, expected 6.2 or newer")]
    TooOld { binary: String, found: String },
    #[error("{binary} does not say that it is a redis-server or valkey-server: `{binary} --version` printed {said:?}")]
    Stranger { binary: String, said: String },
    #[error(
        "{directory} is in use by another proxy (pid {holder}); give each proxy an upstream.embedded.data_dir of its own"
    )]
    InUse { directory: PathBuf, holder: String },
    #[error("others may write to {directory}: `chmod go-w` it, or choose another upstream.embedded.data_dir")]
    Exposed { directory: PathBuf },
    #[error("{socket} is too long for the path of a unix socket; choose a shorter upstream.embedded.data_dir")]
    PathTooLong { socket: PathBuf },
    #[error(
        "{directory} is still in use by a redis-server (pid {pid}) that an earlier proxy left and that does not end"
    )]
    Orphan { directory: PathBuf, pid: String },
    #[error("{binary} ended before it was ready ({how}); the end of {log}:\n{tail}")]
    Died {
        binary: String,
        how: String,
        log: PathBuf,
        tail: String,
    },
    #[error("{what}: {source}")]
    System { what: String, source: io::Error },
}

/// Where the one of that directory listens, if it runs.
pub fn socket_in(data_dir: &Path) -> PathBuf {
    data_dir.join("redis.sock")
}

/// A running embedded Redis. Dropped, it tells the child to end, but only `stop` waits until it has.
pub struct Embedded {
    socket: PathBuf,
    stop: DropGuard,
    ended: oneshot::Receiver<()>,
}

// The child's life:
//   1. `start` claims the directory, ends what an earlier proxy left there, and waits until the new child answers.
//   2. A thread of its own forks it and stays with it: on Linux the kernel ends the child when the thread that forked
//      it ends, however it ends (SIGKILL of the proxy too), and a worker's thread might end before the proxy does.
//   3. A child that dies is started again after a pause that doubles.
//   4. `stop` sends SIGTERM, waits, and sends SIGKILL to one that does not end. Only then is the lock given up.
impl Embedded {
    /// Returns once Redis answers; with a large append-only file that takes as long as it takes to load.
    pub async fn start(settings: &config::Embedded) -> Result<Self, EmbeddedError> {
        let directory = DataDirectory::claim(&settings.data_dir)?;
        let server = Server::find(&settings.binary, directory)?;
        server.directory.end_orphan().await?;
        let socket = server.directory.socket();
        let token = CancellationToken::new();
        let (stop, stopping) = (token.clone().drop_guard(), token);
        let (ready, is_ready) = oneshot::channel();
        let (has_ended, ended) = oneshot::channel();
        let watch = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(watch(server, ready, stopping)),
                Err(source) => drop(ready.send(Err(system("the embedded Redis's thread", source)))),
            }
            drop(has_ended);
        };
        let thread = thread::Builder::new().name("embedded".to_owned()).spawn(watch);
        thread.map_err(|source| system("the embedded Redis's thread", source))?;
        let lost = |_| system("the embedded Redis's thread", io::ErrorKind::BrokenPipe.into());
        is_ready.await.map_err(lost)??;
        Ok(Self { socket, stop, ended })
    }

    /// Where it listens, from the first start to the last.
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    /// Ends it cleanly, and returns when it has ended.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await; // an error: the other end was dropped, which is what is waited for
    }
}

/// Starts the child again and again, until it is told to stop or the first start fails.
async fn watch(server: Server, ready: oneshot::Sender<Result<(), EmbeddedError>>, stop: CancellationToken) {
    let mut ready = Some(ready);
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let ending = live(&server, &mut ready, &stop).await;
        let error = match ending {
            Ok(Ending::Asked) => return,
            Ok(Ending::Died(how)) => server.died(how),
            Err(error) => error,
        };
        if let Some(ready) = ready.take() {
            let _ = ready.send(Err(error)); // nobody waits any more: whoever did has given up
            return;
        }
        if begun.elapsed() >= STEADY {
            pause = FIRST_PAUSE;
        }
        warn!(%error, pause_ms = pause.as_millis(), "embedded redis died, starting it again");
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One life of the child, from its start to its end.
async fn live(
    server: &Server,
    ready: &mut Option<oneshot::Sender<Result<(), EmbeddedError>>>,
    stop: &CancellationToken,
) -> Result<Ending, EmbeddedError> {
    let mut child = server.spawn()?;
    let begun = Instant::now();
    let announced = async {
        server.until_it_answers().await;
        info!(socket = %server.directory.socket().display(), version = %server.version, startup_ms = begun.elapsed().as_millis(),
            "embedded redis is ready");
        if let Some(ready) = ready.take() {
            let _ = ready.send(Ok(()));
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        never = announced => match never {},
        status = child.wait() => Ok(Ending::Died(status.map_or_else(|error| error.to_string(), |status| status.to_string()))),
        () = stop.cancelled() => {
            server::end(&mut child).await;
            Ok(Ending::Asked)
        }
    }
}

fn system(what: impl Into<String>, source: io::Error) -> EmbeddedError {
    EmbeddedError::System {
        what: what.into(),
        source,
    }
}
