//! One connection to Redis as its worker sees it: what was laid on it, what it owes, and when what was gathered goes out.

use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::asker::{Asker, ClientKey};
use crate::command::CommandId;
use crate::hub::routes::NodeKey;
use crate::plan::Splice;
use crate::queue::lane::LaneKey;
use crate::queue::pace::Pace;
use crate::resp::frame::FrameScanner;
use crate::stream::Stream;
use crate::upstream::link::{LinkError, PipeKind};
use crate::upstream::pipe::{Pipe, Repeat};

/// A primary that owes replies and sends none for so long may be a frozen one, which others may have replaced already: that
/// is asked after. Its connection is kept, as it may only be slow.
const SUSPICIOUS: Duration = Duration::from_millis(500);

/// Who waits for a reply.
#[derive(Debug)]
pub(in crate::hub) enum Target {
    Client {
        asker: Asker,
        kind: PipeKind,
        command: Option<CommandId>,
        splice: Option<Box<Splice>>,
    },
    Lane(LaneKey),
    /// Its channel was to be subscribed to.
    Ear(LaneKey),
    /// Nobody: a script was loaded.
    Nobody,
}

/// What a pipe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum Role {
    /// Requests of that protocol and database; among them are the queues' calls.
    Requests(PipeKind),
    /// It only listens to wake-ups. It is one of its own because Redis closes a connection that listens to any as
    /// soon as a reply of more than 32 MB waits in it (`client-output-buffer-limit pubsub`), and jobs may be larger.
    Ears,
}

/// A connection, or the lack of one, and what waits for it.
pub(in crate::hub) struct PipeState {
    pub node: NodeKey,
    pub role: Role,
    pub pipe: Pipe<Target>,
    pub input: BytesMut,
    pub scanner: FrameScanner,
    pub(super) stream: Option<Rc<Stream>>,
    /// When what clients sent goes out, if many of them share this pipe.
    pace: Pace,
    gathered: Gathered,
    pub answered: Runs,
    /// Its socket took no more.
    pub(super) blocked: bool,
    /// Since when replies are owed without any coming in.
    pub silent_since: Option<Instant>,
    /// The connection is to be given up, and why.
    pub(super) fault: Option<LinkError>,
    /// Why there is no connection.
    pub trouble: String,
    /// Its node has owned slots.
    pub owned: bool,
    /// Its node owns none any more: until when it may answer what it owes.
    pub leaves: Option<Instant>,
    pub(super) idle_since: Option<Instant>,
    pub(super) waker: Option<Waker>,
}

/// Clients, each counted once for all that it has in a row: a pipeline is no crowd.
#[derive(Default)]
pub(in crate::hub) struct Runs {
    clients: usize,
    last: Option<ClientKey>,
}

impl Runs {
    pub fn add(&mut self, client: ClientKey) {
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
}

impl PipeState {
    /// Lays a client's plain command on the pipe.
    pub fn send(&mut self, client: ClientKey, target: Target, repeat: Repeat, now: Instant, slot: u16, request: &[u8]) {
        self.gathered.from.add(client);
        self.pipe
            .send(target, repeat, now, slot, |out| out.extend_from_slice(request));
    }

    /// What is laid on it has waited already.
    pub fn hurry(&mut self) {
        self.gathered.urgent = true;
    }

    pub fn is_up(&self) -> bool {
        self.stream.is_some()
    }

    /// It owes replies and has sent none for longer than that.
    pub(super) fn owes_for(&self, patience: Duration, now: Instant) -> bool {
        let is_late = |since| now.saturating_duration_since(since) > patience;
        self.is_up() && self.pipe.is_owed() && self.silent_since.is_some_and(is_late)
    }

    pub fn is_silent(&self, now: Instant) -> bool {
        self.owes_for(SUSPICIOUS, now)
    }

    /// Until when what was gathered is held for those who are about to ask.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        match self.gathered.urgent || self.gathered.from.clients == 0 {
            true => None,
            false => self.pace.holds(self.gathered.from.clients, now),
        }
    }

    pub(super) fn written(&mut self, now: Instant) {
        self.gathered = Gathered::default();
        self.pace.sent_most(now);
    }

    /// All replies of one read have been handed on.
    pub fn replied(&mut self, now: Instant) {
        let answered = std::mem::take(&mut self.answered).clients;
        if answered > 0 {
            self.pace.pipe_replied(answered + self.gathered.from.clients, now);
        }
    }

    pub fn new(node: NodeKey, role: Role) -> Self {
        Self {
            node,
            role,
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
            owned: false,
            leaves: None,
            idle_since: None,
            waker: None,
        }
    }

    pub fn give_up(&mut self, fault: LinkError) {
        self.fault = Some(fault);
        self.wake();
    }

    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(super) fn note_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }
}
