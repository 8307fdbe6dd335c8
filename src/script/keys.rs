//! A partition of a queue as the scripts see it: its keys and the words that every call begins with.
//! All of it is rendered once, when a lane is made; a call copies it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::config::QueueSettings;
use crate::queue::operation::QueueName;

/// How many keys a script is given: in the order of `prelude.lua`.
pub const KEYS: usize = 13;
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
];

/// Words that every call begins with: who calls, sequence, settings.
pub(super) const FIXED: usize = 3;

/// One partition of one queue, as one worker's lane addresses it.
#[derive(Clone, Debug)]
pub struct Partition {
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
            rendered: rendered.freeze(),
        }
    }
}

/// Where a worker hears that a queue which it waits on has jobs: see [`super::wake`].
pub fn wake_channel(prefix: &str, worker: &str) -> String {
    format!("{prefix}:wake:{worker}")
}

/// What the scripts have to know of a queue's settings. 0 lapses, dead letters or time: no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub lease: Duration,
    pub retries: u32,
    pub backoff: Duration,
    pub max_backoff: Duration,
    pub max_lapses: u32,
    pub dead_max_len: u64,
    pub dead_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            retries: 20,
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(3600),
            max_lapses: 0,
            dead_max_len: 100_000,
            dead_ttl: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl From<QueueSettings> for Settings {
    fn from(settings: QueueSettings) -> Self {
        Self {
            lease: settings.lease,
            retries: settings.retries,
            backoff: settings.backoff,
            max_backoff: settings.max_backoff,
            max_lapses: settings.max_lapses,
            dead_max_len: settings.dead_max_len,
            dead_ttl: settings.dead_ttl,
        }
    }
}

impl Settings {
    pub(super) fn write(&self, out: &mut BytesMut) {
        let Self {
            retries,
            max_lapses,
            dead_max_len,
            ..
        } = self;
        let (lease, dead_ttl) = (millis(self.lease), millis(self.dead_ttl));
        let (backoff, max_backoff) = (millis(self.backoff), millis(self.max_backoff));
        let word = format!("{lease} {retries} {backoff} {max_backoff} {max_lapses} {dead_max_len} {dead_ttl}");
        put_bulk(word.as_bytes(), out);
    }
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
