//! Sentinel mode, on a real set of servers and sentinels whose primary is broken on purpose under load. Replication is
//! asynchronous, so what a new primary has not got is lost whatever the proxy does: shown here is that no client of the
//! queue is told an error, and that the work goes on with the new primary.

use std::time::Duration;

use crate::support::proxy::ProxyPlan;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{PATIENCE, Proxy, RedisServer, Relay, wait_until};

use super::cluster::readiness;
use super::load::Load;

const SOME: usize = 100;
/// Each way.
const FAR: Duration = Duration::from_millis(80);

fn proxy_before(set: &SentinelSet) -> ProxyPlan {
    Proxy::before_sentinels(&set.addresses(), MASTER)
        .workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .allow_log("not every sentinel can be asked")
}

/// The load runs on while `break_it` is done to the primary, and afterwards with another one.
fn survives(break_it: impl FnOnce(&mut SentinelSet, u16)) {
    let mut set = SentinelSet::start();
    let proxy = proxy_before(&set).start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    let old = set.primary();
    break_it(&mut set, old);
    set.wait_for_another_than(old);
    let port = set.primary();
    let new = set.server_at(port);
    wait_until(PATIENCE, "the proxy is at the new primary", || {
        // Sentinel closes the connections of a server that it promotes, this one too.
        let clients = new.client().try_call(&["CLIENT", "LIST"]);
        clients.is_ok_and(|clients| clients.text().contains("name=millrace-"))
    });
    load.wait_for_more(SOME);
    load.stop();
}

#[test]
fn a_killed_primary_is_replaced_and_no_client_is_told_an_error() {
    survives(|set, old| set.server_at(old).kill());
}

#[test]
fn a_frozen_primary_is_replaced_and_no_client_is_told_an_error() {
    survives(|set, old| set.server_at(old).freeze());
}

#[test]
fn a_failover_that_was_asked_for_is_followed_and_no_client_is_told_an_error() {
    survives(|set, _| {
        // Refused until this sentinel has seen what the replicas say of themselves.
        wait_until(PATIENCE, "the failover begins", || {
            set.client().call(&["SENTINEL", "FAILOVER", MASTER]).to_string() == "+OK"
        });
    });
}

#[test]
fn sentinels_have_a_password_of_their_own_and_say_so_when_it_is_missing() {
    let set = SentinelSet::with_password(Some("sesame"));
    let refused = proxy_before(&set)
        .allow_log("the built-in table serves")
        .set("upstream.failover_timeout", "\"100ms\"")
        .start();
    let told = refused.client().run("QLEN q");
    assert!(
        told.is_error("UNAVAILABLE it is not known which Redis is the primary"),
        "{told}"
    );
    assert!(refused.log().contains("NOAUTH"), "the log says what was answered");

    let proxy = proxy_before(&set)
        .set("upstream.sentinel_password", "\"sesame\"")
        .start();
    wait_until(PATIENCE, "the sentinels' password opens", || {
        !proxy.client().run("QPUSH q job").is_error("")
    });
}

/// What is asked takes two thirds of a second, as of sentinels on another continent or on machines that have much to do.
#[test]
fn sentinels_that_take_their_time_are_heard_out() {
    let mut set = SentinelSet::start();
    let lines = set.move_sentinels_behind_lines();
    let addresses: Vec<_> = lines.iter().map(Relay::address).collect();
    let proxy = Proxy::before_sentinels(&format!("{addresses:?}"), MASTER)
        .set("upstream.connect_timeout", "\"5s\"")
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    lines.iter().for_each(|line| line.lengthen(FAR));
    let old = set.primary();
    set.server_at(old).kill();
    set.wait_for_another_than(old);
    load.wait_for_more(SOME);
    load.stop();
}

#[test]
fn a_name_that_no_sentinel_knows_is_said_and_heals_without_a_restart_when_one_of_them_is_told_it() {
    let set = SentinelSet::start();
    let addresses = set.all_addresses();
    let proxy = Proxy::before_sentinels(&format!("{addresses:?}"), "late")
        .set("upstream.failover_timeout", "\"100ms\"")
        .allow_log("the built-in table serves")
        .allow_log("not every sentinel can be asked")
        .start();
    let (status, text) = readiness(&proxy);
    assert_eq!(status, 503, "{text}");
    for address in &addresses {
        let said = format!("{address}: ERR No such master with that name");
        assert!(text.contains(&said) && proxy.log().contains(&said), "{text}");
    }
    let told = proxy.client().run("QPUSH q job");
    assert!(
        told.is_error("UNAVAILABLE it is not known which Redis is the primary"),
        "{told}"
    );
    let primary = set.primary().to_string();
    let mut sentinel = set.client_of(1);
    sentinel.call(&["SENTINEL", "MONITOR", "late", "127.0.0.1", &primary, "2"]);
    wait_until(PATIENCE, "the primary is known", || {
        readiness(&proxy) == (200, "ready\n".into())
    });
    assert!(!proxy.client().run("QPUSH q job").is_error(""));
}

/// A master that is set up anew has no elections behind it, whoever was elected before.
#[test]
fn a_master_that_is_set_up_anew_is_followed_without_a_restart() {
    let mut set = SentinelSet::start();
    let old = set.primary();
    set.server_at(old).kill();
    set.wait_for_another_than(old);
    let elected = set.primary();
    let proxy = proxy_before(&set).start();
    proxy.client().run("QPUSH q of-the-elected");

    let other = RedisServer::start();
    set.set_up_anew(other.port());
    wait_until(PATIENCE + PATIENCE, "the proxy is at the new primary", || {
        other.client().run("CLIENT LIST").text().contains("name=millrace-")
    });
    assert!(!proxy.client().run("QPUSH q of-the-other").is_error(""));
    assert_eq!(other.client().run("EXISTS q:{q/0}:jobs").integer(), 1);
    assert_eq!(set.server_at(elected).client().run("HLEN q:{q/0}:jobs").integer(), 1);
}
