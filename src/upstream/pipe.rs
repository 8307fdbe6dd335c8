//! The requests of many clients on one connection to Redis: what was sent, what waits for its reply, what to send again.
//!
//! A pipe outlives its connections. It keeps the bytes of each request until the reply is here, so that after a lost
//! connection it sends again what is safe to send again. It decides; it does no I/O (that is [`super::link`]).
//!
//! ```text
//!            base                written                end
//!   ── gone ──┤ sent, no reply yet  ├ not sent yet         ├
//!             └ pending[0].start    └ the socket was full, or there is none
//! ```

use std::collections::VecDeque;
use std::time::Instant;

/// Sent bytes that have their reply are thrown away when so many of them stand before the first that has none.
const COMPACT_AFTER: usize = 256 * 1024;

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
    start: u64,
    len: usize,
}

#[derive(Debug)]
pub struct Pipe<T> {
    out: Vec<u8>,
    base: u64,
    written: u64,
    pending: VecDeque<Pending<T>>,
    /// Requests that Redis refused to execute for now, with their bytes. While there are any nothing more is sent;
    /// on the next connection they go first.
    refused: Vec<(Pending<T>, Vec<u8>)>,
}

impl<T> Default for Pipe<T> {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            base: 0,
            written: 0,
            pending: VecDeque::new(),
            refused: Vec::new(),
        }
    }
}

impl<T> Pipe<T> {
    /// Queues a request; `write` appends its bytes.
    /// It is on its way when [`Self::unsent`] has been written.
    pub fn send(&mut self, to: T, repeat: Repeat, since: Instant, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.end();
        write(&mut self.out);
        let len = (self.end() - start) as usize;
        self.pending.push_back(Pending {
            to,
            repeat,
            since,
            start,
            len,
        });
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

    /// The oldest request that was sent has its reply. `None`: it is a reply to nothing.
    pub fn answered(&mut self) -> Option<Pending<T>> {
        self.front()?;
        let answered = self.pending.pop_front();
        self.forget_answered();
        answered
    }

    /// The oldest request that was sent was refused for now (`LOADING`, `READONLY` …), so it was not executed.
    /// It is kept and nothing more is sent until [`Self::lost`]. False: it is a reply to nothing.
    pub fn refused(&mut self) -> bool {
        let Some(front) = self.front() else { return false };
        let from = (front.start - self.base) as usize;
        let bytes = self.out[from..from + front.len].to_vec();
        if let Some(front) = self.pending.pop_front() {
            self.refused.push((front, bytes));
        }
        self.forget_answered();
        true
    }

    /// Redis refuses, and every request that it has been sent has been answered or refused: time for a new connection.
    pub fn wants_another_connection(&self) -> bool {
        !self.refused.is_empty() && self.front().is_none()
    }

    /// The connection is gone. Everything goes out again on the next one, but for what may have been executed and must
    /// not be executed twice: that is given back, to be answered with an error.
    pub fn lost(&mut self) -> Vec<Pending<T>> {
        let written = self.written;
        self.requeue(|request| {
            // A request that is not whole on the wire is not executed.
            request.repeat == Repeat::Safe || request.start + request.len as u64 > written
        })
    }

    /// Takes out what `waited_enough` says of, whoever waits for it. Only without a connection, when nothing is on its way.
    pub fn give_up(&mut self, waited_enough: impl Fn(&Pending<T>) -> bool) -> Vec<Pending<T>> {
        match self.pending.iter().any(&waited_enough) {
            true => self.requeue(|request| !waited_enough(request)),
            false => Vec::new(),
        }
    }

    /// Lays all requests that `keep` says of into a new buffer, none of them sent; gives back the others.
    fn requeue(&mut self, keep: impl Fn(&Pending<T>) -> bool) -> Vec<Pending<T>> {
        let refused = std::mem::take(&mut self.refused);
        let old = std::mem::take(self);
        let mut dropped = Vec::new();
        for (request, bytes) in refused {
            self.send(request.to, request.repeat, request.since, |out| {
                out.extend_from_slice(&bytes)
            });
        }
        for request in old.pending {
            if !keep(&request) {
                dropped.push(request);
                continue;
            }
            let from = (request.start - old.base) as usize;
            let bytes = &old.out[from..from + request.len];
            self.send(request.to, request.repeat, request.since, |out| {
                out.extend_from_slice(bytes)
            });
        }
        dropped
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
        self.out.len()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(requests: &[(&'static str, Repeat)]) -> Pipe<&'static str> {
        let mut pipe = Pipe::default();
        for &(request, repeat) in requests {
            pipe.send(request, repeat, Instant::now(), |out| {
                out.extend_from_slice(request.as_bytes())
            });
        }
        pipe
    }

    fn names(requests: Vec<Pending<&'static str>>) -> Vec<&'static str> {
        requests.into_iter().map(|request| request.to).collect()
    }

    #[test]
    fn a_write_that_may_have_been_executed_is_not_sent_again() {
        let mut pipe = pipe(&[
            ("get-1", Repeat::Safe),
            ("set-2", Repeat::Unsafe),
            ("set-3", Repeat::Unsafe),
            ("set-4", Repeat::Unsafe),
        ]);
        pipe.wrote("get-1set-2se".len());
        assert_eq!(names(pipe.lost()), ["set-2"]);
        assert_eq!(pipe.unsent(), b"get-1set-3set-4");
    }

    #[test]
    fn what_was_refused_goes_first_on_the_next_connection() {
        let mut pipe = pipe(&[("set-1", Repeat::Unsafe), ("set-2", Repeat::Unsafe)]);
        pipe.wrote(10);
        pipe.send("set-3", Repeat::Unsafe, Instant::now(), |out| {
            out.extend_from_slice(b"set-3")
        });
        assert!(pipe.refused());
        assert_eq!(pipe.unsent(), b"", "nothing is sent past a refused request");
        assert!(!pipe.wants_another_connection(), "set-2 may still be answered");
        assert_eq!(pipe.answered().unwrap().to, "set-2");
        assert!(pipe.wants_another_connection());
        assert!(pipe.lost().is_empty());
        assert_eq!(pipe.unsent(), b"set-1set-3");
    }

    #[test]
    fn a_reply_to_nothing_is_noticed() {
        let mut pipe = pipe(&[("get-1", Repeat::Safe)]);
        assert!(pipe.answered().is_none(), "it was not sent yet");
        assert!(!pipe.refused());
    }

    #[test]
    fn bytes_go_when_their_replies_are_here() {
        let mut pipe = pipe(&[("get-1", Repeat::Safe), ("get-2", Repeat::Safe)]);
        pipe.wrote(10);
        pipe.answered();
        pipe.answered();
        assert_eq!((pipe.buffered(), pipe.len()), (0, 0));
    }
}
