//! Each queue has its home: the one worker of this proxy through whose lane all of its clients go, whichever worker owns
//! them. So a queue's calls are gathered from all clients of the proxy, and its waiting pops stand in one row.
//!
//! What a worker has for the others' queues, and what it has to tell their clients, it posts once a turn, one parcel a
//! worker. Parcels between two workers keep their order, so that a client's pipeline on one queue keeps its own.
//!
//! A home is a preference and no lock: Redis decides each call by itself. A `QMPOP` goes to the home of the first queue it
//! names and looks into the others from there, as another proxy would.

use std::sync::atomic::Ordering::Relaxed;

use super::clients::Delivery;
use super::{Hub, Mail};
use crate::asker::Asker;
use crate::queue::operation::{Claim, QueueName};
use crate::queue::parse::Ask;
use crate::queue::queues::Answer;
use crate::queue::reply::Reply;

/// From one worker to another.
#[derive(Debug)]
pub enum Letter {
    Ask {
        asker: Asker,
        ask: Ask,
        pipelined: bool,
    },
    /// Jobs that did not reach their client.
    GiveBack(Delivery),
    /// Jobs that were bound to a connection which is closed.
    Lapse {
        queue: QueueName,
        claims: Vec<Claim>,
    },
    /// Its client is gone, or takes no more jobs. Only the home of the queue that it asked for knows the request.
    Forget(Asker),
    /// For a client of the worker that it is sent to.
    Answer(Answer),
}

/// The worker that sees to repeated jobs.
pub(super) const KEEPER: usize = 0;

impl Hub {
    fn home(&self, queue: &QueueName) -> usize {
        usize::from(crc16::State::<crc16::XMODEM>::calculate(queue.as_bytes())) % self.outboxes.len()
    }

    pub(super) fn ask_queue(&mut self, asker: Asker, ask: Ask, pipelined: bool) {
        let home = match ask.is_about_crons() {
            true => KEEPER,
            false => self.home(ask.queue()),
        };
        match home == self.number {
            true => self.queues.ask(asker, ask, pipelined, self.now),
            false => self.outboxes[home].push(Letter::Ask { asker, ask, pipelined }),
        }
    }

    pub(super) fn give_back(&mut self, delivery: Delivery) {
        let home = self.home(&delivery.queue);
        match home == self.number {
            true => self.give_back_here(delivery),
            false => self.outboxes[home].push(Letter::GiveBack(delivery)),
        }
    }

    fn give_back_here(&mut self, delivery: Delivery) {
        let Delivery {
            queue,
            partition,
            returns,
        } = delivery;
        self.queues.give_back(&queue, partition, returns, self.now);
    }

    pub(super) fn lapse(&mut self, queue: &QueueName, claims: Vec<Claim>) {
        let home = self.home(queue);
        match home == self.number {
            true => self.queues.lapse(queue, claims, self.now),
            false => self.outboxes[home].push(Letter::Lapse {
                queue: queue.clone(),
                claims,
            }),
        }
    }

    /// If this request is a pop without a reply, it asks for nothing any more and is answered so.
    pub(super) fn forget(&mut self, asker: Asker) {
        if self.queues.forget(asker) {
            return self.answer_queue(asker, Reply::NoJob);
        }
        for (worker, outbox) in self.outboxes.iter_mut().enumerate() {
            if worker != asker.client.worker as usize {
                outbox.push(Letter::Forget(asker));
            }
        }
    }

    pub(super) fn deliver_answers(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        self.queues.take_answers(&mut answers);
        for answer in answers.drain(..) {
            self.deliver(answer);
        }
        self.answers = answers;
    }

    fn deliver(&mut self, answer: Answer) {
        let worker = answer.asker.client.worker as usize;
        match worker == self.number {
            true => self.answer_queue(answer.asker, answer.reply),
            false => self.outboxes[worker].push(Letter::Answer(answer)),
        }
    }

    pub(super) fn post_letters(&mut self) {
        for (worker, outbox) in self.outboxes.iter_mut().enumerate() {
            if !outbox.is_empty() {
                self.shared.parcels.fetch_add(1, Relaxed);
                // A worker that is gone took the process with it.
                let _ = self.shared.mailboxes[worker].send(Mail::Parcel(std::mem::take(outbox)));
            }
        }
    }

    pub(super) fn open_parcel(&mut self, letters: Vec<Letter>) {
        for letter in letters {
            match letter {
                Letter::Ask { asker, ask, pipelined } => self.queues.ask(asker, ask, pipelined, self.now),
                Letter::GiveBack(delivery) => self.give_back_here(delivery),
                Letter::Lapse { queue, claims } => self.queues.lapse(&queue, claims, self.now),
                Letter::Answer(Answer { asker, reply }) => self.answer_queue(asker, reply),
                Letter::Forget(asker) => {
                    if self.queues.forget(asker) {
                        let reply = Reply::NoJob;
                        self.deliver(Answer { asker, reply });
                    }
                }
            }
        }
        self.want_flush();
        self.shared.parcels.fetch_sub(1, Relaxed);
    }
}
