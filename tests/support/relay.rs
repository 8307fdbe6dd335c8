//! A TCP relay between two parties, which does to their connections what networks do to them: delay, stall, throttle, cut
//! them in the middle of what is said, reset them, or accept them and lead nowhere. All of it at the test's word, and
//! each order is done when its method returns.
//!
//! One thread owns all connections and sleeps in poll(2). An order is a closure that it runs between two turns, so that
//! nothing here is shared, and a connection is closed the moment that this is asked for.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::free_port;

/// Of one direction of one connection: more is left in the sender's kernel, as on a real line.
const HELD: usize = 256 * 1024;
/// A throttled line carries its share in so many pieces a second.
const PIECES: usize = 50;

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// From the party that connected to the one that was connected to.
    Up,
    Down,
}

pub struct Relay {
    port: u16,
    orders: Sender<Order>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

type Order = Box<dyn FnOnce(&mut Lines) + Send>;

impl Relay {
    /// Listens on a port of its own and leads to `target`.
    pub fn to(target: &str) -> Relay {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the relay's port is free");
        listener.set_nonblocking(true).expect("a listener can be nonblocking");
        let (wake, woken) = UnixStream::pair().expect("a pair of sockets");
        woken.set_nonblocking(true).expect("a socket can be nonblocking");
        let (orders, received) = mpsc::channel();
        let lines = Lines {
            listener,
            target: target.parse().expect("an address and a port"),
            leads_nowhere: false,
            up: Trouble::default(),
            down: Trouble::default(),
            lines: Vec::new(),
        };
        let thread = std::thread::spawn(move || lines.run(received, woken));
        Relay {
            port,
            orders,
            wake,
            thread: Some(thread),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What is said this way arrives so much later, in its order.
    pub fn delay(&self, way: Way, by: Duration) {
        self.order(move |lines| lines.trouble(way).delay = by);
    }

    /// As when it leads far away: both ways.
    pub fn lengthen(&self, by: Duration) {
        [Way::Up, Way::Down].into_iter().for_each(|way| self.delay(way, by));
    }

    /// Nothing goes this way any more, the ends of connections neither: to the other party it is as if this one had
    /// lost its power.
    pub fn stall(&self, way: Way) {
        self.order(move |lines| lines.trouble(way).stalled = true);
    }

    pub fn throttle(&self, way: Way, bytes_per_second: usize) {
        self.order(move |lines| lines.trouble(way).rate = Some(bytes_per_second));
    }

    /// Of the next piece of more than `bytes` bytes so many are carried; then its connection is reset. Once.
    pub fn cut(&self, way: Way, bytes: usize) {
        self.order(move |lines| lines.trouble(way).cut_after = Some(bytes));
    }

    /// Whether the cut that was ordered is still to come.
    pub fn will_cut(&self, way: Way) -> bool {
        self.order(move |lines| lines.trouble(way).cut_after.is_some())
    }

    /// New connections are accepted and never answered. Those that are there go on.
    pub fn lead_nowhere(&self) {
        self.order(|lines| lines.leads_nowhere = true);
    }

    /// New connections lead there, as when a name comes to stand for another machine. Those that are there go on.
    pub fn turn_to(&self, target: &str) {
        let target = target.parse().expect("an address and a port");
        self.order(move |lines| lines.target = target);
    }

    /// Resets every connection, whatever it holds.
    pub fn reset(&self) {
        self.order(|lines| lines.lines.drain(..).for_each(Line::reset));
    }

    /// The end of all trouble. What was held is carried; connections that led nowhere are reset.
    pub fn heal(&self) {
        self.order(|lines| {
            lines.leads_nowhere = false;
            lines.up = Trouble::default();
            lines.down = Trouble::default();
            let nowhere = lines.lines.extract_if(.., |line| line.server.is_none());
            nowhere.for_each(Line::reset);
        });
    }

    pub fn connections(&self) -> usize {
        self.order(|lines| lines.lines.len())
    }

    /// Runs `what` on the relay's thread and waits for what it says.
    fn order<T: Send + 'static>(&self, what: impl FnOnce(&mut Lines) -> T + Send + 'static) -> T {
        let (done, said) = mpsc::channel();
        let order = move |lines: &mut Lines| drop(done.send(what(lines)));
        self.orders.send(Box::new(order)).expect("the relay runs");
        (&self.wake).write_all(b"!").expect("the relay can be woken");
        said.recv().expect("the relay answers")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.wake.shutdown(std::net::Shutdown::Both); // it sees the end and goes
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the relay's thread panicked");
        }
    }
}

/// All that the thread knows.
struct Lines {
    listener: TcpListener,
    target: SocketAddr,
    leads_nowhere: bool,
    up: Trouble,
    down: Trouble,
    lines: Vec<Line>,
}

/// What one direction suffers.
#[derive(Clone, Copy, Default)]
struct Trouble {
    stalled: bool,
    delay: Duration,
    rate: Option<usize>,
    cut_after: Option<usize>,
}

/// One connection: two sockets and what is between them. Without a server it leads nowhere.
struct Line {
    client: TcpStream,
    server: Option<TcpStream>,
    up: Flow,
    down: Flow,
}

/// One direction of a connection.
#[derive(Default)]
struct Flow {
    /// What was read, and when it is due.
    held: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// Of a throttled line: when it carries the next piece.
    next: Option<Instant>,
    /// The sender has said all.
    ended: bool,
    closed: bool,
}

impl Lines {
    fn trouble(&mut self, way: Way) -> &mut Trouble {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    fn run(mut self, orders: Receiver<Order>, mut woken: UnixStream) {
        loop {
            self.wait(&woken);
            match woken.read(&mut [0; 64]) {
                Ok(0) => return,
                Ok(_) => orders.try_iter().for_each(|order| order(&mut self)),
                Err(_) => {} // nothing was ordered
            }
            self.accept();
            self.carry(Instant::now());
        }
    }

    fn wait(&self, woken: &UnixStream) {
        let now = Instant::now();
        let mut polled = vec![interest(woken.as_raw_fd(), true, false)];
        polled.push(interest(self.listener.as_raw_fd(), true, false));
        let mut due: Option<Instant> = None;
        for line in &self.lines {
            let Some(server) = &line.server else { continue };
            for (flow, trouble, from, to) in [
                (&line.up, &self.up, &line.client, server),
                (&line.down, &self.down, server, &line.client),
            ] {
                if trouble.stalled {
                    continue;
                }
                polled.push(interest(from.as_raw_fd(), flow.takes_more(), false));
                let Some(ready) = flow.ready_at() else { continue };
                polled.push(interest(to.as_raw_fd(), false, ready <= now));
                if ready > now {
                    due = Some(due.map_or(ready, |due| due.min(ready)));
                }
            }
        }
        // Rounded up, so that what is due then is due.
        let timeout = due.map_or(-1, |due| (due - now).as_millis() as libc::c_int + 1);
        // SAFETY: the array is alive and as long as is said; each descriptor is of a socket that is held here.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    }

    fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            let server = match self.leads_nowhere {
                true => None,
                false => match TcpStream::connect(self.target) {
                    Ok(server) => Some(server),
                    Err(_) => continue, // nobody is there: the client is closed
                },
            };
            for stream in std::iter::once(&client).chain(&server) {
                stream.set_nonblocking(true).expect("a socket can be nonblocking");
                stream.set_nodelay(true).expect("a socket takes nodelay");
            }
            self.lines.push(Line {
                client,
                server,
                up: Flow::default(),
                down: Flow::default(),
            });
        }
    }

    fn carry(&mut self, now: Instant) {
        let Lines { up, down, lines, .. } = self;
        lines.retain_mut(|line| line.carry(up, down, now));
    }
}

impl Line {
    /// False: it is over.
    fn carry(&mut self, up: &mut Trouble, down: &mut Trouble, now: Instant) -> bool {
        let Some(server) = &mut self.server else { return true };
        let goes_on =
            self.up.carry(&mut self.client, server, up, now) && self.down.carry(server, &mut self.client, down, now);
        goes_on && !(self.up.closed && self.down.closed)
    }

    /// Closed without a farewell: the parties are told ECONNRESET.
    fn reset(self) {
        for stream in std::iter::once(&self.client).chain(&self.server) {
            reset_on_close(stream);
        }
    }
}

fn reset_on_close(stream: &TcpStream) {
    let linger = Some(Duration::ZERO);
    socket2::SockRef::from(stream)
        .set_linger(linger)
        .expect("a socket can linger");
}

impl Flow {
    fn takes_more(&self) -> bool {
        !self.ended && self.bytes < HELD
    }

    /// When there is something to carry.
    fn ready_at(&self) -> Option<Instant> {
        let due = self.held.front().map(|(due, _)| *due)?;
        Some(self.next.map_or(due, |next| next.max(due)))
    }

    /// False: the connection is lost.
    fn carry(&mut self, from: &mut TcpStream, to: &mut TcpStream, trouble: &mut Trouble, now: Instant) -> bool {
        if trouble.stalled {
            return true;
        }
        self.read(from, trouble.delay, now) && self.write(to, trouble, now)
    }

    fn read(&mut self, from: &mut TcpStream, delay: Duration, now: Instant) -> bool {
        let mut chunk = [0; 16 * 1024];
        while self.takes_more() {
            match from.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    self.held.push_back((now + delay, chunk[..length].to_vec()));
                    self.bytes += length;
                }
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn write(&mut self, to: &mut TcpStream, trouble: &mut Trouble, now: Instant) -> bool {
        while self.ready_at().is_some_and(|ready| ready <= now) {
            let Some((due, mut piece)) = self.held.pop_front() else {
                break;
            };
            let cut = trouble.cut_after.filter(|bytes| *bytes < piece.len());
            let share = trouble.rate.map_or(piece.len(), |rate| (rate / PIECES).max(1));
            let length = cut.unwrap_or(share).min(piece.len());
            let written = match to.write(&piece[..length]) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            };
            if cut.is_some() {
                trouble.cut_after = None;
                reset_on_close(to);
                return false;
            }
            self.bytes -= written;
            if written < piece.len() {
                self.held.push_front((due, piece.split_off(written)));
            }
            self.next = trouble.rate.map(|_| now + Duration::from_secs(1) / PIECES as u32);
            if written < length {
                return true; // its socket is full
            }
        }
        if self.ended && self.held.is_empty() && !self.closed {
            self.closed = true;
            return to.shutdown(std::net::Shutdown::Write).is_ok();
        }
        true
    }
}

fn interest(fd: RawFd, read: bool, write: bool) -> libc::pollfd {
    let events = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
    // poll(2) tells of a lost connection whether or not it is asked to, and would at once, for ever.
    let fd = if events == 0 { -1 } else { fd };
    libc::pollfd { fd, events, revents: 0 }
}
