//! Where wake-ups are heard: without a cluster on one channel for all queues, over a connection that does nothing else. In a
//! cluster each lane where somebody waits has a sharded channel in its slot ([`crate::queue::queues`]), and each primary, from
//! the first of them on, a connection for those of its slots.

use std::time::{Duration, Instant};

use super::Hub;
use super::pipes::{PipeState, Role, Target};
use crate::command::keys;
use crate::queue::lane::LaneKey;
use crate::resp::OwnedRequest;
use crate::upstream::link::LinkError;
use crate::upstream::pipe::Repeat;
use crate::upstream::redirect::Redirect;

/// After a refusal: the nodes may not agree yet on who owns a slot.
const PAUSE: Duration = Duration::from_millis(50);

impl Hub {
    /// Subscribes to what lanes want to hear.
    pub(super) fn listen(&mut self) {
        if !self.queues.wants_ears() || self.next_listen().is_some_and(|pause| pause > self.now) {
            return;
        }
        self.ears_pause = None;
        for wanted in self.queues.take_wanted() {
            let Some(index) = self.ears_of(wanted.slot) else {
                self.queues.still_wants_ear(wanted.lane);
                continue;
            };
            let request = OwnedRequest::from_words(&["SSUBSCRIBE", &wanted.channel]);
            let raw = request.as_request().raw();
            let state = &mut self.pipes[index];
            state.hurry();
            let write = |out: &mut Vec<u8>| out.extend_from_slice(raw);
            state
                .pipe
                .send(Target::Ear(wanted.lane), Repeat::Safe, self.now, wanted.slot, write);
            self.queues.asked_ear(wanted.lane, index);
        }
    }

    /// When lanes that want to hear are to be thought of again.
    pub(super) fn next_listen(&self) -> Option<Instant> {
        self.ears_pause.filter(|_| self.queues.wants_ears())
    }

    /// The connection for the slot's channels, if there is one; if not, one is made.
    fn ears_of(&mut self, slot: u16) -> Option<usize> {
        let owner = self.routes.owner(slot)?;
        let index = match self.routes.node(owner).ears {
            Some(index) => index,
            None => {
                let index = self.open_pipe(PipeState::new(owner, Role::Ears));
                self.routes.node_mut(owner).ears = Some(index);
                index
            }
        };
        Some(index).filter(|index| self.pipes[*index].is_up())
    }

    /// A subscription was refused. False: nobody waits for a reply.
    pub(super) fn ear_refused(&mut self, index: usize, lane: LaneKey, reply: &[u8]) -> bool {
        let state = &mut self.pipes[index];
        let node = state.node;
        if state.pipe.answered().is_none() {
            return false;
        }
        match Redirect::read(reply) {
            Some(redirect) => {
                let teller = self.routes.node(node).endpoint.clone();
                if let Redirect::Moved { slot, to } = redirect
                    && let Some(to) = to.seen_from(&teller)
                {
                    self.moved(slot, &to);
                }
                self.ears_pause = Some(self.now + PAUSE);
                self.queues.still_wants_ear(lane);
            }
            None => {
                let error = String::from_utf8_lossy(reply[1..].trim_ascii_end()).into_owned();
                tracing::warn!(error, "wake-ups of other proxies cannot be heard, queues are polled");
                self.queues.refused_ear(lane);
            }
        }
        true
    }

    /// A message, or the word that a channel is listened to, or is not any more.
    pub(super) fn pushed(&mut self, index: usize, frame: &[u8]) {
        let mut words = words_of_push(frame);
        let (Some(kind), Some(channel)) = (words.next(), words.next()) else {
            return;
        };
        match kind {
            b"message" | b"smessage" => {
                if let Some(text) = words.next() {
                    self.queues.wake(text, self.now);
                }
            }
            b"ssubscribe" => {
                if let Some(Target::Ear(lane)) = self.pipes[index].pipe.answered().map(|front| front.to) {
                    self.queues.hears(lane, index, self.now);
                }
            }
            // The slot has left this node.
            b"sunsubscribe" => {
                let slot = keys::slot(channel);
                self.queues.lose_ears(|other, pipe| other == slot && pipe == index);
            }
            _ => {}
        }
    }

    /// What slots' new owners have to be asked for.
    pub(super) fn turn_ears(&mut self) {
        let routes = &self.routes;
        let ears = |slot| routes.owner(slot).and_then(|owner| routes.node(owner).ears);
        self.queues.lose_ears(|slot, pipe| ears(slot) != Some(pipe));
    }

    /// Connections whose channels nobody is interested in any more begin anew.
    pub(super) fn renew_ears(&mut self) {
        if self.queues.has_left_ears() {
            let ears = self.pipes.iter_mut().filter(|(_, state)| state.role == Role::Ears);
            ears.for_each(|(_, state)| state.give_up(LinkError::Unneeded));
        }
    }
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
