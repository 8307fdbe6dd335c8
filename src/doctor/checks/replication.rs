//! What a failover takes, and would find: replicas, the slots' owners, the sentinels.

use std::collections::HashMap;

use super::{each, finding};
use crate::doctor::Finding;
use crate::doctor::Severity::{Danger, Warning};
use crate::doctor::facts::Facts;

/// A replica that is further behind (in seconds) lacks what was acknowledged since.
const LAG: u64 = 5;

pub(super) fn replication(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn min_replicas(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn replicas(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn slots(facts: &Facts) -> Vec<Finding> {
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

pub(super) fn sentinels(facts: &Facts) -> Vec<Finding> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use crate::upstream::sentinel::Word;

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
