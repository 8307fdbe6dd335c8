//! Replies to calls that stand for themselves ([`Single`]): what they tell of the queue, and what comes next.

use std::time::Instant;

use bytes::Bytes;

use super::Queues;
use super::partitions::Queue;
use crate::queue::lane::{Entry, LaneKey, QueueKey, To, Trust, Work};
use crate::queue::settings::{Change, SPREAD};
use crate::queue::single::{CronCall, Elsewhere, Single, Step};
use crate::queue::spread::Spread;
use crate::script::{CallError, Changed, Standing};

impl Queues {
    /// The answer goes to who asked, or the next call is made.
    pub(super) fn settle_single(
        &mut self,
        key: LaneKey,
        single: &Single,
        (to, since): (To, Instant),
        reply: Bytes,
        now: Instant,
    ) -> Result<(), CallError> {
        let lane = &mut self.lanes[key as usize];
        if let Single::Copy { .. } = single {
            lane.trust = Trust::Sure;
        }
        let known = &self.queues[lane.of as usize];
        let several = known.lanes.len() > 1 && lane.origin.partition == 0 && !lane.retired;
        let elsewhere = single
            .elsewhere(&lane.settings)
            .filter(|_| several && !matches!(to, To::Part(..)));
        let (standing, step) = single.clone().read(reply, &lane.queue, lane.origin, &known.settings)?;
        self.note_single(key, single, standing, now);
        self.go_on(key, step, elsewhere, (to, since), standing, now);
        Ok(())
    }

    /// What is known of the queue when such a call was made.
    fn note_single(&mut self, key: LaneKey, single: &Single, standing: Standing, now: Instant) {
        let lane = &self.lanes[key as usize];
        let (queue, partition) = (lane.of, lane.origin.partition);
        if let (Single::Cron(CronCall::AddToTable(_)), Some(crons)) = (single, &mut self.crons) {
            crons.changed(now);
        }
        if let (0, Single::Cron(CronCall::Delete(name))) = (partition, single) {
            self.forget_ticks(queue, name, now);
        }
        self.note_removal(key, single);
        let lane = &self.lanes[key as usize];
        let soonest = lane.due.filter(|due| *due > now);
        self.stand(key, standing, now);
        let lane = &mut self.lanes[key as usize];
        // What a batch knew of the limits, this call did not ask.
        lane.due = [soonest, lane.due].into_iter().flatten().min();
        lane.hopeful = lane.hopeful.max(lane.parked.live().min(standing.ready as usize));
        self.expect_due(key);
        match single {
            Single::Restore { copy, .. } => self.adopt(queue, copy.clone(), now),
            Single::DropPart { .. } if partition == 0 => self.adopt(queue, Changed::default(), now),
            _ => {}
        }
    }

    fn go_on(
        &mut self,
        key: LaneKey,
        step: Step,
        elsewhere: Option<Elsewhere>,
        (to, since): (To, Instant),
        standing: Standing,
        now: Instant,
    ) {
        let lane = &self.lanes[key as usize];
        let (queue, partition) = (lane.of, lane.origin.partition);
        let again = |single| Entry::again(Work::Single(single), to, since);
        match (step, elsewhere) {
            (Step::Done(_), Some(Elsewhere::Window(state, window))) => {
                self.peek_everywhere(queue, to, state, window, since);
            }
            (Step::Done(reply), Some(Elsewhere::Too(part))) => self.ask_elsewhere(queue, to, reply, part, since),
            (Step::Done(reply), None) => self.reply_to(to, reply),
            (Step::Wait, _) => {
                if let To::Asker(asker) = to
                    && let Some(job) = self.awaiting.park(asker)
                {
                    self.look_for_result(asker, key, job, true, now);
                }
            }
            (Step::Again(single), _) => match self.revised(queue, single) {
                Ok(single) => self.lanes[key as usize].push_front(again(single)),
                Err(line) => self.refuse(to, line.into(), now),
            },
            (Step::Next(single), _) => match self.lane_of(queue, partition + 1) {
                Some(next) => self.enter(next, again(single)),
                None => self.reply_to(to, single.of_nothing(&self.lanes[key as usize].settings)),
            },
            (Step::In(queue, single), _) => self.push_single(&queue, single, to, since),
            (Step::Keeper(news), _) => self.keep(key, news, standing, now),
            (Step::Keys(news), _) => self.keys_told(key, news, (to, since), now),
            (Step::Retake(jobs, step), _) => {
                let to = self.retake_keys(key, jobs, to, since);
                self.go_on(key, *step, None, (to, since), standing, now);
            }
        }
    }

    /// What is to be stored of a change of the settings follows from those that hold. `Err`: why it cannot be.
    fn revised(&self, queue: QueueKey, single: Single) -> Result<Single, String> {
        let Single::Configure { asked, stored: Some(_) } = single else {
            return Ok(single);
        };
        let known = &self.queues[queue as usize];
        let mut stored: Vec<Change> = Vec::new();
        for (name, value) in &asked {
            match (*name, value.parse()) {
                ("partitions", Ok(active)) => {
                    stored.extend(self.spread(known, active));
                    // That it was said; 0 leaves it to the cluster.
                    let said = if active == 0 { String::new() } else { value.clone() };
                    stored.push((name, said));
                }
                _ => stored.push((name, value.clone())),
            }
        }
        known.settings.with(&stored).check_bounds(&asked)?;
        let stored = Some(stored);
        Ok(Single::Configure { asked, stored })
    }

    /// What makes so many partitions active; 0: as many as by default. Nothing, if it is so.
    fn spread(&self, known: &Queue, active: u16) -> Option<Change> {
        let active = match active {
            0 => known.settings.partitions,
            active => active,
        };
        let current = known.settings.spread.as_ref();
        if current.map_or(1, Spread::active) == active && (current.is_some() || known.settings.partitions == 1) {
            return None;
        }
        let spread = Spread::resized(current, active, &known.name, &self.primaries);
        Some((SPREAD, spread.to_string()))
    }
}
