//! One client's replies, in the order of its requests, on their way to its socket.
//!
//! Replies come in any order: some we make ourselves, others come from Redis over several pipes. Each request takes a
//! ticket; what is answered early waits in its slot until all before it are answered. No I/O here.
//!
//! A popped job that is not written to the socket in the end was never delivered. So a reply that hands out jobs carries
//! what to give back ([`Delivery`]), which is forgotten once its last byte is written.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use crate::resp::Protocol;

/// A request's place in the order of its client's requests.
pub type Ticket = u64;

#[derive(Debug)]
enum Slot<D> {
    /// `muted`: the client wants no reply to it. `protocol`: that in which it was made; the client may speak another one since.
    Waiting {
        muted: bool,
        protocol: Protocol,
    },
    Answered {
        reply: BytesMut,
        delivery: Option<D>,
    },
}

/// `D`: what must be given back if a reply does not reach the socket.
#[derive(Debug)]
pub struct Replies<D> {
    /// The ticket of the oldest request that has no reply yet; `slots[0]` is its slot.
    first: Ticket,
    slots: VecDeque<Slot<D>>,
    /// Bytes of the replies in `slots`.
    early: usize,
    out: BytesMut,
    /// Bytes ever appended to `out`, by which deliveries say where they end.
    appended: u64,
    deliveries: VecDeque<(u64, D)>,
}

impl<D> Default for Replies<D> {
    fn default() -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            early: 0,
            out: BytesMut::new(),
            appended: 0,
            deliveries: VecDeque::new(),
        }
    }
}

impl<D> Replies<D> {
    /// A request came; its reply is to follow, but it goes nowhere if it is `muted`.
    pub fn open(&mut self, muted: bool, protocol: Protocol) -> Ticket {
        self.slots.push_back(Slot::Waiting { muted, protocol });
        self.first + self.slots.len() as u64 - 1
    }

    /// Requests that have no reply yet, or one that waits for another.
    pub fn open_requests(&self) -> usize {
        self.slots.len()
    }

    /// Whether this request still has no reply.
    pub fn is_open(&self, ticket: Ticket) -> bool {
        self.asked(ticket).is_some()
    }

    /// `None`: no such request is open.
    fn asked(&self, ticket: Ticket) -> Option<(bool, Protocol)> {
        match self.slots.get(ticket.checked_sub(self.first)? as usize)? {
            Slot::Waiting { muted, protocol } => Some((*muted, *protocol)),
            Slot::Answered { .. } => None,
        }
    }

    /// The requests that have no reply yet.
    pub fn waiting(&self) -> Vec<Ticket> {
        let tickets = self.first..self.first + self.slots.len() as u64;
        tickets.filter(|ticket| self.is_open(*ticket)).collect()
    }

    /// The reply of a request, in the protocol in which it was made. `write` renders it, and says what it hands out.
    /// Each ticket is answered once; a second answer is ignored.
    pub fn answer(&mut self, ticket: Ticket, write: impl FnOnce(&mut BytesMut, Protocol) -> Option<D>) {
        let Some((muted, protocol)) = self.asked(ticket) else {
            return;
        };
        let write = |out: &mut BytesMut| {
            let before = out.len();
            let delivery = write(out, protocol);
            if muted {
                out.truncate(before);
            }
            delivery
        };
        if ticket != self.first {
            let mut reply = BytesMut::new();
            let delivery = write(&mut reply);
            self.early += reply.len();
            self.slots[(ticket - self.first) as usize] = Slot::Answered { reply, delivery };
            return;
        }
        let before = self.out.len();
        let delivery = write(&mut self.out);
        self.slots.pop_front();
        self.first += 1;
        self.appended(self.out.len() - before, delivery);
        while let Some(Slot::Answered { .. }) = self.slots.front() {
            if let Some(Slot::Answered { reply, delivery }) = self.slots.pop_front() {
                self.first += 1;
                self.early -= reply.len();
                self.out.extend_from_slice(&reply);
                self.appended(reply.len(), delivery);
            }
        }
    }

    fn appended(&mut self, len: usize, delivery: Option<D>) {
        self.appended += len as u64;
        if let Some(delivery) = delivery {
            self.deliveries.push_back((self.appended, delivery));
        }
    }

    /// What should be written to the socket next.
    pub fn unsent(&self) -> &[u8] {
        &self.out
    }

    /// So many bytes of `unsent` were taken by the socket.
    pub fn wrote(&mut self, bytes: usize) {
        self.out.advance(bytes);
        if self.out.is_empty() {
            self.deliveries.clear();
            // An idle client holds no buffer.
            self.out = BytesMut::new();
            if self.slots.capacity() > 64 && self.slots.is_empty() {
                self.slots.shrink_to(4);
            }
            return;
        }
        let sent = self.appended - self.out.len() as u64;
        while self.deliveries.front().is_some_and(|(end, _)| *end <= sent) {
            self.deliveries.pop_front();
        }
    }

    /// Bytes held for this client: what its socket did not take yet, and what waits behind an earlier reply.
    pub fn buffered(&self) -> usize {
        self.out.len() + self.early
    }

    /// The client is gone: what its socket did not take.
    pub fn undelivered(&mut self) -> impl Iterator<Item = D> + '_ {
        self.early = 0;
        let written = self.deliveries.drain(..).map(|(_, delivery)| delivery);
        let early = self.slots.drain(..).filter_map(|slot| match slot {
            Slot::Answered { delivery, .. } => delivery,
            Slot::Waiting { .. } => None,
        });
        written.chain(early)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(replies: &mut Replies<&'static str>, ticket: Ticket, text: &str, delivery: Option<&'static str>) {
        replies.answer(ticket, |out, _| {
            out.extend_from_slice(text.as_bytes());
            delivery
        });
    }

    #[test]
    fn replies_go_out_in_the_order_of_their_requests() {
        let mut replies = Replies::default();
        let tickets: Vec<_> = (0..3).map(|_| replies.open(false, Protocol::Resp2)).collect();
        answer(&mut replies, tickets[2], "c", None);
        answer(&mut replies, tickets[1], "b", None);
        assert_eq!((replies.unsent(), replies.buffered()), (&b""[..], 2));
        answer(&mut replies, tickets[0], "a", None);
        assert_eq!((replies.unsent(), replies.buffered()), (&b"abc"[..], 3));
        assert_eq!(replies.open_requests(), 0);
        answer(&mut replies, tickets[0], "again", None);
        assert_eq!(replies.unsent(), b"abc", "a request has one reply");
    }

    #[test]
    fn a_job_whose_last_byte_was_not_written_was_not_delivered() {
        let mut replies = Replies::default();
        let tickets: Vec<_> = (0..4).map(|_| replies.open(false, Protocol::Resp2)).collect();
        answer(&mut replies, tickets[0], "one", Some("job 1"));
        answer(&mut replies, tickets[1], "two", Some("job 2"));
        answer(&mut replies, tickets[3], "four", Some("job 4"));
        replies.wrote(3);
        assert_eq!(replies.undelivered().collect::<Vec<_>>(), ["job 2", "job 4"]);
    }

    #[test]
    fn a_job_whose_last_byte_was_written_was_delivered() {
        let mut replies = Replies::default();
        let ticket = replies.open(false, Protocol::Resp2);
        answer(&mut replies, ticket, "one", Some("job 1"));
        replies.wrote(2);
        replies.wrote(1);
        assert_eq!(replies.undelivered().count(), 0);
    }
}
