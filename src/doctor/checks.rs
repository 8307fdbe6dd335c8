//! The checks, one table: what is looked at, and what is said of it. Pure: all that it knows is [`Facts`].
//! docs/operations.md explains each by its name.

use std::collections::HashMap;

use super::Severity::{Danger, Note, Warning};
use super::facts::{Facts, Node};
use super::{Finding, Severity};

pub struct Check {
    pub name: &'static str,
    pub find: fn(&Facts) -> Vec<Finding>,
}

pub static CHECKS: [Check; 18] = [
    Check {
        name: "reach",
        find: reach,
    },
    Check {
        name: "role",
        find: role,
    },
    Check {
        name: "version",
        find: version,
    },
    Check {
        name: "commands",
        find: commands,
    },
    Check {
        name: "rights",
        find: rights,
    },
    Check {
        name: "eviction",
        find: eviction,
    },
    Check {
        name: "persistence",
        find: persistence,
    },
    Check {
        name: "disk",
        find: disk,
    },
    Check {
        name: "memory",
        find: memory,
    },
    Check {
        name: "replication",
        find: replication,
    },
    Check {
        name: "min-replicas",
        find: min_replicas,
    },
    Check {
        name: "replicas",
        find: replicas,
    },
    Check {
        name: "slots",
        find: slots,
    },
    Check {
        name: "sentinels",
        find: sentinels,
    },
    Check {
        name: "clock",
        find: clock,
    },
    Check {
        name: "connections",
        find: connections,
    },
    Check {
        name: "scripts",
        find: scripts,
    },
    Check {
        name: "settings",
        find: settings,
    },
];

const MEGABYTE: u64 = 1 << 20;
/// Above it there is little time left to act.
const FULL: u64 = 90; // percent
/// A replica that is further behind (in seconds) lacks what was acknowledged since.
const LAG: u64 = 5;
/// Clocks that are synchronised are within some ms; a lease or a delay notices a second.
const CLOCKS_APART: i64 = 1_000; // ms
/// A batch holds Redis for about a ms; a script of others or a slow machine may stretch it.
const SHORT_BUSY: u64 = 100; // ms

fn each(facts: &Facts, find: impl Fn(&Node) -> Option<Finding>) -> Vec<Finding> {
    facts.nodes.iter().filter_map(find).collect()
}

fn finding(
    severity: Severity,
    subject: impl ToString,
    found: impl Into<String>,
    means: &'static str,
    remedy: &'static str,
) -> Finding {
    Finding {
        severity,
        subject: subject.to_string(),
        found: found.into(),
        means,
        remedy,
    }
}

// ---- who is there ---------------------------------------------------------------------------------------------------

fn reach(facts: &Facts) -> Vec<Finding> {
    let unreachable = facts.unreachable.iter();
    let told = unreachable.map(|(name, problem)| {
        finding(
            Warning,
            name,
            problem,
            "This server cannot be asked from here, so it was not checked; after a failover the proxy may have to reach it.",
            "See that it runs, that it is known by an address that leads there from here, and that it takes our user.",
        )
    });
    told.collect()
}

fn role(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(first) = facts.nodes.first().filter(|first| !first.is_primary) {
        found.push(finding(
            Danger,
            &first.name,
            "it is a replica",
            "It refuses every write, so no queue command works.",
            "Name the primary in upstream.address, or use sentinel mode.",
        ));
    }
    let is_cluster = |node: &&Node| node.info("cluster_enabled") == Some("1");
    if let Some(node) = facts.nodes.iter().find(is_cluster).filter(|_| !facts.is_cluster_mode) {
        found.push(finding(
            Danger,
            &node.name,
            "it is a node of a cluster",
            "What belongs to slots of other nodes is refused with MOVED.",
            "Set upstream.mode to \"cluster\", and its nodes as upstream.seeds.",
        ));
    }
    found
}

fn version(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        let text = node.info("redis_version")?;
        let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        match (parts.next()?, parts.next().unwrap_or_default()) {
            (7.., _) => None,
            (6, 2..) => Some(finding(
                Note,
                &node.name,
                format!("version {text}"),
                "Before 7.0 Redis does not say where the keys of its commands stand (the built-in table serves, which knows \
                 no modules), and has no sharded Pub/Sub.",
                "Nothing has to be done; 7.0 or newer is better tested.",
            )),
            _ => Some(finding(
                Danger,
                &node.name,
                format!("version {text}"),
                "The scripts use commands that came with 6.2.",
                "Use Redis 6.2 or newer, or Valkey.",
            )),
        }
    })
}

fn commands(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        (!node.missing.is_empty()).then(|| {
            finding(
                Danger,
                &node.name,
                format!("it does not know {}", node.missing.join(", ")),
                "The queues' scripts use them; a call that does fails.",
                "Take rename-command out of its configuration, or use a version that has them.",
            )
        })
    })
}

fn rights(facts: &Facts) -> Vec<Finding> {
    let mut found = each(facts, |node| {
        (!node.forbidden.is_empty()).then(|| {
            finding(
                Danger,
                &node.name,
                format!("our user may not use {} on the queues' keys and channels", node.forbidden.join(", ")),
                "The queues' scripts use them; a call that does fails, or fails half-way.",
                "Give the user all keys and channels that begin with keys.prefix and the commands @read @write @scripting \
                 @pubsub @connection @transaction: ACL SETUSER name ~q:* &q:* …",
            )
        })
    });
    found.extend(each(facts, |node| {
        (!node.forbidden_wakes.is_empty()).then(|| {
            finding(
                Warning,
                &node.name,
                format!("our user may not use {} on the queues' channels", node.forbidden_wakes.join(", ")),
                "A push does not wake a pop that waits at another proxy: it finds the job by polling, seconds later.",
                "Give the user all channels that begin with keys.prefix and the commands @pubsub: ACL SETUSER name &q:* …",
            )
        })
    }));
    found
}

// ---- what becomes of data -------------------------------------------------------------------------------------------

fn eviction(facts: &Facts) -> Vec<Finding> {
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

fn persistence(facts: &Facts) -> Vec<Finding> {
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

fn disk(facts: &Facts) -> Vec<Finding> {
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

fn memory(facts: &Facts) -> Vec<Finding> {
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

fn replication(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for node in facts.nodes.iter().filter(|node| node.is_primary) {
        let replicas = node.replicas();
        if replicas.is_empty() && (facts.is_sentinel_mode || facts.is_cluster_mode) {
            found.push(finding(
                Warning,
                &node.name,
                "it has no replica",
                "When it fails there is nothing to fail over to: its jobs wait until it is back.",
                "Add a replica.",
            ));
        }
        for (endpoint, fields) in replicas {
            let lag = fields
                .get("lag")
                .and_then(|lag| lag.parse::<u64>().ok())
                .unwrap_or_default();
            let state = fields.get("state").map_or("unknown", String::as_str);
            if state != "online" || lag > LAG {
                found.push(finding(
                    Warning,
                    endpoint,
                    format!("as a replica of {} it is {state}, {lag} s behind", node.name),
                    "What it lacks is lost if it becomes the primary now.",
                    "See its log, its network and its load.",
                ));
            }
        }
    }
    found.extend(each(facts, |node| {
        (node.info("master_link_status") == Some("down")).then(|| {
            let means = "It gets nothing of what is pushed now, and what it lacks is lost if it becomes the primary.";
            finding(
                Warning,
                &node.name,
                "its link to its primary is down",
                means,
                "See its log.",
            )
        })
    }));
    found
}

fn min_replicas(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        let unset = node.setting("min-replicas-to-write") == Some("0");
        (node.is_primary && unset && !node.replicas().is_empty()).then(|| {
            finding(
                Warning,
                &node.name,
                "min-replicas-to-write is 0",
                "A primary that is cut off from its replicas goes on taking jobs, and all of them are lost when a replica has \
                 taken its place.",
                "CONFIG SET min-replicas-to-write 1 where there are two replicas or more; or set `replicas` for the queues \
                 that matter.",
            )
        })
    })
}

fn replicas(facts: &Facts) -> Vec<Finding> {
    let Some((queues, asked)) = &facts.replicas else {
        return Vec::new();
    };
    each(facts, |node| {
        let is_online = |fields: &HashMap<String, String>| fields.get("state").is_some_and(|state| state == "online");
        let online = node.replicas().iter().filter(|(_, fields)| is_online(fields)).count() as u64;
        (node.is_primary && online < *asked).then(|| {
            finding(
                Warning,
                &node.name,
                format!("it has {online} of the {asked} replicas that [queues.\"{queues}\"] asks for"),
                "They cannot all confirm a push: each is answered NOREPLICAS when replica_timeout is over, though its job is there.",
                "Bring the replicas back or add some; or ask for fewer.",
            )
        })
    })
}

fn slots(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for node in facts.nodes.iter().filter(|node| !node.cluster.is_empty()) {
        let field = |name: &str| node.cluster.get(name).map_or("", String::as_str);
        if field("cluster_slots_ok") != "16384" {
            found.push(finding(
                Danger,
                &node.name,
                format!(
                    "{} of 16384 slots are served (cluster_state is {})",
                    field("cluster_slots_ok"),
                    field("cluster_state")
                ),
                "Jobs in the other slots cannot be reached, and queues there cannot be pushed to.",
                "Bring their primaries back, or give their slots to others: redis-cli --cluster check, --cluster fix.",
            ));
        }
    }
    found.extend(each(facts, |node| {
        let whole = node.setting("cluster-require-full-coverage") == Some("yes");
        (!node.cluster.is_empty() && whole).then(|| {
            finding(
                Warning,
                &node.name,
                "cluster-require-full-coverage is yes",
                "When one shard is lost all others stop too.",
                "CONFIG SET cluster-require-full-coverage no, on all nodes.",
            )
        })
    }));
    found
}

// ---- sentinels ------------------------------------------------------------------------------------------------------

fn sentinels(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let heard: Vec<_> = facts
        .sentinels
        .iter()
        .filter_map(|(name, word)| Some((name, word.as_ref().ok()?)))
        .collect();
    let Some((first, word)) = heard.first() else {
        return found;
    };
    // As the sentinels count themselves: a configured name and a learned address may be the same one.
    let all = heard
        .iter()
        .map(|(_, word)| word.others.len() + 1)
        .max()
        .unwrap_or_default();
    let (majority, quorum) = (
        all / 2 + 1,
        heard.iter().map(|(_, word)| word.quorum).max().unwrap_or_default(),
    );
    for (name, problem) in facts
        .sentinels
        .iter()
        .filter_map(|(name, word)| Some((name, word.as_ref().err()?)))
    {
        let means = "It cannot be asked for the primary from here.";
        let remedy = "See that it runs, and that its address leads there from here.";
        found.push(finding(
            Warning,
            name,
            format!("this sentinel: {problem}"),
            means,
            remedy,
        ));
    }
    if quorum > all {
        found.push(finding(
            Danger,
            first,
            format!("the quorum is {quorum}, of {all} sentinels"),
            "They can never agree that the primary is down, so none ever takes its place.",
            "SENTINEL SET name quorum n on each of them, with n at most a majority.",
        ));
    } else if heard.len() < majority.max(quorum) {
        found.push(finding(
            Danger,
            first,
            format!(
                "{} of {all} sentinels can be reached; a failover takes {}",
                heard.len(),
                majority.max(quorum)
            ),
            "If they cannot reach each other either, nobody takes the primary's place when it fails.",
            "Bring the others back; SENTINEL RESET name forgets those that are gone for good.",
        ));
    }
    if let Some((other, differing)) = heard.iter().find(|(_, other)| other.primary != word.primary) {
        found.push(finding(
            Danger,
            other,
            format!("it names {}, and {first} names {}", differing.primary, word.primary),
            "They see different primaries: a failover is under way, or their network is cut.",
            "Ask again in a minute. If it stays so: one of them was cut off, or watches another set under this name.",
        ));
    }
    if all < 3 {
        found.push(finding(
            Warning,
            first,
            format!("there are {all} sentinels"),
            "With fewer than three the loss of one of them is the end of failovers.",
            "Run three, on machines that do not fail together.",
        ));
    }
    found
}

// ---- time, connections, scripts -------------------------------------------------------------------------------------

fn clock(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let known = || facts.nodes.iter().filter(|node| node.clock.1 < CLOCKS_APART);
    let (earliest, latest) = (
        known().min_by_key(|node| node.clock.0),
        known().max_by_key(|node| node.clock.0),
    );
    if let (Some(earliest), Some(latest)) = (earliest, latest)
        && latest.clock.0 - earliest.clock.0 > CLOCKS_APART
    {
        found.push(finding(
            Warning,
            &latest.name,
            format!(
                "its clock is {} ms ahead of that of {}",
                latest.clock.0 - earliest.clock.0,
                earliest.name
            ),
            "After a failover leases and delays end by so much sooner or later.",
            "Run NTP on all of them.",
        ));
    } else if let Some(node) = known().find(|node| node.clock.0.abs() > CLOCKS_APART + node.clock.1) {
        found.push(finding(
            Note,
            &node.name,
            format!("its clock is {} ms ahead of ours", node.clock.0),
            "Dates are judged by Redis's clock: what clients give with AT comes by so much sooner or later.",
            "Run NTP on both.",
        ));
    }
    found
}

fn connections(facts: &Facts) -> Vec<Finding> {
    let mut found = each(facts, |node| {
        let seconds = node.setting("timeout").filter(|seconds| *seconds != "0")?;
        Some(finding(
            Warning,
            &node.name,
            format!("timeout is {seconds}"),
            "It closes connections that are silent for so long, ours too; the first request after that waits for a new one.",
            "CONFIG SET timeout 0: TCP keep-alive finds the dead ones.",
        ))
    });
    found.extend(each(facts, |node| {
        let most = node
            .number("maxclients")
            .or_else(|| node.setting("maxclients")?.parse().ok())?;
        let used = node.number("connected_clients")?;
        (used + facts.connections > most).then(|| {
            finding(
                Warning,
                &node.name,
                format!(
                    "{used} of {most} connections are in use, and this proxy may need {} more",
                    facts.connections
                ),
                "A proxy that gets no connection serves nobody.",
                "Raise maxclients.",
            )
        })
    }));
    found.extend(each(facts, |node| {
        let limits = node.setting("client-output-buffer-limit")?;
        let words: Vec<_> = limits.split(' ').collect();
        let pubsub = words.chunks(4).find(|class| class[0] == "pubsub")?;
        let hard: u64 = pubsub.get(1)?.parse().ok()?;
        (0 < hard && hard < MEGABYTE).then(|| {
            finding(
                Warning,
                &node.name,
                format!("client-output-buffer-limit pubsub is {hard} bytes"),
                "It closes the connection over which proxies hear of each other's pushes; their waiting pops then wait longer.",
                "Leave it at its default, 32mb 8mb 60.",
            )
        })
    }));
    found
}

fn scripts(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        let limit: u64 = node.setting("lua-time-limit")?.parse().ok()?;
        (0 < limit && limit < SHORT_BUSY).then(|| {
            finding(
                Warning,
                &node.name,
                format!("lua-time-limit (busy-reply-threshold) is {limit} ms"),
                "While a script takes longer than this, Redis answers BUSY to everybody, plain commands too.",
                "Leave it at its default, 5000.",
            )
        })
    })
}

fn settings(facts: &Facts) -> Vec<Finding> {
    each(facts, |node| {
        let refusal = node.settings_refused.as_ref()?;
        Some(finding(
            Note,
            &node.name,
            format!("its settings could not be read: {refusal}"),
            "Managed services refuse CONFIG. What INFO does not tell was not checked.",
            "See in its console: maxmemory-policy noeviction, the append-only file, timeout 0.",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use crate::doctor::facts::NEEDED;
    use crate::script::Scripts;
    use crate::upstream::sentinel::Word;

    #[test]
    fn every_command_that_the_scripts_call_is_checked() {
        let checked: Vec<_> = NEEDED.iter().filter_map(|line| line.split(' ').next()).collect();
        for script in Scripts::new().all() {
            for call in script.source.split("call('").skip(1) {
                let name = call.split('\'').next().unwrap_or_default();
                assert!(checked.contains(&name), "{} calls {name}", script.name);
            }
        }
    }

    fn says(port: u16, quorum: usize, others: usize) -> (String, Result<Word, String>) {
        let others = (0..others as u16).map(|other| Endpoint::local(100 + other)).collect();
        let word = Word {
            primary: Endpoint::local(port),
            epoch: 0,
            quorum,
            others,
            replicas: Vec::new(),
        };
        (format!("sentinel-{port}"), Ok(word))
    }

    #[test]
    fn sentinels_that_cannot_do_a_failover_are_a_danger() {
        let silent = || ("silent".to_owned(), Err("it does not answer".to_owned()));
        let cases = [
            (vec![says(1, 2, 2), says(1, 2, 2), says(1, 2, 2)], None),
            (vec![says(1, 2, 2), says(1, 2, 2), silent()], None),
            (
                vec![says(1, 2, 2), silent(), silent()],
                Some("1 of 3 sentinels can be reached; a failover takes 2"),
            ),
            (
                vec![says(1, 3, 2), says(1, 3, 2), silent()],
                Some("2 of 3 sentinels can be reached; a failover takes 3"),
            ),
            (
                vec![says(1, 4, 2), says(1, 4, 2), says(1, 4, 2)],
                Some("the quorum is 4, of 3 sentinels"),
            ),
            (
                vec![says(1, 2, 2), says(1, 2, 2), says(2, 2, 2)],
                Some("it names 127.0.0.1:2, and sentinel-1 names 127.0.0.1:1"),
            ),
        ];
        for (sentinels, said) in cases {
            let facts = Facts {
                sentinels,
                ..Facts::default()
            };
            let found = super::sentinels(&facts);
            let danger = found.iter().find(|finding| finding.severity == Danger);
            assert_eq!(danger.map(|finding| finding.found.as_str()), said);
        }
    }
}
