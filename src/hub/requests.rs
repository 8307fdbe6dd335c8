//! A client's bytes become requests; each request is planned and goes its way.
//!
//! ```text
//!  bytes ─▶ scanner ─▶ plan ─▶ ┬ local: answered here
//!                              ├ queue: parsed, laid in its queue's lane
//!                              └ forward: onto the pipe to Redis
//! ```
//!
//! A client that has enough open is served no further until some of it is done ([`Hub::has_enough`]): what it sent is
//! held, at most one read of it, and its socket is not read. What becomes of the replies is [`super::answers`]'.

use bytes::{Buf, BytesMut};

use super::Hub;
use super::clients::{Client, Close, Held};
use super::mail::{Mail, Question};
use super::pipes::Target;
use crate::asker::{Asker, ClientKey};
use crate::command::queue::Verb;
use crate::command::{CommandId, Local};
use crate::local::{self, Effect};
use crate::plan::{Forward, Plan, Planned, Rules, Splice, plan};
use crate::queue::names;
use crate::queue::operation::Operation;
use crate::queue::parse::{Ask, parse};
use crate::resp::scanner::{Limits, ProtocolError, Scan, Scanner};
use crate::resp::{ReplyWriter, Request};
use crate::upstream::link::PipeKind;
use crate::upstream::pipe::{Repeat, Unsent};

/// Replies that are made here cost next to nothing to ask for (`COMMAND` is answered with 200 KB): a client is served
/// no further while so many bytes of replies wait for its socket.
const OUTPUT_AHEAD: usize = 1 << 20;
/// While there is no memory left a client's request is not gathered beyond this.
const GATHERED_WITHOUT_MEMORY: usize = 64 * 1024;
const NO_MEMORY: &str = "OOM the proxy buffers as much as limits.memory allows, try again later";

impl Hub {
    /// Bytes from a client.
    pub fn client_sent(&mut self, key: ClientKey, input: &[u8]) {
        self.now = std::time::Instant::now();
        self.counters.bytes_in.add(input.len() as u64);
        let Some(client) = self.client(key) else { return };
        match client.held.take() {
            Some(mut held) => {
                held.buffer.extend_from_slice(input);
                self.serve_held(key, held);
            }
            None => self.serve_fresh(key, input),
        }
        self.recount(key.index);
        self.want_flush();
    }

    /// Most reads hold whole requests, which are served where they lie. What is left over is held.
    fn serve_fresh(&mut self, key: ClientKey, input: &[u8]) {
        let mut scanner = std::mem::take(&mut self.scanner);
        let served = self.serve(key, input, &mut scanner);
        if served == input.len() {
            self.scanner = scanner;
        } else {
            let buffer = BytesMut::from(&input[served..]);
            self.hold(key, Box::new(Held { buffer, scanner }));
        }
    }

    pub(super) fn serve_held(&mut self, key: ClientKey, mut held: Box<Held>) {
        let served = self.serve(key, &held.buffer, &mut held.scanner);
        held.buffer.advance(served);
        if !held.buffer.is_empty() {
            self.hold(key, held);
        }
    }

    fn hold(&mut self, key: ClientKey, held: Box<Held>) {
        let refused = held.buffer.len() > GATHERED_WITHOUT_MEMORY && self.is_out_of_memory();
        let Some(client) = self.client(key) else { return };
        if refused {
            // Where the request ends is not known before it is here, so nothing can be read after it.
            return self.refuse_bytes(key, NO_MEMORY);
        }
        client.held = Some(held);
    }

    /// As many requests open, or as many bytes of replies unread, as a client may have.
    pub(super) fn has_enough(&self, client: &Client) -> bool {
        client.replies.open_requests() >= self.shared.config.limits.client_pipeline
            || client.replies.unsent().len() > OUTPUT_AHEAD
    }

    /// Serves the requests at the start of `input`; how many bytes they had. Ends early when the client has enough.
    /// The bytes of one that is to be closed are thrown away.
    fn serve(&mut self, key: ClientKey, input: &[u8], scanner: &mut Scanner) -> usize {
        let limits = &self.shared.config.limits;
        let known = Limits::new(limits.max_arguments, limits.max_request);
        let mut served = 0;
        while served < input.len() {
            let client = self.clients.get(key.index as usize);
            let Some(client) = client.filter(|client| client.generation == key.generation && client.is_open()) else {
                return input.len();
            };
            if self.has_enough(client) {
                return served;
            }
            let limits = match client.session.user {
                Some(_) => known,
                None => Limits::unauthenticated(),
            };
            let rest = &input[served..];
            served += match scanner.scan(rest, &limits) {
                Ok(Scan::Incomplete { .. }) => return served,
                Ok(Scan::Nothing { len }) => len,
                Ok(Scan::Request { len }) => {
                    self.request(key, Request::new(&rest[..len], scanner.spans()));
                    len
                }
                Ok(Scan::Inline { len, request }) => {
                    self.request(key, request.as_request());
                    len
                }
                Err(fault) => {
                    *scanner = Scanner::default(); // it is the worker's: the next client's bytes are no part of this fault
                    self.refuse_fault(key, fault);
                    return input.len();
                }
            };
        }
        served
    }

    fn refuse_fault(&mut self, key: ClientKey, fault: ProtocolError) {
        self.refuse_bytes(key, &fault.to_string());
    }

    /// What came cannot be read as requests: the client is told so, behind its other replies, and closed.
    fn refuse_bytes(&mut self, key: ClientKey, text: &str) {
        let Some(client) = self.client(key) else { return };
        let muted = client.session.mutes_reply();
        let ticket = client.replies.open(muted, client.session.protocol);
        client.close(Close::WhenDone);
        self.answer_error(Asker { client: key, ticket }, text.as_bytes());
    }

    /// One request: planned, and sent on its way.
    fn request(&mut self, key: ClientKey, request: Request<'_>) {
        let now = self.now;
        self.counters.requests.add(1);
        let rules = Rules {
            table: &self.shared.table,
            own_keys: Some(&self.own_keys),
            cluster: self.routes.is_cluster(),
        };
        let Some(client) = self.clients.get_mut(key.index as usize) else {
            return;
        };
        let Planned { command, plan } = plan(request, &client.session, &rules);
        client.session.begin(command, now);
        if let Plan::Local(local) = plan {
            return self.serve_locally(key, local, request);
        }
        let muted = client.session.mutes_reply();
        let pipelined = client.replies.open_requests() > 0;
        let ticket = client.replies.open(muted, client.session.protocol);
        let asker = Asker { client: key, ticket };
        if !relieves(&plan) && self.is_out_of_memory() {
            return self.answer_error(asker, NO_MEMORY.as_bytes());
        }
        match plan {
            Plan::Queue(verb) => match parse(verb, request, self.shared.config.limits.max_payload) {
                Ok(ask) => {
                    self.unbind(key, &ask);
                    self.ask_queue(asker, ask, pipelined);
                }
                Err(refusal) => self.answer_error(asker, refusal.as_bytes()),
            },
            Plan::ScanQueues => self.scan_queues(asker, command, request),
            Plan::Forward(how) => self.forward(asker, command, how, None, request),
            Plan::Splice(splice, how) => self.forward(asker, command, how, Some(Box::new(splice)), request),
            Plan::Refuse(_) if command.is_none() && is_http(request) => self.close_as_attack(key),
            Plan::Refuse(refusal) => self.answer_error(asker, refusal.text()),
            Plan::Local(_) => {}
        }
    }

    /// In the queues' database, whichever the client has selected.
    fn scan_queues(&mut self, asker: Asker, command: Option<CommandId>, request: Request<'_>) {
        let is_cluster = self.routes.is_cluster();
        let scan = match names::parse(request, is_cluster) {
            Ok(scan) => scan,
            Err(refusal) => return self.answer_error(asker, refusal.as_bytes()),
        };
        // A slot that nobody owns is no reason to wait: there are no queues in it.
        let slot = match is_cluster {
            true => self
                .shared
                .topology
                .snapshot()
                .owned_from(scan.slot)
                .unwrap_or(scan.slot),
            false => 0,
        };
        let request = scan.request(&self.shared.config.prefix);
        let splice = Splice::QueueNames(scan.glob, slot);
        self.send_plain(
            asker,
            command,
            (slot, self.queue_kind()),
            Repeat::Safe,
            Some(Box::new(splice)),
            request.as_request(),
        );
    }

    /// What a client finishes or gives back does not go back once more when it leaves.
    fn unbind(&mut self, key: ClientKey, ask: &Ask) {
        let Ask::Settle { queue, operation } = ask else { return };
        let claims = match operation {
            Operation::Ack(claims) => claims,
            Operation::Finish(finish) => &finish.claims,
            Operation::Nack(nack) => &nack.claims,
            _ => return,
        };
        if let Some(bound) = self.client(key).and_then(|client| client.bound.as_mut()) {
            for claim in claims {
                bound.remove(queue, claim.partition, claim.job);
            }
        }
    }

    /// A web page can make a browser send HTTP here, with lines of its own choosing in it. Redis closes at these words.
    fn close_as_attack(&mut self, key: ClientKey) {
        let Some(client) = self.client(key) else { return };
        tracing::warn!(client = client.session.id, "client speaks another protocol, closing it");
        client.close(Close::Now);
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
            waits: None,
            protocol: client.session.protocol,
            database: client.session.database,
        };
        let repeat = match how.readonly {
            true => Repeat::Safe,
            false => Repeat::Unsafe,
        };
        let slot = self.routes.slot_of(how.first_key.map(|at| request.arg(at as usize)));
        self.send_plain(asker, command, (slot, kind), repeat, splice, request);
    }

    fn send_plain(
        &mut self,
        asker: Asker,
        command: Option<CommandId>,
        (slot, kind): (u16, PipeKind),
        repeat: Repeat,
        splice: Option<Box<Splice>>,
        request: Request<'_>,
    ) {
        let target = Target::Client {
            asker,
            kind,
            command,
            splice,
        };
        let now = self.now;
        match self.way(slot, kind) {
            Some(index) => {
                self.routes.laid(slot);
                self.pipes[index].send(asker.client, target, repeat, now, slot, request.raw());
            }
            None => {
                let held = Unsent {
                    waits: false,
                    to: target,
                    repeat,
                    since: now,
                    slot,
                    bytes: request.raw().to_vec(),
                };
                self.detours.hold(held, now);
            }
        }
    }

    fn serve_locally(&mut self, key: ClientKey, local: Local, request: Request<'_>) {
        let shared = &self.shared;
        let Some(client) = self.clients.get_mut(key.index as usize) else {
            return;
        };
        let facts = shared.facts(self.now, client.buffers());
        let mut out = BytesMut::new();
        let effect = local::reply(local, request, &mut client.session, &facts, &mut out);
        let muted = client.session.mutes_reply();
        let ticket = client.replies.open(muted, client.session.protocol);
        let asker = Asker { client: key, ticket };
        match effect {
            Effect::None => {}
            Effect::Close => client.close(Close::WhenDone),
            Effect::Info(sections) => {
                let reply = &mut ReplyWriter::new(&mut out, client.session.protocol);
                local::info::write(sections, &shared.numbers(), reply);
            }
            Effect::ListClients(filter) => return Mail::ask_all(shared, self.number, asker, Question::List(filter)),
            Effect::KillClients(filter, form) => {
                return Mail::ask_all(shared, self.number, asker, Question::Kill(filter, form));
            }
        }
        self.answer(asker, |reply, _| {
            reply.extend_from_slice(&out);
            None
        });
    }
}

/// Settling jobs frees memory, and a worker that may not acknowledge does its job twice: these pass when memory is short.
fn relieves(plan: &Plan) -> bool {
    matches!(
        plan,
        Plan::Queue(Verb::Ack | Verb::Nack | Verb::Extend) | Plan::Refuse(_)
    )
}

/// How the two lines of HTTP begin that tell it from commands.
fn is_http(request: Request<'_>) -> bool {
    let name = request.name();
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}
