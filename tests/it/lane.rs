//! One worker's lane to one queue, without a proxy: it writes the calls of `millrace::script` to a Redis of the test's own,
//! one at a time, and reads their replies. The scripts run by a clock that the test sets.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use bytes::Bytes;
use millrace::queue::id::LocalId;
use millrace::queue::operation::{Claim, JobOptions, Loan, Nack, Operation, Pop, Push, QueueName, State};
use millrace::queue::settings::Change;
use millrace::queue::spread;
use millrace::resp::frame::{Frame, FrameScanner};
use millrace::script::check::{self, Found, Place};
use millrace::script::cron::{self, Asked, Told};
use millrace::script::loans::{self, KeyAt, KeyWanted, NotHere};
use millrace::script::look::{self, Ending, Explanation, JobView, Stats};
use millrace::script::mend::{self, REVIVED, Revive};
use millrace::script::remove;
use millrace::script::{
    Batch, BatchReply, CallError, Channels, Job, Outcome, Partition, Scripts, Settings, Standing, batch, call,
};

use crate::support::{Client, PATIENCE, RedisServer};

const CLOCK: &str = "test:clock";

/// A Redis with the scripts loaded, and its clock.
pub struct Bench {
    pub redis: RedisServer,
    pub scripts: Scripts,
    now_us: Cell<u64>,
}

impl Bench {
    pub fn start() -> Rc<Self> {
        Self::start_with(&[])
    }

    pub fn start_with(arguments: &[&str]) -> Rc<Self> {
        Self::before(RedisServer::start_with(arguments))
    }

    pub fn before(redis: RedisServer) -> Rc<Self> {
        let scripts = Scripts::with_test_clock(CLOCK);
        let mut client = Client::connect_unix(&redis.socket()).unwrap();
        for script in scripts.all() {
            client.send_bytes(&call::load(script));
            assert_eq!(client.receive().text(), script.sha);
        }
        let bench = Self {
            redis,
            scripts,
            now_us: Cell::new(0),
        };
        bench.restart_time();
        Rc::new(bench)
    }

    /// An empty Redis at the beginning of the test's time.
    pub fn restart_time(&self) {
        self.connect().run("FLUSHALL");
        self.set_clock(1_700_000_000_000_000);
    }

    pub fn connect(&self) -> Client {
        Client::connect_unix(&self.redis.socket()).unwrap()
    }

    pub fn now(&self) -> u64 {
        self.now_us.get() / 1000
    }

    pub fn advance(&self, ms: u64) {
        self.set_clock(self.now_us.get() + ms * 1000);
    }

    /// Microseconds.
    pub fn set_clock(&self, us: u64) {
        self.now_us.set(us);
        let (s, us) = ((us / 1_000_000).to_string(), (us % 1_000_000).to_string());
        self.connect().call(&["HSET", CLOCK, "s", &s, "us", &us]);
    }
}

pub struct Lane {
    pub bench: Rc<Bench>,
    pub settings: Settings,
    /// The next batch says that clients wait besides those of its pops.
    pub parked: bool,
    queue: QueueName,
    partition: Partition,
    stream: UnixStream,
    sequence: u64,
    last: (Vec<Operation>, Bytes),
    /// `plain.lua` answered last.
    pub was_plain: bool,
}

impl Lane {
    pub fn new(bench: &Rc<Bench>, queue: &str, worker: &str) -> Self {
        Self::with_settings(bench, queue, worker, Settings::default())
    }

    pub fn with_settings(bench: &Rc<Bench>, queue: &str, worker: &str, settings: Settings) -> Self {
        Self::in_partition(bench, queue, 0, worker, settings)
    }

    pub fn in_partition(bench: &Rc<Bench>, queue: &str, number: u16, worker: &str, settings: Settings) -> Self {
        let place = spread::Place { number, salt: None };
        let queue = QueueName::new(queue.as_bytes()).unwrap();
        let stream = UnixStream::connect(bench.redis.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            bench: Rc::clone(bench),
            settings,
            parked: false,
            partition: Partition::new("q", &queue, place, worker, Channels::One),
            queue,
            stream,
            sequence: 0,
            last: (Vec::new(), Bytes::new()),
            was_plain: false,
        }
    }

    /// Another worker's lane to the same queue.
    pub fn on_the_same(lane: &Lane, worker: &str) -> Self {
        Self::with_settings(&lane.bench, "orders", worker, lane.settings.clone())
    }

    pub fn batch(&mut self, operations: &[Operation]) -> BatchReply {
        self.try_batch(operations).unwrap()
    }

    pub fn try_batch(&mut self, operations: &[Operation]) -> Result<BatchReply, CallError> {
        self.sequence += 1;
        // Every other one goes to `plain.lua`, which sends those back that are not.
        let call = self.call(operations, self.sequence.is_multiple_of(2));
        self.last = (operations.to_vec(), call);
        self.repeat()
    }

    /// By `plain.lua` alone; `None`: it is not plain.
    pub fn try_plain(&mut self, operations: &[Operation]) -> Option<BatchReply> {
        self.sequence += 1;
        let call = self.call(operations, true);
        self.last = (operations.to_vec(), call.clone());
        let reply = self.exchange(&call);
        self.was_plain = self.calls_plain(&call) && !batch::is_not_plain(&reply);
        self.was_plain
            .then(|| batch::decode(operations, &self.settings, reply).unwrap())
    }

    fn call(&self, operations: &[Operation], plain: bool) -> Bytes {
        let batch = Batch {
            sequence: self.sequence,
            jitter: 0.5,
            parked: self.parked,
            plain,
            ready: u64::MAX >> 1,
            operations,
        };
        batch::encode(&self.bench.scripts, &self.partition, &self.settings, &batch)
    }

    fn calls_plain(&self, call: &[u8]) -> bool {
        let script = self.bench.scripts.called_by(call);
        script.is_some_and(|script| script.name == "plain")
    }

    /// The last batch again, as after a lost connection.
    pub fn repeat(&mut self) -> Result<BatchReply, CallError> {
        let (operations, call) = self.last.clone();
        let mut reply = self.exchange(&call);
        self.was_plain = self.calls_plain(&call) && !batch::is_not_plain(&reply);
        if batch::is_not_plain(&reply) {
            reply = self.exchange(&self.call(&operations, false));
        }
        batch::decode(&operations, &self.settings, reply)
    }

    /// The one operation's outcome.
    pub fn one(&mut self, operation: Operation) -> Outcome {
        self.batch(&[operation]).outcomes.remove(0)
    }

    pub fn push(&mut self, payload: &str) -> LocalId {
        self.push_with(payload, JobOptions::default())
    }

    pub fn push_with(&mut self, payload: &str, options: JobOptions) -> LocalId {
        let push = Push {
            payloads: vec![Bytes::copy_from_slice(payload.as_bytes()).into()],
            options,
        };
        match self.one(Operation::Push(push)) {
            Outcome::Pushed(ids) => ids[0],
            other => panic!("not pushed: {other:?}"),
        }
    }

    pub fn pop(&mut self, count: u32) -> Vec<Job> {
        match self.one(Operation::Pop(Pop {
            count,
            lease: None,
            noack: false,
            waits: false,
        })) {
            Outcome::Popped(jobs) => jobs,
            other => panic!("not popped: {other:?}"),
        }
    }

    pub fn pop_payloads(&mut self, count: u32) -> Vec<String> {
        self.pop(count)
            .iter()
            .map(|job| String::from_utf8(job.payload.to_vec()).unwrap())
            .collect()
    }

    pub fn ack(&mut self, claim: Claim) -> u32 {
        match self.one(Operation::Ack(vec![claim])) {
            Outcome::Acked(acked) => acked,
            other => panic!("no ack: {other:?}"),
        }
    }

    pub fn nack(&mut self, claim: Claim, delay: Option<u64>) -> u32 {
        match self.one(Operation::Nack(Nack {
            claims: vec![claim],
            delay,
            error: None,
            dead: false,
        })) {
            Outcome::Nacked(nacked) => nacked,
            other => panic!("no nack: {other:?}"),
        }
    }

    pub fn stats(&mut self) -> Stats {
        let call = look::stats(&self.bench.scripts, &self.partition, &self.settings);
        self.until_final(&call, look::stats_reply)
    }

    pub fn job(&mut self, id: LocalId) -> Option<JobView> {
        let call = look::job(&self.bench.scripts, &self.partition, &self.settings, id);
        self.until_final(&call, look::job_reply)
    }

    pub fn result(&mut self, id: LocalId) -> Ending {
        let call = look::result(&self.bench.scripts, &self.partition, &self.settings, id, false);
        self.until_final(&call, look::result_reply)
    }

    pub fn peek(&mut self, state: State, count: u64, offset: u64) -> Vec<JobView> {
        let call = look::peek(
            &self.bench.scripts,
            &self.partition,
            &self.settings,
            state,
            count,
            offset,
        );
        self.until_final(&call, |reply| look::peek_reply(reply, state))
    }

    pub fn delete(&mut self, ids: &[LocalId]) -> u64 {
        self.sequence += 1;
        let call = remove::delete(&self.bench.scripts, &self.partition, &self.settings, self.sequence, ids);
        let (first, again) = (self.exchange(&call), self.exchange(&call));
        assert_eq!(
            remove::deleted(first.clone()).unwrap().1,
            remove::deleted(again).unwrap().1,
            "a repeat"
        );
        remove::deleted(first).unwrap().1
    }

    pub fn purge(&mut self, state: Option<State>) -> u64 {
        let mut removed = 0;
        loop {
            self.sequence += 1;
            let call = remove::purge(
                &self.bench.scripts,
                &self.partition,
                &self.settings,
                self.sequence,
                state,
            );
            let (first, again) = (self.exchange(&call), self.exchange(&call));
            let (_, purged) = remove::purged(first).unwrap();
            assert_eq!(remove::purged(again).unwrap().1, purged, "a repeat");
            removed += purged.removed;
            if !purged.more {
                return removed;
            }
        }
    }

    /// Makes jobs ready; how many.
    pub fn revive(&mut self, whom: Revive) -> u64 {
        assert!(
            !matches!(&whom, Revive::Dead(most) if *most > REVIVED as u64),
            "more than one call"
        );
        self.twice(|scripts, partition, settings, sequence| mend::revive(scripts, partition, settings, sequence, &whom))
    }

    /// Whether there was a queue to drop.
    pub fn drop_queue(&mut self) -> bool {
        self.twice(mend::drop) == 1
    }

    /// A call of a script that counts, and the same call again, which must come to the same.
    fn twice(&mut self, encode: impl Fn(&Scripts, &Partition, &Settings, u64) -> Bytes) -> u64 {
        self.sequence += 1;
        let call = encode(&self.bench.scripts, &self.partition, &self.settings, self.sequence);
        let (first, again) = (self.exchange(&call), self.exchange(&call));
        let counted = mend::counted(first).unwrap().1;
        assert_eq!(mend::counted(again).unwrap().1, counted, "a repeat");
        counted
    }

    /// The whole queue: what all calls found together.
    pub fn check(&mut self, repair: bool) -> Found {
        let (mut all, mut next) = (Found::default(), Some(Place::first_of(0)));
        while let Some(place) = next {
            let found = self.check_from(place, repair);
            next = found.next;
            all.jobs += found.jobs;
            all.kinds
                .iter_mut()
                .zip(found.kinds)
                .for_each(|(sum, found)| *sum += found);
        }
        all
    }

    pub fn check_from(&mut self, place: Place, repair: bool) -> Found {
        let call = check::check(&self.bench.scripts, &self.partition, &self.settings, place, repair);
        self.until_final(&call, |reply| check::found(reply, 0))
    }

    pub fn explain(&mut self, id: LocalId) -> Option<Explanation> {
        let call = look::explain(&self.bench.scripts, &self.partition, &self.settings, id);
        self.until_final(&call, look::explain_reply)
    }

    /// Of the queue's settings, in Redis.
    pub fn version(&self) -> Bytes {
        let version = self
            .bench
            .connect()
            .call(&["HGET", &format!("q:{{{}/0}}:stats", self.queue), "cfg"]);
        Bytes::from(version.text())
    }

    /// `Add` or `Delete`: what it counted.
    pub fn change_crons(&mut self, asked: Asked) -> u64 {
        self.twice(|scripts, partition, settings, sequence| cron::cron(scripts, partition, settings, sequence, asked))
    }

    /// `List` or `Due`.
    pub fn crons(&mut self, asked: Asked) -> Told {
        let call = cron::cron(&self.bench.scripts, &self.partition, &self.settings, 0, asked);
        cron::told(self.exchange(&call)).unwrap().1
    }

    pub fn configure(&mut self, changes: &[Change]) {
        self.sequence += 1;
        let call = mend::configure(
            &self.bench.scripts,
            &self.partition,
            &self.settings,
            self.sequence,
            changes,
        );
        mend::configured(self.exchange(&call)).unwrap();
    }

    /// The reply to an empty batch, whatever it is.
    pub fn raw_batch(&mut self) -> Bytes {
        self.sequence += 1;
        let batch = Batch {
            sequence: self.sequence,
            jitter: 0.5,
            parked: false,
            plain: false,
            ready: 0,
            operations: &[],
        };
        let call = batch::encode(&self.bench.scripts, &self.partition, &self.settings, &batch);
        self.exchange(&call)
    }

    /// What becomes of one key.
    pub fn lend(&mut self, wanted: KeyWanted) -> KeyAt {
        let call = loans::lend(&self.bench.scripts, &self.partition, &self.settings, &[wanted]);
        loans::lent(self.exchange(&call)).unwrap().1.remove(0)
    }

    /// The holder of the key `k`, if it cannot be given back.
    pub fn recall(&mut self, loan: u64) -> Option<LocalId> {
        let loans = [("k".into(), loan)];
        let call = loans::recall(&self.bench.scripts, &self.partition, &self.settings, true, &loans);
        loans::recalled(self.exchange(&call)).unwrap().1.remove(0)
    }

    /// Makes the first dead job ready: those whose keys are elsewhere, with their keys.
    pub fn revive_one(&mut self) -> Vec<(LocalId, Bytes)> {
        self.sequence += 1;
        let (partition, settings, first) = (&self.partition, &self.settings, Revive::Dead(1));
        let call = mend::revive(&self.bench.scripts, partition, settings, self.sequence, &first);
        let revived = [self.exchange(&call), self.exchange(&call)].map(|reply| mend::revived(reply).unwrap().1);
        assert_eq!(revived[0], revived[1], "a repeat");
        assert_eq!(revived[0].count, 1);
        revived[0].keyless.clone()
    }

    /// Why the job cannot have the key `k` again yet.
    pub fn retake(&mut self, job: LocalId) -> Option<NotHere> {
        let call = loans::retake(&self.bench.scripts, &self.partition, &self.settings, job, b"k", None);
        loans::retaken(self.exchange(&call)).unwrap().1
    }

    pub fn overdue(&mut self) -> Vec<(Bytes, Loan)> {
        let call = loans::overdue(&self.bench.scripts, &self.partition, &self.settings);
        loans::found(self.exchange(&call)).unwrap().1
    }

    /// Whether replies say that keys are to be looked after.
    pub fn is_overdue(&mut self) -> bool {
        self.batch(&[]).standing.overdue
    }

    fn until_final<T>(&mut self, call: &Bytes, read: impl Fn(Bytes) -> Result<(Standing, T), CallError>) -> T {
        loop {
            let (standing, value) = read(self.exchange(call)).unwrap();
            if !standing.more {
                return value;
            }
        }
    }

    fn exchange(&mut self, call: &[u8]) -> Bytes {
        self.stream.write_all(call).unwrap();
        let (mut input, mut scanner, mut chunk) = (Vec::new(), FrameScanner::default(), [0; 64 * 1024]);
        loop {
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "Redis closed the connection");
            input.extend_from_slice(&chunk[..read]);
            if let Some(frame) = scanner.scan(&input).unwrap() {
                assert_eq!(frame, Frame::Reply(input.len()));
                return input.into();
            }
        }
    }
}

pub fn by_receipt(job: &Job) -> Claim {
    Claim {
        partition: 0,
        job: job.id,
        delivery: Some(job.delivery),
    }
}

pub fn by_id(job: LocalId) -> Claim {
    Claim {
        partition: 0,
        job,
        delivery: None,
    }
}
