//! The scripts: everything that changes or shows a queue is one of these Lua files, run by Redis in one step.
//! Each file begins with its contract. Here they are put together, called, and their replies understood; when to call which
//! is the lanes' business, and nothing here talks to Redis.
//!
//! - `prelude.lua` stands before each of them but `plain.lua`: the keys and what is kept in them, the clock, applying a call only once.
//!   Where they say so stand `upkeep.lua`, bringing back what is due, and `wake.lua`, calling
//!   who waits, `tell.lua`, how that is said, `ending.lua`, what the end of a job means to others, `groups.lua`, who has its group's turn,
//!   `limits.lua`, how many may be popped, `acks.lua` and `stamp.lua`, what `batch.lua` and `plain.lua` have in common.
//! - [`batch`] (`batch.lua`, `plain.lua`): all that a lane gathered. The only scripts on the hot path.
//! - [`look`] (`stats.lua`, `peek.lua`, `job.lua`, `result.lua`, `explain.lua`), [`remove`] (`delete.lua`, `purge.lua`), [`mend`] (`configure.lua`,
//!   `copy.lua`, `revive.lua`, `drop.lua`), [`check`] (`check.lua`), [`cron`] (`cron.lua`, `crontab.lua`), and [`loans`]
//!   (`lend.lua`, `recall.lua`, `retake.lua`, `overdue.lua`).
//! - [`record`]: what is remembered of a job.
//! - [`keys`]: a partition's keys and settings. [`call`]: how a call is written. [`wake`]: what waiting workers hear.

pub mod batch;
pub mod call;
pub mod check;
pub mod cron;
pub mod keys;
pub mod loans;
pub mod look;
pub mod mend;
pub mod record;
pub mod remove;
pub mod wake;

use bytes::Bytes;
use thiserror::Error;

use crate::queue::operation::Priority;
use crate::resp::reader::{BadReply, Element, Reader};
use crate::resp::scanner::parse_integer;

pub use crate::queue::settings::Settings;
pub use batch::{Batch, BatchReply, Job, Outcome};
pub use keys::{Channels, Partition};
pub use record::Record;

/// One script, ready to be loaded and called.
#[derive(Debug)]
pub struct Script {
    pub name: &'static str,
    pub source: String,
    /// What EVALSHA calls it by: 40 hex digits.
    pub sha: String,
}

/// All scripts.
#[derive(Debug)]
pub struct Scripts {
    pub batch: Script,
    pub plain: Script,
    pub stats: Script,
    pub peek: Script,
    pub job: Script,
    pub result: Script,
    pub explain: Script,
    pub delete: Script,
    pub purge: Script,
    pub configure: Script,
    pub revive: Script,
    pub copy: Script,
    pub drop: Script,
    pub check: Script,
    pub cron: Script,
    pub crontab: Script,
    pub lend: Script,
    pub recall: Script,
    pub retake: Script,
    pub overdue: Script,
}

const PRELUDE: &str = include_str!("prelude.lua");
/// What stands where a script says so, by the name that it says. Those that say so of others come before them.
const INCLUDES: [(&str, &str); 8] = [
    ("upkeep", include_str!("upkeep.lua")),
    ("wake", include_str!("wake.lua")),
    ("limits", include_str!("limits.lua")),
    ("ending", include_str!("ending.lua")),
    ("groups", include_str!("groups.lua")),
    ("tell", include_str!("tell.lua")),
    ("acks", include_str!("acks.lua")),
    ("stamp", include_str!("stamp.lua")),
];
/// Digits of a script's name.
const SHA: usize = 40;
const CLOCK: &str = "call('TIME')";

impl Scripts {
    pub fn new() -> Self {
        Self::with_clock(CLOCK)
    }

    /// For tests: the time is what stands in the hash `key`, fields `s` and `us`, as TIME would say it.
    pub fn with_test_clock(key: &str) -> Self {
        Self::with_clock(&format!("call('HMGET', '{key}', 's', 'us')"))
    }

    fn with_clock(clock: &str) -> Self {
        let alone = |name, body: &str| {
            let include =
                |source: String, (name, text): (&str, &str)| source.replace(&format!("--@include {name}"), text);
            let source = INCLUDES
                .into_iter()
                .fold(body.to_owned(), include)
                .replace(CLOCK, clock);
            let sha = sha1_smol::Sha1::from(&source).digest().to_string();
            Script { name, source, sha }
        };
        let script = |name, body: &str| alone(name, &format!("{PRELUDE}\n{body}"));
        Self {
            batch: script("batch", include_str!("batch.lua")),
            plain: alone("plain", include_str!("plain.lua")),
            stats: script("stats", include_str!("stats.lua")),
            peek: script("peek", include_str!("peek.lua")),
            job: script("job", include_str!("job.lua")),
            explain: script("explain", include_str!("explain.lua")),
            result: script("result", include_str!("result.lua")),
            delete: script("delete", include_str!("delete.lua")),
            purge: script("purge", include_str!("purge.lua")),
            configure: script("configure", include_str!("configure.lua")),
            copy: script("copy", include_str!("copy.lua")),
            revive: script("revive", include_str!("revive.lua")),
            drop: script("drop", include_str!("drop.lua")),
            check: script("check", include_str!("check.lua")),
            cron: script("cron", include_str!("cron.lua")),
            crontab: script("crontab", include_str!("crontab.lua")),
            lend: script("lend", include_str!("lend.lua")),
            recall: script("recall", include_str!("recall.lua")),
            retake: script("retake", include_str!("retake.lua")),
            overdue: script("overdue", include_str!("overdue.lua")),
        }
    }

    /// Those of the hot path, which a new connection loads. The others are loaded when they are first called: in Lua's memory, of
    /// which all is walked again and again to find what is garbage, they would be ten times the rest of it.
    pub fn hot(&self) -> [&Script; 2] {
        [&self.batch, &self.plain]
    }

    /// The one that this call calls.
    pub fn called_by(&self, call: &[u8]) -> Option<&Script> {
        let begins = |script: &&Script| call.windows(SHA).take(64).any(|word| word == script.sha.as_bytes());
        self.all().into_iter().find(begins)
    }

    pub fn all(&self) -> [&Script; 20] {
        [
            &self.batch,
            &self.plain,
            &self.stats,
            &self.peek,
            &self.job,
            &self.result,
            &self.explain,
            &self.delete,
            &self.purge,
            &self.configure,
            &self.copy,
            &self.revive,
            &self.drop,
            &self.check,
            &self.cron,
            &self.crontab,
            &self.lend,
            &self.recall,
            &self.retake,
            &self.overdue,
        ]
    }
}

impl Default for Scripts {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a call has no outcome.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// Redis refused the call, and nothing of it was done: NOSCRIPT, READONLY, LOADING, MISCONF …; the error's line.
    #[error("{}", String::from_utf8_lossy(.0))]
    Refused(Bytes),
    #[error(transparent)]
    BadReply(#[from] BadReply),
}

/// How the queue stands after a call. Every reply begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Redis's clock, Unix ms.
    pub now: u64,
    /// When the first lease ends or the first delay is over, Unix ms.
    pub next_due: Option<u64>,
    /// Jobs ready to be popped.
    pub ready: u64,
    /// The highest priority that has one; `Normal` if there is none.
    pub top: Priority,
    /// More was due than one call brings back: call again before you believe what is missing.
    pub more: bool,
    /// Jobs are ready while workers wait. One of those was called, which does not mean that it comes.
    pub called: bool,
    /// Of keys that were lent to other partitions some are to be looked after.
    pub overdue: bool,
    /// There are jobs of groups or with unique keys, each of which costs Redis several times as much.
    pub dear: bool,
    /// It holds nothing but normal jobs without a past, none was deleted in its place, and nobody waits.
    pub plain: bool,
}

/// Opens a reply: its standing, and the reader behind it with the number of elements left.
fn open(reply: Bytes) -> Result<(Standing, Reader, usize), CallError> {
    let mut reader = Reader::new(reply);
    let len = match reader.element()? {
        Element::Array(len) if len >= 4 => len - 4,
        Element::Error(line) => return Err(CallError::Refused(line)),
        _ => return Err(BadReply("an array was due").into()),
    };
    let now = unsigned(reader.integer()?)?;
    let next_due = reader.integer_or_null()?.map(unsigned).transpose()?;
    let ready = unsigned(reader.integer()?)?;
    let left = unsigned(reader.integer()?)?;
    Ok((
        Standing {
            now,
            next_due,
            ready,
            top: match left >> 1 & 3 {
                1 => Priority::Urgent,
                2 => Priority::High,
                3 => Priority::Low,
                _ => Priority::Normal,
            },
            more: left & 1 != 0,
            called: left & 8 != 0,
            overdue: left & 16 != 0,
            dear: left & 32 != 0,
            plain: left & 64 != 0,
        },
        reader,
        len,
    ))
}

/// The number of the lane's last call that Redis has applied, when that is none that it must have applied: jobs are lost, and
/// nothing of this call was done. `None`: the reply is another.
pub fn last_applied(reply: &Bytes) -> Option<u64> {
    let number = reply.strip_prefix(b"*2\r\n$4\r\nLOST\r\n:")?;
    parse_integer(number.trim_ascii_end())?.try_into().ok()
}

/// The overrides of a queue's settings, which a call did not know of: nothing of it was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub version: Bytes,
    pub overrides: Vec<(Bytes, Bytes)>,
}

impl Changed {
    /// `None`: the reply is another.
    pub fn read(reply: &Bytes) -> Option<Result<Self, BadReply>> {
        reply
            .starts_with(b"*3\r\n$8\r\nSETTINGS\r\n")
            .then(|| Self::read_all(reply.clone()))
    }

    fn read_all(reply: Bytes) -> Result<Self, BadReply> {
        let mut reader = Reader::new(reply);
        reader.array()?;
        reader.bulk()?;
        let version = reader.bulk()?;
        let len = reader.array()?;
        let overrides = (0..len / 2).map(|_| Ok((reader.bulk()?, reader.bulk()?)));
        let overrides = overrides.collect::<Result<_, BadReply>>()?;
        Ok(Self { version, overrides })
    }
}

fn unsigned(value: i64) -> Result<u64, BadReply> {
    u64::try_from(value).map_err(|_| BadReply("a negative count"))
}
