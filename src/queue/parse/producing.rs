//! What pushes jobs: once (QPUSH, QMPUSH), or at each tick of a schedule (QCRON).

use bytes::Bytes;

use super::words::{Seen, Words, shown};
use super::{Ask, MAX_COUNT, MAX_MS, MAX_RETRIES, Refusal};
use crate::queue::cron::{Repeated, Schedule};
use crate::queue::operation::{JobOptions, Priority, Push, QueueName, Start, Unique};
use crate::queue::payload::Payload;
use crate::queue::single::{CronCall, Single};
use crate::resp::Request;

/// Bytes of a job's META, fields and values: they are headers, and travel with each look at the job.
const MAX_META: usize = 64 * 1024;
/// Bytes of a group's name; the scripts write the number as one byte.
const MAX_GROUP: usize = 128;
/// Bytes of a unique key.
const MAX_KEY: usize = 512;

pub(super) fn push(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let payload = words.payload(max_payload)?;
    let options = job_options(words)?;
    let push = Push {
        payloads: vec![payload.into()],
        options,
    };
    Ok(Ask::Push {
        queue,
        push,
        many: false,
    })
}

pub(super) fn push_many(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let count = words.number("numjobs", 1, MAX_COUNT)?;
    if count > words.left() as u64 {
        return Err(format!("ERR numjobs is {count}, but {} payloads follow", words.left()));
    }
    let payloads = (0..count)
        .map(|_| words.payload(max_payload).map(Payload::from))
        .collect::<Result<Vec<_>, _>>()?;
    let options = job_options(words)?;
    if options.unique.is_some() {
        return Err("ERR QMPUSH takes no UNIQUE: a key is one job's".into());
    }
    let push = Push { payloads, options };
    Ok(Ask::Push {
        queue,
        push,
        many: true,
    })
}

fn job_options(words: &mut Words) -> Result<JobOptions, Refusal> {
    job_options_and_zone(words, &mut None)
}

/// `zone`: `TZ`, for a command that has it.
fn job_options_and_zone<'a>(words: &mut Words<'a>, zone: &mut Option<&'a [u8]>) -> Result<JobOptions, Refusal> {
    let mut options = JobOptions::default();
    let mut seen = Seen::default();
    let mut meta_bytes = 0;
    let (mut unique, mut hold) = (None, None);
    while let Some(option) = words.option() {
        match option.as_str() {
            "PRIORITY" => {
                seen.once(&option)?;
                let name = words.value(&option)?;
                options.priority = Priority::ALL
                    .into_iter()
                    .find(|priority| name.eq_ignore_ascii_case(priority.name().as_bytes()))
                    .ok_or_else(|| {
                        let name = shown(name);
                        format!("ERR PRIORITY is '{name}', it must be urgent, high, normal or low")
                    })?;
            }
            "DELAY" | "AT" => {
                seen.once("DELAY or AT")?;
                let ms = words.number(&option, 0, MAX_MS)?;
                options.start = match (option.as_str(), ms) {
                    (_, 0) => Start::Now,
                    ("DELAY", ms) => Start::After(ms),
                    (_, ms) => Start::At(ms),
                };
            }
            "TTL" => options.ttl = Some(seen.ms(words, &option, 1)?),
            "RETRIES" => {
                seen.once(&option)?;
                options.retries = Some(words.number(&option, 1, MAX_RETRIES)? as u32);
            }
            "BACKOFF" => options.backoff = Some(seen.ms(words, &option, 0)?),
            "MAXBACKOFF" => options.max_backoff = Some(seen.ms(words, &option, 0)?),
            "LEASE" => options.lease = Some(seen.ms(words, &option, 1)?),
            "META" => {
                let field = words.value(&option)?;
                let value = words.value(&option)?;
                meta_bytes += field.len() + value.len();
                if meta_bytes > MAX_META {
                    return Err(format!("ERR META of more than {MAX_META} bytes in all"));
                }
                let pair = (Bytes::copy_from_slice(field), Bytes::copy_from_slice(value));
                options.meta.push(pair);
            }
            "UNIQUE" => {
                seen.once(&option)?;
                let key = words.value(&option)?;
                if !(1..=MAX_KEY).contains(&key.len()) {
                    return Err(format!(
                        "ERR UNIQUE key of {} bytes, it must have 1 to {MAX_KEY}",
                        key.len()
                    ));
                }
                unique = Some(Bytes::copy_from_slice(key));
            }
            "TZ" if zone.is_some() => {
                seen.once(&option)?;
                *zone = Some(words.value(&option)?);
            }
            "FOR" => hold = Some(seen.ms(words, &option, 1)?),
            "GROUP" => {
                seen.once(&option)?;
                let name = words.value(&option)?;
                if !(1..=MAX_GROUP).contains(&name.len()) {
                    return Err(format!(
                        "ERR GROUP name of {} bytes, it must have 1 to {MAX_GROUP}",
                        name.len()
                    ));
                }
                options.group = Some(Bytes::copy_from_slice(name));
            }
            _ => return Err(words.unknown(&option)),
        }
    }
    if options.max_backoff.is_some() && options.backoff.is_none() {
        return Err("ERR MAXBACKOFF needs BACKOFF".into());
    }
    if hold.is_some() && unique.is_none() {
        return Err("ERR FOR needs UNIQUE".into());
    }
    options.unique = unique.map(|key| Unique { key, hold, loan: None });
    Ok(options)
}

pub(super) fn cron(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let what = words.required()?;
    let (queue, call) = match what.to_ascii_uppercase().as_slice() {
        b"ADD" => {
            let (queue, job) = repeated_of(words, max_payload)?;
            let job = Box::new(job);
            (queue, CronCall::Add { job, tick: None })
        }
        b"DEL" => (words.queue()?, CronCall::Delete(words.cron_name()?)),
        b"LIST" => (words.queue()?, CronCall::List { seen: Vec::new() }),
        _ => {
            return Err(format!(
                "ERR unknown subcommand '{}' of qcron, it must be ADD, DEL or LIST",
                shown(what)
            ));
        }
    };
    words.nothing_more()?;
    let single = Single::Cron(call);
    Ok(Ask::Single { queue, single })
}

/// A `QCRON ADD` that was checked before.
pub fn repeated(request: Request<'_>) -> Result<Repeated, Refusal> {
    let mut words = Words::new(request);
    words.required()?;
    Ok(repeated_of(&mut words, usize::MAX)?.1)
}

fn repeated_of(words: &mut Words, max_payload: usize) -> Result<(QueueName, Repeated), Refusal> {
    let queue = words.queue()?;
    let name = words.cron_name()?;
    let schedule = words.required()?;
    let payload = words.payload(max_payload)?;
    let mut zone = Some(&b"UTC"[..]);
    let options = job_options_and_zone(words, &mut zone)?;
    let zone = zone.unwrap_or_default();
    let job = Repeated {
        name,
        schedule: Schedule::parse(schedule, zone)?,
        schedule_text: Bytes::copy_from_slice(schedule),
        zone_text: Bytes::copy_from_slice(zone),
        push: Push {
            payloads: vec![payload.into()],
            options,
        },
        words: Bytes::copy_from_slice(words.request.raw()),
    };
    Ok((queue, job))
}
