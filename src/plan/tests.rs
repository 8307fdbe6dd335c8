//! Which way each kind of request goes, and what is let through nowhere.

use std::time::Instant;

use super::*;
use crate::resp::OwnedRequest;
use crate::session::{Peer, Users};

fn planned(line: &str) -> Plan {
    planned_before(false, line)
}

fn planned_before(cluster: bool, line: &str) -> Plan {
    let words: Vec<_> = line.split(' ').collect();
    let request = OwnedRequest::from_words(&words);
    let session = Session::new(1, Peer::Unix("/s".into()), &Users::new(Vec::new()), Instant::now());
    let rules = Rules {
        table: &Table::builtin(),
        own_keys: Some(b"q:{"),
        cluster,
    };
    plan(request.as_request(), &session, &rules).plan
}

fn refusal(line: &str) -> String {
    match planned(line) {
        Plan::Refuse(refusal) => String::from_utf8_lossy(refusal.text()).into_owned(),
        plan => panic!("{line}: {plan:?}"),
    }
}

#[test]
fn a_plain_command_is_forwarded_by_its_first_key() {
    for (line, first_key, readonly) in [
        ("GET k", Some(1), true),
        ("set k v", Some(1), false),
        ("EVAL script 1 k", Some(3), false),
        ("EVAL script 0", None, false),
        ("EVAL script x", None, false),
        ("SORT k STORE d", Some(1), false),
        ("XREAD STREAMS s 0", Some(2), true),
        ("XREADGROUP GROUP block c STREAMS s 0", Some(5), false),
        ("OBJECT ENCODING k", Some(2), true),
        ("PUBLISH channel m", None, false),
        ("DBSIZE", None, true),
        ("FLUSHALL", None, false),
        ("CONFIG GET save", None, false),
        ("SCRIPT LOAD x", None, false),
        ("SCAN 0", None, true),
        ("TIME", None, false),
        ("COMMAND DOCS get", None, true),
        ("COMMAND LIST FILTERBY MODULE x", None, true),
        ("COMMAND GETKEYSANDFLAGS get k", None, true),
        ("INFO server", None, true),
    ] {
        let forward = Forward { first_key, readonly };
        assert_eq!(planned(line), Plan::Forward(forward), "{line}");
    }
}

#[test]
fn before_a_cluster_what_concerns_all_shards_is_refused_and_the_cluster_is_hidden() {
    for line in [
        "DBSIZE",
        "KEYS *",
        "SCAN 0",
        "FLUSHALL",
        "FLUSHDB ASYNC",
        "RANDOMKEY",
        "SCRIPT LOAD x",
        "FUNCTION FLUSH",
        "CONFIG SET a b",
    ] {
        let Plan::Refuse(refusal) = planned_before(true, line) else {
            panic!("{line} is not refused");
        };
        let text = String::from_utf8_lossy(refusal.text());
        assert!(
            text.ends_with("is not yet supported in cluster mode: it concerns all shards"),
            "{text}"
        );
    }
    for line in ["CLUSTER SLOTS", "CLUSTER KEYSLOT k"] {
        let told = "ERR This instance has cluster support disabled".into();
        assert_eq!(planned_before(true, line), Plan::Refuse(told), "{line}");
    }
    for line in [
        "PUBLISH c m",
        "TIME",
        "EVAL x 0",
        "CONFIG GET save",
        "COMMAND DOCS get",
        "LASTSAVE",
    ] {
        assert!(
            matches!(
                planned_before(true, line),
                Plan::Forward(Forward { first_key: None, .. })
            ),
            "{line}"
        );
    }
    for line in ["MSET a 1 b 2", "DEL a b", "EVAL x 1 k"] {
        assert!(
            matches!(
                planned_before(true, line),
                Plan::Forward(Forward { first_key: Some(_), .. })
            ),
            "{line}"
        );
    }
    assert!(matches!(planned_before(true, "INFO cluster"), Plan::Splice(..)));
}

#[test]
fn queue_commands_stay_with_the_proxy() {
    assert_eq!(planned("qpush orders x"), Plan::Queue(Verb::Push));
    assert_eq!(planned("QPOP orders BLOCK 0"), Plan::Queue(Verb::Pop));
    assert_eq!(
        refusal("QPUSH orders"),
        "ERR wrong number of arguments for 'qpush' command"
    );
    assert_eq!(
        refusal("QLEN orders x"),
        "ERR wrong number of arguments for 'qlen' command"
    );
}

#[test]
fn what_both_know_is_asked_of_redis_and_completed() {
    for (line, is_expected) in [
        ("INFO", true),
        ("INFO all", true),
        ("INFO proxy server", true),
        ("COMMAND DOCS", true),
        ("COMMAND DOCS get qpush", true),
        ("COMMAND DOCS qpush", false),
        ("INFO proxy queues", false),
    ] {
        assert_eq!(matches!(planned(line), Plan::Splice(..)), is_expected, "{line}");
    }
    assert_eq!(planned("COMMAND DOCS qpush QPOP"), Plan::Local(Local::CommandDocs));
    assert_eq!(planned("INFO Proxy"), Plan::Local(Local::Info));
    assert_eq!(
        planned("COMMAND GETKEYSANDFLAGS qpush q x"),
        Plan::Local(Local::CommandGetKeysAndFlags)
    );
}

#[test]
fn what_needs_a_connection_of_its_own_is_refused_for_now() {
    for line in [
        "BLPOP k 0",
        "BRPOP k 0",
        "BLMOVE a b LEFT LEFT 0",
        "BRPOPLPUSH a b 0",
        "BZPOPMIN k 0",
        "BZPOPMAX k 0",
        "BLMPOP 0 1 k LEFT",
        "BZMPOP 0 1 k MIN",
        "XREAD BLOCK 0 STREAMS s 0",
        "XREAD COUNT 1 block 0 STREAMS s 0",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
        "WAIT 1 0",
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "SUBSCRIBE c",
        "PSUBSCRIBE c",
        "SSUBSCRIBE c",
        "UNSUBSCRIBE",
        "MONITOR",
        "CLIENT TRACKING ON",
        "CLIENT CACHING YES",
        "SCRIPT DEBUG YES",
    ] {
        let error = refusal(line);
        assert!(
            error.starts_with("ERR '") && error.ends_with("it needs a connection to Redis of its own"),
            "{line}: {error}"
        );
    }
    for line in [
        "SHUTDOWN",
        "REPLICAOF NO ONE",
        "FAILOVER",
        "DEBUG SLEEP 1",
        "CLIENT PAUSE 1",
        "READONLY",
        "ASKING",
        "SYNC",
    ] {
        assert!(refusal(line).contains("is not allowed through this proxy"), "{line}");
    }
}

#[test]
fn plain_commands_keep_their_hands_off_the_proxys_keys() {
    for line in [
        "GET q:{orders/0}:ready",
        "MSET a 1 q:{orders/0}:x 2",
        "EVAL script 2 a q:{orders/0}:x",
        "RENAME a q:{b}",
        "SORT a BY q:{orders/0}:*",
        "SORT a GET x STORE q:{orders/0}:x",
        "EVAL script x q:{orders/0}:x",
    ] {
        assert!(refusal(line).starts_with("NOPERM '"), "{line}");
    }
    for line in [
        "SET a q:{orders/0}:x",
        "GET q:orders",
        "GET q",
        "EVAL script 1 a q:{orders/0}:x",
    ] {
        assert!(matches!(planned(line), Plan::Forward(_)), "{line}");
    }
}

#[test]
fn the_proxys_keys_are_open_where_the_configuration_says_so() {
    let request = OwnedRequest::from_words(&["GET", "q:{orders/0}:ready"]);
    let session = Session::new(1, Peer::Unix("/s".into()), &Users::new(Vec::new()), Instant::now());
    let rules = Rules {
        table: &Table::builtin(),
        own_keys: None,
        cluster: false,
    };
    assert!(matches!(
        plan(request.as_request(), &session, &rules).plan,
        Plan::Forward(_)
    ));
}
