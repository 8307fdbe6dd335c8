//! What a queue goes by: the configuration's defaults for it, overridden field by field by what `QCONFIG SET` keeps in
//! Redis.
//!
//! The overrides have a version, which stands where every script looks anyway. A call says which version its settings are of;
//! if that is not the one in Redis nothing is done, the reply brings the overrides, and the lane calls again. So a change
//! holds for every proxy from its very next call, and nobody polls.

use std::time::Duration;

use bytes::Bytes;

use super::parse::{MAX_MS, MAX_RETRIES};
use super::spread::{MOST, Spread};
use crate::config::{QueueSettings, Rate};
use crate::resp::scanner::parse_integer;

/// Times of zero, and counts of zero but for `lease` and `retries`: no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of the overrides in Redis; empty: there are none.
    pub version: Bytes,
    pub pause: Pause,
    pub lease: Duration,
    pub retries: u32,
    pub backoff: Duration,
    pub max_backoff: Duration,
    pub ttl: Duration,
    pub result_ttl: Duration,
    pub max_len: u64,
    pub max_lapses: u32,
    pub dead_max_len: u64,
    pub dead_ttl: Duration,
    /// Jobs leased at once.
    pub concurrency: u64,
    pub rate: Rate,
    /// Jobs of one group leased at once, at least 1.
    pub group_concurrency: u32,
    /// Of each group.
    pub group_rate: Rate,
    /// A job that is ready for longer goes before higher priorities.
    pub max_wait: Duration,
    /// Payloads of more bytes are kept packed; 0: none. The configuration's alone: `QCONFIG` has no such field.
    pub compress_over: u64,
    /// That must have what is pushed before its reply goes out.
    pub replicas: u32,
    /// How long they may take, at least a millisecond: to Redis 0 is for ever.
    pub replica_timeout: Duration,
    /// Over how many partitions the queue is to spread when it is first pushed to, or, unless that was said, later.
    pub partitions: u16,
    /// It was said, by the configuration or QCONFIG SET: the queue does not grow with the cluster.
    pub is_fixed: bool,
    /// Over which it does.
    pub spread: Option<Spread>,
    /// It is being dropped, which somebody has begun: nothing else may be done with it before that is done.
    pub dropping: bool,
    /// All that Redis keeps of these, for partitions that do not have them yet.
    pub overrides: Vec<(Bytes, Bytes)>,
}

/// What `QPAUSE` holds back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    pub push: bool,
    pub pop: bool,
}

impl Pause {
    pub const ALL: Self = Self { push: true, pop: true };

    pub fn name(self) -> &'static str {
        match (self.push, self.pop) {
            (false, false) => "none",
            (true, false) => "push",
            (false, true) => "pop",
            (true, true) => "all",
        }
    }
}

/// One override as Redis keeps it: a field's name and its value as text; an empty value takes the override away.
pub type Change = (&'static str, String);

/// How the spread stands among the overrides, and that the queue is being dropped.
pub const SPREAD: &str = "spread";
pub const DROPPING: &str = "dropping";
/// How `Settings::pause` stands there.
const PAUSED: [&str; 2] = ["paused_push", "paused_pop"];

struct Field {
    name: &'static str,
    value: Value,
}

enum Value {
    /// In milliseconds, at least so many.
    Time(fn(&mut Settings) -> &mut Duration, u64),
    Count(fn(&mut Settings) -> &mut u64),
    /// At least so many, at most a million.
    Small(fn(&mut Settings) -> &mut u32, u64),
    Rate(fn(&mut Settings) -> &mut Rate),
    /// 0 to [`MOST`]; 0: what the configuration says. Kept as the spread.
    Partitions,
}

/// The fields of `QCONFIG`, in the order in which it shows them.
const FIELDS: [Field; 18] = [
    field("lease", Value::Time(|s| &mut s.lease, 1)),
    field("retries", Value::Small(|s| &mut s.retries, 1)),
    field("backoff", Value::Time(|s| &mut s.backoff, 0)),
    field("max_backoff", Value::Time(|s| &mut s.max_backoff, 0)),
    field("ttl", Value::Time(|s| &mut s.ttl, 0)),
    field("result_ttl", Value::Time(|s| &mut s.result_ttl, 1)),
    field("max_len", Value::Count(|s| &mut s.max_len)),
    field("max_lapses", Value::Small(|s| &mut s.max_lapses, 0)),
    field("max_wait", Value::Time(|s| &mut s.max_wait, 0)),
    field("dead_max_len", Value::Count(|s| &mut s.dead_max_len)),
    field("dead_ttl", Value::Time(|s| &mut s.dead_ttl, 0)),
    field("group_concurrency", Value::Small(|s| &mut s.group_concurrency, 1)),
    field("group_rate", Value::Rate(|s| &mut s.group_rate)),
    field("concurrency", Value::Count(|s| &mut s.concurrency)),
    field("rate", Value::Rate(|s| &mut s.rate)),
    field("partitions", Value::Partitions),
    field("replicas", Value::Small(|s| &mut s.replicas, 0)),
    field("replica_timeout", Value::Time(|s| &mut s.replica_timeout, 1)),
];

/// No count is larger: sums of them stay exact in a Lua number.
pub const MAX_LEN: u64 = 1 << 40;

const fn field(name: &'static str, value: Value) -> Field {
    Field { name, value }
}

impl Settings {
    /// `defaults`, with what Redis keeps of this queue. What an older or newer proxy left that is not understood is passed
    /// over.
    pub fn with_overrides(defaults: QueueSettings, version: Bytes, overrides: &[(Bytes, Bytes)]) -> Self {
        let mut settings = Self::from(defaults);
        settings.version = version;
        settings.overrides = overrides.to_vec();
        for (name, value) in overrides {
            match name.as_ref() {
                b"paused_push" => settings.pause.push = true,
                b"paused_pop" => settings.pause.pop = true,
                b"spread" => settings.spread = Spread::parse(value),
                b"dropping" => settings.dropping = true,
                b"partitions" => settings.is_fixed = true, // how many, the spread says
                name => {
                    if let Some(field) = FIELDS.iter().find(|field| field.name.as_bytes() == name) {
                        let _ = field.set(&mut settings, value);
                    }
                }
            }
        }
        settings
    }

    /// Partitions that take new jobs, or will when there are some.
    pub fn active(&self) -> u16 {
        self.spread.as_ref().map_or(self.partitions, Spread::active)
    }

    /// Partitions that there are.
    pub fn allocated(&self) -> u16 {
        self.spread.as_ref().map_or(1, Spread::allocated)
    }

    /// What one partition goes by. The bounds on the whole queue are shared out: `max_len` over those that may get jobs,
    /// `concurrency` and `rate` over all, so that together they allow what the queue does. A share is at least 1: with 0, which
    /// is no bound, or with nothing at all, jobs would be stranded.
    pub fn share_of(&self, partition: u16) -> Self {
        let mut share = self.clone();
        if let Some(spread) = &self.spread {
            let allocated = spread.allocated();
            share.max_len = part(self.max_len, partition, spread.receiving());
            share.concurrency = part(self.concurrency, partition, allocated);
            share.rate = Rate(self.rate.0.map(|(jobs, per)| (jobs, per * allocated.into())));
        }
        share
    }

    /// As they will be with these stored.
    pub fn with(&self, stored: &[Change]) -> Self {
        let mut settings = self.clone();
        for (name, value) in stored {
            if let Some(field) = FIELDS.iter().find(|field| field.name == *name) {
                let _ = field.set(&mut settings, value.as_bytes());
            }
            if *name == SPREAD {
                settings.spread = Spread::proposed(value);
            }
        }
        settings
    }

    /// Each partition must have a share of the queue's bounds. `asked`: what was to be changed, and is named. `Err`: what is
    /// wrong with it.
    pub fn check_bounds(&self, asked: &[Change]) -> Result<(), String> {
        let partitions = u64::from(self.allocated());
        let is_asked = |name: &str| asked.iter().any(|(asked, _)| *asked == name);
        for (name, bound) in [("concurrency", self.concurrency), ("max_len", self.max_len)] {
            if !(1..partitions).contains(&bound) {
                continue;
            }
            if is_asked(name) {
                return Err(format!(
                    "ERR {name} is '{bound}', it must be 0 or at least {partitions}, as many as the queue has partitions"
                ));
            }
            if is_asked("partitions") {
                return Err(format!(
                    "ERR partitions would be {partitions} in all, it must be at most {bound}, the queue's {name}"
                ));
            }
        }
        Ok(())
    }

    /// Names and values as `QCONFIG GET` shows them.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, String)> {
        let mut settings = self.clone();
        FIELDS.iter().map(move |field| (field.name, field.show(&mut settings)))
    }

    /// What `QCONFIG SET` is given. `Err`: what was wrong with it.
    pub fn change(name: &[u8], value: &[u8]) -> Result<Change, String> {
        let field = FIELDS
            .iter()
            .find(|field| field.name.as_bytes().eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("unknown setting '{}'", name.escape_ascii()))?;
        let mut scratch = Self::default();
        field.set(&mut scratch, value)?;
        Ok((field.name, field.show(&mut scratch)))
    }

    /// `QPAUSE` adds to what is paused already.
    pub fn pausing(pause: Pause) -> Vec<Change> {
        let asked = PAUSED.into_iter().zip([pause.push, pause.pop]);
        asked
            .filter(|(_, paused)| *paused)
            .map(|(name, _)| (name, "1".to_owned()))
            .collect()
    }

    pub fn resuming() -> Vec<Change> {
        PAUSED.map(|name| (name, String::new())).into()
    }
}

/// Of 10 over 3: 4, 3, 3. 0 is no bound.
fn part(whole: u64, partition: u16, partitions: u16) -> u64 {
    match whole {
        0 => 0,
        whole => {
            let (partition, partitions) = (u64::from(partition), u64::from(partitions));
            (whole / partitions + u64::from(partition < whole % partitions)).max(1)
        }
    }
}

impl Field {
    fn show(&self, settings: &mut Settings) -> String {
        match self.value {
            Value::Time(of, _) => of(settings).as_millis().to_string(),
            Value::Count(of) => of(settings).to_string(),
            Value::Small(of, _) => of(settings).to_string(),
            Value::Rate(of) => of(settings).to_string(),
            Value::Partitions => settings.active().to_string(),
        }
    }

    fn set(&self, settings: &mut Settings, text: &[u8]) -> Result<(), String> {
        match self.value {
            Value::Time(of, least) => *of(settings) = Duration::from_millis(self.number(text, least, MAX_MS)?),
            Value::Count(of) => *of(settings) = self.number(text, 0, MAX_LEN)?,
            Value::Small(of, least) => *of(settings) = self.number(text, least, MAX_RETRIES)? as u32,
            Value::Rate(of) => {
                let rate = std::str::from_utf8(text).ok().and_then(Rate::parse);
                *of(settings) = rate.ok_or_else(|| self.wrong(text, "like 100/s or 5000/m, or empty for no bound"))?;
            }
            Value::Partitions => settings.partitions = self.number(text, 0, MOST.into())? as u16,
        }
        Ok(())
    }

    fn number(&self, text: &[u8], least: u64, most: u64) -> Result<u64, String> {
        parse_integer(text)
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.wrong(text, &format!("an integer from {least} to {most}")))
    }

    fn wrong(&self, text: &[u8], expected: &str) -> String {
        format!("{} is '{}', it must be {expected}", self.name, text.escape_ascii())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: Bytes::new(),
            pause: Pause::default(),
            lease: Duration::from_secs(30),
            retries: 20,
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(3600),
            ttl: Duration::ZERO,
            result_ttl: Duration::from_secs(3600),
            max_len: 0,
            max_lapses: 0,
            dead_max_len: 100_000,
            dead_ttl: Duration::from_secs(30 * 24 * 3600),
            concurrency: 0,
            rate: Rate(None),
            group_concurrency: 1,
            group_rate: Rate(None),
            max_wait: Duration::ZERO,
            compress_over: 0,
            replicas: 0,
            replica_timeout: Duration::from_millis(500),
            partitions: 1,
            is_fixed: false,
            spread: None,
            dropping: false,
            overrides: Vec::new(),
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
            max_len: settings.max_len,
            max_lapses: settings.max_lapses,
            dead_max_len: settings.dead_max_len,
            dead_ttl: settings.dead_ttl,
            concurrency: settings.concurrency,
            rate: settings.rate,
            group_concurrency: settings.group_concurrency,
            group_rate: settings.group_rate,
            max_wait: settings.max_wait,
            result_ttl: settings.result_ttl,
            compress_over: settings.compress_over,
            replicas: settings.replicas,
            replica_timeout: settings.replica_timeout,
            partitions: settings.partitions,
            is_fixed: settings.partitions > 0,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_set() {
        for (name, value) in Settings::default().shown() {
            assert_eq!(Settings::change(name.as_bytes(), value.as_bytes()), Ok((name, value)));
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (name, value, said) in [
            ("leese", "1", "unknown setting 'leese'"),
            (
                "lease",
                "0",
                "lease is '0', it must be an integer from 1 to 3153600000000",
            ),
            (
                "retries",
                "1000001",
                "retries is '1000001', it must be an integer from 1 to 1000000",
            ),
            (
                "rate",
                "fast",
                "rate is 'fast', it must be like 100/s or 5000/m, or empty for no bound",
            ),
            (
                "partitions",
                "65",
                "partitions is '65', it must be an integer from 0 to 64",
            ),
        ] {
            assert_eq!(
                Settings::change(name.as_bytes(), value.as_bytes()),
                Err(said.to_owned())
            );
        }
    }

    #[test]
    fn bounds_are_shared_out() {
        let settings = Settings {
            spread: Spread::parse(b"2 3 - -"),
            max_len: 10,
            concurrency: 4,
            rate: Rate(Some((100, Duration::from_secs(1)))),
            ..Settings::default()
        };
        let shares: Vec<_> = (0..3).map(|partition| settings.share_of(partition)).collect();
        assert_eq!(shares.iter().map(|share| share.max_len).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!(
            shares.iter().map(|share| share.concurrency).collect::<Vec<_>>(),
            [2, 1, 1]
        );
        assert_eq!(shares[1].rate, Rate(Some((100, Duration::from_secs(3)))));
        let change = Settings::change(b"concurrency", b"2").unwrap();
        let small = settings.with(std::slice::from_ref(&change));
        assert_eq!(settings.check_bounds(&[]), Ok(()));
        assert_eq!(
            small.check_bounds(&[change]),
            Err("ERR concurrency is '2', it must be 0 or at least 3, as many as the queue has partitions".into())
        );
        assert_eq!(small.share_of(2).concurrency, 1, "not 0, which is no bound");
    }

    #[test]
    fn overrides_go_over_the_defaults() {
        let pairs = [
            ("lease", "5"),
            ("RETRIES", "3"),
            ("paused_pop", "1"),
            ("retries", "x"),
            ("later", "1"),
        ];
        let pairs = pairs.map(|(name, value)| (Bytes::from(name), Bytes::from(value)));
        let settings = Settings::with_overrides(QueueSettings::default(), "7".into(), &pairs);
        assert_eq!((settings.lease.as_millis(), settings.retries), (5, 20));
        assert_eq!(settings.pause.name(), "pop");
    }
}
