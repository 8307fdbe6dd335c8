//! Sentinel mode, on a real set of servers and sentinels whose primary is broken on purpose under load. Replication is
//! asynchronous, so what a new primary has not got is lost whatever the proxy does: shown here is that no client of the
//! queue is told an error, and that the work goes on with the new primary.

use crate::support::proxy::ProxyPlan;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{PATIENCE, Proxy, wait_until};

use super::load::Load;

const SOME: usize = 100;

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
