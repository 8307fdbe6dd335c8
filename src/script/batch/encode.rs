//! A batch as `batch.lua` takes it: what its ARGV are stands there.

use bytes::Bytes;

use super::{Batch, MAX_ERROR, plain};
use crate::queue::id::{LocalId, PACKED, put_base36};
use crate::queue::operation::{Claim, Finish, JobOptions, Nack, Operation, Pop, Priority, Push, Return, Start, Tick};
use crate::script::call::Call;
use crate::script::keys::{millis, rate};
use crate::script::record::encode_options;
use crate::script::{Partition, Scripts, Settings};

pub fn encode(scripts: &Scripts, partition: &Partition, settings: &Settings, batch: &Batch) -> Bytes {
    if batch.plain && plain::may_be_plain(settings, batch) {
        return plain::encode(scripts, partition, settings, batch);
    }
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

pub(super) fn is_limited(settings: &Settings) -> bool {
    let Settings { pause, rate, .. } = settings;
    pause.pop || settings.concurrency > 0 || rate.0.is_some() || !settings.max_wait.is_zero()
}

/// As `limits.lua` reads them.
pub(in crate::script) fn limits(settings: &Settings) -> String {
    let (paused, concurrency) = (u8::from(settings.pause.pop), settings.concurrency);
    let (jobs, per) = rate(settings.rate);
    format!("{paused} {concurrency} {jobs} {per} {}", millis(settings.max_wait))
}

pub(super) fn as_pop(operation: &Operation) -> Option<&Pop> {
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

pub(super) fn pushed_jobs(operations: &[Operation]) -> usize {
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

pub(super) fn write_names(call: &mut Call, claims: &[Claim]) {
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
pub(super) struct Run<'a> {
    options: &'a JobOptions,
    /// Each with the number of its first job among all that the call pushes.
    pub(super) pushes: Vec<(usize, &'a Push)>,
}

/// Pushes of one priority keep their order; those next to each other with the same options are one run. In a bounded queue
/// each is a run of its own, as it may be refused alone; so is that of a tick, which another proxy may have made.
pub(super) fn push_runs<'a>(settings: &Settings, operations: &'a [Operation]) -> Vec<Run<'a>> {
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
        match tick.is_duplicate {
            true => call.word(b"="),
            false => call.number(run.map_or(0, |at| at as u64 + 1)),
        }
        let unique = tick.push.as_ref().and_then(|push| push.options.unique.as_ref());
        call.word(unique.map_or(b"", |unique| &unique.key));
        call.number_or_empty(unique.and_then(|unique| unique.loan));
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
pub(super) fn suffix_width(jobs: usize) -> usize {
    match jobs {
        0..=1296 => 2,
        1297..=46656 => 3,
        _ => 4,
    }
}

/// What an id has behind its stamp: the job's number within the call, whether its payload is packed, and its priority.
pub(super) fn suffix(number: usize, width: usize, packed: bool, priority: Priority) -> Vec<u8> {
    let mut suffix = Vec::with_capacity(width + 2);
    put_base36(number as u64, width, &mut suffix);
    if packed {
        suffix.push(PACKED);
    }
    suffix.push(priority.letter());
    suffix
}
