//! One thread of the proxy: its runtime, its listener, its connections to Redis, its clients.
//!
//! All state of a worker is one [`Hub`], which does no I/O of its own accord; the tasks here carry bytes in and out:
//!
//! - one task a client and one a pipe wait until their socket can be read, and hand in what came;
//! - the flusher runs once a turn, behind all tasks that had something to read: what they gathered goes to Redis in one
//!   write, what came back goes to each client in one write;
//! - the clock task sleeps until somebody's patience ends or a job falls due.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::asker::ClientKey;
use crate::hub::{Hub, Line, Mail, Shared};
use crate::session::Peer;
use crate::stream::Stream;
use crate::upstream::link::{self, Greeting, LinkError};
use crate::upstream::topology::Doubt;

/// Bytes of one read, at most. One buffer serves all sockets of a worker.
const READ: usize = 64 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// After a stop: what is under way may end for so long.
const DRAIN: Duration = Duration::from_secs(5);

/// What a worker listens on.
pub struct Listeners {
    pub tcp: Vec<std::net::TcpListener>,
    pub unix: Option<std::os::unix::net::UnixListener>,
}

struct Worker {
    hub: RefCell<Hub>,
    scratch: RefCell<Box<[u8]>>,
    shared: Arc<Shared>,
}

/// Runs until `stop`, then until what is under way has ended.
pub fn run(
    number: usize,
    shared: Arc<Shared>,
    listeners: Listeners,
    mail: mpsc::UnboundedReceiver<Mail>,
    stop: CancellationToken,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let worker = Rc::new(Worker {
        hub: RefCell::new(Hub::new(number, shared.clone())?),
        scratch: RefCell::new(vec![0; READ].into_boxed_slice()),
        shared,
    });
    local.block_on(&runtime, worker.run(listeners, mail, stop))
}

impl Worker {
    async fn run(
        self: Rc<Self>,
        listeners: Listeners,
        mail: mpsc::UnboundedReceiver<Mail>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        for listener in listeners.tcp {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            tokio::task::spawn_local(self.clone().accept_tcp(listener, stop.clone()));
        }
        if let Some(listener) = listeners.unix {
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            tokio::task::spawn_local(self.clone().accept_unix(listener, stop.clone()));
        }
        tokio::task::spawn_local(self.clone().flush());
        tokio::task::spawn_local(self.clone().keep_time());
        tokio::task::spawn_local(self.clone().read_mail(mail));
        tokio::task::spawn_local(self.clone().open_pipes());
        tokio::task::spawn_local(self.clone().follow_topology());
        stop.cancelled().await;
        self.hub.borrow_mut().drain();
        let deadline = Instant::now() + DRAIN;
        while !self.hub.borrow().is_drained() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// A pipe is opened when the first request needs it; the queues' as soon as their primary is known.
    async fn open_pipes(self: Rc<Self>) {
        loop {
            let new = poll_fn(|cx| self.hub.borrow_mut().poll_new_pipes(cx)).await;
            for index in new {
                tokio::task::spawn_local(self.clone().serve_pipe(index));
            }
        }
    }

    async fn follow_topology(self: Rc<Self>) {
        let mut topology = self.shared.topology.clone();
        loop {
            topology.changed().await;
            self.hub.borrow_mut().follow();
        }
    }

    async fn accept_tcp(self: Rc<Self>, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit_tcp(stream, peer),
                Err(error) => pause_after(&error).await,
            }
        }
    }

    fn admit_tcp(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        let _ = stream.set_nodelay(true); // slower without, but it works
        let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(300));
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        self.admit(Stream::Tcp(stream), Peer::tcp(peer, local));
    }

    async fn accept_unix(self: Rc<Self>, listener: UnixListener, stop: CancellationToken) {
        let path: Arc<str> = match listener.local_addr() {
            Ok(address) => address
                .as_pathname()
                .map_or("".into(), |path| path.display().to_string().into()),
            Err(_) => "".into(),
        };
        loop {
            let accepted: io::Result<(UnixStream, _)> = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => self.admit(Stream::Unix(stream), Peer::Unix(path.clone())),
                Err(error) => pause_after(&error).await,
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: Stream, peer: Peer) {
        let stream = Rc::new(stream);
        let admitted = self.hub.borrow_mut().admit(stream.clone(), peer);
        match admitted {
            Ok(key) => {
                tokio::task::spawn_local(self.clone().serve_client(key, stream));
            }
            Err(refusal) => {
                let _ = stream.try_write(refusal.as_bytes()); // it goes either way
            }
        }
    }

    /// Until the client goes, or is told to.
    async fn serve_client(self: Rc<Self>, key: ClientKey, stream: Rc<Stream>) {
        loop {
            let go_on = poll_fn(|cx| {
                let mut hub = self.hub.borrow_mut();
                let Some(wish) = hub.client_wish(key, cx.waker()) else {
                    return Poll::Ready(false);
                };
                if wish.write && stream.poll_write_ready(cx).is_ready() {
                    hub.client_writable(key);
                }
                if wish.read && stream.poll_read_ready(cx).is_ready() {
                    return Poll::Ready(true);
                }
                Poll::Pending
            })
            .await;
            if !go_on || !self.read_client(key, &stream) {
                break;
            }
        }
        self.hub.borrow_mut().hang_up(key);
    }

    /// False: the connection is lost.
    fn read_client(self: &Rc<Self>, key: ClientKey, stream: &Stream) -> bool {
        let mut scratch = self.scratch.borrow_mut();
        match stream.try_read(&mut scratch) {
            Ok(0) => self.hub.borrow_mut().client_ended(key),
            Ok(n) => self.hub.borrow_mut().client_sent(key, &scratch[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
        true
    }

    /// Connects, serves until the connection is lost, and again, until nothing needs it any more.
    async fn serve_pipe(self: Rc<Self>, index: usize) {
        let line = self.hub.borrow().line(index);
        let name = self.hub.borrow().name().to_owned();
        let mut pause = FIRST_PAUSE;
        loop {
            let unneeded = poll_fn(|cx| self.hub.borrow_mut().poll_unneeded(index, cx));
            let connected = tokio::select! {
                connected = self.connect(&line, &name) => connected,
                () = unneeded => break,
            };
            let goes_on = match connected {
                Ok(stream) => {
                    pause = FIRST_PAUSE;
                    self.serve_connection(index, &line, &name, stream).await
                }
                Err(error) => {
                    let trouble = self.hub.borrow_mut().pipe_trouble(index, &error);
                    if trouble.is_news {
                        warn!(worker = name, redis = %line.endpoint, error = error.in_full(), "redis cannot be used");
                    }
                    trouble.goes_on
                }
            };
            if !goes_on {
                return;
            }
            self.shared.topology.doubt(Doubt::Lost);
            let unneeded = poll_fn(|cx| self.hub.borrow_mut().poll_unneeded(index, cx));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = unneeded => break,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.hub.borrow_mut().remove_pipe(index);
    }

    async fn connect(&self, line: &Line, name: &str) -> Result<Stream, LinkError> {
        let greeting = Greeting {
            kind: line.kind,
            name,
            scripts: line.calls.then_some(&*self.shared.scripts),
            channels: &line.channels,
        };
        link::connect(&line.endpoint, &self.shared.config, &greeting).await
    }

    /// Until the connection is lost. False: another one is not needed.
    async fn serve_connection(self: &Rc<Self>, index: usize, line: &Line, name: &str, stream: Stream) -> bool {
        let stream = Rc::new(stream);
        self.hub.borrow_mut().pipe_up(index, stream.clone());
        if line.calls {
            info!(worker = name, redis = %line.endpoint, "connected to redis");
        }
        let error = self.read_pipe(index, &stream).await;
        match error {
            LinkError::Unneeded => info!(worker = name, redis = %line.endpoint, "connection to redis closed"),
            _ => warn!(worker = name, redis = %line.endpoint, error = error.in_full(), "connection to redis lost"),
        }
        self.hub.borrow_mut().pipe_down(index, &error)
    }

    async fn read_pipe(self: &Rc<Self>, index: usize, stream: &Stream) -> LinkError {
        loop {
            let ready = poll_fn(|cx| {
                let mut hub = self.hub.borrow_mut();
                let wish = match hub.pipe_wish(index, cx.waker()) {
                    Ok(wish) => wish,
                    Err(error) => return Poll::Ready(Err(error)),
                };
                if wish.write && stream.poll_write_ready(cx).is_ready() {
                    hub.pipe_writable(index);
                }
                stream.poll_read_ready(cx).map_err(LinkError::Lost)
            });
            if let Err(error) = ready.await {
                return error;
            }
            let mut scratch = self.scratch.borrow_mut();
            match stream.try_read(&mut scratch) {
                Ok(0) => return LinkError::Lost(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    if !self.hub.borrow_mut().pipe_received(index, &scratch[..n]) {
                        return LinkError::NotRedis;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return LinkError::Lost(error),
            }
        }
    }

    /// Once a turn, behind everything that was ready to be read in it.
    async fn flush(self: Rc<Self>) {
        loop {
            poll_fn(|cx| self.hub.borrow_mut().poll_flush(cx)).await;
        }
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            let next = poll_fn(|cx| self.hub.borrow_mut().poll_next_tick(cx)).await;
            let changed = poll_fn(|cx| self.hub.borrow_mut().poll_earlier_tick(next, cx));
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => self.hub.borrow_mut().tick(Instant::now()),
                () = changed => {}
            }
        }
    }

    async fn read_mail(self: Rc<Self>, mut mail: mpsc::UnboundedReceiver<Mail>) {
        while let Some(mail) = mail.recv().await {
            // The sockets first: a client that went before this was sent must be known to be gone, or a job would be
            // written to it.
            tokio::task::yield_now().await;
            self.hub.borrow_mut().read_mail(mail);
        }
    }
}

/// Out of file descriptors, most likely: a loop that goes on at once would only burn.
async fn pause_after(error: &io::Error) {
    warn!(%error, "cannot accept a client");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
