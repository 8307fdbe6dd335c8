//! Whether a server keeps what it was given.

use super::{each, finding};
use crate::doctor::Finding;
use crate::doctor::Severity::{Danger, Note, Warning};
use crate::doctor::facts::Facts;

const MEGABYTE: u64 = 1 << 20;
/// Above it there is little time left to act.
const FULL: u64 = 90; // percent

// ---- what becomes of data -------------------------------------------------------------------------------------------

pub(super) fn eviction(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        // INFO has it too, where CONFIG is refused.
        let policy = node.setting("maxmemory-policy").or(node.info("maxmemory_policy"))?;
        let bounded = node.number("maxmemory").is_some_and(|bytes| bytes > 0);
        (policy != "noeviction").then(|| {
            finding(
                if bounded { Danger } else { Warning },
                &node.name,
                format!("maxmemory-policy is {policy}, with maxmemory {}", if bounded { "set" } else { "0" }),
                "When its memory is full Redis throws keys away, and jobs are keys: they vanish without a word.",
                "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file. Keep caches elsewhere.",
            )
        })
    })
}

pub(super) fn persistence(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        let (appends, saves) = match node.setting("appendonly") {
            Some(setting) => (
                setting == "yes",
                node.setting("save").is_some_and(|save| !save.is_empty()),
            ),
            // INFO tells of one of the two.
            None if node.info("aof_enabled") == Some("1") => (true, false),
            None => {
                let means = "Whether jobs survive a restart of Redis is not known.";
                let remedy = "See in its console that its append-only file is on.";
                return Some(finding(
                    Note,
                    &node.name,
                    "CONFIG is refused, and its append-only file is off",
                    means,
                    remedy,
                ));
            }
        };
        match (appends, saves, node.setting("appendfsync")) {
            (false, false, _) => Some(finding(
                Danger,
                &node.name,
                "it keeps nothing on disk",
                "When it is restarted all jobs are gone; and a primary that comes back empty empties its replicas too.",
                "CONFIG SET appendonly yes, and the same in its configuration file.",
            )),
            (false, true, _) => Some(finding(
                Danger,
                &node.name,
                "it saves snapshots only",
                "When it crashes, all since the last snapshot is lost: jobs that were pushed, and acknowledgements.",
                "CONFIG SET appendonly yes, and the same in its configuration file.",
            )),
            (true, _, Some("no")) => Some(finding(
                Warning,
                &node.name,
                "appendfsync is no",
                "When its machine fails, up to half a minute of jobs and acknowledgements is lost.",
                "CONFIG SET appendfsync everysec, or always.",
            )),
            (true, _, Some("everysec")) => Some(finding(
                Note,
                &node.name,
                "appendfsync is everysec",
                "When its machine fails, up to a second (two under load) of jobs and acknowledgements is lost.",
                "Where that is too much: appendfsync always, or replicas with the queues' setting `replicas`.",
            )),
            _ => None,
        }
    })
}

pub(super) fn disk(facts: &Facts) -> Vec<Finding> {
    let states = [
        "aof_last_write_status",
        "aof_last_bgrewrite_status",
        "rdb_last_bgsave_status",
    ];
    each(facts, |node| {
        let failed: Vec<_> = states
            .into_iter()
            .filter(|state| node.info(state) == Some("err"))
            .collect();
        (!failed.is_empty()).then(|| {
            finding(
                Danger,
                &node.name,
                format!("{} failed", failed.join(", ")),
                "It cannot write to its disk. It refuses writes then (MISCONF), or a restart loses what was not written.",
                "See its log: a full disk, most likely, or no memory to fork (vm.overcommit_memory = 1).",
            )
        })
    })
}

pub(super) fn memory(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        let used = node.number("used_memory")?;
        let (limit, what) = match node.number("maxmemory")? {
            0 => (
                node.number("total_system_memory").filter(|bytes| *bytes > 0)?,
                "its machine's memory",
            ),
            bytes => (bytes, "maxmemory"),
        };
        let percent = used.saturating_mul(100) / limit;
        (percent >= FULL).then(|| {
            let found = format!(
                "{} of {} MB, {percent} % of {what}, are used",
                used / MEGABYTE,
                limit / MEGABYTE
            );
            let means = "At 100 % of maxmemory pushes are refused (OOM); without one, the kernel ends Redis.";
            finding(
                Warning,
                &node.name,
                found,
                means,
                "Add memory, or find the queue that grows: QSCAN, QSTATS; max_len bounds one.",
            )
        })
    })
}
