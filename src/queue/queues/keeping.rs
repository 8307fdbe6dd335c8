//! What the keeper of repeated jobs ([`crate::queue::crons`]) asks, and what becomes of the answers. A queue's repeated jobs are kept
//! in its partition 0, and pushed there: who comes first makes a tick, in the step that pushes its job.

use std::time::Instant;

use bytes::Bytes;

use super::{Queues, at_redis_time};
use crate::queue::cron::Repeated;
use crate::queue::crons::Wants;
use crate::queue::lane::{Entry, LaneKey, To, Work};
use crate::queue::operation::{Operation, QueueName, Tick};
use crate::queue::single::{CronCall, News, Single};
use crate::script::Standing;

impl Queues {
    pub(super) fn push_single(&mut self, queue: &QueueName, single: Single, to: To, since: Instant) {
        let queue = self.queue(queue);
        let lane = self.queues[queue as usize].lanes[0];
        self.enter(lane, Entry::again(Work::Single(single), to, since));
    }

    /// What the keeper of repeated jobs has asked is here.
    pub(super) fn keep(&mut self, key: LaneKey, news: News, standing: Standing, now: Instant) {
        let Some(crons) = &mut self.crons else { return };
        let wants = match news {
            News::Table(rows) => {
                let rows = rows.into_iter();
                let named = rows.filter_map(|(name, version)| Some((QueueName::new(&name)?, version)));
                crons.read(named.collect())
            }
            News::Due(told) => {
                let mut soonest = told.soonest.into_iter().chain(told.more.then_some(standing.now)).min();
                let lane = &mut self.lanes[key as usize];
                for entry in told.entries {
                    let Some(job) = Repeated::from_words(&entry.words) else {
                        continue;
                    };
                    let next = job.schedule.following(entry.tick, standing.now);
                    soonest = soonest.into_iter().chain(next).min();
                    let mut push = job.push;
                    push.payloads
                        .iter_mut()
                        .for_each(|payload| payload.pack(lane.settings.compress_over));
                    let tick = Tick {
                        name: entry.name,
                        at: entry.tick,
                        next,
                        push,
                    };
                    lane.push(Entry {
                        work: Work::Operation(Operation::Tick(Box::new(tick))),
                        to: To::Keeper,
                        since: now,
                        pipelined: false,
                    });
                }
                let due = soonest.map(|due| at_redis_time(due, standing.now, now));
                let queue = lane.queue.clone();
                crons.expect(&queue, due).into_iter().collect()
            }
        };
        self.ask_for_keeper(wants, now);
    }

    pub(super) fn ask_for_keeper(&mut self, wants: Vec<Wants>, now: Instant) {
        let crontab = QueueName::of_crontab();
        for wanted in wants {
            let (queue, call) = match wanted {
                Wants::Table => {
                    let table = self.queue(&crontab);
                    self.want_ear(self.queues[table as usize].lanes[0]);
                    let (cursor, seen) = (Bytes::from_static(b"0"), Vec::new());
                    (crontab.clone(), CronCall::ReadTable { cursor, seen })
                }
                Wants::Due(queue) => (queue, CronCall::Due),
                Wants::Forget(queue, version) => (crontab.clone(), CronCall::Forget(queue, version)),
            };
            self.push_single(&queue, Single::Cron(call), To::Keeper, now);
        }
    }

    pub(super) fn keeper_failed(&mut self, now: Instant) {
        if let Some(crons) = &mut self.crons {
            crons.failed(now);
        }
    }
}
