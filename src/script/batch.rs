//! Calls of `batch.lua`: everything that a lane gathered goes in, one outcome for each operation comes out.
//! The operations go as what workers say of their jobs, then pushes, then pops; a lane gathers only what may be put in
//! that order. Runs of like operations are written as one, because the script serves them with one Redis command.

use std::time::Duration;

use bytes::Bytes;

use super::call::Call;
use super::keys::{millis, rate};
use super::record::encode_options;
use super::{CallError, Partition, Record, Scripts, Settings, Standing, open};
use crate::queue::id::{LocalId, PACKED, put_base36};
use crate::queue::operation::{Claim, Finish, JobOptions, Nack, Operation, Pop, Priority, Push, Return, Start, Tick};
use crate::queue::payload::Payload;
use crate::resp::reader::{BadReply, Reader};
use crate::resp::scanner::parse_integer;

/// What of a QNACK's text is kept.
pub const MAX_ERROR: usize = 1024;

/// What one call carries.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// From 1, one more than the lane's last call.
    pub sequence: u64,
    /// 0 to 1, at random: for the backoff of the jobs given back in this call.
    pub jitter: f64,
    /// Clients of this worker wait on this queue besides those whose pops are in the batch. If nothing is ready when the
    /// batch is done, the worker is among the waiting; otherwise it is not.
    pub parked: bool,
    pub operations: &'a [Operation],
}

/// A job as popped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: LocalId,
    pub delivery: u32,
    /// As Redis keeps it.
    pub payload: Bytes,
    /// Its record as Redis has it, to be given back with a `NOACK` job that could not be delivered.
    pub record: Option<Bytes>,
}

impl Job {
    /// Its META, empty if it has none.
    pub fn meta(&self) -> Vec<(Bytes, Bytes)> {
        // It was decoded before, for the delivery.
        Record::decode_or_default(self.record.as_ref()).unwrap_or_default().meta
    }
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pushed(Vec<LocalId>),
    /// Stored, but on fewer replicas than the queue asks for. The script does not know: WAIT says so.
    Unconfirmed(Vec<LocalId>, Shortage),
    /// Redis is out of memory; nothing was stored.
    OutOfMemory,
    /// The queue holds as many jobs as it may; nothing was stored.
    Full,
    /// Pushing is paused; nothing was stored.
    Paused,
    /// This job holds the unique key; nothing was stored.
    Duplicate(LocalId),
    /// This tick was made, by another proxy or in another partition.
    Made,
    Acked(u32),
    Nacked(u32),
    Extended(u32),
    Returned,
    /// As many as were ready, at most as many as asked for.
    Popped(Vec<Job>),
}

/// Replicas that confirmed, of how many, within which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub confirmed: u32,
    pub asked: u32,
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchReply {
    pub standing: Standing,
    /// One for each operation, in their order.
    pub outcomes: Vec<Outcome>,
}

impl BatchReply {
    /// What was pushed is on too few replicas.
    pub fn fall_short(&mut self, shortage: Shortage) {
        for outcome in &mut self.outcomes {
            if let Outcome::Pushed(ids) = outcome {
                *outcome = Outcome::Unconfirmed(std::mem::take(ids), shortage);
            }
        }
    }
}

pub fn encode(scripts: &Scripts, partition: &Partition, settings: &Settings, batch: &Batch) -> Bytes {
    let start = match batch.operations.iter().any(|operation| as_tick(operation).is_some()) {
        true => Call::with_cron,
        false => Call::new,
    };
    let mut call = start(&scripts.batch, partition, settings, batch.sequence);
    let pops: Vec<&Pop> = batch.operations.iter().filter_map(as_pop).collect();
    write_pushing(&mut call, settings, batch.operations);
    write_wanted(&mut call, settings, pops.iter().map(|pop| u64::from(pop.count)).sum());
    call.word(waiting(batch, &pops).as_bytes());
    write_claims(&mut call, settings, batch);
    write_ticks(&mut call, partition, settings, batch.operations);
    if !settings.pause.push {
        write_pushes(&mut call, settings, batch.operations);
    }
    for run in pops.chunk_by(|a, b| (a.lease, a.noack) == (b.lease, b.noack)) {
        call.word(b"o");
        call.number(run.iter().map(|pop| u64::from(pop.count)).sum());
        call.number(run[0].lease.unwrap_or_else(|| millis(settings.lease)));
        call.word(if run[0].lease.is_some() { b"1" } else { b"" });
        call.number(run[0].noack.into());
    }
    call.finish()
}

fn write_pushing(call: &mut Call, settings: &Settings, operations: &[Operation]) {
    let jobs = match settings.pause.push {
        true => 0,
        false => pushed_jobs(operations),
    };
    match settings.max_len {
        0 => call.number(jobs as u64),
        bound => call.word(format!("{jobs} {bound}").as_bytes()),
    }
}

fn write_wanted(call: &mut Call, settings: &Settings, wanted: u64) {
    match is_limited(settings) {
        false => call.number(wanted),
        true => call.word(format!("{wanted} {}", limits(settings)).as_bytes()),
    }
}

fn is_limited(settings: &Settings) -> bool {
    let Settings { pause, rate, .. } = settings;
    pause.pop || settings.concurrency > 0 || rate.0.is_some() || !settings.max_wait.is_zero()
}

/// As `limits.lua` reads them.
pub(super) fn limits(settings: &Settings) -> String {
    let (paused, concurrency) = (u8::from(settings.pause.pop), settings.concurrency);
    let (jobs, per) = rate(settings.rate);
    format!("{paused} {concurrency} {jobs} {per} {}", millis(settings.max_wait))
}

fn as_pop(operation: &Operation) -> Option<&Pop> {
    match operation {
        Operation::Pop(pop) => Some(pop),
        _ => None,
    }
}

fn as_tick(operation: &Operation) -> Option<&Tick> {
    match operation {
        Operation::Tick(tick) => Some(tick),
        _ => None,
    }
}

fn pushed_jobs(operations: &[Operation]) -> usize {
    operations
        .iter()
        .filter_map(Operation::push)
        .map(|push| push.payloads.len())
        .sum()
}

/// The last pop whose client blocks gets nothing, if no more jobs are popped than the pops before it ask for; and how many the
/// first ones ask for whose clients all block. Empty: none does.
fn waiting(batch: &Batch, pops: &[&Pop]) -> String {
    let asked = |pops: &[&Pop]| pops.iter().map(|pop| u64::from(pop.count)).sum::<u64>();
    let waits_from = match pops.iter().rposition(|pop| pop.waits) {
        _ if batch.parked => u64::from(u32::MAX), // beyond any demand
        Some(last) => asked(&pops[..last]),
        None => return String::new(),
    };
    let patient = pops.iter().position(|pop| !pop.waits).unwrap_or(pops.len());
    format!("{waits_from} {}", asked(&pops[..patient]))
}

fn write_claims(call: &mut Call, settings: &Settings, batch: &Batch) {
    let mut acks: Vec<Claim> = Vec::new();
    for operation in batch.operations {
        match operation {
            Operation::Ack(claims) => acks.extend_from_slice(claims),
            Operation::Finish(_)
            | Operation::Nack(_)
            | Operation::Extend { .. }
            | Operation::Return(_)
            | Operation::Lapse(_) => {
                write_acks(call, &mut acks);
                write_claim(call, settings, operation, batch.jitter);
            }
            Operation::Push(_) | Operation::Tick(_) | Operation::Pop(_) => {}
        }
    }
    write_acks(call, &mut acks);
}

fn write_acks(call: &mut Call, claims: &mut Vec<Claim>) {
    if claims.is_empty() {
        return;
    }
    call.word(b"a");
    call.number(claims.len() as u64);
    write_names(call, claims);
    claims.clear();
}

fn write_claim(call: &mut Call, settings: &Settings, operation: &Operation, jitter: f64) {
    match operation {
        Operation::Finish(Finish { claims, result, ttl }) => {
            call.word(b"r");
            call.number(claims.len() as u64);
            call.number(ttl.unwrap_or_else(|| millis(settings.result_ttl)));
            call.word(result);
            write_names(call, claims);
        }
        Operation::Nack(Nack {
            claims,
            delay,
            error,
            dead,
        }) => {
            call.word(b"k");
            call.number(claims.len() as u64);
            call.number_or_empty(*delay);
            call.number((*dead).into());
            let error = error.as_deref().unwrap_or_default();
            call.word(&error[..error.len().min(MAX_ERROR)]);
            call.word(format!("{jitter:.6}").as_bytes());
            write_names(call, claims);
        }
        Operation::Extend { claims, lease } => {
            call.word(b"x");
            call.number(claims.len() as u64);
            call.number(*lease);
            write_names(call, claims);
        }
        Operation::Lapse(claims) => {
            call.word(b"l");
            call.number(claims.len() as u64);
            write_names(call, claims);
        }
        Operation::Return(returns) => {
            for Return {
                job,
                delivery,
                taken,
                lost,
            } in returns
            {
                call.word(b"b");
                call.word(&name(*job, Some(*delivery)));
                call.number(u64::from(taken.is_some()) + u64::from(*lost));
                let (payload, record) = taken.as_ref().map_or((None, None), |(p, r)| (Some(p), r.as_ref()));
                call.word(payload.map_or(b"", |payload| payload));
                call.word(record.map_or(b"", |record| record));
            }
        }
        Operation::Ack(_) | Operation::Push(_) | Operation::Tick(_) | Operation::Pop(_) => {}
    }
}

fn write_names(call: &mut Call, claims: &[Claim]) {
    for claim in claims {
        if claim.delivery == Some(1) {
            call.word(claim.job.as_bytes());
        } else {
            call.word(&name(claim.job, claim.delivery));
        }
    }
}

/// What the claimed lease is called in `T:leases`.
fn name(job: LocalId, delivery: Option<u32>) -> Vec<u8> {
    let mut name = job.as_bytes().to_vec();
    match delivery {
        None => name.push(b'?'),
        Some(1) => {}
        Some(delivery) => {
            name.push(b'.');
            name.extend_from_slice(itoa::Buffer::new().format(delivery).as_bytes());
        }
    }
    name
}

/// Pushes that go as one: of one priority and with the same options.
struct Run<'a> {
    options: &'a JobOptions,
    /// Each with the number of its first job among all that the call pushes.
    pushes: Vec<(usize, &'a Push)>,
}

/// Pushes of one priority keep their order; those next to each other with the same options are one run. In a bounded queue
/// each is a run of its own, as it may be refused alone; so is that of a tick, which another proxy may have made.
fn push_runs<'a>(settings: &Settings, operations: &'a [Operation]) -> Vec<Run<'a>> {
    let mut runs: Vec<Run> = Vec::new();
    for priority in Priority::ALL {
        let mut number = 0;
        let mut alone = true;
        for operation in operations {
            let Some(push) = operation.push() else { continue };
            let options = &push.options;
            if options.priority == priority {
                let is_tick = as_tick(operation).is_some();
                alone |= is_tick || settings.max_len > 0 || options.unique.is_some();
                match runs.last_mut() {
                    Some(run) if !alone && run.options == options => run.pushes.push((number, push)),
                    _ => runs.push(Run {
                        options,
                        pushes: vec![(number, push)],
                    }),
                }
                alone = is_tick;
            }
            number += push.payloads.len();
        }
    }
    runs
}

fn write_ticks(call: &mut Call, partition: &Partition, settings: &Settings, operations: &[Operation]) {
    if !operations.iter().any(|operation| as_tick(operation).is_some()) {
        return;
    }
    let runs = push_runs(settings, operations);
    for tick in operations.iter().filter_map(as_tick) {
        let is_its = |(_, push): &(usize, &Push)| tick.push.as_ref().is_some_and(|its| std::ptr::eq(*push, its));
        let run = runs.iter().position(|run| run.pushes.iter().any(is_its));
        call.word(b"c");
        call.word(&tick.name);
        call.number(tick.at);
        match partition.number {
            0 => call.number_or_empty(tick.next),
            _ => call.word(b"-"),
        }
        call.number(tick.then.into());
        call.number(run.map_or(0, |at| at as u64 + 1));
    }
}

fn write_pushes(call: &mut Call, settings: &Settings, operations: &[Operation]) {
    let width = suffix_width(pushed_jobs(operations));
    for Run { options, pushes } in push_runs(settings, operations) {
        call.word(b"p");
        call.number(pushes.iter().map(|(_, push)| push.payloads.len() as u64).sum());
        call.word(&[options.priority.letter()]);
        write_options(call, settings, options);
        for (number, push) in pushes {
            for (i, payload) in push.payloads.iter().enumerate() {
                call.word(&suffix(number + i, width, payload.is_packed(), options.priority));
                call.word(payload.stored());
            }
        }
    }
}

fn write_options(call: &mut Call, settings: &Settings, options: &JobOptions) {
    match options.start {
        Start::Now => call.word(b""),
        Start::After(ms) => call.word(format!("+{ms}").as_bytes()),
        Start::At(ms) => call.word(format!("={ms}").as_bytes()),
    }
    let default = (!settings.ttl.is_zero()).then(|| millis(settings.ttl));
    call.number_or_empty(options.ttl.or(default));
    call.word(&encode_options(options));
}

/// One width for all jobs of a call, so that their ids sort as they were pushed.
fn suffix_width(jobs: usize) -> usize {
    match jobs {
        0..=1296 => 2,
        1297..=46656 => 3,
        _ => 4,
    }
}

/// What an id has behind its stamp: the job's number within the call, whether its payload is packed, and its priority.
fn suffix(number: usize, width: usize, packed: bool, priority: Priority) -> Vec<u8> {
    let mut suffix = Vec::with_capacity(width + 2);
    put_base36(number as u64, width, &mut suffix);
    if packed {
        suffix.push(PACKED);
    }
    suffix.push(priority.letter());
    suffix
}

/// `operations` are those that the call carried, `settings` those that it was made with.
pub fn decode(operations: &[Operation], settings: &Settings, reply: Bytes) -> Result<BatchReply, CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let pushed = reader.bulk()?;
    let mut parts = pushed.splitn(2, |byte| *byte == b':');
    let stamp = pushed.slice_ref(parts.next().unwrap_or_default());
    let mut answer = Answer {
        stamp,
        paused: settings.pause.push,
        apart: match parts.next() {
            Some(runs) => set_apart(runs, settings, operations),
            None => Vec::new(),
        },
        width: suffix_width(pushed_jobs(operations)),
        pushed: 0,
        missed: places(&mut reader)?,
        place: 0,
        popped: popped(&mut reader)?.into_iter(),
    };
    let outcomes = operations.iter().map(|operation| answer.outcome(operation));
    let outcomes = outcomes.collect::<Result<_, _>>()?;
    Ok(BatchReply { standing, outcomes })
}

/// The pushes that were not stored, by the numbers of their first jobs, and why. `runs`: of each its number, from 1, and if
/// another job holds its key, `=` and that one; if it was the push of a tick that was made, `!`.
fn set_apart(runs: &[u8], settings: &Settings, operations: &[Operation]) -> Vec<(usize, Outcome)> {
    let known = push_runs(settings, operations);
    let read = |run: &[u8]| {
        let (run, is_made) = run.strip_suffix(b"!").map_or((run, false), |run| (run, true));
        let mut parts = run.splitn(2, |byte| *byte == b'=');
        let number = usize::try_from(parse_integer(parts.next()?)?).ok()?;
        let first = known.get(number.checked_sub(1)?)?.pushes.first()?.0;
        Some(match parts.next() {
            Some(holder) => (first, Outcome::Duplicate(LocalId::parse(holder)?)),
            None if is_made => (first, Outcome::Made),
            None => (first, Outcome::Full),
        })
    };
    runs.split(|byte| *byte == b',').filter_map(read).collect()
}

/// A reply being dealt out to the operations.
struct Answer {
    stamp: Bytes,
    /// No push was even tried.
    paused: bool,
    apart: Vec<(usize, Outcome)>,
    width: usize,
    pushed: usize,
    /// In ascending order.
    missed: std::iter::Peekable<std::vec::IntoIter<u64>>,
    place: u64,
    popped: std::vec::IntoIter<Job>,
}

impl Answer {
    fn outcome(&mut self, operation: &Operation) -> Result<Outcome, BadReply> {
        Ok(match operation {
            Operation::Push(_) | Operation::Tick(_) if self.paused => Outcome::Paused,
            Operation::Push(_) | Operation::Tick(_) if self.stamp.as_ref() == b"OOM" => Outcome::OutOfMemory,
            Operation::Push(push) => self.of_push(push)?,
            Operation::Tick(tick) => tick
                .push
                .as_ref()
                .map_or(Ok(Outcome::Made), |push| self.of_push(push))?,
            Operation::Ack(claims) => Outcome::Acked(self.counted(claims.len())),
            Operation::Finish(finish) => Outcome::Acked(self.counted(finish.claims.len())),
            Operation::Nack(nack) => Outcome::Nacked(self.counted(nack.claims.len())),
            Operation::Extend { claims, .. } => Outcome::Extended(self.counted(claims.len())),
            Operation::Return(_) | Operation::Lapse(_) => Outcome::Returned,
            Operation::Pop(pop) => Outcome::Popped(self.popped.by_ref().take(pop.count as usize).collect()),
        })
    }

    fn of_push(&mut self, push: &Push) -> Result<Outcome, BadReply> {
        Ok(match self.apart.iter().find(|(first, _)| *first == self.pushed) {
            Some((_, outcome)) => {
                self.pushed += push.payloads.len();
                outcome.clone()
            }
            None => Outcome::Pushed(self.ids(push)?),
        })
    }

    fn ids(&mut self, push: &Push) -> Result<Vec<LocalId>, BadReply> {
        let first = self.pushed;
        self.pushed += push.payloads.len();
        let id = |(number, payload): (usize, &Payload)| {
            let suffix = suffix(number, self.width, payload.is_packed(), push.options.priority);
            LocalId::parse(&[self.stamp.as_ref(), &suffix].concat()).ok_or(BadReply("a stamp was due"))
        };
        (first..).zip(&push.payloads).map(id).collect()
    }

    fn counted(&mut self, claims: usize) -> u32 {
        self.place += claims as u64;
        let mut counted = claims as u32;
        while self.missed.next_if(|&place| place <= self.place).is_some() {
            counted -= 1;
        }
        counted
    }
}

fn places(reader: &mut Reader) -> Result<std::iter::Peekable<std::vec::IntoIter<u64>>, BadReply> {
    let len = reader.array()?;
    let places = (0..len).map(|_| reader.integer().and_then(super::unsigned));
    Ok(places.collect::<Result<Vec<_>, _>>()?.into_iter().peekable())
}

fn popped(reader: &mut Reader) -> Result<Vec<Job>, BadReply> {
    let ids = strings(reader)?;
    let payloads = strings(reader)?;
    let records = strings(reader)?;
    let mut jobs = Vec::with_capacity(ids.len());
    for (i, (id, payload)) in ids.into_iter().zip(payloads).enumerate() {
        let id = id
            .as_deref()
            .and_then(LocalId::parse)
            .ok_or(BadReply("a job's id was due"))?;
        let payload = payload.ok_or(BadReply("a payload was due"))?;
        let record = records.get(i).cloned().flatten();
        let delivery = Record::decode_or_default(record.as_ref())?.delivery();
        jobs.push(Job {
            id,
            delivery,
            payload,
            record,
        });
    }
    Ok(jobs)
}

fn strings(reader: &mut Reader) -> Result<Vec<Option<Bytes>>, BadReply> {
    let len = reader.array()?;
    (0..len).map(|_| reader.bulk_or_null()).collect()
}
