//! What goes in one call of a lane: of all that waits as much as the call may hold, in an order that nobody can object to.
//!
//! 1. What waits is taken in the order of its arrival, until the call is full. Pops have a bound of their own: those that
//!    are beyond it stay, and what came behind them goes.
//! 2. The script runs first what settles jobs, then pushes, then pops. That is a legal order for requests of
//!    different clients, which nobody has ordered. For one client's pipeline it is legal while the phases rise:
//!    a request that would overtake an earlier one of its client stays for the next call, and so does all that
//!    this client has sent behind it.
//! 3. Parked pops come before the others: they have waited longest. Where there are any, the others get half of the room.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::lane::{Entry, To, Work};
use super::operation::Operation;
use super::scale::Scale;
use super::waiting::Pops;
use crate::asker::ClientKey;

/// Jobs that one call settles and pushes for its requests, at most; a pushed one counts twice, as it costs about twice as
/// much. With [`BATCH_POPS`] that keeps a call below 2 ms beside a million jobs (benches/scripts.md). A third of both where
/// jobs are dear, and a multiple where they are plain ([`Scale`]). A single request may have more: a `QMPUSH` is all or nothing.
pub const BATCH_JOBS: usize = 200;
/// Jobs that one call pops, at most: the dearest part of a job's life.
pub const BATCH_POPS: u32 = 75;
/// Unique keys that one call lends, at most.
pub const BATCH_KEYS: usize = 100;
/// By how much the bounds are less where there are groups or unique keys.
const DEAR: u32 = 3;
/// Payload bytes of one call, at most, unless a single request has more.
const BATCH_BYTES: usize = 1024 * 1024;

/// What a call is gathered under.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// There are groups or unique keys, and so jobs that cost more.
    pub dear: bool,
    /// There are plain jobs only.
    pub scale: Scale,
    /// Clients' orders matter.
    pub pipelined: bool,
    /// Some pops are parked.
    pub parked: bool,
}

/// The operations of a call, and who waits for which of their outcomes.
#[derive(Debug, Default)]
pub struct Gathered {
    pub operations: Vec<Operation>,
    pub to: Vec<(To, Instant)>,
}

impl Gathered {
    fn add(&mut self, operation: Operation, to: To, since: Instant) {
        self.operations.push(operation);
        self.to.push((to, since));
    }
}

/// A batch whose pops are still to come: the parked ones first.
#[derive(Debug)]
pub struct Gathering {
    gathered: Gathered,
    /// How many jobs it makes ready, at most, for those who wait.
    pub readied: usize,
    jobs: usize,
    bytes: usize,
    /// Pops that were not parked, and for how many jobs each has room here.
    popping: Vec<(To, u32)>,
    /// How many jobs more may be popped.
    room: u32,
    /// How many may be settled and pushed.
    most: usize,
    /// All is plain so far, and there may be more of it than of anything else.
    is_large: bool,
}

impl Gathering {
    /// Takes out of `waiting` what goes in one call.
    pub fn new(waiting: &mut VecDeque<Entry>, pops: &Pops, conditions: Conditions) -> Self {
        let Conditions {
            dear,
            scale,
            pipelined,
            parked,
        } = conditions;
        let (jobs, popped) = match dear {
            true => (BATCH_JOBS / DEAR as usize, BATCH_POPS / DEAR),
            false => (scale.jobs(), scale.pops()),
        };
        let others = if parked { popped / 2 } else { popped };
        let mut gathering = Self {
            gathered: Gathered::default(),
            readied: 0,
            jobs: 0,
            bytes: 0,
            popping: Vec::new(),
            room: others,
            most: jobs,
            is_large: jobs > BATCH_JOBS,
        };
        let mut order = pipelined.then(PhaseOrder::default);
        let mut stay = VecDeque::new();
        while let Some(entry) = waiting.pop_front() {
            if gathering.is_full() {
                stay.push_back(entry);
                break;
            }
            let has_room = gathering.has_room_for(&entry, pops);
            let admitted = match (&mut order, entry.to.client()) {
                (Some(order), Some(client)) => order.admits(client, Phase::of(&entry.work), has_room),
                _ => has_room,
            };
            match admitted {
                true => gathering.take(entry, pops),
                false => stay.push_back(entry),
            }
        }
        stay.append(waiting);
        *waiting = stay;
        gathering.room += popped - others;
        gathering
    }

    fn is_full(&self) -> bool {
        self.jobs >= self.most || self.bytes >= BATCH_BYTES
    }

    fn has_room_for(&mut self, entry: &Entry, pops: &Pops) -> bool {
        if self.is_large && !is_plain(entry, pops) {
            self.is_large = false;
            self.most = BATCH_JOBS;
            self.room = self
                .room
                .min(BATCH_POPS.saturating_sub(self.popping.iter().map(|(_, count)| count).sum()));
        }
        match entry.work {
            Work::Operation(_) => self.jobs < self.most,
            Work::Pop => self.room > 0,
            Work::Key(_) | Work::Single(_) => false, // calls of their own
        }
    }

    fn take(&mut self, entry: Entry, pops: &Pops) {
        let Work::Operation(operation) = entry.work else {
            let To::Pop(asker) = entry.to else { return };
            // A pop that is gone by now, because its client is, asks for nothing.
            let Some(request) = pops.get(&asker) else { return };
            let count = request.pop.count.min(self.room);
            self.room -= count;
            return self.popping.push((entry.to, count));
        };
        let (jobs, bytes) = weight(&operation);
        self.jobs += jobs;
        self.bytes += bytes;
        self.readied += readied(&operation);
        self.gathered.add(operation, entry.to, entry.since);
    }

    pub fn has_room_for_pops(&self) -> bool {
        self.room > 0
    }

    /// A parked pop.
    pub fn add_pop(&mut self, to: To, pops: &Pops) {
        let room = self.room;
        self.room -= self.add(to, room, pops);
    }

    /// The pops that were not parked go last.
    pub fn finish(mut self, pops: &Pops) -> Gathered {
        for (to, room) in std::mem::take(&mut self.popping) {
            self.add(to, room, pops);
        }
        self.gathered
    }

    /// How many jobs it asks for.
    fn add(&mut self, to: To, room: u32, pops: &Pops) -> u32 {
        let To::Pop(asker) = to else { return 0 };
        let Some(request) = pops.get(&asker) else { return 0 };
        let mut pop = request.pop;
        pop.count = pop.count.min(room);
        pop.waits = request.may_park();
        self.gathered.add(Operation::Pop(pop), to, request.since);
        pop.count
    }
}

fn is_plain(entry: &Entry, pops: &Pops) -> bool {
    match (&entry.work, entry.to) {
        (Work::Operation(operation), _) => operation.is_plain(),
        (Work::Pop, To::Pop(asker)) => pops.get(&asker).is_none_or(|request| !request.pop.noack),
        _ => false,
    }
}

/// In jobs, and in bytes.
pub fn weight(operation: &Operation) -> (usize, usize) {
    match operation {
        Operation::Push(_) | Operation::Tick(_) => {
            let pushed = operation.push();
            pushed.map_or((0, 0), |push| (2 * push.payloads.len(), push.bytes()))
        }
        Operation::Ack(claims) | Operation::Extend { claims, .. } | Operation::Lapse(claims) => (claims.len(), 0),
        Operation::Finish(finish) => (finish.claims.len(), finish.result.len()),
        Operation::Nack(nack) => (nack.claims.len(), 0),
        Operation::Return(returns) => (returns.len(), 0),
        Operation::Pop(_) => (0, 0),
    }
}

/// How many jobs this makes ready, at most, for those who wait.
fn readied(operation: &Operation) -> usize {
    match operation {
        Operation::Push(push) => push.payloads.len(),
        Operation::Tick(tick) => tick.push.as_ref().map_or(0, |push| push.payloads.len()),
        Operation::Return(returns) => returns.len(),
        Operation::Nack(nack) => nack.claims.len(),
        Operation::Lapse(claims) => claims.len(),
        Operation::Ack(_) | Operation::Finish(_) | Operation::Extend { .. } | Operation::Pop(_) => 0,
    }
}

/// The order in which the batch script runs what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Settle,
    Push,
    Pop,
    /// Its client has something that stays: all that it sent behind that stays too.
    Stays,
}

impl Phase {
    fn of(work: &Work) -> Self {
        match work {
            Work::Operation(Operation::Push(_) | Operation::Tick(_)) => Self::Push,
            Work::Operation(Operation::Pop(_)) | Work::Pop => Self::Pop,
            Work::Operation(_) => Self::Settle,
            Work::Key(_) | Work::Single(_) => Self::Stays,
        }
    }
}

/// How far each client's requests have come in the batch being gathered.
#[derive(Default)]
struct PhaseOrder(HashMap<ClientKey, Phase, ahash::RandomState>);

impl PhaseOrder {
    fn admits(&mut self, client: ClientKey, phase: Phase, has_room: bool) -> bool {
        let reached = self.0.entry(client).or_insert(Phase::Settle);
        let admitted = has_room && phase >= *reached && *reached != Phase::Stays;
        *reached = if admitted { phase } else { Phase::Stays };
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::Asker;
    use crate::queue::id::LocalId;
    use crate::queue::operation::{Claim, Pop};
    use crate::queue::waiting::{Patience, PopRequest};

    const ID: &[u8] = b"abcdefghij00n";

    fn asker(client: u32, ticket: u64) -> Asker {
        let client = ClientKey {
            worker: 0,
            index: client,
            generation: 0,
        };
        Asker { client, ticket }
    }

    fn entry(work: Work, to: To) -> Entry {
        Entry {
            pipelined: true,
            ..Entry::again(work, to, Instant::now())
        }
    }

    fn ack(asker: Asker, jobs: usize) -> Entry {
        let claim = Claim {
            partition: 0,
            job: LocalId::parse(ID).unwrap(),
            delivery: Some(1),
        };
        entry(Work::Operation(Operation::Ack(vec![claim; jobs])), To::Asker(asker))
    }

    fn pop(asker: Asker, count: u32, pops: &mut Pops) -> Entry {
        let request = PopRequest {
            lanes: [0].into_iter().collect(),
            at: 0,
            pop: Pop {
                count,
                lease: None,
                noack: false,
                waits: false,
            },
            many: true,
            with_meta: false,
            bound: false,
            patience: Patience::None,
            since: Instant::now(),
            got: Vec::new(),
            parked: false,
            has_parked: false,
            turn: 0,
        };
        pops.insert(asker, request);
        entry(Work::Pop, To::Pop(asker))
    }

    fn asked_for(batch: &Gathered) -> Vec<u32> {
        let counts = batch.operations.iter().filter_map(|operation| match operation {
            Operation::Pop(pop) => Some(pop.count),
            _ => None,
        });
        counts.collect()
    }

    #[test]
    fn pops_share_a_call_of_their_own_size_and_hold_up_nobody_else() {
        let mut pops = Pops::default();
        let mut waiting: VecDeque<_> = (0..100).map(|client| pop(asker(client, 0), 1, &mut pops)).collect();
        waiting.push_back(ack(asker(100, 0), 1));
        let batch = Gathering::new(&mut waiting, &pops, Conditions::default()).finish(&pops);
        assert_eq!(asked_for(&batch), [1; BATCH_POPS as usize]);
        assert!(
            matches!(batch.operations[0], Operation::Ack(_)),
            "it came behind all of the pops"
        );
        assert_eq!(waiting.len(), 100 - BATCH_POPS as usize);
    }

    #[test]
    fn a_large_pop_takes_what_room_there_is() {
        let mut pops = Pops::default();
        let mut waiting: VecDeque<_> = (0..3).map(|client| pop(asker(client, 0), 50, &mut pops)).collect();
        let batch = Gathering::new(&mut waiting, &pops, Conditions::default()).finish(&pops);
        assert_eq!(asked_for(&batch), [50, BATCH_POPS - 50]);
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn those_who_wait_already_have_half_of_the_room() {
        let mut pops = Pops::default();
        let mut waiting: VecDeque<_> = (0..100).map(|client| pop(asker(client, 0), 1, &mut pops)).collect();
        let parked = asker(200, 0);
        pop(parked, 1000, &mut pops);
        let parked_too = Conditions {
            parked: true,
            ..Conditions::default()
        };
        let mut gathering = Gathering::new(&mut waiting, &pops, parked_too);
        gathering.add_pop(To::Pop(parked), &pops);
        assert!(!gathering.has_room_for_pops());
        let asked = asked_for(&gathering.finish(&pops));
        assert_eq!(asked[0], BATCH_POPS - BATCH_POPS / 2);
        assert_eq!(asked.iter().sum::<u32>(), BATCH_POPS);
    }

    #[test]
    fn what_a_client_sent_behind_a_pop_that_stays_stays_too() {
        let mut pops = Pops::default();
        let mut waiting = VecDeque::from([
            pop(asker(1, 0), BATCH_POPS, &mut pops),
            pop(asker(2, 0), 1, &mut pops),
            ack(asker(2, 1), 1),
            ack(asker(3, 0), 1),
        ]);
        let pipelined = Conditions {
            pipelined: true,
            ..Conditions::default()
        };
        let batch = Gathering::new(&mut waiting, &pops, pipelined).finish(&pops);
        let to: Vec<_> = batch.to.iter().filter_map(|(to, _)| to.client()).collect();
        assert_eq!(to, [asker(3, 0).client, asker(1, 0).client]);
        assert_eq!(waiting.len(), 2);
    }

    #[test]
    fn a_call_that_is_full_takes_no_more() {
        let pops = Pops::default();
        let mut waiting: VecDeque<_> = (0..3).map(|client| ack(asker(client, 0), BATCH_JOBS / 2)).collect();
        let batch = Gathering::new(&mut waiting, &pops, Conditions::default()).finish(&pops);
        assert_eq!((batch.operations.len(), waiting.len()), (2, 1));
    }

    #[test]
    fn a_large_call_holds_nothing_but_plain_jobs() {
        let large = Conditions {
            scale: Scale::of(2.0),
            ..Conditions::default()
        };
        let mut pops = Pops::default();
        let claims = |client: u32| ack(asker(client, 0), 1);
        let mut waiting: VecDeque<_> = (0..1000).map(claims).collect();
        waiting.extend((0..1000).map(|client| pop(asker(client, 1), 1, &mut pops)));
        let extend = Operation::Extend {
            claims: Vec::new(),
            lease: 1,
        };
        let batch = Gathering::new(&mut waiting, &pops, large).finish(&pops);
        assert_eq!((batch.operations.len(), asked_for(&batch)), (2 * BATCH_JOBS, vec![]));

        waiting.insert(BATCH_JOBS / 2, entry(Work::Operation(extend), To::Nobody));
        let batch = Gathering::new(&mut waiting, &pops, large).finish(&pops);
        assert_eq!(batch.operations.len(), BATCH_JOBS + 1);
        waiting.drain(..1000 - 3 * BATCH_JOBS);
        let batch = Gathering::new(&mut waiting, &pops, large).finish(&pops);
        assert_eq!(asked_for(&batch), vec![1; 2 * BATCH_POPS as usize]);
    }

    #[test]
    fn a_call_of_dear_jobs_holds_fewer() {
        let mut pops = Pops::default();
        let acks = (0..BATCH_JOBS as u32).map(|client| ack(asker(client, 0), 1));
        let mut waiting: VecDeque<_> = acks.collect();
        waiting.extend((0..100).map(|client| pop(asker(1000 + client, 0), 1, &mut pops)));
        let dear = Conditions {
            dear: true,
            ..Conditions::default()
        };
        let batch = Gathering::new(&mut waiting, &pops, dear).finish(&pops);
        assert_eq!((batch.operations.len(), asked_for(&batch)), (BATCH_JOBS / 3, vec![]));
        waiting.drain(..BATCH_JOBS - BATCH_JOBS / 3);
        let batch = Gathering::new(&mut waiting, &pops, dear).finish(&pops);
        assert_eq!(asked_for(&batch), [1; BATCH_POPS as usize / 3]);
    }
}
