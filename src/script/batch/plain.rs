//! The calls that most are: of jobs without options, in a queue that holds no others (`plain.lua`).

use bytes::Bytes;

use super::Batch;
use super::encode::{as_pop, is_limited, pushed_jobs, suffix, suffix_width, write_names};
use crate::queue::operation::{Operation, Pop, Priority};
use crate::script::call::Call;
use crate::script::keys::millis;
use crate::script::{Partition, Scripts, Settings};

/// What Redis says of a call that is to be made with `batch.lua`: nothing was done.
const NOT_PLAIN: &[u8] = b"*1\r\n$9\r\nNOT PLAIN\r\n";
/// Jobs that a call acknowledges, pushes and asks for, at most: Lua's stack holds some thousands of words.
const MOST: usize = 2000;

pub fn is_refused(reply: &Bytes) -> bool {
    reply.as_ref() == NOT_PLAIN
}

/// As far as the proxy can tell; whether the queue holds no other jobs Redis knows.
pub fn may_be_plain(settings: &Settings, batch: &Batch) -> bool {
    let pops: Vec<&Pop> = batch.operations.iter().filter_map(as_pop).collect();
    let jobs = |operation: &Operation| match operation {
        Operation::Pop(pop) => pop.count as usize,
        _ => operation.claims().len() + operation.push().map_or(0, |push| push.payloads.len()),
    };
    let is_bounded = settings.max_len > 0 || settings.pause.push || !settings.ttl.is_zero() || is_limited(settings);
    !is_bounded
        && !batch.parked
        && needed(&pops) <= batch.ready + pushed_jobs(batch.operations) as u64
        && batch.operations.iter().all(Operation::is_plain)
        && batch.operations.iter().map(jobs).sum::<usize>() <= MOST
}

fn wanted(pops: &[&Pop]) -> u64 {
    pops.iter().map(|pop| u64::from(pop.count)).sum()
}

/// How many jobs must be there, so that the last of those that would wait gets something.
fn needed(pops: &[&Pop]) -> u64 {
    let last = pops.iter().rposition(|pop| pop.waits);
    last.map_or(0, |last| wanted(&pops[..last]) + 1)
}

pub fn encode(scripts: &Scripts, partition: &Partition, settings: &Settings, batch: &Batch) -> Bytes {
    let mut call = Call::plain(&scripts.plain, partition, settings, batch.sequence);
    let pops: Vec<&Pop> = batch.operations.iter().filter_map(as_pop).collect();
    let pushed = pushed_jobs(batch.operations);
    let acks = batch.operations.iter().filter_map(|operation| match operation {
        Operation::Ack(claims) => Some(claims.as_slice()),
        _ => None,
    });
    call.number(acks.clone().map(|claims| claims.len() as u64).sum());
    call.number(pushed as u64);
    call.number(wanted(&pops));
    call.number(needed(&pops));
    acks.for_each(|claims| write_names(&mut call, claims));
    let payloads = batch
        .operations
        .iter()
        .filter_map(Operation::push)
        .flat_map(|push| &push.payloads);
    let width = suffix_width(pushed);
    for (number, payload) in payloads.enumerate() {
        call.word(&suffix(number, width, payload.is_packed(), Priority::Normal));
        call.word(payload.stored());
    }
    for run in pops.chunk_by(|a, b| a.lease == b.lease) {
        call.number(wanted(run));
        call.number(run[0].lease.unwrap_or_else(|| millis(settings.lease)));
    }
    call.finish()
}
