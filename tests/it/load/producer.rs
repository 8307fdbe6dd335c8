//! Who pushes.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Party, QUEUE, Shared, Told, What};

#[derive(Clone, Copy)]
pub struct Producer {
    pub queue: &'static str,
    /// Over so many groups in turn; 0: without a group.
    pub groups: usize,
    /// In ms.
    pub delay: usize,
    /// Pushes in one write.
    pub burst: usize,
    /// No more than so many of the queue's jobs are to be open. 1: it is mostly empty, and pops wait there.
    pub backlog: usize,
}

impl Producer {
    pub const PLAIN: Producer = Producer {
        queue: QUEUE,
        groups: 0,
        delay: 0,
        burst: 1,
        backlog: 100,
    };

    pub(super) fn run(&self, shared: &Shared, number: usize) {
        let mut party = Party::of(shared, number);
        let mut round = 0;
        while !shared.no_more_pushes.load(Relaxed) {
            party.go_home();
            for _ in 0..self.burst {
                shared
                    .tally(self.queue)
                    .open(self.backlog, || shared.no_more_pushes.load(Relaxed));
            }
            let payloads: Vec<_> = (round..round + self.burst)
                .map(|round| format!("{number}.{round}"))
                .collect();
            let group = (self.groups > 0).then(|| format!("group-{}", round % self.groups));
            round += self.burst;
            if !self.push(&mut party, payloads, group) && !party.reconnect() {
                return;
            }
        }
    }

    /// False: the connection is lost.
    fn push(&self, party: &mut Party, payloads: Vec<String>, group: Option<String>) -> bool {
        let delay = self.delay.to_string();
        let call = |payload: &'_ String| {
            let mut words = vec!["QPUSH", self.queue, payload.as_str()];
            words.extend(group.as_deref().into_iter().flat_map(|group| ["GROUP", group]));
            words.extend(
                (self.delay > 0)
                    .then_some(["DELAY", delay.as_str()])
                    .into_iter()
                    .flatten(),
            );
            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let calls: Vec<Vec<String>> = payloads.iter().map(call).collect();
        let calls: Vec<Vec<&str>> = calls
            .iter()
            .map(|words| words.iter().map(String::as_str).collect())
            .collect();
        let asked = Instant::now();
        let mut told = party.call_all(self.queue, &calls).into_iter();
        let mut is_lost = false;
        for payload in payloads {
            let what = match told.next().unwrap_or(Told::Closed) {
                Told::Reply(reply) => {
                    party.shared.pushed.fetch_add(1, Relaxed);
                    let what = What::Pushed {
                        payload,
                        id: reply.text(),
                        group: group.clone(),
                        delayed: self.delay > 0,
                    };
                    party.history().note(asked, self.queue, what);
                    continue;
                }
                // Stored, in its words, and named by it; or maybe stored.
                Told::Refused(error) if error.starts_with("NOREPLICAS") || error.starts_with("UNCERTAIN") => None,
                Told::Refused(_) => Some(What::Refused { payload }),
                Told::Closed => {
                    is_lost = true;
                    None
                }
            };
            party.shared.tally(self.queue).drop_out();
            what.into_iter()
                .for_each(|what| party.history().note(asked, self.queue, what));
        }
        !is_lost
    }
}
