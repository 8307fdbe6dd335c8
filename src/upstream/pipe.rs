//! The requests of many clients on one connection to Redis: what was sent, what waits for its reply, what to send again.
//!
//! It keeps the bytes of each request until the reply is here, so that it can hand back what must go out again: here, on the
//! next connection, or to another node (`hub/routes.rs`). It decides; it does no I/O (that is [`super::link`]).
//!
//! ```text
//!            base                written                end
//!   ── gone ──┤ sent, no reply yet  ├ not sent yet         ├
//!             └ pending[0].start    └ the socket was full, or there is none
//! ```

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

/// Sent bytes that have their reply are thrown away when so many of them stand before the first that has none.
const COMPACT_AFTER: usize = 256 * 1024;
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// May this request be sent a second time when nobody knows what became of the first?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, or it is applied once however often it is sent.
    Safe,
    /// Only when it certainly was not executed.
    Unsafe,
}

/// A request on its way. `T` says who waits for the reply.
#[derive(Debug)]
pub struct Pending<T> {
    pub to: T,
    pub repeat: Repeat,
    /// When it came to us.
    pub since: Instant,
    pub slot: u16,
    /// ASKING stands before it, which has a reply of its own.
    asking: Asking,
    wait: Wait,
    start: u64,
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    No,
    Sent,
    Answered,
}

/// Whether WAIT stands behind it, in the same bytes. Then it has its reply when WAIT has one too, and is sent again with it.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    No,
    Due,
    /// Its own reply, while WAIT's is due.
    Answered(Bytes),
}

impl<T> Pending<T> {
    /// The next reply is its own, and WAIT's comes behind that.
    pub fn is_first_of_two(&self) -> bool {
        self.wait == Wait::Due
    }

    /// The next reply is that of its WAIT.
    pub fn is_second_of_two(&self) -> bool {
        matches!(self.wait, Wait::Answered(_))
    }

    /// Its own reply, if what came last was that of its WAIT.
    pub fn own_reply(self) -> Option<Bytes> {
        match self.wait {
            Wait::Answered(reply) => Some(reply),
            Wait::No | Wait::Due => None,
        }
    }

    /// It is on the wire to its last byte. One that is not is not executed.
    fn is_whole(&self, written: u64) -> bool {
        self.start + self.len as u64 <= written
    }

    /// It is here by another node's word, for this once.
    pub fn is_asking(&self) -> bool {
        self.asking != Asking::No
    }
}

/// A request that is on no connection, to be sent.
#[derive(Debug)]
pub struct Unsent<T> {
    pub to: T,
    pub repeat: Repeat,
    pub since: Instant,
    pub slot: u16,
    /// WAIT is the last of its bytes.
    pub waits: bool,
    pub bytes: Vec<u8>,
}

/// What becomes of the requests of a connection that is gone.
#[derive(Debug)]
pub struct Lost<T> {
    /// To be sent again, in this order.
    pub again: Vec<Unsent<T>>,
    /// They may have been executed, and must not be executed twice.
    pub doubtful: Vec<Pending<T>>,
}

#[derive(Debug)]
pub struct Pipe<T> {
    out: Vec<u8>,
    base: u64,
    written: u64,
    pending: VecDeque<Pending<T>>,
    /// Requests that Redis refused to execute for now. While there are any nothing more is sent.
    refused: Vec<Unsent<T>>,
    /// Replies that are due to nobody before all others: to the WAITs of requests that were not executed.
    surplus: usize,
}

impl<T> Default for Pipe<T> {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            base: 0,
            written: 0,
            pending: VecDeque::new(),
            refused: Vec::new(),
            surplus: 0,
        }
    }
}

impl<T> Pipe<T> {
    /// Queues a request; `write` appends its bytes.
    /// It is on its way when [`Self::unsent`] has been written.
    pub fn send(&mut self, to: T, repeat: Repeat, since: Instant, slot: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.end();
        write(&mut self.out);
        let len = (self.end() - start) as usize;
        self.pending.push_back(Pending {
            to,
            repeat,
            since,
            slot,
            asking: Asking::No,
            wait: Wait::No,
            start,
            len,
        });
    }

    pub fn send_again(&mut self, request: Unsent<T>) {
        let Unsent {
            to,
            repeat,
            since,
            slot,
            waits,
            bytes,
        } = request;
        self.send(to, repeat, since, slot, |out| out.extend_from_slice(&bytes));
        if waits {
            self.last_waits();
        }
    }

    /// WAIT is the last of what was sent last.
    pub fn last_waits(&mut self) {
        if let Some(last) = self.pending.back_mut() {
            last.wait = Wait::Due;
        }
    }

    /// With ASKING before it: the two go out together.
    pub fn send_asking(&mut self, request: Unsent<T>) {
        let mut bytes = ASKING.to_vec();
        bytes.extend_from_slice(&request.bytes);
        self.send_again(Unsent { bytes, ..request });
        if let Some(last) = self.pending.back_mut() {
            last.asking = Asking::Sent;
        }
    }

    /// What should be written to the socket next.
    pub fn unsent(&self) -> &[u8] {
        match self.refused.is_empty() {
            false => &[],
            true => &self.out[(self.written - self.base) as usize..],
        }
    }

    /// So many bytes of `unsent` were taken by the socket.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// Who waits for the next reply.
    pub fn front(&self) -> Option<&Pending<T>> {
        self.pending.front().filter(|front| front.start < self.written)
    }

    /// Redis owes a reply, be it one that nobody waits for.
    pub fn is_owed(&self) -> bool {
        self.front().is_some() || self.surplus > 0
    }

    /// The next reply is that of an ASKING, which is nobody's. Its request's comes behind it.
    pub fn takes_asking(&mut self) -> bool {
        let written = self.written;
        match self.pending.front_mut() {
            Some(front) if front.start < written && front.asking == Asking::Sent => {
                front.asking = Asking::Answered;
                true
            }
            _ => false,
        }
    }

    /// The next reply is to a WAIT behind which nobody waits any more.
    pub fn takes_surplus(&mut self) -> bool {
        let takes = self.surplus > 0;
        self.surplus -= usize::from(takes);
        takes
    }

    /// The oldest request that was sent has its own reply, and is to have that of its WAIT.
    pub fn half_answered(&mut self, reply: Bytes) {
        if let Some(front) = self.pending.front_mut() {
            front.wait = Wait::Answered(reply);
        }
    }

    /// The oldest request that was sent has its reply. `None`: it is a reply to nothing.
    pub fn answered(&mut self) -> Option<Pending<T>> {
        let answered = self.take_front();
        self.forget_answered();
        answered
    }

    fn take_front(&mut self) -> Option<Pending<T>> {
        self.front()?;
        let front = self.pending.pop_front()?;
        self.surplus += usize::from(front.is_first_of_two());
        Some(front)
    }

    /// The oldest request that was sent was not executed here, and goes on elsewhere. `None`: it is a reply to nothing.
    pub fn turned_away(&mut self) -> Option<Unsent<T>> {
        let front = self.take_front()?;
        let request = unsent(front, self.base, &self.out);
        self.forget_answered();
        Some(request)
    }

    /// The oldest request that was sent was refused for now (`LOADING`, `READONLY` …), so it was not executed.
    /// It is kept and nothing more is sent until [`Self::lost`]. False: it is a reply to nothing.
    pub fn refused(&mut self) -> bool {
        let refused = self.turned_away();
        let there_was_one = refused.is_some();
        self.refused.extend(refused);
        there_was_one
    }

    /// Redis refuses, and every request that it has been sent has been answered or refused: time for a new connection. One
    /// of which it has only a part is none of them: the rest is not sent any more, so it is not executed.
    pub fn wants_another_connection(&self) -> bool {
        let is_owed = self.front().is_some_and(|front| front.is_whole(self.written)) || self.surplus > 0;
        !self.refused.is_empty() && !is_owed
    }

    /// The connection is gone. Everything goes out again, but for what may have been executed and must not be executed
    /// twice. The pipe is empty then.
    pub fn lost(&mut self) -> Lost<T> {
        let old = std::mem::take(self);
        let (mut again, mut doubtful) = (old.refused, Vec::new());
        for request in old.pending {
            match request.is_whole(old.written) && request.repeat == Repeat::Unsafe {
                true => doubtful.push(request),
                false => again.push(unsent(request, old.base, &old.out)),
            }
        }
        Lost { again, doubtful }
    }

    /// Takes out those that `leaves` says of, as long as no byte of them was sent.
    pub fn recall(&mut self, leaves: impl Fn(&Pending<T>) -> bool) -> Vec<Unsent<T>> {
        let first = self.pending.partition_point(|request| request.start < self.written);
        if !self.pending.range(first..).any(&leaves) {
            return Vec::new();
        }
        let rest = self.pending.split_off(first);
        let start = rest.front().map_or(self.end(), |front| front.start);
        let bytes = self.out.split_off((start - self.base) as usize);
        let mut recalled = Vec::new();
        for request in rest {
            if leaves(&request) {
                recalled.push(unsent(request, start, &bytes));
                continue;
            }
            let from = (request.start - start) as usize;
            let moved = self.end();
            self.out.extend_from_slice(&bytes[from..from + request.len]);
            self.pending.push_back(Pending {
                start: moved,
                ..request
            });
        }
        recalled
    }

    /// All that wait for a reply or to be sent, in their order.
    pub fn pending(&self) -> impl Iterator<Item = &Pending<T>> {
        self.pending.iter()
    }

    /// Requests that wait, sent or not.
    pub fn len(&self) -> usize {
        self.pending.len() + self.refused.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.out.len() + self.refused.iter().map(|request| request.bytes.len()).sum::<usize>()
    }

    fn end(&self) -> u64 {
        self.base + self.out.len() as u64
    }

    fn forget_answered(&mut self) {
        let needed = self.pending.front().map_or(self.end(), |front| front.start);
        let gone = (needed - self.base) as usize;
        if gone == self.out.len() {
            self.base = needed;
            self.out.clear();
        } else if gone > COMPACT_AFTER {
            self.base = needed;
            self.out.drain(..gone);
        }
    }
}

/// Takes a request's bytes along, out of a buffer that begins at `base`.
fn unsent<T>(request: Pending<T>, base: u64, out: &[u8]) -> Unsent<T> {
    let from = (request.start - base) as usize;
    let bytes = &out[from..from + request.len];
    let bytes = match request.asking {
        Asking::No => bytes,
        Asking::Sent | Asking::Answered => &bytes[ASKING.len()..],
    };
    Unsent {
        to: request.to,
        repeat: request.repeat,
        since: request.since,
        slot: request.slot,
        waits: request.wait != Wait::No,
        bytes: bytes.to_vec(),
    }
}
