//! What a queue command comes to, still as data, and how it is written for its client.

use bytes::{Bytes, BytesMut};

use super::cron::Repeated;
use super::id::{LocalId, Origin};
use super::operation::{QueueName, Return, State};
use super::payload::{unpack, unpacked_len};
use super::settings::{Pause, Settings};
use crate::resp::ReplyWriter;
use crate::script::Job;
use crate::script::batch::Shortage;
use crate::script::check::{Found, KINDS};
use crate::script::cron::Entry;
use crate::script::look::{Detail, Explanation, JobView, Stats};

/// The reply to one queue command.
#[derive(Debug)]
pub enum Reply {
    /// `QPUSH`.
    Id(Origin, LocalId),
    /// `QMPUSH`.
    Ids(Origin, Vec<LocalId>),
    /// A pop that found something.
    Jobs(Popped),
    /// A pop that found nothing in the time it had.
    NoJob,
    Integer(i64),
    Bulk(Bytes),
    /// `QEXPLAIN`; `None`: there is no such job.
    Explanation(Option<(Origin, Explanation)>, Pause),
    /// `QRESULT` that has none.
    Nothing,
    /// With the number of partitions.
    Stats(Box<Stats>, Pause, u16),
    Views(Box<Settings>, Vec<(Origin, JobView)>),
    View(Origin, Box<(Settings, JobView)>),
    /// `QCONFIG GET`.
    Settings(Box<Settings>),
    /// `QCRON LIST`.
    Repeated(Vec<Entry>),
    /// `QCHECK`.
    Checked(Box<Found>),
    Ok,
    NoView,
    /// A push that is on fewer replicas than its queue asks for.
    NoReplicas(Origin, Vec<LocalId>, Shortage),
    /// A whole error line, without its `-`.
    Error(Bytes),
}

/// Jobs that one pop took out of one partition of one queue.
#[derive(Debug)]
pub struct Popped {
    pub queue: QueueName,
    pub origin: Origin,
    pub noack: bool,
    /// `COUNT` was given: an array of jobs comes back.
    pub many: bool,
    /// `WITHMETA`.
    pub with_meta: bool,
    /// `BOUND`.
    pub bound: bool,
    pub jobs: Vec<Job>,
}

impl Popped {
    /// What to give back if these do not reach their client.
    pub fn returns(&self) -> Vec<Return> {
        let taken = |job: &Job| self.noack.then(|| (job.payload.clone(), job.record.clone()));
        self.jobs
            .iter()
            .map(|job| Return {
                job: job.id,
                delivery: job.delivery,
                taken: taken(job),
                lost: false,
            })
            .collect()
    }

    fn write(&self, out: &mut ReplyWriter) {
        if self.many {
            out.array(self.jobs.len());
        }
        let mut receipt = BytesMut::with_capacity(64);
        for job in &self.jobs {
            receipt.clear();
            self.origin.write_receipt(job.id, job.delivery, &mut receipt);
            out.array(if self.with_meta { 5 } else { 4 });
            out.bulk(self.queue.as_bytes());
            out.bulk(&receipt);
            write_payload(job.id, &job.payload, out);
            out.integer(i64::from(job.delivery));
            if self.with_meta {
                write_meta(&job.meta(), out);
            }
        }
    }
}

impl Reply {
    /// Bytes of all the payloads in it that are kept packed, once they are not. To be asked before it is written.
    pub fn unpacked_len(&self) -> usize {
        fn sum<'a>(payloads: impl Iterator<Item = (LocalId, &'a Bytes)>) -> usize {
            let packed = payloads.filter(|(job, _)| job.is_packed());
            packed.filter_map(|(_, stored)| unpacked_len(stored)).sum()
        }
        match self {
            Self::Jobs(popped) => sum(popped.jobs.iter().map(|job| (job.id, &job.payload))),
            Self::Views(_, views) => sum(views.iter().map(|(_, view)| (view.id, &view.payload))),
            _ => 0,
        }
    }

    pub fn write(&self, out: &mut ReplyWriter) {
        match self {
            Self::Id(origin, job) => write_id(*origin, *job, out),
            Self::Ids(origin, jobs) => {
                out.array(jobs.len());
                jobs.iter().for_each(|job| write_id(*origin, *job, out));
            }
            Self::Jobs(popped) => popped.write(out),
            Self::NoJob | Self::NoView => out.null_array(),
            Self::Integer(value) => out.integer(*value),
            Self::Stats(stats, pause, partitions) => write_stats(stats, *pause, *partitions, out),
            Self::Views(settings, views) => {
                out.array(views.len());
                views
                    .iter()
                    .for_each(|(origin, view)| write_view(*origin, settings, view, out));
            }
            Self::View(origin, view) => write_view(*origin, &view.0, &view.1, out),
            Self::Settings(settings) => {
                let shown: Vec<_> = settings.shown().collect();
                out.map(shown.len());
                for (name, value) in shown {
                    out.bulk(name.as_bytes());
                    out.bulk(value.as_bytes());
                }
            }
            Self::Explanation(explanation, pause) => write_explanation(explanation.as_ref(), *pause, out),
            Self::Repeated(entries) => {
                out.array(entries.len());
                entries.iter().for_each(|entry| write_repeated(entry, out));
            }
            Self::Checked(found) => write_found(found, out),
            Self::Bulk(bytes) => out.bulk(bytes),
            Self::Nothing => out.null(),
            Self::Ok => out.simple("OK"),
            Self::NoReplicas(origin, jobs, shortage) => out.error(no_replicas(*origin, jobs, *shortage)),
            Self::Error(text) => out.error(text),
        }
    }
}

/// So many ids are named one by one; of more, which follow one another, the first and the last.
const NAMED: usize = 16;

/// Names the jobs: their ids are how the client finds them again.
fn no_replicas(origin: Origin, jobs: &[LocalId], shortage: Shortage) -> Vec<u8> {
    let (named, between) = match jobs {
        [first, .., last] if jobs.len() > NAMED => (&[*first, *last][..], " to "),
        _ => (jobs, " "),
    };
    let mut line = BytesMut::from(
        match jobs.len() {
            1 => "NOREPLICAS stored as job".to_owned(),
            count => format!("NOREPLICAS stored as {count} jobs"),
        }
        .as_bytes(),
    );
    for (number, job) in named.iter().enumerate() {
        line.extend_from_slice(if number == 0 { " " } else { between }.as_bytes());
        origin.write_id(*job, &mut line);
    }
    let Shortage {
        confirmed,
        asked,
        within,
    } = shortage;
    let rest = format!(", but {confirmed} of {asked} replicas confirmed it within {within:?}");
    line.extend_from_slice(rest.as_bytes());
    line.to_vec()
}

fn write_id(origin: Origin, job: LocalId, out: &mut ReplyWriter) {
    let mut id = BytesMut::with_capacity(40);
    origin.write_id(job, &mut id);
    out.bulk(&id);
}

/// What is marked as packed and is not (somebody wrote to Redis) comes as it stands there.
fn write_payload(job: LocalId, stored: &[u8], out: &mut ReplyWriter) {
    match job.is_packed().then(|| unpack(stored)).flatten() {
        Some(payload) => out.bulk(&payload),
        None => out.bulk(stored),
    }
}

fn write_stats(stats: &Stats, pause: Pause, partitions: u16, out: &mut ReplyWriter) {
    let partitions = if stats.exists { partitions.max(1) } else { 0 };
    let numbers = [
        ("ready", stats.ready()),
        ("urgent", stats.urgent),
        ("high", stats.high),
        ("normal", stats.normal),
        ("low", stats.low),
        ("delayed", stats.delayed),
        ("leased", stats.leased),
        ("dead", stats.dead),
        ("oldest_ready_ms", stats.oldest_ready_ms),
        ("pushed", stats.pushed),
        ("acked", stats.acked),
        ("nacked", stats.nacked),
        ("expired", stats.expired),
        ("deduplicated", stats.deduplicated),
        ("redriven", stats.redriven),
        ("partitions", u64::from(partitions)),
    ];
    out.map(numbers.len() + 1);
    for (name, value) in numbers {
        out.bulk(name.as_bytes());
        out.integer(value as i64);
    }
    out.bulk(b"paused");
    out.bulk(pause.name().as_bytes());
}

fn write_view(origin: Origin, settings: &Settings, view: &JobView, out: &mut ReplyWriter) {
    let record = &view.record;
    let at = |state| (view.state == state).then_some(view.at).flatten();
    out.map(15);
    out.bulk(b"id");
    write_id(origin, view.id, out);
    out.bulk(b"state");
    out.bulk(view.state.name().as_bytes());
    out.bulk(b"priority");
    out.bulk(view.id.priority().name().as_bytes());
    let numbers = [
        ("attempt", Some(u64::from(view.attempt()))),
        (
            "max_attempts",
            Some(u64::from(record.retries.unwrap_or(settings.retries))),
        ),
        ("nacks", Some(u64::from(record.nacks))),
        ("lapses", Some(u64::from(record.lapses))),
        ("pushed_ms", Some(view.id.pushed_ms())),
        ("due_ms", at(State::Delayed)),
        ("lease_ends_ms", at(State::Leased)),
    ];
    for (name, value) in numbers {
        out.bulk(name.as_bytes());
        match value {
            Some(value) => out.integer(value as i64),
            None => out.null(),
        }
    }
    for (name, text) in [
        ("group", &record.group),
        ("unique", &record.unique),
        ("error", &record.error),
    ] {
        out.bulk(name.as_bytes());
        match text {
            Some(text) => out.bulk(text),
            None => out.null(),
        }
    }
    out.bulk(b"payload");
    write_payload(view.id, &view.payload, out);
    out.bulk(b"meta");
    match record.meta.is_empty() {
        true => out.null(),
        false => write_meta(&record.meta, out),
    }
}

fn write_explanation(explanation: Option<&(Origin, Explanation)>, pause: Pause, out: &mut ReplyWriter) {
    let (state, reason): (&[u8], &[u8]) = match explanation {
        Some((_, found)) => (&found.state, &found.reason),
        None => (b"unknown", b"unknown"),
    };
    out.map(3);
    out.bulk(b"state");
    out.bulk(state);
    out.bulk(b"reason");
    out.bulk(reason);
    out.bulk(b"detail");
    match explanation.map(|(origin, found)| (origin, &found.detail)) {
        _ if reason == b"paused" => out.bulk(pause.name().as_bytes()),
        Some((_, Detail::Number(number))) => out.integer(*number as i64),
        Some((_, Detail::Text(text))) => out.bulk(text),
        Some((origin, Detail::Job(job))) => write_id(*origin, *job, out),
        Some((_, Detail::None)) | None => out.null(),
    }
}

/// What a later version has written shows its name and its ticks.
fn write_repeated(entry: &Entry, out: &mut ReplyWriter) {
    let job = Repeated::from_words(&entry.words);
    let text = |name: &str, value: Option<&Bytes>, out: &mut ReplyWriter| {
        out.bulk(name.as_bytes());
        match value {
            Some(value) => out.bulk(value),
            None => out.null(),
        }
    };
    out.map(6);
    text("name", Some(&entry.name), out);
    text("schedule", job.as_ref().map(|job| &job.schedule_text), out);
    text("tz", job.as_ref().map(|job| &job.zone_text), out);
    for (name, ms) in [("next_ms", Some(entry.tick)), ("last_ms", entry.last)] {
        out.bulk(name.as_bytes());
        match ms {
            Some(ms) => out.integer(ms as i64),
            None => out.null(),
        }
    }
    let payload = job.as_ref().and_then(|job| job.push.payloads.first());
    text("payload", payload.map(|payload| payload.stored()), out);
}

fn write_found(found: &Found, out: &mut ReplyWriter) {
    out.map(KINDS.len() + 3);
    let totals = [("jobs", found.jobs), ("unsound", found.kinds.iter().sum())];
    for (name, count) in totals.into_iter().chain(KINDS.into_iter().zip(found.kinds)) {
        out.bulk(name.as_bytes());
        out.integer(count as i64);
    }
    out.bulk(b"cursor");
    let cursor = found.next.map_or("0".to_owned(), |place| place.to_string());
    out.bulk(cursor.as_bytes());
}

fn write_meta(meta: &[(Bytes, Bytes)], out: &mut ReplyWriter) {
    out.map(meta.len());
    for (field, value) in meta {
        out.bulk(field);
        out.bulk(value);
    }
}
