//! Jobs that have a unique key and a group, where the two belong to different partitions. The job is the group's, so its key must
//! be there: it is borrowed from its own partition, its home, before the job is pushed. What holds of it in Redis stands in
//! `ending.lua`.
//!
//! ```text
//!              at home: lend me the key                    where it is: give it back
//!  push ──▶ ┌ it is lent to the group's partition ──▶ push there
//!           ├ it is lent elsewhere ─────────────────▶ ┌ a job holds it: that is the answer
//!           │        ▲                                └ it was given back ──▶ ask home again
//!           │        └ a push at home, of a job without a group, met a loan
//!           └ a job holds it: that is the answer
//! ```
//! A push whose loan was given back before it came asks home again. In the same way a job that QREDRIVE made ready gets its key again.
//! Keys that nobody holds any more come home when a look is due: the first one after a second, then when the key has been away for
//! twice as long ([`Queues::look_after_loans`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::Queues;
use super::fans::Fan;
use crate::asker::ClientKey;
use crate::queue::id::LocalId;
use crate::queue::lane::{BorrowerKey, Entry, LaneKey, QueueKey, To, Work};
use crate::queue::operation::{JobOptions, Loan, Operation, Push};
use crate::queue::reply::Reply;
use crate::queue::single::{KeyCall, KeyNews, Single};
use crate::script::Outcome;
use crate::script::loans::{KeyAt, KeyWanted, NotHere};

/// Pushes that wait for their keys.
#[derive(Default)]
pub(super) struct Borrowers {
    all: Slab<Borrower>,
    /// By whom a client's next push of the same group comes after it, should it be pipelined.
    in_order: HashMap<GroupOfClient, BorrowerKey, ahash::RandomState>,
    bytes: usize,
}

type GroupOfClient = (QueueKey, ClientKey, Bytes);

struct Borrower {
    queue: QueueKey,
    /// Where the job is, if it was pushed before.
    partition: Option<u16>,
    /// A push, a tick that pushes, or a call by which a job retakes its key.
    entry: Entry,
    /// Of the same client and the same group.
    behind: Behind,
}

/// Pushes in their order, and the bytes of their payloads.
#[derive(Default)]
struct Behind {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Borrower {
    fn options(&self) -> Option<&JobOptions> {
        match &self.entry.work {
            Work::Operation(operation) => Some(&operation.push()?.options),
            _ => None,
        }
    }

    /// Which counts as deduplicated where a job has the key; a tick does where it is noted.
    fn is_push(&self) -> bool {
        matches!(self.entry.work, Work::Operation(Operation::Push(_)))
    }

    fn bytes(&self) -> usize {
        self.entry.bytes() + self.behind.bytes
    }

    fn key(&self) -> Bytes {
        match &self.entry.work {
            Work::Single(Single::Keys(KeyCall::Retake { key, .. })) => key.clone(),
            _ => {
                let unique = self.options().and_then(|options| options.unique.as_ref());
                unique.map(|unique| unique.key.clone()).unwrap_or_default()
            }
        }
    }

    /// By which it last had the key.
    fn loan(&self) -> Option<u64> {
        match &self.entry.work {
            Work::Single(Single::Keys(KeyCall::Retake { loan, .. })) => *loan,
            _ => self.options()?.unique.as_ref()?.loan,
        }
    }

    fn lend(&mut self, number: Option<u64>) {
        let unique = match &mut self.entry.work {
            Work::Single(Single::Keys(KeyCall::Retake { loan, .. })) => return *loan = number,
            Work::Operation(Operation::Push(push)) => push.options.unique.as_mut(),
            Work::Operation(Operation::Tick(tick)) => tick.push.as_mut().and_then(|push| push.options.unique.as_mut()),
            _ => None,
        };
        unique.into_iter().for_each(|unique| unique.loan = number);
    }

    fn group_of_client(&self) -> Option<GroupOfClient> {
        group_of_client(self.queue, self.options()?, self.entry.to)
    }
}

fn group_of_client(queue: QueueKey, options: &JobOptions, to: To) -> Option<GroupOfClient> {
    Some((queue, to.client()?, options.group.clone()?))
}

impl Borrowers {
    /// Of the payloads that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, borrower: Borrower) -> BorrowerKey {
        self.bytes += borrower.bytes();
        let order = borrower.group_of_client();
        let key = self.all.insert(borrower) as BorrowerKey;
        if let Some(order) = order {
            self.in_order.entry(order).or_insert(key);
        }
        key
    }

    fn remove(&mut self, key: BorrowerKey) -> Option<Borrower> {
        let borrower = self.all.try_remove(key as usize)?;
        self.bytes -= borrower.bytes();
        if let Some(order) = borrower.group_of_client()
            && self.in_order.get(&order) == Some(&key)
        {
            self.in_order.remove(&order);
        }
        Some(borrower)
    }
}

impl Queues {
    /// A pipelined push waits for the one before it of the same group. Gives it back if there is none.
    pub(super) fn wait_behind(&mut self, queue: QueueKey, push: Push, to: To, since: Instant) -> Option<Push> {
        let order = group_of_client(queue, &push.options, to);
        let before = order.and_then(|order| self.borrowers.in_order.get(&order).copied());
        let before = before.and_then(|key| self.borrowers.all.get_mut(key as usize));
        let Some(borrower) = before else {
            return Some(push);
        };
        self.borrowers.bytes += push.bytes();
        borrower.behind.bytes += push.bytes();
        borrower.behind.entries.push_back(Entry {
            work: Work::Operation(Operation::Push(push)),
            to,
            since,
            pipelined: true,
        });
        None
    }

    /// A push, or a tick that pushes, needs its key first.
    pub(super) fn borrow(&mut self, queue: QueueKey, entry: Entry) {
        let key = self.borrower(queue, None, entry);
        self.ask_home(key, None, 0);
    }

    /// What was to be done in this partition met a key that is not there.
    pub(super) fn key_is_not_here(&mut self, lane: LaneKey, entry: Entry, why: NotHere) {
        let (queue, partition) = (self.lanes[lane as usize].of, self.lanes[lane as usize].origin.partition);
        let its = matches!(entry.work, Work::Single(_)).then_some(partition);
        let key = self.borrower(queue, its, entry);
        match why {
            NotHere::Lent(loan) => self.ask_back(key, loan),
            NotHere::Returned(past) => {
                let loan = self.borrowers.all[key as usize].loan();
                self.ask_home(key, loan.map(|number| Loan { partition, number }), past);
            }
        }
    }

    /// Jobs of this partition that were made ready again want their keys again. To whom then goes what comes besides: who asked is
    /// answered when all have them.
    pub(super) fn retake_keys(&mut self, lane: LaneKey, jobs: Vec<(LocalId, Bytes)>, to: To, since: Instant) -> To {
        let (queue, partition) = (self.lanes[lane as usize].of, self.lanes[lane as usize].origin.partition);
        let part = self.fan_of(Fan::new(to, queue, jobs.len() + 1, since));
        for (job, key) in jobs {
            let call = KeyCall::Retake { job, key, loan: None };
            let entry = Entry::again(Work::Single(Single::Keys(call)), part, since);
            let key = self.borrower(queue, Some(partition), entry);
            self.ask_home(key, None, 0);
        }
        part
    }

    fn borrower(&mut self, queue: QueueKey, partition: Option<u16>, entry: Entry) -> BorrowerKey {
        self.borrowers.insert(Borrower {
            queue,
            partition,
            entry,
            behind: Behind::default(),
        })
    }

    fn ask_home(&mut self, key: BorrowerKey, returned: Option<Loan>, past: u64) {
        let Some((borrower, home, by)) = self.places_of(key) else {
            return self.push_borrower_anew(key);
        };
        let wanted = Work::Key(KeyWanted {
            key: borrower.key(),
            by,
            returned,
            past,
            for_push: borrower.is_push(),
        });
        self.ask_of_key(key, home, wanted);
    }

    fn ask_back(&mut self, key: BorrowerKey, loan: Loan) {
        let Some((borrower, home, _)) = self.places_of(key) else {
            return self.push_borrower_anew(key);
        };
        let recall = Work::Single(Single::Keys(KeyCall::Recall {
            home,
            for_push: borrower.is_push(),
            loans: vec![(borrower.key(), loan.number)],
        }));
        self.ask_of_key(key, loan.partition, recall);
    }

    fn ask_of_key(&mut self, key: BorrowerKey, partition: u16, work: Work) {
        let Borrower { queue, entry, .. } = &self.borrowers.all[key as usize];
        let entry = Entry {
            work,
            to: To::Borrower(key, entry.to.client()),
            since: entry.since,
            pipelined: entry.pipelined,
        };
        match self.lane_of(*queue, partition) {
            Some(lane) => self.enter(lane, entry),
            None => {
                let name = &self.queues[*queue as usize].name;
                let line = format!(
                    "ERR a unique key is in partition {partition} of queue '{name}', which has no such partition"
                );
                self.refuse_borrower(key, &line.into(), entry.since);
            }
        }
    }

    /// The key's home, and the partition that is to have it, if that is another one. `None`: the queue has one partition by now.
    fn places_of(&self, key: BorrowerKey) -> Option<(&Borrower, u16, Option<u16>)> {
        let borrower = self.borrowers.all.get(key as usize)?;
        let spread = self.queues[borrower.queue as usize].settings.spread.as_ref()?;
        let home = spread.home_of(&borrower.key());
        let options = borrower.options();
        let wants = borrower.partition.or_else(|| spread.partition_of(options?));
        Some((borrower, home, wants.filter(|wants| *wants != home)))
    }

    /// What came of a call about keys.
    pub(super) fn keys_told(&mut self, lane: LaneKey, news: KeyNews, (to, since): (To, Instant), now: Instant) {
        let (queue, partition) = (self.lanes[lane as usize].of, self.lanes[lane as usize].origin.partition);
        match (news, to) {
            (KeyNews::Recalled(_, answers), To::Borrower(key, _)) => {
                for (_, number, holder) in answers {
                    match holder {
                        Some(job) => self.found_key(lane, to, KeyAt::Held(job), now),
                        None => self.ask_home(key, Some(Loan { partition, number }), 0),
                    }
                }
            }
            (KeyNews::Recalled(home, answers), _) => {
                for (key, number, _) in answers.into_iter().filter(|(_, _, holder)| holder.is_none()) {
                    let comes_home = KeyWanted {
                        key,
                        by: None,
                        returned: Some(Loan { partition, number }),
                        past: 0,
                        for_push: false,
                    };
                    self.look_into(queue, home, Work::Key(comes_home), now);
                }
            }
            (KeyNews::Retaken(call, Some(why)), _) => {
                self.key_is_not_here(lane, Entry::again(Work::Single(Single::Keys(call)), to, since), why);
            }
            (KeyNews::Retaken(_, None), _) => self.reply_to(to, Reply::Integer(0)),
            (KeyNews::Overdue(keys), _) => {
                let mut by_partition: BTreeMap<u16, Vec<(Bytes, u64)>> = BTreeMap::new();
                for (key, loan) in keys {
                    by_partition.entry(loan.partition).or_default().push((key, loan.number));
                }
                for (other, loans) in by_partition {
                    let recall = KeyCall::Recall {
                        home: partition,
                        for_push: false,
                        loans,
                    };
                    self.look_into(queue, other, Work::Single(Single::Keys(recall)), now);
                }
            }
        }
    }

    /// What is to be had of a key, by the word of that lane.
    pub(super) fn found_key(&mut self, lane: LaneKey, to: To, at: KeyAt, now: Instant) {
        let To::Borrower(key, _) = to else { return };
        let places = self.places_of(key).map(|(_, home, by)| (home, by));
        match (at, places) {
            (KeyAt::Held(job), _) => self.was_held(lane, key, job, now),
            (KeyAt::Lent(loan), Some((_, Some(by)))) if loan.partition == by => {
                self.push_borrower(key, by, Some(loan.number));
            }
            (KeyAt::Lent(loan), _) => self.ask_back(key, loan),
            (KeyAt::Home, Some((home, None))) => self.push_borrower(key, home, None),
            (KeyAt::Home, _) => self.push_borrower_anew(key),
        }
    }

    /// That job has the key: it is the answer to a push, and a tick is made without one.
    fn was_held(&mut self, lane: LaneKey, key: BorrowerKey, job: LocalId, now: Instant) {
        let Some(borrower) = self.borrowers.remove(key) else {
            return;
        };
        match borrower.entry.work {
            Work::Operation(Operation::Tick(mut tick)) => {
                (tick.push, tick.is_duplicate) = (None, true);
                self.enter_tick(borrower.queue, 0, *tick, now);
            }
            Work::Single(_) => self.reply_to(borrower.entry.to, Reply::Integer(0)),
            _ => {
                let outcome = match self.queues[borrower.queue as usize].settings.pause.push {
                    true => Outcome::Paused,
                    false => Outcome::Duplicate(job),
                };
                self.settle(lane, borrower.entry.to, outcome);
            }
        }
        self.follow(borrower.queue, borrower.behind);
    }

    /// The key is in this partition, where the job is or goes to.
    fn push_borrower(&mut self, key: BorrowerKey, partition: u16, loan: Option<u64>) {
        let queue = self.borrowers.all.get(key as usize).map(|borrower| borrower.queue);
        let Some(lane) = queue.and_then(|queue| self.lane_of(queue, partition)) else {
            return self.push_borrower_anew(key);
        };
        if let Some(mut borrower) = self.borrowers.remove(key) {
            borrower.lend(loan);
            self.enter(lane, borrower.entry);
            self.follow(borrower.queue, borrower.behind);
        }
    }

    /// The queue's partitions are others than they were.
    pub(super) fn push_borrower_anew(&mut self, key: BorrowerKey) {
        let Some(borrower) = self.borrowers.remove(key) else {
            return;
        };
        match (&borrower.entry.work, borrower.entry.to) {
            (_, To::Keeper(queue)) => self.keeper_failed(queue, borrower.entry.since),
            (Work::Single(_), to) => self.reply_to(to, Reply::Integer(0)),
            _ => self.push_anew(borrower.queue, borrower.entry),
        }
        self.follow(borrower.queue, borrower.behind);
    }

    /// Those that waited behind it go their ways, in their order: behind the first of them that has to borrow the rest waits again.
    fn follow(&mut self, queue: QueueKey, mut behind: Behind) {
        while let Some(entry) = behind.entries.pop_front() {
            behind.bytes -= entry.bytes();
            let order = match &entry.work {
                Work::Operation(Operation::Push(push)) => group_of_client(queue, &push.options, entry.to),
                _ => None,
            };
            self.push_anew(queue, entry);
            let next = order.and_then(|order| self.borrowers.in_order.get(&order).copied());
            if let Some(next) = next.and_then(|key| self.borrowers.all.get_mut(key as usize)) {
                self.borrowers.bytes += behind.bytes;
                next.behind = behind;
                return;
            }
        }
    }

    /// It is told why it cannot have its key, and so are those that were to come after it.
    pub(super) fn refuse_borrower(&mut self, key: BorrowerKey, line: &Bytes, now: Instant) {
        let Some(borrower) = self.borrowers.remove(key) else {
            return;
        };
        for entry in std::iter::once(borrower.entry).chain(borrower.behind.entries) {
            self.refuse(entry.to, line.clone(), now);
        }
    }

    /// Some keys of this partition have been lent for so long that they may come home.
    pub(super) fn look_after_loans(&mut self, lane: LaneKey, now: Instant) {
        let work = Work::Single(Single::Keys(KeyCall::Overdue));
        self.lanes[lane as usize].push_front(Entry::again(work, To::Nobody, now));
        self.list(lane);
    }

    fn look_into(&mut self, queue: QueueKey, partition: u16, work: Work, now: Instant) {
        if let Some(lane) = self.lane_of(queue, partition) {
            self.enter(lane, Entry::again(work, To::Nobody, now));
        }
    }
}
