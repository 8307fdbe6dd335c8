//! `millrace doctor`, before servers that are set up wrongly on purpose.

use std::fs;
use std::process::Command;

use crate::support::cluster::Cluster;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{PATIENCE, Proxy, RedisServer, wait_until};

/// What it prints, with what it says of itself when it fails, and its exit status.
fn doctor(upstream: &str) -> (String, i32) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("proxy.toml");
    fs::write(&config, format!("[upstream]\n{upstream}\n")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    let output = command
        .args(["doctor", "--config"])
        .arg(config)
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (
        String::from_utf8(said).expect("text"),
        output.status.code().expect("an exit status"),
    )
}

fn before(redis: &RedisServer) -> String {
    format!("mode = \"single\"\naddress = {:?}", redis.address())
}

const KEEPS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn keeping_redis(arguments: &[&str]) -> RedisServer {
    RedisServer::start_with(&[&KEEPS, arguments].concat())
}

#[test]
fn a_redis_that_keeps_jobs_is_found_in_order() {
    let redis = keeping_redis(&[]);
    let (said, status) = doctor(&before(&redis));
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("Redis 7") && said.contains("primary"), "{said}");
    assert!(said.ends_with("0 endanger jobs, 0 warnings, 0 notes\n"), "{said}");
}

#[test]
fn each_wrong_setting_is_found_and_those_that_lose_jobs_fail() {
    let cases: [(&[&str], &str, i32); 11] = [
        (
            &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
            "DANGER   eviction: ",
            1,
        ),
        (&["--maxmemory-policy", "allkeys-lru"], "WARNING  eviction: ", 0),
        (&["--appendonly", "no"], "DANGER   persistence: ", 1),
        (&["--appendonly", "no", "--save", "60 1"], "DANGER   persistence: ", 1),
        (&["--appendfsync", "no"], "WARNING  persistence: ", 0),
        (&["--appendfsync", "everysec"], "note     persistence: ", 0),
        (&["--rename-command", "LPOS", ""], "DANGER   commands: ", 1),
        (&["--timeout", "30"], "WARNING  connections: ", 0),
        (&["--maxclients", "3"], "WARNING  connections: ", 0),
        (
            &["--client-output-buffer-limit", "pubsub 1kb 1kb 60"],
            "WARNING  connections: ",
            0,
        ),
        (&["--busy-reply-threshold", "5"], "WARNING  scripts: ", 0),
    ];
    for (arguments, expected, expected_status) in cases {
        let redis = keeping_redis(arguments);
        let (said, status) = doctor(&before(&redis));
        assert!(said.contains(expected), "{arguments:?}\n{said}");
        assert!(said.contains("To do: "), "{said}");
        assert_eq!(status, expected_status, "{arguments:?}\n{said}");
    }
}

#[test]
fn a_full_memory_is_found() {
    let redis = keeping_redis(&[]);
    let used: u64 = redis.info("used_memory").parse().expect("a number");
    redis
        .client()
        .call(&["CONFIG", "SET", "maxmemory", &(used + used / 20).to_string()]);
    let (said, status) = doctor(&before(&redis));
    assert!(
        said.contains("WARNING  memory: ") && said.contains("% of maxmemory"),
        "{said}"
    );
    assert_eq!(status, 0, "{said}");
}

#[test]
fn rights_that_the_user_lacks_are_found_by_name() {
    let redis = keeping_redis(&[]);
    let mut operator = redis.client();
    let user = "username = \"proxy\"\npassword = \"sesame\"\n";
    let cases = [
        (
            "~q:* &q:* +@all -publish -lpos",
            "our user may not use PUBLISH, LPOS on",
            1,
        ),
        ("~other:* &q:* +@all", "our user may not use EVALSHA, ZREM, ZADD", 1),
        ("~q:* &other:* +@all", "our user may not use SUBSCRIBE, PUBLISH on", 1),
        ("~q:* &q:* +@all", "in order: reach role version commands rights", 0),
        // As managed services do.
        ("~q:* &q:* +@all -config", "note     settings: ", 0),
    ];
    for (rights, expected, expected_status) in cases {
        let line = format!("ACL SETUSER proxy reset on >sesame {rights}");
        assert_eq!(operator.run(&line).to_string(), "+OK");
        let (said, status) = doctor(&format!("{user}{}", before(&redis)));
        assert!(said.contains(expected), "{rights}\n{said}");
        assert_eq!(status, expected_status, "{rights}\n{said}");
        assert!(!said.contains("sesame"), "{said}");
    }
    assert_eq!(operator.run("DBSIZE").integer(), 0, "it leaves nothing behind");
}

#[test]
fn a_redis_that_cannot_be_asked_is_no_clean_bill_of_health() {
    let mut redis = RedisServer::start_with(&["--requirepass", "sesame"]);
    let (said, status) = doctor(&before(&redis));
    assert!(status == 2 && said.contains("NOAUTH"), "{status}: {said}");
    redis.kill();
    let (said, status) = doctor(&before(&redis));
    assert!(status == 2 && said.contains(&redis.address()), "{status}: {said}");
    let (said, status) = doctor("mode = \"nonsense\"");
    assert!(status == 2 && said.contains("upstream.mode"), "{status}: {said}");
}

#[test]
fn a_replica_is_not_what_to_connect_to() {
    let (primary, replica) = (keeping_redis(&[]), keeping_redis(&[]));
    replica
        .client()
        .call(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait_until(PATIENCE, "the replica follows", || {
        primary.info("connected_slaves") == "1"
    });
    wait_until(PATIENCE, "it is in step", || replica.info("master_link_status") == "up");
    let (said, status) = doctor(&before(&replica));
    assert!(status == 1 && said.contains("DANGER   role: "), "{said}");
    let (said, _) = doctor(&before(&primary));
    assert!(
        said.contains(&format!("{}: Redis", replica.address())),
        "replicas are asked too\n{said}"
    );
    assert!(said.contains("WARNING  min-replicas: "), "{said}");
}

#[test]
fn sentinels_are_counted_against_what_a_failover_takes() {
    let set = SentinelSet::start();
    let upstream = format!(
        "mode = \"sentinel\"\nsentinels = {}\nmaster = {MASTER:?}",
        set.addresses()
    );
    let (said, status) = doctor(&upstream);
    assert_eq!(status, 0, "{said}");
    assert_eq!(said.matches(": Redis ").count(), 3, "{said}");
    assert!(said.contains(" sentinels "), "they are in order: {said}");
    // More than there are, which no configuration of theirs refuses.
    set.client().call(&["SENTINEL", "SET", MASTER, "quorum", "4"]);
    let (said, status) = doctor(&upstream);
    assert!(
        status == 1 && said.contains("the quorum is 4, of 3 sentinels"),
        "{said}"
    );
}

#[test]
fn a_clusters_slots_are_counted_and_its_nodes_looked_at_one_by_one() {
    let wholly = ["--cluster-require-full-coverage", "yes"];
    let mut cluster = Cluster::start_with(3, 1, &[&KEEPS[..], &wholly].concat());
    let upstream = format!("mode = \"cluster\"\nseeds = {}", cluster.seeds());
    let (said, status) = doctor(&upstream);
    assert_eq!(status, 0, "{said}");
    assert_eq!(said.matches(": Redis ").count(), 6, "{said}");
    assert_eq!(
        said.matches("cluster-require-full-coverage is yes").count(),
        6,
        "{said}"
    );
    cluster.kill(cluster.replica_of(0));
    cluster.kill(0);
    wait_until(PATIENCE * 2, "the others see the slots without a primary", || {
        let (said, status) = doctor(&upstream);
        status == 1 && said.contains("of 16384 slots are served (cluster_state is fail)")
    });
    let (said, status) = doctor(&before(&cluster.nodes[1].server));
    assert!(status == 1 && said.contains("DANGER   role: "), "{said}");
}

#[test]
fn what_a_user_lacks_of_a_clusters_sharded_channels_is_found() {
    let cluster = Cluster::start(1, 0);
    let node = &cluster.nodes[0];
    let upstream = format!(
        "mode = \"cluster\"\nseeds = [{:?}]\nusername = \"proxy\"\npassword = \"sesame\"",
        node.server.address()
    );
    let cases = [
        (
            "&q:* +@all -ssubscribe",
            "may not use SSUBSCRIBE on the queues' channels",
        ),
        (
            "&q:wake:* +@all",
            "may not use SSUBSCRIBE, SPUBLISH on the queues' channels",
        ),
        ("&q:* +@all", "in order: reach role version commands rights"),
    ];
    for (rights, expected) in cases {
        node.call(&format!("ACL SETUSER proxy reset on >sesame ~q:* {rights}"));
        let (said, _) = doctor(&upstream);
        assert!(said.contains(expected), "{rights}\n{said}");
    }
}

#[test]
fn fewer_replicas_than_queues_ask_for_are_found_at_each_primary() {
    let (primary, replica) = (keeping_redis(&[]), keeping_redis(&[]));
    let asking = |replicas: usize| {
        let queues = format!("[queues.\"*\"]\nreplicas = 1\n[queues.\"orders-*\"]\nreplicas = {replicas}");
        doctor(&format!("{}\n{queues}", before(&primary))).0
    };
    let said = asking(1);
    assert!(
        said.contains("WARNING  replicas: ") && said.contains("it has 0 of the 1 replicas"),
        "{said}"
    );
    replica
        .client()
        .call(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait_until(PATIENCE, "the replica follows", || {
        primary
            .try_info("slave0")
            .is_some_and(|line| line.contains("state=online"))
    });
    let said = asking(1);
    assert!(!said.contains(" replicas: "), "{said}");
    let said = asking(2);
    assert!(
        said.contains("it has 1 of the 2 replicas that [queues.\"orders-*\"] asks for"),
        "{said}"
    );
}

#[test]
fn what_endangers_jobs_is_logged_at_the_start() {
    let redis = keeping_redis(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let proxy = Proxy::before(&redis).allow_log("\"check\":\"eviction\"").start();
    wait_until(PATIENCE, "the log says so", || {
        proxy.log().contains("\"check\":\"eviction\"")
    });
    assert_eq!(proxy.log().matches("redis endangers jobs").count(), 1);
}

#[test]
fn the_embedded_redis_is_in_order() {
    let proxy = Proxy::embedded().start();
    let data = proxy.dir().join("data").display().to_string();
    let (said, status) = doctor(&format!("[upstream.embedded]\ndata_dir = {data:?}"));
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("0 endanger jobs, 0 warnings"), "{said}");
}
