//! Redis's side: what is to be sent is written, replies go to whoever waits for them, lost connections are made good.

use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::{Hub, write_some};
use crate::asker::{Asker, ClientKey};
use crate::command::CommandId;
use crate::local;
use crate::plan::Splice;
use crate::queue::lane::LaneKey;
use crate::queue::names;
use crate::queue::pace::Pace;
use crate::resp::frame::{Frame, FrameScanner};
use crate::resp::{OwnedRequest, Protocol, ReplyWriter};
use crate::script::keys::wake_channel;
use crate::stream::Stream;
use crate::upstream::link::{LinkError, PipeKind};
use crate::upstream::pipe::{Pipe, Repeat};

use super::clients::Wish;

/// The pipe that the queues use.
pub const QUEUES: usize = 0;
/// The pipe that only listens to the wake channel. It is one of its own because Redis closes a connection that listens to
/// any as soon as a reply of more than 32 MB waits in it (`client-output-buffer-limit pubsub`), and jobs may be larger.
pub const EARS: usize = 1;
/// A call that has been in doubt for so long is not repeated: Redis keeps a lane's last outcome for ten minutes.
const DOUBT: Duration = Duration::from_secs(300);

/// Who waits for a reply.
#[derive(Debug)]
pub(super) enum Target {
    Client {
        asker: Asker,
        command: Option<CommandId>,
        splice: Option<Box<Splice>>,
    },
    Lane(LaneKey),
    /// Nobody: a script was loaded.
    Nobody,
}

pub(super) struct PipeState {
    pub kind: PipeKind,
    pub pipe: Pipe<Target>,
    pub input: BytesMut,
    scanner: FrameScanner,
    stream: Option<Rc<Stream>>,
    /// When what clients sent goes out, if many of them share this pipe.
    pace: Pace,
    gathered: Gathered,
    answered: Runs,
    /// Its socket took no more.
    blocked: bool,
    /// Since when the oldest request that was sent has waited without any reply coming in.
    silent_since: Option<Instant>,
    /// The connection is to be given up, and why.
    fault: Option<LinkError>,
    /// Why there is no connection.
    trouble: String,
    waker: Option<Waker>,
}

/// Clients, each counted once for all that it has in a row: a pipeline is no crowd.
#[derive(Default)]
struct Runs {
    clients: usize,
    last: Option<ClientKey>,
}

impl Runs {
    fn add(&mut self, client: ClientKey) {
        if self.last != Some(client) {
            self.last = Some(client);
            self.clients += 1;
        }
    }
}

/// What was laid on a pipe since it was last written to.
#[derive(Default)]
struct Gathered {
    from: Runs,
    /// A lane's call, which has waited for its own crowd, or a script: it goes at once.
    urgent: bool,
    /// When something was written last, and how long its replies took.
    wrote: Option<Instant>,
    took: Duration,
}

impl PipeState {
    /// Lays a client's plain command on the pipe.
    pub fn send(&mut self, client: ClientKey, target: Target, repeat: Repeat, now: Instant, request: &[u8]) {
        self.gathered.from.add(client);
        self.pipe
            .send(target, repeat, now, |out| out.extend_from_slice(request));
    }

    /// Until when what was gathered is held for those who are about to ask.
    fn held_until(&self, now: Instant) -> Option<Instant> {
        match self.gathered.urgent || self.gathered.from.clients == 0 {
            true => None,
            false => self.pace.holds(self.gathered.from.clients, now),
        }
    }

    fn written(&mut self, now: Instant) {
        let Gathered {
            from,
            urgent,
            wrote,
            took,
        } = &mut self.gathered;
        (*from, *urgent, *wrote) = (Runs::default(), false, Some(now));
        self.pace.sent_most(*took, now);
    }

    /// All replies of one read have been handed on.
    fn replied(&mut self, now: Instant) {
        let answered = std::mem::take(&mut self.answered).clients;
        if let Some(wrote) = self.gathered.wrote.filter(|_| answered > 0) {
            self.gathered.took = now.saturating_duration_since(wrote);
            let (waiting, took) = (self.gathered.from.clients, self.gathered.took);
            self.pace.replied(answered, waiting, usize::MAX, took, now);
        }
    }

    fn new(kind: PipeKind) -> Self {
        Self {
            kind,
            pipe: Pipe::default(),
            input: BytesMut::new(),
            scanner: FrameScanner::default(),
            stream: None,
            pace: Pace::default(),
            gathered: Gathered::default(),
            answered: Runs::default(),
            blocked: false,
            silent_since: None,
            fault: None,
            trouble: "not connected yet".into(),
            waker: None,
        }
    }

    fn give_up(&mut self, fault: LinkError) {
        self.fault = Some(fault);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Hub {
    pub(super) fn open_own_pipes(&mut self) {
        let kind = PipeKind {
            protocol: Protocol::Resp3,
            database: self.shared.config.upstream.database,
        };
        for index in [QUEUES, EARS] {
            self.pipes.push(PipeState::new(kind));
            self.new_pipes.push(index);
        }
    }

    /// The pipe for plain commands of that protocol and database. Database 0 is the one that the configuration names.
    pub(super) fn pipe_for(&mut self, mut kind: PipeKind) -> usize {
        if kind.database == 0 {
            kind.database = self.shared.config.upstream.database;
        }
        let serves = |(index, pipe): &(usize, &PipeState)| *index != EARS && pipe.kind == kind;
        match self.pipes.iter().enumerate().find(serves) {
            Some((index, _)) => index,
            None => {
                self.pipes.push(PipeState::new(kind));
                self.new_pipes.push(self.pipes.len() - 1);
                self.pipes.len() - 1
            }
        }
    }

    pub fn take_new_pipes(&mut self) -> Vec<(usize, PipeKind)> {
        let new = std::mem::take(&mut self.new_pipes);
        new.into_iter().map(|index| (index, self.pipes[index].kind)).collect()
    }

    pub fn wake_channel(&self) -> String {
        let worker = self.name.strip_prefix("millrace-").unwrap_or(&self.name);
        wake_channel(&self.shared.config.prefix, worker)
    }

    pub fn pipe_up(&mut self, index: usize, stream: Rc<Stream>) {
        let state = &mut self.pipes[index];
        state.stream = Some(stream);
        state.blocked = false;
        state.fault = None;
        state.trouble.clear();
        match index {
            QUEUES => self.counters.upstream_up.set(1),
            EARS => self.queues.hears_again(Instant::now()),
            _ => {}
        }
        self.want_flush();
    }

    /// The connection is gone. What may go out again waits for the next one; whoever waits for the rest is told.
    pub fn pipe_down(&mut self, index: usize, trouble: String) {
        self.now = Instant::now();
        self.counters.upstream_connections_lost.add(1);
        let state = &mut self.pipes[index];
        state.stream = None;
        state.input.clear();
        state.scanner = FrameScanner::default();
        state.silent_since = None;
        state.waker = None;
        let doubtful = state.pipe.lost();
        let text = format!(
            "UNCERTAIN {trouble}; this command was sent before that, so it may have been executed and was not repeated"
        );
        state.trouble = trouble;
        for request in doubtful {
            if let Target::Client { asker, .. } = request.to {
                self.answer_error(asker, text.as_bytes());
            }
        }
        if index == QUEUES {
            self.counters.upstream_up.set(0);
            // It goes to the same Redis and sends nothing by which it would notice.
            self.pipes[EARS].give_up(LinkError::Lost(io::ErrorKind::ConnectionReset.into()));
        }
        self.want_flush();
    }

    /// There is no connection, and why. True: that is news.
    pub fn pipe_trouble(&mut self, index: usize, trouble: String) -> bool {
        let state = &mut self.pipes[index];
        let news = state.trouble != trouble;
        state.trouble = trouble;
        news
    }

    /// What a pipe's task should wait for; `Err`: the connection is to be given up.
    pub fn pipe_wish(&mut self, index: usize, waker: &Waker) -> Result<Wish, LinkError> {
        let state = &mut self.pipes[index];
        if let Some(fault) = state.fault.take() {
            return Err(fault);
        }
        if !state.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        Ok(Wish {
            read: true,
            write: state.blocked,
        })
    }

    /// A socket that was full takes bytes again. So Redis has taken some: that is no silence, however large a request is.
    pub fn pipe_writable(&mut self, index: usize) {
        self.now = Instant::now();
        let state = &mut self.pipes[index];
        state.blocked = false;
        state.silent_since = state.silent_since.map(|_| self.now);
        self.want_flush();
    }

    /// Bytes from Redis. False: they are no RESP.
    pub fn pipe_received(&mut self, index: usize, bytes: &[u8]) -> bool {
        self.now = Instant::now();
        let state = &mut self.pipes[index];
        let mut held = std::mem::take(&mut state.input);
        let mut scanner = std::mem::take(&mut state.scanner);
        let input = match held.is_empty() {
            true => bytes,
            false => {
                held.extend_from_slice(bytes);
                &held[..]
            }
        };
        let mut taken = 0;
        let sound = loop {
            match scanner.scan(&input[taken..]) {
                Ok(None) => break true,
                Ok(Some(Frame::Reply(len))) => {
                    if !self.reply(index, &input[taken..taken + len]) {
                        break false;
                    }
                    taken += len;
                }
                Ok(Some(Frame::Push(len))) => {
                    self.pushed(&input[taken..taken + len]);
                    taken += len;
                }
                Err(_) => break false,
            }
        };
        let rest = match held.is_empty() {
            true => BytesMut::from(&bytes[taken..]),
            false => {
                held.advance(taken);
                held
            }
        };
        let now = self.now;
        let state = &mut self.pipes[index];
        state.input = rest;
        state.scanner = scanner;
        state.silent_since = state.pipe.front().map(|_| now);
        state.replied(now);
        if state.pipe.wants_another_connection() {
            state.give_up(LinkError::Refused("it does not execute commands for now".into()));
        }
        self.want_flush();
        sound
    }

    /// One reply. False: nobody waits for one.
    fn reply(&mut self, index: usize, reply: &[u8]) -> bool {
        let state = &mut self.pipes[index];
        let Some(front) = state.pipe.front() else { return false };
        let for_lane = matches!(front.to, Target::Lane(_));
        if reply[0] == b'-' && is_for_now(reply, for_lane) {
            state.trouble = String::from_utf8_lossy(reply[1..].trim_ascii_end()).into_owned();
            return state.pipe.refused();
        }
        let Some(answered) = state.pipe.answered() else {
            return false;
        };
        match answered.to {
            Target::Nobody => {}
            Target::Lane(lane) if reply.starts_with(b"-NOSCRIPT") => self.load_and_repeat(lane),
            Target::Lane(lane) => self.queues.replied(lane, Bytes::copy_from_slice(reply), self.now),
            Target::Client { asker, command, splice } => {
                self.pipes[index].answered.add(asker.client);
                let took = self.now.saturating_duration_since(answered.since);
                self.note_latency(command, took);
                match splice {
                    None => self.answer(asker, |out, _| {
                        out.extend_from_slice(reply);
                        None
                    }),
                    Some(splice) => self.answer_spliced(asker, *splice, reply),
                }
            }
        }
        true
    }

    fn answer_spliced(&mut self, asker: Asker, splice: Splice, reply: &[u8]) {
        let numbers = self.shared.numbers();
        let prefix = self.shared.config.prefix.clone();
        self.answer(asker, |out, protocol| {
            let out = &mut ReplyWriter::new(out, protocol);
            match splice {
                Splice::Info(sections) => local::info::splice(reply, sections, &numbers, out),
                Splice::QueueNames(glob) => names::write(reply, &prefix, &glob, out),
                Splice::CommandDocs(chosen) => local::command::splice_docs(reply, chosen, out),
            }
            None
        });
    }

    /// Redis has forgotten the scripts (SCRIPT FLUSH, another Redis): nothing was executed.
    fn load_and_repeat(&mut self, lane: LaneKey) {
        let Some(call) = self.queues.call_in_flight(lane) else {
            return;
        };
        let (shared, now) = (self.shared.clone(), self.now);
        let PipeState { pipe, gathered, .. } = &mut self.pipes[QUEUES];
        gathered.urgent = true;
        for script in shared.scripts.all() {
            let load = OwnedRequest::from_words(&["SCRIPT", "LOAD", &script.source]);
            pipe.send(Target::Nobody, Repeat::Safe, now, |out| {
                out.extend_from_slice(load.as_request().raw());
            });
        }
        pipe.send(Target::Lane(lane), Repeat::Safe, now, |out| {
            out.extend_from_slice(&call)
        });
        self.want_flush();
    }

    /// A message on the wake channel, or the word that we listen to it.
    fn pushed(&mut self, frame: &[u8]) {
        let mut words = words_of_push(frame);
        if words.next() == Some(b"message") {
            let _channel = words.next();
            if let Some(text) = words.next() {
                self.queues.wake(text, self.now);
            }
        }
    }

    /// Something is to be called, and can be. Without a connection the lanes go on gathering, so that it is certain of
    /// what was not sent that it was not done.
    pub(super) fn may_call(&self) -> bool {
        self.queues.has_calls() && self.pipes[QUEUES].stream.is_some()
    }

    /// Gathered calls go onto the pipe.
    pub(super) fn send_calls(&mut self) {
        if !self.may_call() {
            return;
        }
        let now = self.now;
        let PipeState { pipe, gathered, .. } = &mut self.pipes[QUEUES];
        gathered.urgent = true;
        self.queues.send(now, |lane, _slot, call| {
            pipe.send(Target::Lane(lane), Repeat::Safe, now, |out| {
                out.extend_from_slice(&call)
            });
        });
    }

    pub(super) fn write_pipes(&mut self) {
        let now = self.now;
        let mut held = None;
        for state in &mut self.pipes {
            let Some(stream) = &state.stream else { continue };
            let unsent = state.pipe.unsent();
            if state.blocked || unsent.is_empty() || state.fault.is_some() {
                continue;
            }
            if let Some(end) = state.held_until(now) {
                held = Some(held.map_or(end, |sooner: Instant| sooner.min(end)));
                continue;
            }
            match write_some(stream, unsent) {
                Ok(written) => {
                    state.blocked = written < unsent.len() || stream.is_behind();
                    state.pipe.wrote(written);
                    state.written(now);
                    state.silent_since.get_or_insert(now);
                    if state.blocked
                        && let Some(waker) = &state.waker
                    {
                        waker.wake_by_ref();
                    }
                }
                Err(error) => state.give_up(LinkError::Lost(error)),
            }
        }
        self.pipes_held_until = held;
    }

    /// Time-outs: an upstream that answers nothing, and requests that have waited for one long enough.
    pub(super) fn check_pipes(&mut self) {
        let now = self.now;
        let upstream = &self.shared.config.upstream;
        let (silence, patience) = (upstream.response_timeout, upstream.failover_timeout);
        let Some(deadline) = now.checked_sub(patience) else {
            return;
        };
        let mut given_up = Vec::new();
        for state in &mut self.pipes {
            let silent = state.silent_since.is_some_and(|since| now - since > silence);
            if state.stream.is_some() && silent && state.pipe.front().is_some() && state.fault.is_none() {
                state.give_up(LinkError::Silent(silence));
            }
            if state.stream.is_none() {
                let late = state.pipe.give_up(|request| match request.to {
                    Target::Client { .. } => request.since <= deadline,
                    Target::Lane(_) | Target::Nobody => request.since + DOUBT <= now,
                });
                let text = format!(
                    "UNAVAILABLE {}; waited for {patience:?}, nothing was done",
                    state.trouble
                );
                given_up.extend(late.into_iter().map(|request| (request.to, text.clone())));
            }
        }
        for (to, text) in given_up {
            match to {
                Target::Client { asker, .. } => self.answer_error(asker, text.as_bytes()),
                Target::Lane(lane) => {
                    // It may have been applied, on a connection that was lost since.
                    let reply = format!("-UNCERTAIN no Redis for {DOUBT:?}; it is not known whether it was done\r\n");
                    self.queues.replied(lane, reply.into(), now);
                }
                Target::Nobody => {}
            }
        }
        let trouble = match self.pipes[QUEUES].trouble.as_str() {
            "" => "Redis does not answer",
            trouble => trouble,
        };
        let line = format!("UNAVAILABLE {trouble}; waited for {patience:?}, nothing was done");
        let doubt = format!("UNCERTAIN {trouble}; waited for {patience:?}, it is not known whether it was done");
        self.queues.give_up(deadline, &line.into(), &doubt.into());
    }
}

/// Errors by which Redis says that it did not execute a command, and will once it is in order or another one is found.
fn is_for_now(reply: &[u8], for_lane: bool) -> bool {
    let begins = |code: &[u8]| reply[1..].starts_with(code);
    if begins(b"LOADING ") || begins(b"READONLY ") || begins(b"MASTERDOWN ") || begins(b"NOAUTH ") {
        return true;
    }
    // Redis 6.2 wraps what a script's command came to; of the queues' scripts that is their first, so nothing was done.
    for_lane && (begins(b"BUSY ") || memchr::memmem::find(reply, b"-READONLY ").is_some())
}

/// The bulk strings of a push frame.
fn words_of_push(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let dollar = at + memchr::memchr(b'$', frame.get(at..)?)?;
        let end = dollar + memchr::memchr(b'\r', &frame[dollar..])?;
        let len = crate::resp::scanner::parse_integer(&frame[dollar + 1..end])?;
        let start = end + 2;
        let stop = start.checked_add(usize::try_from(len).ok()?)?;
        at = stop;
        frame.get(start..stop)
    })
}
