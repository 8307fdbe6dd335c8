//! That the ground holds: the servers of tests/support start, freeze, die and come back as they say.

use std::time::Duration;

use crate::support::{PATIENCE, RedisServer, Reply, wait_until};

#[test]
fn a_redis_server_answers_over_its_socket_and_its_port() {
    let redis = RedisServer::start();
    assert_eq!(redis.client().run("SET key value"), Reply::Simple("OK".into()));
    let mut tcp = crate::support::Client::connect(&redis.address()).unwrap();
    assert_eq!(tcp.run("GET key"), Reply::Bulk(b"value".to_vec()));
    assert_eq!(tcp.run("GET nothing"), Reply::NullBulk);
    tcp.hello3();
    assert_eq!(tcp.run("GET nothing"), Reply::Null);
    assert_eq!(tcp.run("CONFIG GET maxmemory").to_string(), r#"{"maxmemory": "0"}"#);
}

#[test]
fn a_killed_redis_comes_back_with_its_data() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    redis.client().run("SET key value");
    redis.kill();
    redis.restart();
    assert_eq!(redis.client().run("GET key"), Reply::Bulk(b"value".to_vec()));
}

#[test]
fn a_frozen_redis_is_silent_until_it_is_thawed() {
    let redis = RedisServer::start();
    let mut client = redis.client();
    redis.freeze();
    client.send(&["PING"]);
    assert!(client.hears_nothing_for(Duration::from_millis(20)));
    redis.thaw();
    wait_until(PATIENCE, "the reply to the PING", || client.try_receive().is_ok());
}
