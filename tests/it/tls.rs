//! TLS between the proxy and Redis, with servers that take nothing else and ask for certificates.

use std::fs;
use std::process::Command;

use super::load::Load;
use crate::support::certificates::Certificates;
use crate::support::proxy::ProxyPlan;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{PATIENCE, Proxy, RedisServer, wait_until};

/// Far more than fits into the sockets' buffers and the session's: it goes in many parts, both ways.
const LARGE: usize = 16 << 20;

fn proxy_before(redis: &RedisServer, tls: &str) -> ProxyPlan {
    Proxy::before(redis)
        .workers(2)
        .set("upstream.tls", tls)
        .set("upstream.failover_timeout", "\"300ms\"")
        .allow_log("redis cannot be asked for its commands")
        .allow_log("redis cannot be used")
        .allow_log("connection to redis lost")
}

#[test]
fn redis_is_reached_over_tls_with_a_certificate_of_the_proxys_own() {
    let certificates = Certificates::new(&["127.0.0.1"]);
    let redis = RedisServer::start_tls(&certificates);
    let proxy = Proxy::before(&redis)
        .workers(2)
        .set("upstream.tls", &certificates.proxy_settings())
        .start();
    let mut client = proxy.client();
    let value: String = ('a'..='z').cycle().take(LARGE).collect();
    assert_eq!(client.call(&["SET", "large", &value]).to_string(), "+OK");
    assert_eq!(client.call(&["GET", "large"]).text(), value);
    client.call(&["QPUSH", "large", &value]);
    assert_eq!(client.run("QPOP large").items()[2].text(), value);
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(1_000);
    load.stop();
}

#[test]
fn a_pipeline_larger_than_all_buffers_is_answered_to_its_end() {
    let certificates = Certificates::new(&["127.0.0.1"]);
    let redis = RedisServer::start_tls(&certificates);
    let proxy = Proxy::before(&redis)
        .set("upstream.tls", &certificates.proxy_settings())
        .start();
    let mut client = proxy.client();
    let value = "v".repeat(100_000);
    for _ in 0..50 {
        for number in 0..20 {
            client.send(&["SET", &format!("key-{number}"), &value]);
            client.send(&["GET", &format!("key-{number}")]);
        }
        for _ in 0..20 {
            assert_eq!(client.receive().to_string(), "+OK");
            assert_eq!(client.receive().text().len(), value.len());
        }
    }
}

#[test]
fn whom_the_proxy_does_not_trust_it_does_not_use_and_only_the_log_says_whom() {
    let (certificates, others) = (Certificates::new(&["redis.internal"]), Certificates::new(&[]));
    let redis = RedisServer::start_tls(&certificates);
    let file = |of: &Certificates, name| of.path(name).display().to_string();
    let (ca, cert, key) = (
        file(&certificates, "ca.pem"),
        file(&certificates, "client.pem"),
        file(&certificates, "client.key"),
    );
    let mine = format!("cert = {cert:?}, key = {key:?}");
    let cases = [
        (format!("{{ ca = {ca:?}, {mine} }}"), "not valid for name"),
        (
            format!("{{ ca = {:?}, {mine} }}", file(&others, "ca.pem")),
            "invalid peer certificate: BadSignature",
        ),
        (
            format!("{{ ca = {ca:?}, server_name = \"redis.internal\" }}"),
            "CertificateRequired",
        ),
    ];
    for (tls, said) in cases {
        let proxy = proxy_before(&redis, &tls).start();
        let told = proxy.client().run("QLEN q");
        assert!(told.is_error("UNAVAILABLE "), "{tls}: {told}");
        assert!(!told.to_string().contains("redis.internal"), "{told}");
        assert!(proxy.log().contains(said), "{tls}: the log does not say {said}");
    }
    let named = format!("{{ ca = {ca:?}, server_name = \"redis.internal\", {mine} }}");
    let proxy = Proxy::before(&redis).set("upstream.tls", &named).start();
    assert_eq!(proxy.client().run("QLEN q").integer(), 0);
}

/// SSL_CERT_FILE stands for the platform's, as it does for OpenSSL.
#[test]
fn without_a_ca_the_platforms_authorities_are_trusted_and_there_must_be_some() {
    let certificates = Certificates::new(&["127.0.0.1"]);
    let config = certificates.path("proxy.toml");
    fs::write(&config, "[upstream]\nmode = \"single\"\ntls = {}").expect("a file");
    fs::write(certificates.path("empty.pem"), "").expect("a file");
    let check = |authorities| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command
            .args(["check", "--config"])
            .arg(&config)
            .env_remove("SSL_CERT_DIR");
        let output = command.env("SSL_CERT_FILE", certificates.path(authorities)).output();
        output.expect("the proxy can be run")
    };
    assert!(check("ca.pem").status.success());
    let refused = String::from_utf8(check("empty.pem").stderr).expect("text");
    assert!(refused.contains("upstream.tls.ca: expected a file, as"), "{refused}");
}

#[test]
fn certificates_that_were_replaced_are_used_by_the_next_connection() {
    let certificates = Certificates::new(&["127.0.0.1"]);
    let mut redis = RedisServer::start_tls(&certificates);
    let proxy = proxy_before(&redis, &certificates.proxy_settings())
        .allow_log("the old ones stay in use")
        .set("upstream.failover_timeout", "\"9s\"")
        .start();
    let mut client = proxy.client();
    client.run("SET key before");
    certificates.replace(&["127.0.0.1"]);
    assert_eq!(
        client.run("GET key").text(),
        "before",
        "the connection that exists goes on"
    );
    redis.restart();
    assert!(
        client.run("GET key").is_null(),
        "a new Redis, which knows only the new authority"
    );

    fs::write(certificates.path("client.key"), "half of a k").expect("a file");
    wait_until(PATIENCE, "a wrong file leaves the old one in use", || {
        redis.client().run("CLIENT KILL TYPE normal");
        let works = client.run("GET key").is_null();
        works && proxy.log().contains("the old ones stay in use")
    });
}

#[test]
fn the_sentinels_and_their_servers_are_reached_over_tls() {
    let certificates = Certificates::new(&["127.0.0.1"]);
    let mut set = SentinelSet::start_tls(&certificates);
    let proxy = Proxy::before_sentinels(&set.addresses(), MASTER)
        .set("upstream.tls", &certificates.proxy_settings())
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .allow_log("not every sentinel can be asked")
        .start();
    let mut client = proxy.client();
    assert!(!client.run("QPUSH q before").is_error(""));
    let old = set.primary();
    let primary = set.servers.iter_mut().find(|server| server.port() == old);
    primary.expect("one of the set").kill();
    assert!(
        !client.run("QPUSH q after").is_error(""),
        "it waits for the new primary"
    );
    set.wait_for_another_than(old); // the first sentinel may hear of it later than the proxy did
}
