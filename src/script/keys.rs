//! A partition of a queue as the scripts see it: its keys and the words that every call begins with.
//! All of it is rendered once, when a lane is made; a call copies it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::keys::slot;
use crate::config::Rate;
use crate::queue::operation::QueueName;
use crate::queue::settings::Settings;
use crate::queue::spread::Place;

/// How many keys a script is given: in the order of `prelude.lua`.
pub const KEYS: usize = 27;
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
    "lent",
    "recalls",
];

/// In the place of a worker's name: what all hear that watch over repeated jobs.
pub const KEEPERS: &str = "keepers";

/// Two more, for the calls that have to do with repeated jobs.
pub const CRON_KEYS: usize = 2;
const CRON_NAMES: [&str; CRON_KEYS] = ["cron", "ticks"];

/// Those of `plain.lua`, in its order.
pub const PLAIN_KEYS: usize = 16;
const PLAIN_NAMES: [&str; 4] = ["jobs", "ready:normal", "leases", "stats"];
/// None of these is there while a queue holds nothing but plain jobs.
const UNUSUAL_NAMES: [&str; PLAIN_KEYS - 5] = [
    "meta",
    "ready:urgent",
    "ready:high",
    "ready:low",
    "waiting",
    "holds",
    "awaited",
    "result_ends",
    "buckets",
    "sift",
    "recalls",
];

/// Words that every call begins with: who calls, sequence, settings.
pub(super) const FIXED: usize = 3;

/// Where a worker hears what is said to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// On one channel for all queues.
    One,
    /// In a cluster, where such a channel would be heard by every node: on a sharded one for each partition, in its slot.
    Sharded,
}

/// One partition of one queue, as one worker's lane addresses it.
#[derive(Clone, Debug)]
pub struct Partition {
    pub number: u16,
    /// The cluster's slot of all its keys.
    pub slot: u16,
    /// What the worker has to listen to beside its one channel.
    pub channel: Option<String>,
    /// Number of the last call of the lane that must have been applied; 0: of none. Which that is changes from call to call.
    pub applied: u64,
    /// KEYS, as RESP; those for repeated jobs apart, and those of `plain.lua`; and the first word of ARGV.
    pub(super) keys: Bytes,
    pub(super) plain_keys: Bytes,
    pub(super) cron_keys: Bytes,
    pub(super) caller: Bytes,
}

impl Partition {
    /// `place`: which partition, as [`crate::queue::spread::Spread`] names it. `worker` names the lane's worker among all
    /// of all proxies, now and as long as Redis remembers its last call.
    pub fn new(prefix: &str, queue: &QueueName, place: Place, worker: &str, channels: Channels) -> Self {
        let tag = format!("{prefix}:{{{}}}", place.tag(queue));
        let lane = format!("lane:{worker}");
        let hearer = match *queue == QueueName::of_crontab() {
            true => KEEPERS,
            false => worker,
        };
        let (channels, channel) = match channels {
            Channels::One => (wake_channel(prefix, ""), None),
            Channels::Sharded => (format!("{tag}:wake:"), Some(format!("{tag}:wake:{hearer}"))),
        };
        let caller = format!("{worker} {channels} {queue}/{}", place.number);
        let keys = |names: &mut dyn Iterator<Item = &str>| bulks(&mut names.map(|name| format!("{tag}:{name}")));
        Self {
            number: place.number,
            slot: slot(tag.as_bytes()),
            channel,
            applied: 0,
            keys: keys(&mut NAMES.into_iter().chain([lane.as_str()])),
            plain_keys: keys(&mut PLAIN_NAMES.into_iter().chain([lane.as_str()]).chain(UNUSUAL_NAMES)),
            cron_keys: keys(&mut CRON_NAMES.into_iter()),
            caller: bulks(&mut std::iter::once(caller)),
        }
    }
}

fn bulks(words: &mut dyn Iterator<Item = String>) -> Bytes {
    let mut out = BytesMut::new();
    words.for_each(|word| put_bulk(word.as_bytes(), &mut out));
    out.freeze()
}

/// Where a worker hears that a queue which it waits on has jobs: see [`super::wake`].
pub fn wake_channel(prefix: &str, worker: &str) -> String {
    format!("{prefix}:wake:{worker}")
}

/// What every script has to know of the settings, as one word; their version first.
pub(super) fn write_settings(settings: &Settings, version: &[u8], out: &mut BytesMut) {
    let Settings {
        retries,
        max_lapses,
        dead_max_len,
        group_concurrency,
        ..
    } = settings;
    let (lease, dead_ttl) = (millis(settings.lease), millis(settings.dead_ttl));
    let (backoff, max_backoff) = (millis(settings.backoff), millis(settings.max_backoff));
    let version = String::from_utf8_lossy(version);
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
