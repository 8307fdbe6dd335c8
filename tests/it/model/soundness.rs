//! A queue's keys, looked at from outside: is each job in exactly one place, and nothing left over?

use std::collections::BTreeSet;

use crate::lane::Bench;
use crate::support::{Client, Reply};

struct Keys {
    client: Client,
    tag: String,
}

impl Keys {
    fn members(&mut self, command: &str, key: &str, range: &str) -> Vec<String> {
        match self.client.run(&format!("{command} {}:{key} {range}", self.tag)) {
            Reply::Array(members) => members.iter().map(Reply::text).collect(),
            other => panic!("{command} {key}: {other}"),
        }
    }
}

/// Panics with what is wrong.
pub fn assert_sound(bench: &Bench, queue: &str) {
    let mut keys = Keys {
        client: bench.connect(),
        tag: format!("q:{{{queue}/0}}"),
    };
    let jobs: BTreeSet<String> = keys.members("HKEYS", "jobs", "").into_iter().collect();
    let mut placed = BTreeSet::new();
    let mut waiting = BTreeSet::new();
    let grouped = keys.members("ZRANGE", "groups", "0 -1");
    for (name, field) in [("urgent", "u"), ("high", "h"), ("normal", "n"), ("low", "l")] {
        let list = keys.members("LRANGE", &format!("ready:{name}"), "0 -1");
        let is_live = |entry: &String| match entry.contains('.') {
            false => jobs.contains(entry),
            true => grouped.iter().any(|member| member.ends_with(&format!("t{entry}"))),
        };
        let (live, gone): (Vec<String>, Vec<String>) = list.into_iter().partition(is_live);
        let told = match keys.client.run(&format!("HGET {}:stats {field}", keys.tag)) {
            reply if reply.is_null() => 0,
            reply => reply.text().parse().unwrap(),
        };
        assert_eq!(gone.len(), told, "tombstones of {name}");
        for entry in live {
            let id = entry.split('.').next().unwrap_or_default().to_owned();
            assert!(
                waiting.insert(id.clone()) && placed.insert(id.clone()),
                "{id} stands twice"
            );
        }
    }
    for key in ["delayed", "leases", "dead"] {
        for entry in keys.members("ZRANGE", key, "0 -1") {
            let id = entry.split('.').next().unwrap_or_default().to_owned();
            assert!(jobs.contains(&id), "{id} in {key} without a body");
            assert!(placed.insert(id.clone()), "{id} stands twice, also in {key}");
            if key == "delayed" {
                waiting.insert(id);
            }
        }
    }
    for id in keys.members("ZRANGE", "behind", "0 -1") {
        assert!(
            waiting.insert(id.clone()) && placed.insert(id.clone()),
            "{id} stands twice, also behind its group"
        );
    }
    assert_eq!(placed, jobs, "a body that stands nowhere");
    let remembered = keys.members("HKEYS", "meta", "");
    assert!(remembered.iter().all(|id| jobs.contains(id)), "a record without a body");
    let expiring = keys.members("ZRANGE", "expiry", "0 -1");
    assert!(
        expiring.iter().all(|id| waiting.contains(id)),
        "a TTL of a job that does not wait"
    );
}

/// All that an empty queue leaves: its counters, and for a while the lanes' last outcomes.
pub fn assert_drained(bench: &Bench, queue: &str) {
    let Reply::Array(keys) = bench.connect().run(&format!("KEYS q:{{{queue}/0}}:*")) else {
        panic!("no keys")
    };
    for key in keys.iter().map(Reply::text) {
        let name = key.rsplit("}:").next().unwrap_or_default();
        assert!(
            name == "stats" || name == "waiting" || name == "settings" || name.starts_with("lane:"),
            "{key} is left"
        );
    }
}
