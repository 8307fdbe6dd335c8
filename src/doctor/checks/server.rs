//! What each server is, and what it lets the proxy do.

use super::{each, finding};
use crate::doctor::Finding;
use crate::doctor::Severity::{Danger, Note, Warning};
use crate::doctor::facts::{Facts, Node};

const MEGABYTE: u64 = 1 << 20;
/// Clocks that are synchronised are within some ms; a lease or a delay notices a second.
const CLOCKS_APART: i64 = 1_000; // ms
/// A batch holds Redis for about a ms; a script of others or a slow machine may stretch it.
const SHORT_BUSY: u64 = 100; // ms

// ---- who is there ---------------------------------------------------------------------------------------------------

pub(super) fn reach(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn role(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn version(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn commands(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn rights(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn scripts(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn connections(facts: &Facts) -> Vec<Finding> {
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

// ---- time, connections, scripts -------------------------------------------------------------------------------------

pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn settings(facts: &Facts) -> Vec<Finding> {
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
