//! A partition of a queue as the scripts see it: its keys and the words that every call begins with.
//! All of it is rendered once, when a lane is made; a call copies it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::keys::slot;
use crate::config::Rate;
use crate::queue::operation::QueueName;
use crate::queue::settings::Settings;

/// How many keys a script is given: in the order of `prelude.lua`.
pub const KEYS: usize = 25;
const NAMES: [&str; KEYS - 1] = [
    "jobs",
    "meta",
    "ready:urgent",
    "ready:high",
    "ready:normal",
    "ready:low",
    "delayed",
    "leases",
    "dead",
    "expiry",
    "stats",
    "waiting",
    "settings",
    "unique",
    "holds",
    "awaited",
    "results",
    "result_ends",
    "groups",
    "behind",
    "buckets",
    "throttled",
    "sift",
    "sifted",
];

/// Words that every call begins with: who calls, sequence, settings.
pub(super) const FIXED: usize = 3;

/// One partition of one queue, as one worker's lane addresses it.
#[derive(Clone, Debug)]
pub struct Partition {
    /// The cluster's slot of all its keys.
    pub slot: u16,
    /// KEYS and the first word of ARGV, as RESP.
    pub(super) rendered: Bytes,
}

impl Partition {
    /// `worker` names the lane's worker among all of all proxies, now and as long as Redis remembers its last call.
    pub fn new(prefix: &str, queue: &QueueName, number: u16, worker: &str) -> Self {
        let tag = format!("{prefix}:{{{queue}/{number}}}");
        let mut rendered = BytesMut::new();
        for name in NAMES {
            put_bulk(format!("{tag}:{name}").as_bytes(), &mut rendered);
        }
        put_bulk(format!("{tag}:lane:{worker}").as_bytes(), &mut rendered);
        put_bulk(
            format!("{worker} {} {queue}", wake_channel(prefix, "")).as_bytes(),
            &mut rendered,
        );
        Self {
            slot: slot(tag.as_bytes()),
            rendered: rendered.freeze(),
        }
    }
}

/// Where a worker hears that a queue which it waits on has jobs: see [`super::wake`].
pub fn wake_channel(prefix: &str, worker: &str) -> String {
    format!("{prefix}:wake:{worker}")
}

/// What every script has to know of the settings, as one word; their version first.
pub(super) fn write_settings(settings: &Settings, out: &mut BytesMut) {
    let Settings {
        retries,
        max_lapses,
        dead_max_len,
        group_concurrency,
        ..
    } = settings;
    let (lease, dead_ttl) = (millis(settings.lease), millis(settings.dead_ttl));
    let (backoff, max_backoff) = (millis(settings.backoff), millis(settings.max_backoff));
    let version = String::from_utf8_lossy(&settings.version);
    let (group_jobs, per) = rate(settings.group_rate);
    let word = format!(
        "{version} {lease} {retries} {backoff} {max_backoff} {max_lapses} {dead_max_len} {dead_ttl} \
         {group_concurrency} {group_jobs} {per}"
    );
    put_bulk(word.as_bytes(), out);
}

/// Jobs in so many milliseconds; none: no bound.
pub(super) fn rate(rate: Rate) -> (u64, u64) {
    rate.0.map_or((0, 1), |(jobs, per)| (jobs, millis(per)))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn put_bulk(bytes: &[u8], out: &mut BytesMut) {
    put_header(b'$', bytes.len(), out);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

pub(super) fn put_number(value: u64, out: &mut BytesMut) {
    put_bulk(itoa::Buffer::new().format(value).as_bytes(), out);
}

pub(super) fn put_header(kind: u8, len: usize, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_slice(itoa::Buffer::new().format(len).as_bytes());
    out.put_slice(b"\r\n");
}
