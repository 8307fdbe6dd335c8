//! Three primaries with a replica each, and two proxies before them. As in a Sentinel set, what a primary had acknowledged
//! when it was lost may be forgotten; a graceful failover, and slots that move, may cost nothing.

use std::collections::BTreeSet;
use std::time::Instant;

use super::lines::{Lined, silences, troubles};
use super::{FORGETFUL, Fault, Forgets, Mix, SOME, Servers, Stage, anywhere, fault, forgetful_rules, suffering};
use crate::history::Rules;
use crate::load::{LEASE, Load, QUEUE};
use crate::support::cluster::{Cluster, Failover, Node};
use crate::support::proxy::ProxyPlan;
use crate::support::relay::Way;
use crate::support::{PATIENCE, Proxy, RedisServer, Relay, Reply, wait_until};

impl Servers for Cluster {
    fn nodes(&self) -> Vec<&RedisServer> {
        self.nodes.iter().map(|node| &node.server).collect()
    }
}

impl Lined for Cluster {
    /// To a primary of the load.
    fn line(&self) -> &Relay {
        &self.lines[self.primary_of(slot_of(self, QUEUE))]
    }
}

const TABLE: &[Fault<Cluster>] = &[
    Fault {
        name: "kill -9 of a primary",
        happens: |stage, load| replaced(&mut stage.redis, load, Cluster::kill, Cluster::restart),
        forgets: Forgets::All,
    },
    Fault {
        name: "SIGSTOP of a primary",
        happens: |stage, load| replaced(&mut stage.redis, load, Cluster::freeze, Cluster::thaw),
        forgets: Forgets::All,
    },
    Fault {
        name: "CLUSTER FAILOVER",
        happens: |stage, load| failed_over(&stage.redis, load, Failover::Graceful),
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "CLUSTER FAILOVER FORCE",
        happens: |stage, load| failed_over(&stage.redis, load, Failover::Force),
        forgets: Forgets::All,
    },
    Fault {
        name: "CLUSTER FAILOVER TAKEOVER",
        happens: |stage, load| failed_over(&stage.redis, load, Failover::Takeover),
        forgets: Forgets::All,
    },
    Fault {
        name: "kill -9 of a replica",
        happens: |stage, load| replica_gone(&mut stage.redis, load, Cluster::kill, Cluster::restart),
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "SIGSTOP of a replica",
        happens: |stage, load| replica_gone(&mut stage.redis, load, Cluster::freeze, Cluster::thaw),
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "slots moved there and back",
        happens: |stage, load| {
            let cluster = &stage.redis;
            for slot in slots_of_the_load(cluster, load) {
                let owner = cluster.primary_of(slot);
                let other = another_primary(cluster, owner);
                move_slowly(cluster, load, slot, owner, other);
                move_slowly(cluster, load, slot, other, owner);
            }
            None
        },
        forgets: Forgets::Nothing,
    },
    Fault {
        name: "node added, served from and removed",
        happens: |stage, load| {
            let new = stage.redis.add_node();
            for slot in slots_of_the_load(&stage.redis, load) {
                stage.redis.move_slot(slot, stage.redis.primary_of(slot), new);
            }
            load.wait_for_more_of_each(SOME);
            stage.redis.remove_node(new);
            None
        },
        forgets: Forgets::Nothing,
    },
];

/// A primary of the load goes, its replica takes over, the load goes on with that, and the old one comes back.
fn replaced(
    cluster: &mut Cluster,
    load: &Load,
    breaks: fn(&mut Cluster, usize),
    heals: fn(&mut Cluster, usize),
) -> Option<Instant> {
    let slot = slot_of(cluster, QUEUE);
    let old = cluster.primary_of(slot);
    breaks(cluster, old);
    cluster.wait_for_another_than(old, slot);
    let known = Instant::now();
    load.wait_for_more_of_each(SOME);
    heals(cluster, old);
    whole(cluster);
    Some(known)
}

fn failed_over(cluster: &Cluster, load: &Load, how: Failover) -> Option<Instant> {
    let old = cluster.primary_of(slot_of(cluster, QUEUE));
    cluster.failover(cluster.replica_of(old), how);
    let known = Instant::now();
    load.wait_for_more_of_each(SOME);
    whole(cluster);
    Some(known)
}

fn replica_gone(
    cluster: &mut Cluster,
    load: &Load,
    breaks: fn(&mut Cluster, usize),
    heals: fn(&mut Cluster, usize),
) -> Option<Instant> {
    let replica = cluster.replica_of(cluster.primary_of(slot_of(cluster, QUEUE)));
    breaks(cluster, replica);
    load.wait_for_more_of_each(SOME);
    heals(cluster, replica);
    whole(cluster);
    None
}

/// Until every node with slots has a replica, which follows. Whoever won: a failover that was forced may be undone by the
/// nodes themselves, when the old primary's word comes late.
fn whole(cluster: &Cluster) {
    let follows = |node: &Node| node.call("INFO replication").text().contains("master_link_status:up");
    wait_until(PATIENCE, "each primary has its replica", || {
        let (primaries, replicas): (Vec<_>, Vec<_>) = cluster.nodes.iter().partition(|node| node.is_primary());
        primaries.len() == replicas.len()
            && primaries.iter().all(|node| !node.slots().is_empty())
            && replicas.iter().all(|node| follows(node))
    });
    cluster.wait_until_it_serves();
}

/// With time for the load to go by ASK.
fn move_slowly(cluster: &Cluster, load: &Load, slot: u16, from: usize, to: usize) {
    cluster.begin_move(slot, from, to);
    load.wait_for_more(SOME);
    cluster.move_keys(slot, from, to);
    load.wait_for_more(SOME);
    cluster.end_move(slot, from, to);
    load.wait_for_more(SOME);
}

fn another_primary(cluster: &Cluster, than: usize) -> usize {
    let mut primaries = (0..cluster.nodes.len()).filter(|index| cluster.nodes[*index].is_primary());
    primaries.find(|index| *index != than).expect("there are three")
}

fn slots_of_the_load(cluster: &Cluster, load: &Load) -> Vec<u16> {
    load.queues()
        .iter()
        .flat_map(|queue| slots_of(cluster, queue))
        .collect()
}

/// Of one of the queue's partitions.
fn slot_of(cluster: &Cluster, queue: &str) -> u16 {
    slots_of(cluster, queue)[0]
}

/// Where the queue's keys are. That it has some was waited for: jobs have gone all their way.
fn slots_of(cluster: &Cluster, queue: &str) -> Vec<u16> {
    let primaries = cluster.nodes.iter().filter(|node| !node.is_down() && node.is_primary());
    let slots = primaries.flat_map(|node| {
        let keys = node.call(&format!("KEYS q:{{{queue}/*"));
        let slot = |key: &Reply| node.call(&format!("CLUSTER KEYSLOT {}", key.text())).integer() as u16;
        keys.items().iter().map(slot).collect::<BTreeSet<_>>()
    });
    let slots: BTreeSet<_> = slots.collect();
    assert!(!slots.is_empty(), "{queue} has no keys");
    slots.into_iter().collect()
}

/// The proxies do not hear of a primary any more, while the other nodes do.
const CUT_OFF: &[Fault<Cluster>] = &[fault("slots moved from behind a stalled line", |stage, load| {
    let cluster = &stage.redis;
    let from = cluster.primary_of(slot_of(cluster, QUEUE));
    let line = &cluster.lines[from];
    line.stall(Way::Up);
    line.stall(Way::Down);
    let slots = slots_of_the_load(cluster, load);
    let moved: Vec<_> = slots
        .into_iter()
        .filter(|slot| cluster.primary_of(*slot) == from)
        .collect();
    let to = another_primary(cluster, from);
    moved.iter().for_each(|slot| cluster.move_slot(*slot, from, to));
    load.wait_for_more_of_each(SOME);
    line.heal();
    moved.iter().for_each(|slot| cluster.move_slot(*slot, to, from));
    None
})];

const REPLICATED: &[Fault<Cluster>] = &[Fault {
    name: "kill -9 of a primary, replicas = 1",
    happens: TABLE[0].happens,
    forgets: Forgets::AllButPushes,
}];

fn stage(set_up: impl Fn(ProxyPlan) -> ProxyPlan) -> Stage<Cluster> {
    // So late that a loaded machine is not taken for a dead one: an election that no fault brought about loses what it loses.
    let redis = Cluster::start_with(3, 1, &["--cluster-node-timeout", "1500"]);
    let proxy = || {
        let plan = suffering(Proxy::before_cluster(&redis.seeds()));
        set_up(plan.allow_log("not every node of the cluster can be asked")).start()
    };
    let proxies = vec![proxy(), proxy()];
    Stage { redis, proxies }
}

#[test]
fn a_cluster_is_broken_and_resharded_and_no_client_is_told_an_error() {
    let mut stage = stage(|plan| plan);
    let addresses = stage.addresses();
    stage.run(
        "cluster",
        FORGETFUL,
        &addresses,
        &[TABLE, &anywhere()],
        &forgetful_rules(),
    );
}

#[test]
fn no_push_that_a_replica_confirmed_is_lost_with_a_primary() {
    let mut stage = stage(|plan| plan.set(r#"queues."*".replicas"#, "1"));
    let addresses = stage.addresses();
    let rules = forgetful_rules().allow(&["NOREPLICAS"]);
    stage.run("cluster", FORGETFUL, &addresses, &[REPLICATED], &rules);
}

/// Whether or not it is one of a cluster, each Redis may be behind a bad line. Nobody is elected: the nodes hear each other.
#[test]
#[ignore = "by make chaos: make test sees what lines do with a single Redis"]
fn the_lines_to_a_cluster_are_broken_and_no_client_notices_more_than_a_pause() {
    let redis = Cluster::start_behind_lines(3, 0);
    let proxy = || {
        let plan = suffering(Proxy::before_cluster(&redis.seeds()));
        let plan = plan.allow_log("not every node of the cluster can be asked");
        plan.set("upstream.response_timeout", "\"500ms\"").start()
    };
    let proxies = vec![proxy(), proxy()];
    let mut stage = Stage { redis, proxies };
    let addresses = stage.addresses();
    let tables: &[&[Fault<Cluster>]] = &[CUT_OFF, &troubles(), &silences()];
    stage.run(
        "cluster's lines",
        Mix::VARIED,
        &addresses,
        tables,
        &Rules::strict(LEASE),
    );
}
