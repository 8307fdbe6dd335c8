//! The checks, one table: what is looked at, and what is said of it. Pure: all that it knows is [`Facts`].
//! docs/operations.md explains each by its name.

mod replication;
mod server;
mod storage;

use super::facts::{Facts, Node};
use super::{Finding, Severity};

pub struct Check {
    pub name: &'static str,
    pub find: fn(&Facts) -> Vec<Finding>,
}

pub static CHECKS: [Check; 18] = [
    Check {
        name: "reach",
        find: server::reach,
    },
    Check {
        name: "role",
        find: server::role,
    },
    Check {
        name: "version",
        find: server::version,
    },
    Check {
        name: "commands",
        find: server::commands,
    },
    Check {
        name: "rights",
        find: server::rights,
    },
    Check {
        name: "eviction",
        find: storage::eviction,
    },
    Check {
        name: "persistence",
        find: storage::persistence,
    },
    Check {
        name: "disk",
        find: storage::disk,
    },
    Check {
        name: "memory",
        find: storage::memory,
    },
    Check {
        name: "replication",
        find: replication::replication,
    },
    Check {
        name: "min-replicas",
        find: replication::min_replicas,
    },
    Check {
        name: "replicas",
        find: replication::replicas,
    },
    Check {
        name: "slots",
        find: replication::slots,
    },
    Check {
        name: "sentinels",
        find: replication::sentinels,
    },
    Check {
        name: "clock",
        find: server::clock,
    },
    Check {
        name: "connections",
        find: server::connections,
    },
    Check {
        name: "scripts",
        find: server::scripts,
    },
    Check {
        name: "settings",
        find: server::settings,
    },
];

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

#[cfg(test)]
mod tests {
    use crate::doctor::facts::NEEDED;
    use crate::script::Scripts;

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
}
