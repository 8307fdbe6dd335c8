//! A primary, two replicas and three sentinels, with two proxies before them. Replication is asynchronous, so what a primary
//! had acknowledged when it was lost may be forgotten: how much that was is printed, and no fault of the proxy's.

use std::time::{Duration, Instant};

use super::lines::{Lined, troubles};
use super::{FORGETFUL, Fault, Forgets, SOME, Servers, Stage, anywhere, forgetful_rules, suffering};
use crate::load::Load;
use crate::support::proxy::ProxyPlan;
use crate::support::relay::Way;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{PATIENCE, Proxy, RedisServer, Relay, wait_until};

impl Servers for SentinelSet {
    fn nodes(&self) -> Vec<&RedisServer> {
        self.servers.iter().collect()
    }
}

impl Lined for SentinelSet {
    /// To the primary.
    fn line(&self) -> &Relay {
        let primary = self.primary();
        let line = self.lines.iter().find(|line| line.port() == primary);
        line.expect("the primary is known by its line")
    }
}

const TABLE: &[Fault<SentinelSet>] = &[
    Fault {
        name: "kill -9 of the primary",
        happens: |stage, load| replaced(&mut stage.redis, load, kill, restart),
        forgets: Forgets::All,
    },
    Fault {
        name: "SIGSTOP of the primary",
        happens: |stage, load| replaced(&mut stage.redis, load, freeze, thaw),
        forgets: Forgets::All,
    },
    Fault {
        name: "SIGSTOP of the primary and of a sentinel",
        happens: |stage, load| {
            // As when a machine stops on which both of them are.
            let stop = |set: &mut SentinelSet, old| {
                set.freeze_sentinel(2);
                freeze(set, old);
            };
            let go_on = |set: &mut SentinelSet, old| {
                thaw(set, old);
                set.thaw_sentinel(2);
            };
            replaced(&mut stage.redis, load, stop, go_on)
        },
        forgets: Forgets::All,
    },
    Fault {
        name: "SENTINEL FAILOVER",
        happens: |stage, load| {
            let set = &mut stage.redis;
            let old = set.primary();
            let known = wait_for_a_failover(set, old, || {
                set.client().call(&["SENTINEL", "FAILOVER", MASTER]); // refused until it has seen the replicas
            });
            load.wait_for_more_of_each(SOME);
            follow(set, old);
            Some(known)
        },
        forgets: Forgets::All,
    },
    Fault {
        name: "kill -9 of a replica",
        happens: |stage, load| {
            let replica = replica(&stage.redis);
            stage.redis.server_at(replica).kill();
            load.wait_for_more_of_each(SOME);
            stage.redis.server_at(replica).restart();
            follow(&mut stage.redis, replica);
            None
        },
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "SIGSTOP of a replica",
        happens: |stage, load| {
            let replica = replica(&stage.redis);
            stage.redis.server_at(replica).freeze();
            load.wait_for_more_of_each(SOME);
            stage.redis.server_at(replica).thaw();
            stage.redis.wait_until_whole();
            None
        },
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "kill -9 of the sentinel that is configured",
        happens: |stage, load| {
            stage.redis.kill_sentinel(0);
            load.wait_for_more_of_each(SOME);
            stage.redis.restart_sentinel(0);
            stage.redis.wait_until_whole();
            None
        },
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "SIGSTOP of a sentinel",
        happens: |stage, load| {
            stage.redis.freeze_sentinel(1);
            load.wait_for_more_of_each(SOME);
            stage.redis.thaw_sentinel(1);
            stage.redis.wait_until_whole();
            None
        },
        forgets: Forgets::Nothing,
    },
];

/// The primary goes, another one takes over, the load goes on with that, and the old one comes back as a replica.
fn replaced(
    set: &mut SentinelSet,
    load: &Load,
    breaks: fn(&mut SentinelSet, u16),
    heals: fn(&mut SentinelSet, u16),
) -> Option<Instant> {
    let old = set.primary();
    breaks(set, old);
    let known = wait_for_a_failover(set, old, || ());
    load.wait_for_more_of_each(SOME);
    heals(set, old);
    follow(set, old);
    Some(known)
}

fn kill(set: &mut SentinelSet, port: u16) {
    set.server_at(port).kill();
}

fn restart(set: &mut SentinelSet, port: u16) {
    set.server_at(port).restart();
}

fn freeze(set: &mut SentinelSet, port: u16) {
    set.server_at(port).freeze();
}

fn thaw(set: &mut SentinelSet, port: u16) {
    set.server_at(port).thaw();
}

/// When the first sentinel named another primary; all of them do when this returns.
fn wait_for_a_failover(set: &SentinelSet, old: u16, insist: impl Fn()) -> Instant {
    wait_until(PATIENCE, "another primary", || {
        insist();
        set.any_names_another_than(old)
    });
    let known = Instant::now();
    set.wait_for_another_than(old);
    known
}

fn replica(set: &SentinelSet) -> u16 {
    let primary = set.primary();
    set.ports()
        .into_iter()
        .find(|port| *port != primary)
        .expect("there are replicas")
}

/// An operator's hand: the sentinels would turn it into a replica too, but take their time (10 s).
fn follow(set: &mut SentinelSet, port: u16) {
    let primary = set.primary().to_string();
    set.server_at(port).client().call(&["REPLICAOF", "127.0.0.1", &primary]);
    set.wait_until_whole();
}

/// The primary lives on and nobody hears of it, neither the proxies nor the sentinels nor its replicas.
const CUT_OFF: &[Fault<SentinelSet>] = &[
    Fault {
        name: "line of the primary stalled",
        happens: |stage, load| {
            let stall = |set: &mut SentinelSet, _| {
                set.line().stall(Way::Up);
                set.line().stall(Way::Down);
            };
            replaced(&mut stage.redis, load, stall, heal)
        },
        forgets: Forgets::All,
    },
    Fault {
        name: "line of the primary leads nowhere",
        happens: |stage, load| {
            let cut_off = |set: &mut SentinelSet, _| {
                set.line().lead_nowhere();
                set.line().reset();
            };
            replaced(&mut stage.redis, load, cut_off, heal)
        },
        forgets: Forgets::All,
    },
];

fn heal(set: &mut SentinelSet, port: u16) {
    let line = set.lines.iter().find(|line| line.port() == port);
    line.expect("it is known by its line").heal();
}

/// Of two replicas the one that has most is elected, so that what one of them confirmed is there.
const REPLICATED: &[Fault<SentinelSet>] = &[Fault {
    name: "kill -9 of the primary, replicas = 1",
    happens: TABLE[0].happens,
    forgets: Forgets::AllButPushes,
}];

fn stage(redis: SentinelSet, set_up: impl Fn(ProxyPlan) -> ProxyPlan) -> Stage<SentinelSet> {
    // So late that a loaded machine is not taken for a dead one, and again so soon that faults can follow each other.
    redis.elect(Duration::from_secs(1), Duration::from_millis(1500));
    let proxy = || {
        let plan = suffering(Proxy::before_sentinels(&redis.addresses(), MASTER));
        set_up(plan.allow_log("not every sentinel can be asked")).start()
    };
    let proxies = vec![proxy(), proxy()];
    Stage { redis, proxies }
}

#[test]
fn a_sentinel_set_is_broken_and_no_client_is_told_an_error() {
    let mut stage = stage(SentinelSet::start(), |plan| plan);
    let addresses = stage.addresses();
    stage.run(
        "sentinel",
        FORGETFUL,
        &addresses,
        &[TABLE, &anywhere()],
        &forgetful_rules(),
    );
}

#[test]
fn no_push_that_a_replica_confirmed_is_lost_with_the_primary() {
    let mut stage = stage(SentinelSet::start(), |plan| plan.set(r#"queues."*".replicas"#, "1"));
    let addresses = stage.addresses();
    let rules = forgetful_rules().allow(&["NOREPLICAS"]);
    stage.run("sentinel", FORGETFUL, &addresses, &[REPLICATED], &rules);
}

#[test]
#[ignore = "by make chaos: make test sees what lines do with a single Redis"]
fn the_lines_to_a_sentinel_set_are_broken_and_no_client_is_told_an_error() {
    let mut stage = stage(SentinelSet::start_behind_lines(), |plan| plan);
    let addresses = stage.addresses();
    let tables: &[&[Fault<SentinelSet>]] = &[CUT_OFF, &troubles()];
    stage.run("sentinel's lines", FORGETFUL, &addresses, tables, &forgetful_rules());
}
