//! The clients: who is let in, what each one's task should wait for, and how a client ends.
//!
//! What a client sends is [`super::requests`]', what it gets is [`super::answers`]'.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Instant;

use bytes::BytesMut;

use super::Hub;
use crate::asker::{Asker, ClientKey};
use crate::client::bound::Bound;
use crate::client::replies::Replies;
use crate::local::client::Buffers;
use crate::queue::operation::{QueueName, Return};
use crate::resp::scanner::Scanner;
use crate::session::{Peer, Session};
use crate::stream::Stream;

const DENIED: &str = "-DENIED Millrace is running in protected mode because no users are configured. In this mode only \
                      connections from the loopback interface and the unix socket are accepted. To connect from other \
                      computers add users under [auth] in the configuration.\r\n";
const FULL: &str = "-ERR max number of clients reached\r\n";
const DRAINING: &str = "-ERR the proxy is shutting down\r\n";

/// Jobs that a reply hands out, should it not reach the socket.
#[derive(Debug)]
pub struct Delivery {
    pub queue: QueueName,
    pub partition: u16,
    pub returns: Vec<Return>,
}

pub(super) struct Client {
    pub generation: u32,
    pub session: Session,
    pub stream: Rc<Stream>,
    pub replies: Replies<Box<Delivery>>,
    /// Popped with `BOUND`, and not finished.
    pub bound: Option<Box<Bound>>,
    /// What has come and could not be served yet.
    pub held: Option<Box<Held>>,
    /// Wakes the task that reads it.
    waker: Option<Waker>,
    /// It stands in the list of those that have something to be written.
    pub dirty: bool,
    /// Its socket took no more.
    pub blocked: bool,
    /// Its task does not read: it has enough open.
    pub paused: bool,
    /// It has closed its side, and sends nothing more.
    ended: bool,
    close: Close,
    /// What it has of [`Hub::client_bytes`].
    pub counted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    No,
    /// What it sends is thrown away; it closes when its requests have their replies.
    WhenDone,
    Now,
}

/// Part of a request, or requests that must wait until the client's earlier ones are answered.
#[derive(Default)]
pub(super) struct Held {
    pub buffer: BytesMut,
    pub scanner: Scanner,
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
            bound: None,
            held: None,
            waker: None,
            dirty: false,
            blocked: false,
            paused: false,
            ended: false,
            close: Close::No,
            counted: 0,
        });
        self.counters.connections.add(1);
        self.counters.clients.set(self.clients.len() as u64);
        self.want_flush(); // behind it the clock task looks when this client will have been idle for too long
        Ok(ClientKey {
            worker: self.number as u16,
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
        let paused = self.client(key).is_some() && self.has_enough(&self.clients[key.index as usize]);
        let client = self.client(key)?;
        client.paused = paused;
        if !client.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            client.waker = Some(waker.clone());
        }
        let done = client.replies.open_requests() == 0 && client.replies.unsent().is_empty();
        if client.close == Close::Now || client.close == Close::WhenDone && done {
            return None;
        }
        Some(Wish {
            // One that is to be closed is read too, or its end would not be noticed.
            read: !client.ended && !paused && !client.blocked,
            write: client.blocked,
        })
    }

    pub fn client_writable(&mut self, key: ClientKey) {
        if let Some(client) = self.client(key) {
            client.blocked = false;
            self.mark(key.index);
        }
    }

    /// The client has closed its side; whether it still reads is not known. It gets the replies to what it asked, but
    /// no job: a pop that waits ends, and what was popped for it goes back.
    pub fn client_ended(&mut self, key: ClientKey) {
        self.now = Instant::now();
        let Some(client) = self.client(key) else { return };
        client.ended = true;
        client.close(Close::WhenDone);
        for ticket in client.replies.waiting() {
            self.forget(Asker { client: key, ticket });
        }
        self.want_flush();
    }

    /// The client is gone. What it was to get and did not get goes back.
    pub fn hang_up(&mut self, key: ClientKey) {
        if self.client(key).is_none() {
            return;
        }
        let mut client = self.clients.remove(key.index as usize);
        self.client_bytes -= client.counted;
        self.counters.clients.set(self.clients.len() as u64);
        for ticket in client.replies.waiting() {
            self.forget(Asker { client: key, ticket });
        }
        self.now = Instant::now();
        let mut bound = client.bound.take().unwrap_or_default();
        for delivery in client.replies.undelivered() {
            for job in &delivery.returns {
                bound.remove(&delivery.queue, delivery.partition, job.job);
            }
            self.give_back(*delivery);
        }
        for (queue, claims) in bound.take() {
            self.lapse(&queue, claims);
        }
        self.want_flush();
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
}

impl Client {
    /// Whether what it sends is served.
    pub fn is_open(&self) -> bool {
        self.close == Close::No
    }

    /// Whether a job that is handed out now can reach it.
    pub fn gets_jobs(&self) -> bool {
        self.close != Close::Now && !self.ended
    }

    pub fn key(&self, worker: usize, index: u32) -> ClientKey {
        ClientKey {
            worker: worker as u16,
            index,
            generation: self.generation,
        }
    }

    pub fn close(&mut self, close: Close) {
        self.close = close;
        self.wake();
    }

    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Bytes held from it and for it.
    pub fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.buffer.len()) + self.replies.buffered()
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
