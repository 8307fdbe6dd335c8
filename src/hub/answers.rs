//! Replies on their way to their clients: laid down in the order of the requests, written once a turn.
//!
//! What a reply says comes from [`super::requests`], [`super::pipes`] or the queues. A popped job counts as delivered
//! when its last byte was taken by the socket; before that it goes back to its queue when the client does not get it.

use bytes::BytesMut;

use super::clients::{Close, Delivery};
use super::{Hub, write_some};
use crate::asker::Asker;
use crate::command::CommandId;
use crate::queue::reply::Reply;
use crate::resp::{Protocol, ReplyWriter};

impl Hub {
    /// Lays a reply down for its client. `write` may say what it hands out.
    pub(super) fn answer(
        &mut self,
        asker: Asker,
        write: impl FnOnce(&mut BytesMut, Protocol) -> Option<Box<Delivery>>,
    ) {
        let Some(client) = self.client(asker.client) else {
            return;
        };
        client.replies.answer(asker.ticket, write);
        self.mark(asker.client.index);
    }

    pub(super) fn answer_error(&mut self, asker: Asker, text: &[u8]) {
        self.answer(asker, |out, protocol| {
            ReplyWriter::new(out, protocol).error(text);
            None
        });
    }

    /// The answer to a queue command. Jobs whose client is gone go back at once.
    pub(super) fn answer_queue(&mut self, asker: Asker, reply: Reply) {
        let delivery = match &reply {
            Reply::Jobs(popped) => Some(Box::new(Delivery {
                queue: popped.queue.clone(),
                partition: popped.origin.partition,
                returns: popped.returns(),
            })),
            _ => None,
        };
        if self.outgrows(asker, &reply) {
            if let Some(delivery) = delivery {
                self.give_back(*delivery);
            }
            return;
        }
        let open = self
            .client(asker.client)
            .is_some_and(|client| client.gets_jobs() && client.replies.is_open(asker.ticket));
        match delivery {
            Some(delivery) if !open => {
                self.give_back(*delivery);
                self.answer(asker, |out, protocol| {
                    Reply::NoJob.write(&mut ReplyWriter::new(out, protocol));
                    None
                });
            }
            delivery => {
                self.bind(asker, &reply);
                self.note_latency_of(asker);
                self.answer(asker, |out, protocol| {
                    reply.write(&mut ReplyWriter::new(out, protocol));
                    delivery
                });
            }
        }
    }

    /// Packed payloads may be a thousand times as large as what Redis sent of them. A reply in which they come to more than
    /// a client may have waiting for it would close the client once it is written: so it is not even unpacked.
    fn outgrows(&mut self, asker: Asker, reply: &Reply) -> bool {
        let (bytes, limit) = (reply.unpacked_len(), self.shared.config.limits.client_output);
        let Some(client) = self.client(asker.client).filter(|_| bytes > limit) else {
            return false;
        };
        tracing::warn!(
            client = client.session.id,
            bytes,
            "reply is larger than client_output, closing the client"
        );
        client.close(Close::Now);
        true
    }

    fn bind(&mut self, asker: Asker, reply: &Reply) {
        let Reply::Jobs(popped) = reply else { return };
        if let Some(client) = self.client(asker.client).filter(|_| popped.bound) {
            let bound = client.bound.get_or_insert_default();
            for job in &popped.jobs {
                bound.add(&popped.queue, popped.origin.partition, job.id, job.delivery);
            }
        }
    }

    fn note_latency_of(&mut self, asker: Asker) {
        let now = self.now;
        let Some(client) = self.client(asker.client) else {
            return;
        };
        // Of a pipeline only the last command's name is known here; its time is what the client sees.
        let (command, since) = (client.session.command, client.session.active);
        self.note_latency(command, now.saturating_duration_since(since));
    }

    pub(super) fn note_latency(&self, command: Option<CommandId>, took: std::time::Duration) {
        if let Some(latencies) = command.and_then(|id| self.counters.latencies.get(id.index())) {
            latencies.record(took);
        }
    }

    pub(super) fn mark(&mut self, index: u32) {
        self.recount(index);
        let Some(client) = self.clients.get_mut(index as usize) else {
            return;
        };
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(index);
        }
        self.want_flush();
    }

    /// Each client that has something gets it in one write. Serving what was held may mark clients anew: they are
    /// written in the next flush, which follows at once.
    pub(super) fn write_clients(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.write_client(index);
            self.serve_on(index);
            self.recount(index);
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    fn write_client(&mut self, index: u32) {
        let limit = self.shared.config.limits.client_output;
        let Some(client) = self.clients.get_mut(index as usize) else {
            return;
        };
        client.dirty = false;
        if !client.blocked {
            match write_some(&client.stream, client.replies.unsent()) {
                Ok(written) => {
                    self.counters.bytes_out.add(written as u64);
                    client.replies.wrote(written);
                    client.blocked = !client.replies.unsent().is_empty() || client.stream.is_behind();
                }
                Err(_) => return client.close(Close::Now),
            }
        }
        let bytes = client.replies.buffered();
        if bytes > limit {
            tracing::warn!(client = client.session.id, bytes, "client reads too slowly, closing it");
            client.close(Close::Now);
        }
    }

    /// A client that had enough is served further when some of it is done. Its task is woken when what it should wait
    /// for has changed: its socket is full, it is read again, or it has its last reply.
    fn serve_on(&mut self, index: u32) {
        let Some(client) = self.clients.get(index as usize) else {
            return;
        };
        let (enough, key) = (self.has_enough(client), client.key(self.number, index));
        let client = &mut self.clients[index as usize];
        if client.blocked || !client.is_open() || client.paused && !enough {
            client.wake();
        }
        if !enough && let Some(held) = client.held.take() {
            self.serve_held(key, held);
            self.want_flush();
        }
    }

    /// Keeps [`Hub::client_bytes`] true: to be called when what a client holds has changed.
    pub(super) fn recount(&mut self, index: u32) {
        if let Some(client) = self.clients.get_mut(index as usize) {
            let bytes = client.bytes();
            self.client_bytes = self.client_bytes + bytes - client.counted;
            client.counted = bytes;
        }
    }
}
