//! The clients' side: bytes become requests, each request is planned and goes its way, replies are written in order.
//!
//! ```text
//!  bytes ─▶ scanner ─▶ plan ─▶ ┬ local: answered here
//!                              ├ queue: parsed, laid in its lane
//!                              └ forward: onto the pipe to Redis
//! ```

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::pipes::Target;
use super::{Hub, Mail, write_some};
use crate::asker::{Asker, ClientKey};
use crate::client::replies::Replies;
use crate::command::CommandId;
use crate::local::client::Buffers;
use crate::local::{self, Effect, Facts};
use crate::plan::{Forward, Plan, Planned, Rules, Splice, plan};
use crate::queue::operation::{QueueName, Return};
use crate::queue::parse::parse;
use crate::queue::reply::Reply;
use crate::resp::scanner::{Limits, Scan, Scanner};
use crate::resp::{Protocol, ReplyWriter, Request};
use crate::session::{Peer, Session};
use crate::stream::Stream;
use crate::upstream::link::PipeKind;
use crate::upstream::pipe::Repeat;

const DENIED: &str = "-DENIED Millrace is running in protected mode because no users are configured. In this mode only \
                      connections from the loopback interface and the unix socket are accepted. To connect from other \
                      computers add users under [auth] in the configuration.\r\n";
const FULL: &str = "-ERR max number of clients reached\r\n";
const DRAINING: &str = "-ERR the proxy is shutting down\r\n";

/// Jobs that a reply hands out, should it not reach the socket.
#[derive(Debug)]
pub(super) struct Delivery {
    queue: QueueName,
    returns: Vec<Return>,
}

pub(super) struct Client {
    pub generation: u32,
    pub session: Session,
    stream: Rc<Stream>,
    pub replies: Replies<Box<Delivery>>,
    /// What has come and could not be served yet.
    held: Option<Box<Held>>,
    /// Wakes the task that reads it.
    waker: Option<Waker>,
    dirty: bool,
    /// Its socket took no more.
    blocked: bool,
    close: Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    No,
    /// Nothing more is read; it closes when its requests have their replies.
    WhenDone,
    Now,
}

/// Part of a request, or requests that must wait until the client's earlier ones are answered.
#[derive(Default)]
struct Held {
    buffer: BytesMut,
    scanner: Scanner,
}

/// What a client's task should wait for.
pub struct Wish {
    pub read: bool,
    pub write: bool,
}

impl Hub {
    /// A new connection; `Err`: it is not wanted, and this is what it is told.
    pub fn admit(&mut self, stream: Rc<Stream>, peer: Peer) -> Result<ClientKey, &'static str> {
        self.now = Instant::now();
        let shared = &self.shared;
        let connected: u64 = shared.counters.iter().map(|counters| counters.clients.value()).sum();
        let refusal = match () {
            () if shared.users.are_open() && !stream.is_local() => Some(DENIED),
            () if connected >= shared.config.limits.max_clients as u64 => Some(FULL),
            () if self.draining => Some(DRAINING),
            () => None,
        };
        if let Some(refusal) = refusal {
            self.counters.refused_clients.add(1);
            return Err(refusal);
        }
        let id = shared.next_client.fetch_add(1, Relaxed);
        self.generation = self.generation.wrapping_add(1);
        let index = self.clients.insert(Client {
            generation: self.generation,
            session: Session::new(id, peer, &shared.users, self.now),
            stream,
            replies: Replies::default(),
            held: None,
            waker: None,
            dirty: false,
            blocked: false,
            close: Close::No,
        });
        self.counters.connections.add(1);
        self.counters.clients.set(self.clients.len() as u64);
        Ok(ClientKey {
            index: index as u32,
            generation: self.generation,
        })
    }

    pub(super) fn client(&mut self, key: ClientKey) -> Option<&mut Client> {
        self.clients
            .get_mut(key.index as usize)
            .filter(|client| client.generation == key.generation)
    }

    /// What to wait for; `None`: it is to be closed.
    pub fn client_wish(&mut self, key: ClientKey, waker: &Waker) -> Option<Wish> {
        let pipeline = self.shared.config.limits.client_pipeline;
        let client = self.client(key)?;
        if !client.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            client.waker = Some(waker.clone());
        }
        let done = client.replies.open_requests() == 0 && client.replies.unsent().is_empty();
        if client.close == Close::Now || client.close == Close::WhenDone && done {
            return None;
        }
        Some(Wish {
            read: client.close == Close::No && client.replies.open_requests() < pipeline && !client.blocked,
            write: client.blocked,
        })
    }

    pub fn client_writable(&mut self, key: ClientKey) {
        if let Some(client) = self.client(key) {
            client.blocked = false;
            self.mark(key.index);
        }
    }

    /// The client is gone. What it was to get and did not get goes back.
    pub fn hang_up(&mut self, key: ClientKey) {
        if self.client(key).is_none() {
            return;
        }
        let mut client = self.clients.remove(key.index as usize);
        self.counters.clients.set(self.clients.len() as u64);
        for ticket in client.replies.waiting() {
            self.queues.forget(Asker { client: key, ticket });
        }
        let now = Instant::now();
        for delivery in client.replies.undelivered() {
            self.queues.give_back(&delivery.queue, delivery.returns, now);
        }
        self.want_flush();
    }

    /// Bytes from a client.
    pub fn client_sent(&mut self, key: ClientKey, input: &[u8]) {
        self.now = Instant::now();
        self.counters.bytes_in.add(input.len() as u64);
        let Some(client) = self.client(key) else { return };
        match client.held.take() {
            Some(mut held) => {
                held.buffer.extend_from_slice(input);
                self.serve_held(key, held);
            }
            None => {
                let mut scanner = std::mem::take(&mut self.scanner);
                let served = self.serve(key, input, &mut scanner);
                if served < input.len() {
                    let held = Held {
                        buffer: BytesMut::from(&input[served..]),
                        scanner,
                    };
                    if let Some(client) = self.client(key) {
                        client.held = Some(Box::new(held));
                    }
                } else {
                    self.scanner = scanner;
                }
            }
        }
        self.want_flush();
    }

    fn serve_held(&mut self, key: ClientKey, mut held: Box<Held>) {
        let served = self.serve(key, &held.buffer, &mut held.scanner);
        held.buffer.advance(served);
        if !held.buffer.is_empty()
            && let Some(client) = self.client(key)
        {
            client.held = Some(held);
        }
    }

    /// Serves the requests at the start of `input`; how many bytes they had. Ends early when the client has as many
    /// requests open as it may have, or is to be closed.
    fn serve(&mut self, key: ClientKey, input: &[u8], scanner: &mut Scanner) -> usize {
        let limits = &self.shared.config.limits;
        let (pipeline, known) = (
            limits.client_pipeline,
            Limits::new(limits.max_arguments, limits.max_request),
        );
        let mut served = 0;
        while served < input.len() {
            let Some(client) = self.client(key) else {
                return input.len();
            };
            if client.close != Close::No {
                return input.len();
            }
            if client.replies.open_requests() >= pipeline {
                return served;
            }
            let limits = match client.session.user {
                Some(_) => known,
                None => Limits::unauthenticated(),
            };
            match scanner.scan(&input[served..], &limits) {
                Ok(Scan::Incomplete { .. }) => return served,
                Ok(Scan::Nothing { len }) => served += len,
                Ok(Scan::Request { len }) => {
                    self.request(key, Request::new(&input[served..served + len], scanner.spans()));
                    served += len;
                }
                Ok(Scan::Inline { len, request }) => {
                    self.request(key, request.as_request());
                    served += len;
                }
                Err(fault) => {
                    *scanner = Scanner::default(); // it is the worker's: the next client's bytes are no part of this fault
                    let ticket = client.replies.open(false);
                    client.close = Close::WhenDone;
                    let asker = Asker { client: key, ticket };
                    self.answer_error(asker, fault.to_string().as_bytes());
                    return input.len();
                }
            }
        }
        served
    }

    /// One request: planned, and sent on its way.
    fn request(&mut self, key: ClientKey, request: Request<'_>) {
        let shared = self.shared.clone();
        let own_keys = format_own_keys(&shared.config.prefix);
        let rules = Rules {
            table: &shared.table,
            own_keys: Some(&own_keys),
        };
        let out_of_memory = request.raw().len() > 1024 && self.is_out_of_memory();
        let now = self.now;
        self.counters.requests.add(1);
        let Some(client) = self.client(key) else { return };
        let Planned { command, plan } = plan(request, &client.session, &rules);
        client.session.begin(command, now);
        if let Plan::Local(local) = plan {
            return self.serve_locally(key, local, request);
        }
        let muted = client.session.mutes_reply();
        let pipelined = client.replies.open_requests() > 0;
        let asker = Asker {
            client: key,
            ticket: client.replies.open(muted),
        };
        if out_of_memory {
            return self.answer_error(
                asker,
                b"OOM the proxy buffers as much as limits.memory allows, try again later",
            );
        }
        match plan {
            Plan::Queue(verb) => match parse(verb, request, shared.config.limits.max_payload) {
                Ok(ask) => self.queues.ask(asker, ask, pipelined, now),
                Err(refusal) => self.answer_error(asker, refusal.as_bytes()),
            },
            Plan::Forward(how) => self.forward(asker, command, how, None, request),
            Plan::Splice(splice, how) => self.forward(asker, command, how, Some(Box::new(splice)), request),
            Plan::Refuse(refusal) => self.answer_error(asker, refusal.text()),
            Plan::Local(_) => {}
        }
    }

    fn forward(
        &mut self,
        asker: Asker,
        command: Option<CommandId>,
        how: Forward,
        splice: Option<Box<Splice>>,
        request: Request<'_>,
    ) {
        let Some(client) = self.client(asker.client) else {
            return;
        };
        let kind = PipeKind {
            protocol: client.session.protocol,
            database: client.session.database,
        };
        let index = self.pipe_for(kind);
        let repeat = match how.readonly {
            true => Repeat::Safe,
            false => Repeat::Unsafe,
        };
        let target = Target::Client { asker, command, splice };
        let now = self.now;
        self.pipes[index].pipe.send(target, repeat, now, |out| {
            out.extend_from_slice(request.raw());
        });
    }

    fn serve_locally(&mut self, key: ClientKey, local: crate::command::Local, request: Request<'_>) {
        let shared = self.shared.clone();
        let now = self.now;
        let Some(client) = self.client(key) else { return };
        let facts = Facts {
            table: &shared.table,
            users: &shared.users,
            redis_version: &shared.redis_version,
            cluster: false,
            databases: shared.databases,
            now,
            buffers: client.buffers(),
        };
        let mut out = BytesMut::new();
        let effect = local::reply(local, request, &mut client.session, &facts, &mut out);
        let muted = client.session.mutes_reply();
        let protocol = client.session.protocol;
        let asker = Asker {
            client: key,
            ticket: client.replies.open(muted),
        };
        match effect {
            Effect::None => {}
            Effect::Close => client.close = Close::WhenDone,
            Effect::Info(sections) => {
                let numbers = shared.numbers();
                local::info::write(sections, &numbers, &mut ReplyWriter::new(&mut out, protocol));
            }
            Effect::ListClients(filter) => return self.list_clients(asker, filter),
            Effect::KillClients(filter, form) => return self.kill_clients(asker, filter, form),
        }
        self.answer(asker, |reply, _| {
            reply.extend_from_slice(&out);
            None
        });
    }

    /// Lays a reply down for its client. `write` may say what it hands out.
    pub(super) fn answer(
        &mut self,
        asker: Asker,
        write: impl FnOnce(&mut BytesMut, Protocol) -> Option<Box<Delivery>>,
    ) {
        let Some(client) = self.client(asker.client) else {
            return;
        };
        let protocol = client.session.protocol;
        client.replies.answer(asker.ticket, |out| write(out, protocol));
        self.mark(asker.client.index);
    }

    pub(super) fn answer_error(&mut self, asker: Asker, text: &[u8]) {
        self.answer(asker, |out, protocol| {
            ReplyWriter::new(out, protocol).error(text);
            None
        });
    }

    /// The answer to a queue command. Jobs whose client is gone go back at once.
    pub(super) fn answer_queue(&mut self, asker: Asker, reply: Reply) {
        let delivery = match &reply {
            Reply::Jobs(popped) => Some(Box::new(Delivery {
                queue: popped.queue.clone(),
                returns: popped.returns(),
            })),
            _ => None,
        };
        let open = self
            .client(asker.client)
            .is_some_and(|client| client.close != Close::Now && client.replies.is_open(asker.ticket));
        if !open {
            if let Some(delivery) = delivery {
                self.queues.give_back(&delivery.queue, delivery.returns, self.now);
            }
            return;
        }
        self.note_latency_of(asker);
        self.answer(asker, |out, protocol| {
            reply.write(&mut ReplyWriter::new(out, protocol));
            delivery
        });
    }

    fn note_latency_of(&mut self, asker: Asker) {
        let now = self.now;
        let Some(client) = self.client(asker.client) else {
            return;
        };
        // Of a pipeline only the last command's name is known here; its time is what the client sees.
        let (command, since) = (client.session.command, client.session.active);
        self.note_latency(command, now.saturating_duration_since(since));
    }

    pub(super) fn note_latency(&self, command: Option<CommandId>, took: std::time::Duration) {
        if let Some(latencies) = command.and_then(|id| self.counters.latencies.get(id.index())) {
            latencies.record(took);
        }
    }

    fn mark(&mut self, index: u32) {
        let Some(client) = self.clients.get_mut(index as usize) else {
            return;
        };
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(index);
        }
        self.want_flush();
    }

    /// Each client that has something gets it in one write.
    pub(super) fn write_clients(&mut self) {
        let pipeline = self.shared.config.limits.client_pipeline;
        let output = self.shared.config.limits.client_output;
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(key) = self.key_of(index) else { continue };
            let Some(client) = self.client(key) else { continue };
            client.dirty = false;
            let was_full = client.held.is_some() || client.replies.open_requests() + 1 >= pipeline;
            let written = match client.blocked {
                true => 0,
                false => match write_some(&client.stream, client.replies.unsent()) {
                    Ok(written) => written,
                    Err(_) => {
                        client.close(Close::Now);
                        continue;
                    }
                },
            };
            client.replies.wrote(written);
            let left = client.replies.unsent().len();
            client.blocked = left > 0;
            if left > output {
                tracing::warn!(
                    client = client.session.id,
                    bytes = left,
                    "client reads too slowly, closing it"
                );
                client.close(Close::Now);
                continue;
            }
            let wake = client.blocked || client.close != Close::No || was_full;
            if wake && let Some(waker) = &client.waker {
                waker.wake_by_ref();
            }
            let resume = client.held.is_some() && client.replies.open_requests() < pipeline;
            self.counters.bytes_out.add(written as u64);
            if resume && let Some(held) = self.client(key).and_then(|client| client.held.take()) {
                self.serve_held(key, held);
                self.want_flush();
            }
        }
        // Serving what was held may have marked others.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    pub(super) fn close_when_done(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            client.close(Close::WhenDone);
        }
    }

    pub(super) fn close_now(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            client.close(Close::Now);
        }
    }

    pub(super) fn close_idle_clients(&mut self) {
        let Some(timeout) = self.shared.config.limits.idle_timeout else {
            return;
        };
        let now = self.now;
        for (_, client) in &mut self.clients {
            // A client that waits for a reply is not idle.
            if client.replies.open_requests() == 0 && now.saturating_duration_since(client.session.active) > timeout {
                client.close(Close::Now);
            }
        }
    }

    /// Bytes held for and from clients that have any to hold: those marked, and those that read slowly.
    pub(super) fn client_bytes(&self) -> usize {
        if self.clients.len() > 4096 {
            return 0; // looked at in `tick` only: see `CHECK`
        }
        self.clients
            .iter()
            .map(|(_, client)| {
                let held = client.held.as_ref().map_or(0, |held| held.buffer.len());
                held + client.replies.buffered()
            })
            .sum()
    }

    fn list_clients(&mut self, asker: Asker, filter: local::client::Filter) {
        let shared = self.shared.clone();
        let reply_to = self.mailbox();
        Mail::ask_all(&shared, reply_to, asker, super::mail::Question::List(filter));
    }

    fn kill_clients(&mut self, asker: Asker, filter: local::client::Filter, form: local::client::KillForm) {
        let shared = self.shared.clone();
        let reply_to = self.mailbox();
        Mail::ask_all(&shared, reply_to, asker, super::mail::Question::Kill(filter, form));
    }
}

impl Client {
    fn close(&mut self, close: Close) {
        self.close = close;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub fn buffers(&self) -> Buffers {
        let query = self.held.as_ref().map_or(0, |held| held.buffer.len());
        let output = self.replies.buffered();
        Buffers {
            query,
            output,
            memory: query + output + size_of::<Self>(),
            blocked: self.replies.open_requests() > 0,
        }
    }
}

/// How the proxy's own keys begin.
fn format_own_keys(prefix: &str) -> Vec<u8> {
    [prefix.as_bytes(), b":{"].concat()
}
