//! The clients that people have, with their default settings, against the proxy: redis-cli, redis-benchmark, redis-py,
//! node-redis, ioredis, redis-rs. None may be skipped: one that is missing fails its test and says what installs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Proxy, RedisServer};

fn servers() -> (RedisServer, Proxy) {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    (redis, proxy)
}

/// Runs a client to its end; what it said on both its outputs is in the failure.
#[track_caller]
fn run(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output: Output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `.ci/install test` installs it"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} ended with {}:\n{said}",
        output.status
    );
    said
}

/// Where `make test` puts the libraries.
#[track_caller]
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(path);
    assert!(
        path.exists(),
        "{} is missing: `.ci/install test` installs it",
        path.display()
    );
    path
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[test]
fn redis_cli_pushes_pops_and_acknowledges() {
    let (_redis, proxy) = servers();
    let port = proxy.port().to_string();
    for protocol in ["-2", "-3"] {
        let cli = |words: &[&str]| run(Command::new("redis-cli").args(["-p", &port, protocol]).args(words));
        let id = cli(&["QPUSH", "orders", "hello"]);
        let job = cli(&["QPOP", "orders"]);
        let lines: Vec<&str> = job.lines().collect();
        assert_eq!((lines[0], lines[2], lines[3]), ("orders", "hello", "1"));
        assert!(lines[1].starts_with(id.trim()), "{} is no receipt of {id}", lines[1]);
        assert_eq!(cli(&["QACK", "orders", lines[1]]).trim(), "1");
        assert!(cli(&["INFO"]).contains("# Proxy"));
        assert!(cli(&["COMMAND", "DOCS", "qpush"]).contains("summary"));
    }
}

#[test]
fn redis_benchmark_has_nothing_to_complain_about() {
    let (_redis, proxy) = servers();
    let port = proxy.port().to_string();
    for pipeline in ["1", "16"] {
        let benchmark = ["-p", &port, "-n", "2000", "-c", "20", "-P", pipeline, "-q"];
        let said = run(Command::new("redis-benchmark")
            .args(benchmark)
            .args(["-t", "ping,set,get,lpush,rpop,hset,zadd"]));
        assert!(
            !said.to_ascii_lowercase().contains("warning") && !said.contains("rror"),
            "{said}"
        );
        assert!(said.matches("requests per second").count() >= 7, "{said}");
        let said = run(Command::new("redis-benchmark")
            .args(benchmark)
            .args(["QPUSH", "q", "hello"]));
        assert!(
            !said.to_ascii_lowercase().contains("warning") && !said.contains("rror"),
            "{said}"
        );
    }
    assert_eq!(proxy.client().run("QLEN q").integer(), 4000);
}

#[test]
fn redis_py_works_with_its_default_settings() {
    let (_redis, proxy) = servers();
    let python = installed("venv/bin/python");
    assert_eq!(
        run(Command::new(python)
            .arg(script("redis_py.py"))
            .arg(proxy.port().to_string()))
        .trim(),
        "ok"
    );
}

#[test]
fn node_redis_works_with_its_default_settings() {
    node("node_redis.mjs", "redis");
}

#[test]
fn ioredis_works_with_its_default_settings() {
    node("ioredis.mjs", "ioredis");
}

#[track_caller]
fn node(name: &str, library: &str) {
    installed(&format!("node_modules/{library}"));
    let (_redis, proxy) = servers();
    let modules = installed("");
    let said = run(Command::new("node")
        .arg(script(name))
        .arg(proxy.port().to_string())
        .arg(modules));
    assert_eq!(said.trim(), "ok");
}

#[test]
fn redis_rs_works_with_its_default_settings() {
    let (_redis, proxy) = servers();
    for url in [
        format!("redis://{}", proxy.address()),
        format!("redis://{}?protocol=resp3", proxy.address()),
    ] {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let id: String = redis::cmd("QPUSH")
            .arg("rust")
            .arg("payload")
            .query(&mut connection)
            .unwrap();
        let pop = redis::cmd("QPOP")
            .arg("rust")
            .arg("BLOCK")
            .arg(5000)
            .query(&mut connection)
            .unwrap();
        let (queue, receipt, payload, attempt): (String, String, String, u32) = pop;
        assert_eq!((queue.as_str(), payload.as_str(), attempt), ("rust", "payload", 1));
        assert!(receipt.starts_with(&id));
        let acked: u32 = redis::cmd("QACK")
            .arg("rust")
            .arg(receipt)
            .query(&mut connection)
            .unwrap();
        assert_eq!(acked, 1);
        let nothing: Option<Vec<String>> = redis::cmd("QPOP").arg("rust").query(&mut connection).unwrap();
        assert_eq!(nothing, None);
    }
}
