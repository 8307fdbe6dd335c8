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
use crate::config::Endpoint;
use crate::hub::{EARS, Hub, Mail, QUEUES, Shared};
use crate::session::Peer;
use crate::stream::Stream;
use crate::upstream::link::{self, Greeting, LinkError, PipeKind};
use crate::upstream::topology::Topology;

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
        self.open_wanted_pipes();
        stop.cancelled().await;
        self.hub.borrow_mut().drain();
        let deadline = Instant::now() + DRAIN;
        while !self.hub.borrow().is_drained() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// A pipe is opened when the first request needs it; the queues' at the start.
    fn open_wanted_pipes(self: &Rc<Self>) {
        let wanted = self.hub.borrow_mut().take_new_pipes();
        for (index, kind) in wanted {
            tokio::task::spawn_local(self.clone().serve_pipe(index, kind));
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
        drop(scratch);
        self.open_wanted_pipes();
        true
    }

    /// Connects, serves until the connection is lost, and again.
    async fn serve_pipe(self: Rc<Self>, index: usize, kind: PipeKind) {
        let mut pause = FIRST_PAUSE;
        let name = self.hub.borrow().name().to_owned();
        let channel = self.hub.borrow().wake_channel();
        let mut topology = self.shared.topology.clone();
        loop {
            let greeting = Greeting {
                kind,
                name: &name,
                scripts: (index == QUEUES).then_some(&*self.shared.scripts),
                channel: (index == EARS).then_some(&*channel),
            };
            let primary = topology.primary().ok();
            match self.connect(primary.as_ref(), &greeting).await {
                Ok(stream) => {
                    pause = FIRST_PAUSE;
                    let stream = Rc::new(stream);
                    self.hub.borrow_mut().pipe_up(index, stream.clone());
                    if index == QUEUES {
                        info!(worker = name, "connected to redis");
                    }
                    let error = tokio::select! {
                        error = self.read_pipe(index, &stream) => error,
                        () = topology.other_than(primary.as_ref()) => LinkError::Moved,
                    };
                    warn!(worker = name, error = error.in_full(), "connection to redis lost");
                    self.hub.borrow_mut().pipe_down(index, error.to_string());
                }
                Err(error) => {
                    if self.hub.borrow_mut().pipe_trouble(index, error.to_string()) {
                        warn!(worker = name, error = error.in_full(), "redis cannot be used");
                    }
                }
            }
            self.find_primary(&mut topology, primary.as_ref(), pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self, primary: Option<&Endpoint>, greeting: &Greeting<'_>) -> Result<Stream, LinkError> {
        match primary {
            Some(primary) => link::connect(primary, &self.shared.config, greeting).await,
            None => Err(LinkError::NoPrimary),
        }
    }

    /// After a failure: the same primary again after a pause, or another one as soon as it is known.
    async fn find_primary(&self, topology: &mut Topology, old: Option<&Endpoint>, pause: Duration) {
        topology.doubt();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = topology.other_than(old) => {}
        }
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
