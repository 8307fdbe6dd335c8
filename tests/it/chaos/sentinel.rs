//! A primary, two replicas and three sentinels, with two proxies before them. Replication is asynchronous, so what a primary
//! had acknowledged when it was lost may be forgotten: how much that was is printed, and no fault of the proxy's.

use std::time::{Duration, Instant};

use super::{
    FORGETFUL, Fault, Forgets, SOME, Servers, Stage, forgetful_rules, forgotten_scripts, killed_connections,
    paused_clients, suffering,
};
use crate::load::Load;
use crate::support::proxy::ProxyPlan;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{PATIENCE, Proxy, RedisServer, wait_until};

impl Servers for SentinelSet {
    fn nodes(&self) -> Vec<&RedisServer> {
        self.servers.iter().collect()
    }
}

const TABLE: &[Fault<SentinelSet>] = &[
    Fault {
        name: "kill -9 of the primary",
        happens: |stage, load| replaced(stage, load, RedisServer::kill, RedisServer::restart),
        forgets: Forgets::All,
    },
    Fault {
        name: "SIGSTOP of the primary",
        happens: |stage, load| replaced(stage, load, |server| server.freeze(), |server| server.thaw()),
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
    Fault {
        name: "SCRIPT FLUSH",
        happens: forgotten_scripts,
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "CLIENT KILL",
        happens: killed_connections,
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "CLIENT PAUSE",
        happens: paused_clients,
        forgets: Forgets::Nothing,
    },
];

/// The primary goes, another one takes over, the load goes on with that, and the old one comes back as a replica.
fn replaced(
    stage: &mut Stage<SentinelSet>,
    load: &Load,
    breaks: fn(&mut RedisServer),
    heals: fn(&mut RedisServer),
) -> Option<Instant> {
    let old = stage.redis.primary();
    breaks(stage.redis.server_at(old));
    let known = wait_for_a_failover(&stage.redis, old, || ());
    load.wait_for_more_of_each(SOME);
    heals(stage.redis.server_at(old));
    follow(&mut stage.redis, old);
    Some(known)
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
    let ports = set.servers.iter().map(RedisServer::port);
    ports
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

/// Of two replicas the one that has most is elected, so that what one of them confirmed is there.
const REPLICATED: &[Fault<SentinelSet>] = &[Fault {
    name: "kill -9 of the primary, replicas = 1",
    happens: TABLE[0].happens,
    forgets: Forgets::AllButPushes,
}];

fn stage(set_up: impl Fn(ProxyPlan) -> ProxyPlan) -> Stage<SentinelSet> {
    let redis = SentinelSet::start();
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
    let mut stage = stage(|plan| plan);
    let addresses = stage.addresses();
    stage.run("sentinel", FORGETFUL, &addresses, TABLE, &forgetful_rules());
}

#[test]
fn no_push_that_a_replica_confirmed_is_lost_with_the_primary() {
    let mut stage = stage(|plan| plan.set(r#"queues."*".replicas"#, "1"));
    let addresses = stage.addresses();
    let rules = forgetful_rules().allow(&["NOREPLICAS"]);
    stage.run("sentinel", FORGETFUL, &addresses, REPLICATED, &rules);
}
