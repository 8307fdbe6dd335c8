//! The connections to Redis: what is to be sent is written, lost ones are made good. Which of them a request goes over is
//! decided in [`super::routes`], what comes back is read in [`super::received`].

mod state;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::clients::Wish;
use super::detours::Away;
use super::homes::KEEPER;
use super::routes::NodeKey;
use super::{Hub, write_some};
use crate::config::Endpoint;
use crate::queue::flight::Outgoing;
use crate::queue::lane::LaneKey;
use crate::resp::Protocol;
use crate::resp::frame::FrameScanner;
use crate::script::keys::{KEEPERS, wake_channel};
use crate::stream::Stream;
use crate::upstream::link::{LinkError, PipeKind};
use crate::upstream::pipe::{Lost, Repeat};
use crate::upstream::topology::Doubt;

pub(super) use state::{PipeState, Role, Target};

/// A call that has been in doubt for so long is not repeated: Redis keeps a lane's last outcome for ten minutes.
const DOUBT: Duration = Duration::from_secs(300);
/// Connections over which pushes wait for replicas, to one primary; each is made when it is first needed.
const WAITING_PIPES: u32 = 8;
/// A connection to a node that owns nothing is kept for the next request that is sent there by another node's word.
const IDLE: Duration = Duration::from_secs(2);

/// What a pipe's task has to know.
pub struct Line {
    pub endpoint: Endpoint,
    pub kind: PipeKind,
    /// It carries the queues' calls, which need the scripts.
    pub calls: bool,
    /// Listened to.
    pub channels: Vec<String>,
}

impl Hub {
    /// Of the queues' calls.
    pub(super) fn queue_kind(&self) -> PipeKind {
        PipeKind {
            protocol: Protocol::Resp3,
            database: self.shared.config.upstream.database,
            waits: None,
        }
    }

    /// Of those of them that push and wait for replicas. Queues take turns over a few pipes, so that one which waits long holds
    /// up few others.
    pub(super) fn waiting_kind(&self, lane: LaneKey) -> PipeKind {
        PipeKind {
            waits: Some((self.queues.queue_of(lane) % WAITING_PIPES) as u8),
            ..self.queue_kind()
        }
    }

    /// Those that each primary has from the start.
    pub(super) fn open_own_pipes(&mut self, node: NodeKey) {
        self.pipe_at(node, self.queue_kind());
        if !self.routes.is_cluster() && self.routes.node(node).ears.is_none() {
            let ears = self.open_pipe(PipeState::new(node, Role::Ears));
            self.routes.node_mut(node).ears = Some(ears);
        }
    }

    pub(super) fn open_pipe(&mut self, mut state: PipeState) -> usize {
        state.owned = self.routes.node(state.node).owns;
        let index = self.pipes.insert(state);
        self.new_pipes.push(index);
        if let Some(opener) = self.opener.take() {
            opener.wake();
        }
        index
    }

    /// Pipes that nobody serves yet.
    pub fn poll_new_pipes(&mut self, cx: &mut Context<'_>) -> Poll<Vec<usize>> {
        self.opener = Some(cx.waker().clone());
        match self.new_pipes.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(std::mem::take(&mut self.new_pipes)),
        }
    }

    pub fn line(&self, index: usize) -> Line {
        let state = &self.pipes[index];
        let queues = self.queue_kind();
        let (kind, channels) = match state.role {
            Role::Requests(kind) => (kind, Vec::new()),
            Role::Ears if self.routes.is_cluster() => (queues, Vec::new()),
            Role::Ears => (queues, self.wake_channels()),
        };
        Line {
            endpoint: self.routes.node(state.node).endpoint.clone(),
            kind,
            calls: state.role != Role::Ears && (kind == queues || kind.waits.is_some()),
            channels,
        }
    }

    fn wake_channels(&self) -> Vec<String> {
        let worker = self.name.strip_prefix("millrace-").unwrap_or(&self.name);
        let keepers = (self.number == KEEPER).then_some(KEEPERS);
        let hearers = std::iter::once(worker).chain(keepers);
        hearers
            .map(|hearer| wake_channel(&self.shared.config.prefix, hearer))
            .collect()
    }

    pub fn pipe_up(&mut self, index: usize, stream: Rc<Stream>) {
        self.now = Instant::now();
        let queues = self.queue_kind();
        let state = &mut self.pipes[index];
        state.stream = Some(stream);
        self.routes.node(state.node).counters.connections.add(1);
        state.blocked = false;
        state.fault = None;
        state.trouble.clear();
        match state.role {
            Role::Requests(kind) => {
                if kind == queues {
                    self.queues.connected();
                }
                self.queues.resume();
                self.note_upstream();
            }
            Role::Ears if self.routes.is_cluster() => {}
            Role::Ears => self.queues.hears_again(self.now),
        }
        self.want_flush();
    }

    /// The connection is gone. What may go out again does, by whichever way is right now; whoever waits for the rest is
    /// told. False: so is the pipe, as nothing needs it any more.
    pub fn pipe_down(&mut self, index: usize, error: &LinkError) -> bool {
        self.now = Instant::now();
        let trouble = error.to_string();
        let state = &mut self.pipes[index];
        let (node, role) = (state.node, state.role);
        if state.stream.take().is_some() {
            self.counters.upstream_connections_lost.add(1);
            self.routes.node(node).counters.lost.add(1);
        }
        state.input.clear();
        state.scanner = FrameScanner::default();
        state.silent_since = None;
        state.leaves = None;
        state.waker = None;
        let Lost { again, doubtful } = state.pipe.lost();
        if role == Role::Ears {
            state.trouble = trouble;
            self.queues.lose_ears(|_, pipe| pipe == index);
            self.want_flush();
            return self.keep_pipe(index);
        }
        let text = format!(
            "UNCERTAIN {trouble}; this command was sent before that, so it may have been executed and was not repeated"
        );
        state.trouble = trouble;
        self.distrust(node);
        for request in doubtful {
            self.routes.left(request.slot);
            if let Target::Client { asker, .. } = request.to {
                self.answer_error(asker, text.as_bytes());
            }
        }
        again.iter().for_each(|request| self.routes.left(request.slot));
        again.into_iter().for_each(|request| self.send_again(request));
        if role == Role::Requests(self.queue_kind()) {
            self.note_upstream();
            // They go to the same Redis and send nothing by which they would notice.
            if let Some(ears) = self.routes.node(node).ears {
                self.pipes[ears].give_up(LinkError::Lost(io::ErrorKind::ConnectionReset.into()));
            }
            self.keep_keyless_off(node);
        }
        self.want_flush();
        self.keep_pipe(index)
    }

    /// There is no connection, and why. It is news when it has not been said before.
    pub fn pipe_trouble(&mut self, index: usize, error: &LinkError) -> Trouble {
        self.now = Instant::now();
        let trouble = error.to_string();
        let state = &mut self.pipes[index];
        let is_news = state.trouble != trouble;
        state.trouble = trouble;
        let node = state.node;
        self.distrust(node);
        let state = &mut self.pipes[index];
        if !self.routes.node(state.node).owns {
            // It was to be asked for single requests, which go back to the owners of their slots.
            for request in state.pipe.lost().again {
                self.routes.left(request.slot);
                self.detours.turn_away(request, Away::Later, self.now);
            }
            self.want_flush();
        }
        Trouble {
            is_news,
            goes_on: self.keep_pipe(index),
        }
    }

    /// False: nothing needs it any more, and it is gone.
    fn keep_pipe(&mut self, index: usize) -> bool {
        let is_needed = self.is_needed(index);
        if !is_needed {
            let node = self.pipes.remove(index).node;
            self.routes.remove_pipe(node, index);
        }
        is_needed
    }

    fn is_needed(&self, index: usize) -> bool {
        let state = &self.pipes[index];
        self.routes.node(state.node).owns || !state.pipe.is_empty()
    }

    /// Ready when the pipe, which has no connection, needs none.
    pub fn poll_unneeded(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<()> {
        match self.is_needed(index) {
            true => {
                self.pipes[index].note_waker(cx.waker());
                Poll::Pending
            }
            false => Poll::Ready(()),
        }
    }

    pub fn remove_pipe(&mut self, index: usize) {
        self.keep_pipe(index);
    }

    /// Whether Redis can be worked with: the queues' pipe to a primary has a connection.
    pub(super) fn note_upstream(&mut self) {
        let kind = self.queue_kind();
        let is_up = |node: &NodeKey| {
            let node = self.routes.node(*node);
            let mut pipes = node.pipes.iter();
            let is_up = pipes.any(|(known, index)| *known == kind && self.pipes[*index].is_up());
            node.counters.up.set(is_up.into());
            is_up
        };
        let up = self.routes.owning().iter().filter(|node| is_up(node)).count();
        self.counters.upstream_up.set((up > 0).into());
        self.counters.know_nodes(self.routes.counters());
    }

    /// What a pipe's task should wait for; `Err`: the connection is to be given up.
    pub fn pipe_wish(&mut self, index: usize, waker: &Waker) -> Result<Wish, LinkError> {
        let state = &mut self.pipes[index];
        if let Some(fault) = state.fault.take() {
            return Err(fault);
        }
        state.note_waker(waker);
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

    /// Gathered calls go onto the pipes. Without a connection the lanes go on gathering, so that it is certain of what was
    /// not sent that it was not done.
    pub(super) fn send_calls(&mut self) {
        let (now, kind) = (self.now, self.queue_kind());
        while let Some((lane, slot)) = self.queues.next_lane(now) {
            let slot = self.routes.of_partition(slot);
            let Some(mut index) = self.way_up(slot, kind) else {
                self.queues.stall(lane, now);
                continue;
            };
            let waiting = match self.queues.may_wait(lane) {
                true => self.way_up(slot, self.waiting_kind(lane)),
                false => Some(index),
            };
            let Some(waiting) = waiting else {
                self.queues.stall(lane, now);
                continue;
            };
            if let Some(call) = self.queues.call(lane, now) {
                if call.waits {
                    index = waiting;
                }
                self.send_call(index, lane, slot, &call);
            }
        }
    }

    /// As [`Self::way`], if there is a connection.
    fn way_up(&mut self, slot: u16, kind: PipeKind) -> Option<usize> {
        self.way(slot, kind).filter(|index| self.pipes[*index].is_up())
    }

    pub(super) fn send_call(&mut self, index: usize, lane: LaneKey, slot: u16, call: &Outgoing) {
        self.routes.laid(slot);
        let state = &mut self.pipes[index];
        state.hurry();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(&call.bytes);
        state.pipe.send(Target::Lane(lane), Repeat::Safe, self.now, slot, write);
        if call.waits {
            state.pipe.last_waits();
        }
    }

    pub(super) fn write_pipes(&mut self) {
        let now = self.now;
        let mut held = None;
        for (_, state) in &mut self.pipes {
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
        for (_, state) in &mut self.pipes {
            if state.owes_for(silence, now) && state.fault.is_none() {
                state.give_up(LinkError::Silent(silence));
            }
            if state.is_silent(now) {
                self.shared.topology.doubt(Doubt::Lost);
            }
            let is_useless = !self.routes.node(state.node).owns && state.pipe.is_empty();
            state.idle_since = is_useless.then(|| state.idle_since.unwrap_or(now));
            if state.is_up() && state.idle_since.is_some_and(|since| now - since > IDLE) {
                state.give_up(LinkError::Unneeded);
            }
        }
        if let Some(deadline) = now.checked_sub(patience) {
            self.give_up_waiting(deadline, patience);
        }
    }

    fn give_up_waiting(&mut self, deadline: Instant, patience: Duration) {
        let now = self.now;
        let is_late = |to: &Target, since: Instant| match to {
            Target::Client { .. } => since <= deadline,
            Target::Lane(_) | Target::Ear(_) | Target::Nobody => since + DOUBT <= now,
        };
        let mut late = self.detours.take(|request| is_late(&request.to, request.since));
        for (_, state) in &mut self.pipes {
            if !state.is_up() {
                let recalled = state.pipe.recall(|request| is_late(&request.to, request.since));
                recalled.iter().for_each(|request| self.routes.left(request.slot));
                late.extend(recalled);
            }
        }
        for request in late {
            match request.to {
                Target::Client { asker, .. } => {
                    let trouble = self.trouble_of(request.slot);
                    let text = format!("UNAVAILABLE {trouble}; waited for {patience:?}, nothing was done");
                    self.answer_error(asker, text.as_bytes());
                }
                Target::Lane(lane) => {
                    // It may have been applied, on a connection that was lost since.
                    let reply = format!("-UNCERTAIN no Redis for {DOUBT:?}; it is not known whether it was done\r\n");
                    let _ = self.queues.replied(lane, reply.into(), None, now); // an error is never to be made again
                }
                Target::Ear(_) | Target::Nobody => {}
            }
        }
        let routes = &self.routes;
        let troubles = self.queues.late_lanes(deadline);
        let troubles = troubles
            .into_iter()
            .map(|(lane, slot)| (lane, self.trouble_of(routes.of_partition(slot))));
        for (lane, trouble) in troubles.collect::<Vec<_>>() {
            let line = format!("UNAVAILABLE {trouble}; waited for {patience:?}, nothing was done");
            let doubt = format!("UNCERTAIN {trouble}; waited for {patience:?}, it is not known whether it was done");
            self.queues.give_up(lane, deadline, &line.into(), &doubt.into());
        }
    }

    /// Nodes that own nothing any more have had their time to answer.
    pub(super) fn end_leave(&mut self) {
        let now = self.now;
        for (_, state) in &mut self.pipes {
            if state.leaves.is_some_and(|end| end <= now) {
                state.leaves = None;
                state.give_up(match state.pipe.is_empty() {
                    true => LinkError::Unneeded,
                    false => LinkError::Moved,
                });
            }
        }
    }

    pub(super) fn next_leave(&self) -> Option<Instant> {
        self.pipes.iter().filter_map(|(_, state)| state.leaves).min()
    }
}

/// What came of an attempt to connect.
pub struct Trouble {
    pub is_news: bool,
    /// False: the pipe is gone.
    pub goes_on: bool,
}
