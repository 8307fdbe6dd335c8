//! What comes from Redis: bytes become replies, and a reply goes to whoever waits for it, or its request goes on elsewhere.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::Hub;
use super::detours::Away;
use super::pipes::Target;
use crate::asker::Asker;
use crate::local;
use crate::plan::Splice;
use crate::queue::lane::LaneKey;
use crate::queue::names;
use crate::resp::frame::Frame;
use crate::resp::scanner::parse_integer;
use crate::resp::{OwnedRequest, ReplyWriter};
use crate::upstream::link::LinkError;
use crate::upstream::pipe::Repeat;
use crate::upstream::redirect::Redirect;
use crate::upstream::topology::Doubt;

impl Hub {
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
                    self.pushed(index, &input[taken..taken + len]);
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
        state.silent_since = state.pipe.is_owed().then_some(now);
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
        if state.pipe.takes_asking() || state.pipe.takes_surplus() {
            return true;
        }
        let Some(front) = state.pipe.front() else { return false };
        if let Target::Ear(lane) = front.to {
            return self.ear_refused(index, lane, reply);
        }
        let for_lane = matches!(front.to, Target::Lane(_));
        let (is_first, is_second) = (front.is_first_of_two(), front.is_second_of_two());
        // The replica that it was made while it waited knows nothing of what was to be replicated.
        if reply[0] == b'-' && (is_for_now(reply, for_lane) || is_second && reply.starts_with(b"-UNBLOCKED ")) {
            state.trouble = String::from_utf8_lossy(reply[1..].trim_ascii_end()).into_owned();
            return state.pipe.refused();
        }
        if reply[0] == b'-'
            && self.routes.is_cluster()
            && let Some(redirect) = Redirect::read(reply)
        {
            return self.turned_away(index, redirect, reply);
        }
        if is_first && !reply.starts_with(b"-NOSCRIPT") {
            self.pipes[index].pipe.half_answered(Bytes::copy_from_slice(reply));
            return true;
        }
        let Some(answered) = self.pipes[index].pipe.answered() else {
            return false;
        };
        self.routes.left(answered.slot);
        let (node, took) = (
            self.pipes[index].node,
            self.now.saturating_duration_since(answered.since),
        );
        self.routes.node(node).counters.record(took);
        if !self.detours.is_empty() {
            self.detours.passed(answered.slot);
        }
        match answered.to {
            Target::Ear(_) | Target::Nobody => {}
            Target::Lane(lane) if reply.starts_with(b"-NOSCRIPT") => self.load_and_repeat(index, lane, answered.slot),
            Target::Lane(lane) if is_second => {
                let slot = answered.slot;
                let own = answered.own_reply().unwrap_or_default();
                self.called(index, lane, slot, own, Some(confirmed(reply)));
            }
            Target::Lane(lane) => self.called(index, lane, answered.slot, Bytes::copy_from_slice(reply), None),
            Target::Client {
                asker, command, splice, ..
            } => {
                self.pipes[index].answered.add(asker.client);
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

    /// A lane's call has its reply.
    fn called(&mut self, index: usize, lane: LaneKey, slot: u16, reply: Bytes, confirmed: Option<u32>) {
        if let Some(again) = self.queues.replied(lane, reply, confirmed, self.now) {
            self.send_call(index, lane, slot, &again);
            self.want_flush();
        }
    }

    /// A node did not execute a request, as its slot is another one's, or on its way.
    fn turned_away(&mut self, index: usize, redirect: Redirect, reply: &[u8]) -> bool {
        let state = &mut self.pipes[index];
        let node = state.node;
        let Some(mut request) = state.pipe.turned_away() else {
            return false;
        };
        self.routes.left(request.slot);
        let teller = self.routes.node(node).endpoint.clone();
        match redirect {
            Redirect::Moved { slot, to } => {
                self.counters.moved.add(1);
                self.shared.topology.doubt(Doubt::Moved);
                // Of what has no key that we found, the node knows better.
                request.slot = slot;
                if let Some(to) = to.seen_from(&teller) {
                    self.moved(slot, &to);
                }
                self.detours.turn_away(request, Away::Elsewhere, self.now);
            }
            Redirect::Ask { to } => {
                self.counters.asked.add(1);
                match to.seen_from(&teller) {
                    Some(to) if !self.detours.is_closed(request.slot) => self.ask(request, &to),
                    _ => self.detours.turn_away(request, Away::Later, self.now),
                }
            }
            Redirect::Later => {
                let slot = request.slot;
                self.detours.turn_away(request, Away::Later, self.now);
                self.detours.note(slot, reply[1..].trim_ascii_end());
                self.shared.topology.doubt(Doubt::Moved);
            }
        }
        true
    }

    fn answer_spliced(&mut self, asker: Asker, splice: Splice, reply: &[u8]) {
        let numbers = self.shared.numbers();
        let prefix = self.shared.config.prefix.clone();
        let (snapshot, is_cluster) = (self.shared.topology.snapshot(), self.routes.is_cluster());
        self.answer(asker, |out, protocol| {
            let out = &mut ReplyWriter::new(out, protocol);
            match splice {
                Splice::Info(sections) => local::info::splice(reply, sections, &numbers, out),
                Splice::QueueNames(glob, slot) => {
                    let onward = |cursor| match is_cluster {
                        true => names::onward(cursor, slot, snapshot.next_shard_from(slot)),
                        false => cursor,
                    };
                    names::write(reply, &prefix, &glob, onward, out);
                }
                Splice::CommandDocs(chosen) => local::command::splice_docs(reply, chosen, out),
            }
            None
        });
    }

    /// Redis does not have the script, or has forgotten it (SCRIPT FLUSH, another Redis): nothing was executed.
    fn load_and_repeat(&mut self, index: usize, lane: LaneKey, slot: u16) {
        let Some(call) = self.queues.call_in_flight(lane) else {
            return;
        };
        let shared = self.shared.clone();
        self.pipes[index].hurry();
        if let Some(script) = shared.scripts.called_by(&call.bytes) {
            let load = OwnedRequest::from_words(&["SCRIPT", "LOAD", &script.source]);
            let load = load.as_request().raw();
            self.send_on(index, Target::Nobody, slot, load);
        }
        self.send_call(index, lane, slot, &call);
        self.want_flush();
    }

    fn send_on(&mut self, index: usize, target: Target, slot: u16, request: &[u8]) {
        self.routes.laid(slot);
        let write = |out: &mut Vec<u8>| out.extend_from_slice(request);
        let pipe = &mut self.pipes[index].pipe;
        pipe.send(target, Repeat::Safe, self.now, slot, write);
    }
}

/// Replicas that have what was pushed, by the reply to WAIT. Whatever else it says, none is known to.
fn confirmed(reply: &[u8]) -> u32 {
    let number = reply
        .strip_prefix(b":")
        .and_then(|line| parse_integer(line.trim_ascii_end()));
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
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
