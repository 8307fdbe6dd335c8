//! Everything that one worker knows, in one place and on one thread: its clients, its pipes to Redis, its queues.
//!
//! Synchronous: what arrives is handed in, and what must go out waits here until the worker flushes, once a turn.
//!
//! - [`clients`]: who is connected, and how a client ends.
//! - [`requests`]: a client's bytes become requests, a request is planned and goes its way.
//! - [`answers`]: replies are laid down in the order of their requests and written.
//! - [`pipes`]: the connections to Redis: written, checked, made good.
//! - [`received`]: Redis's bytes become replies, a reply goes to whoever waits for it.
//! - [`routes`], [`detours`]: over which connection a request goes, and what becomes of it when that changes.
//! - [`ears`]: where wake-ups are heard.
//! - [`homes`]: a queue's requests go to the worker that is its home.
//! - [`mail`]: what other workers and the admin side ask of this one.

mod answers;
mod clients;
mod detours;
mod ears;
mod homes;
mod mail;
mod pipes;
mod received;
mod requests;
mod routes;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::asker::ClientKey;
use crate::command::Table;
use crate::config::{Config, Source};
use crate::counters::Counters;
use crate::local::Facts;
use crate::local::client::Buffers;
use crate::local::info::Numbers;
use crate::queue::queues::{Answer, Losses, Queues};
use crate::resp::scanner::Scanner;
use crate::script::Scripts;
use crate::session::Users;
use crate::stream::Stream;
use crate::upstream::topology::Topology;

pub use clients::Wish;
pub use mail::Mail;
pub use pipes::{Line, Trouble};

use clients::Client;
use detours::Detours;
use homes::Letter;
use pipes::{PipeState, Target};
use routes::Routes;

/// While anything is on its way to Redis, deadlines are looked at this often.
const CHECK: Duration = Duration::from_millis(100);

/// What all workers share, read without a lock.
pub struct Shared {
    pub config: Arc<Config>,
    pub scripts: Arc<Scripts>,
    pub table: Table,
    pub users: Users,
    pub redis_version: String,
    pub databases: u32,
    pub mode: &'static str,
    pub topology: Topology,
    pub started: Instant,
    /// One for each worker.
    pub counters: Vec<Arc<Counters>>,
    /// One for each worker: how the others reach it.
    pub mailboxes: Vec<mpsc::UnboundedSender<Mail>>,
    pub next_client: std::sync::atomic::AtomicU64,
    /// On their way between workers.
    pub parcels: std::sync::atomic::AtomicU64,
}

impl Shared {
    /// What local replies to one client are made from.
    fn facts(&self, now: Instant, buffers: Buffers) -> Facts<'_> {
        Facts {
            table: &self.table,
            users: &self.users,
            redis_version: &self.redis_version,
            cluster: matches!(self.config.upstream.source, Source::Cluster(_)),
            databases: self.databases,
            now,
            buffers,
        }
    }

    /// The counters of all workers, added up.
    pub fn numbers(&self) -> Numbers {
        let sum = |of: fn(&Counters) -> u64| self.counters.iter().map(|counters| of(counters)).sum();
        Numbers {
            uptime: self.started.elapsed(),
            workers: self.counters.len(),
            mode: self.mode,
            upstream_is_up: self.counters.iter().all(|counters| counters.upstream_up.value() == 1),
            clients: sum(|c| c.clients.value()),
            max_clients: self.config.limits.max_clients as u64,
            connections: sum(|c| c.connections.value()),
            requests: sum(|c| c.requests.value()),
            bytes_in: sum(|c| c.bytes_in.value()),
            bytes_out: sum(|c| c.bytes_out.value()),
            buffered_bytes: sum(|c| c.buffered_bytes.value()),
            blocked_pops: sum(|c| c.blocked_pops.value()),
            pushed: sum(|c| c.pushed.value()),
            popped: sum(|c| c.popped.value()),
            acked: sum(|c| c.acked.value()),
            nacked: sum(|c| c.nacked.value()),
            batches: sum(|c| c.batches.value()),
            batched: sum(|c| c.batched.value()),
            resent: sum(|c| c.resent.value()),
            lost: sum(|c| c.lost.value()),
        }
    }
}

pub struct Hub {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    number: usize,
    /// Names this worker in Redis, unlike any other worker's, ever.
    name: String,
    clients: Slab<Client>,
    generation: u32,
    /// Bytes held from and for clients: the sum of what each was last counted with.
    client_bytes: usize,
    /// Bytes that the other workers held when this one last flushed.
    held_elsewhere: usize,
    /// How the proxy's own keys begin.
    own_keys: Vec<u8>,
    pipes: Slab<PipeState>,
    routes: Routes,
    detours: Detours<Target>,
    /// Until when no subscription is asked for.
    ears_pause: Option<Instant>,
    /// When the first of those that are held for a crowd is written.
    pipes_held_until: Option<Instant>,
    /// Pipes that nobody serves yet.
    new_pipes: Vec<usize>,
    opener: Option<Waker>,
    queues: Queues,
    /// For each worker, what will be posted to it at the end of the turn. One's own stays empty.
    outboxes: Vec<Vec<Letter>>,
    /// For requests that arrive whole; one that does not takes it along.
    scanner: Scanner,
    /// Clients that have something to be written.
    dirty: Vec<u32>,
    answers: Vec<Answer>,
    flusher: Option<Waker>,
    flush_wanted: bool,
    timekeeper: Option<Waker>,
    checked: Instant,
    /// One clock reading a turn.
    now: Instant,
    draining: bool,
}

impl Hub {
    pub fn new(number: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (id, seed) = random.split_at(8);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let seed = seed.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let now = Instant::now();
        let is_cluster = matches!(shared.config.upstream.source, Source::Cluster(_));
        let mut hub = Self {
            counters: shared.counters[number].clone(),
            number,
            queues: Queues::new(shared.config.clone(), shared.scripts.clone(), hex.clone(), seed),
            name: format!("millrace-{hex}"),
            outboxes: shared.mailboxes.iter().map(|_| Vec::new()).collect(),
            own_keys: format!("{}:{{", shared.config.prefix).into_bytes(),
            shared,
            clients: Slab::new(),
            generation: 0,
            client_bytes: 0,
            held_elsewhere: 0,
            pipes: Slab::new(),
            routes: Routes::new(is_cluster),
            detours: Detours::default(),
            ears_pause: None,
            pipes_held_until: None,
            new_pipes: Vec::new(),
            opener: None,
            scanner: Scanner::default(),
            dirty: Vec::new(),
            answers: Vec::new(),
            flusher: None,
            flush_wanted: false,
            timekeeper: None,
            checked: now,
            now,
            draining: false,
        };
        if number == homes::KEEPER {
            hub.queues.keep_crons(now);
        }
        hub.follow();
        Ok(hub)
    }

    /// What this worker calls itself towards Redis.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs when the flusher is woken: everything that waits to go out goes.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flusher = Some(cx.waker().clone());
        if !self.flush_wanted {
            return Poll::Pending;
        }
        self.flush_wanted = false;
        self.end_detours();
        while self.queues.has_calls() || self.queues.has_answers() {
            self.send_calls();
            self.deliver_answers();
        }
        self.listen();
        self.post_letters();
        self.write_pipes();
        self.write_clients();
        self.note_gauges();
        if self.queues.has_calls() || self.queues.has_answers() {
            self.want_flush();
        }
        if let Some(timekeeper) = self.timekeeper.take() {
            timekeeper.wake();
        }
        Poll::Ready(())
    }

    /// Something waits to go out: the flusher runs behind all tasks that are ready now.
    fn want_flush(&mut self) {
        if !self.flush_wanted {
            self.flush_wanted = true;
            if let Some(flusher) = &self.flusher {
                flusher.wake_by_ref();
            }
        }
    }

    /// When the clock task should look again.
    pub fn poll_next_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        match self.next_tick() {
            Some(next) => Poll::Ready(next),
            None => {
                self.timekeeper = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ready when something is to happen sooner than `planned`.
    pub fn poll_earlier_tick(&mut self, planned: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.timekeeper = Some(cx.waker().clone());
        match self.next_tick() {
            Some(next) if next < planned => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    fn next_tick(&self) -> Option<Instant> {
        let has_work = |state: &PipeState| !state.pipe.is_empty() || !self.routes.node(state.node).owns;
        let busy =
            self.pipes.iter().any(|(_, state)| has_work(state)) || self.queues.is_waiting() || !self.detours.is_empty();
        let detour = self.detours.next_ripe(|slot| self.routes.is_free(slot));
        let check = busy.then(|| self.checked + CHECK);
        let idle = (self.shared.config.limits.idle_timeout.is_some() && !self.clients.is_empty())
            .then(|| self.checked + Duration::from_secs(1));
        let queues = self.queues.next_tick();
        let moves = [detour, self.next_leave(), self.next_listen()];
        [check, idle, self.pipes_held_until, queues]
            .into_iter()
            .chain(moves)
            .flatten()
            .min()
    }

    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        self.queues.tick(now);
        self.tell_losses();
        self.end_leave();
        if now >= self.checked + CHECK {
            self.checked = now;
            self.check_pipes();
            self.renew_ears();
            self.close_idle_clients();
        }
        self.want_flush();
    }

    /// No new requests are read; what is under way goes on, and pops that wait get nothing more.
    pub fn drain(&mut self) {
        self.draining = true;
        self.queues.end_waits();
        let keys: Vec<_> = self.clients.iter().map(|(index, _)| index).collect();
        for index in keys {
            self.close_when_done(index);
        }
        self.want_flush();
    }

    pub fn is_drained(&self) -> bool {
        // Others' clients may still wait for queues that are at home here.
        let clients: u64 = self
            .shared
            .counters
            .iter()
            .map(|counters| counters.clients.value())
            .sum();
        clients == 0 && self.shared.parcels.load(Relaxed) == 0 && !self.flush_wanted && !self.queues.is_waiting()
    }

    /// Redis has lost what it had acknowledged.
    fn tell_losses(&mut self) {
        let Some(Losses { resent, lost }) = self.queues.losses_to_tell(self.now) else {
            return;
        };
        match lost {
            0 => info!(
                resent,
                "redis had lost pushes that it had acknowledged, they were pushed again"
            ),
            _ => warn!(
                resent,
                lost, "redis has lost pushes that it had acknowledged, and not all could be pushed again"
            ),
        }
    }

    fn note_gauges(&mut self) {
        let counters = &self.counters;
        let tally = &self.queues.tally;
        counters.clients.set(self.clients.len() as u64);
        counters.blocked_pops.set(self.queues.blocked() as u64);
        counters.buffered_bytes.set(self.held_here() as u64);
        counters.pushed.set(tally.pushed);
        counters.popped.set(tally.popped);
        counters.acked.set(tally.acked);
        counters.waiting.set(self.waiting_requests() as u64);
        counters.nacked.set(tally.nacked);
        counters.batches.set(tally.batches);
        counters.batched.set(tally.batched);
        counters.resent.set(tally.resent);
        counters.lost.set(tally.lost);
        let everywhere: u64 = self.shared.counters.iter().map(|c| c.buffered_bytes.value()).sum();
        self.held_elsewhere = everywhere as usize - self.held_here();
    }

    fn key_of(&self, index: u32) -> Option<ClientKey> {
        Some(self.clients.get(index as usize)?.key(self.number, index))
    }

    /// Bytes of requests and replies on their way through this worker.
    fn held_here(&self) -> usize {
        let pipes = self.pipes.iter();
        let pipes: usize = pipes.map(|(_, state)| state.pipe.buffered() + state.input.len()).sum();
        pipes + self.detours.bytes() + self.queues.buffered() + self.client_bytes
    }

    /// Plain requests that wait for a primary, or for their slot to be served again.
    fn waiting_requests(&self) -> usize {
        let without = self.pipes.iter().filter(|(_, state)| !state.is_up());
        self.detours.len() + without.map(|(_, state)| state.pipe.len()).sum::<usize>()
    }

    /// Over `limits.memory`, all workers together.
    fn is_out_of_memory(&self) -> bool {
        self.held_here() + self.held_elsewhere > self.shared.config.limits.memory
    }
}

/// Writes until everything is written or the socket takes no more; how many bytes it took.
fn write_some(stream: &Rc<Stream>, mut bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(n) => {
                written += n;
                bytes = &bytes[n..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
