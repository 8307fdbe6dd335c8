//! docs/recipes: each of them is run, and does what it says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::process::Process;
use crate::support::{PATIENCE, Proxy, RedisServer, wait_until};

#[path = "../../docs/recipes/worker.rs"]
mod worker;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Debian's Go, and the libraries that are packages of its.
const GO_PATH: &str = "/usr/share/gocode";

/// Whether a language that not everybody has is here, with its client library. In CI it must be.
fn has(what: &str, probe: &mut Command) -> bool {
    let found = probe.output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{what} is missing: `.ci/install test` installs it"
        );
        eprintln!("not tried: {what} is missing");
    }
    found
}

fn build_go(name: &str) -> PathBuf {
    let clients = root().join("target/clients");
    let binary = clients.join(name.replace('.', "-"));
    let mut build = Command::new("go");
    build
        .arg("build")
        .arg("-o")
        .arg(&binary)
        .arg(root().join("docs/recipes").join(name))
        .env("GO111MODULE", "off")
        .env("GOPATH", GO_PATH)
        .env("GOCACHE", clients.join("go"));
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    binary
}

struct Kitchen {
    proxy: Proxy,
    redis: RedisServer,
}

impl Kitchen {
    fn open() -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::before(&redis).start();
        Self { proxy, redis }
    }

    /// A recipe as its first lines say that it is run.
    fn recipe(&self, name: &str, arguments: &[&str]) -> Command {
        let program = match name.rsplit('.').next() {
            Some("py") => root().join("target/clients/venv/bin/python"),
            Some("js") => "node".into(),
            Some("rb") => "ruby".into(),
            Some("go") => build_go(name),
            _ => "bash".into(),
        };
        let mut command = Command::new(program);
        if !name.ends_with(".go") {
            command.arg(root().join("docs/recipes").join(name));
        }
        command.args(arguments).envs(self.environment());
        command
    }

    fn environment(&self) -> [(&str, String); 3] {
        let modules = root().join("target/clients/node_modules");
        [
            ("PORT", self.proxy.port().to_string()),
            ("REDIS_PORT", self.redis.port().to_string()),
            ("NODE_PATH", modules.display().to_string()),
        ]
    }

    #[track_caller]
    fn run(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.recipe(name, arguments).output().unwrap();
        let (said, complained) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{name}: {said}{complained}");
        said.into_owned()
    }

    /// While a worker runs: a job comes to its result, another one to its error.
    #[track_caller]
    fn jobs_are_done(&self) {
        let mut client = self.proxy.client();
        let good = client.run("QPUSH orders hello").text();
        let bad = client.run("QPUSH orders bad RETRIES 1").text();
        let lines = client.call(&["QPUSH", "orders", "two\nlines"]).text();
        assert_eq!(
            client.call(&["QRESULT", "orders", &good, "BLOCK", "10000"]).text(),
            "HELLO"
        );
        assert_eq!(
            client.call(&["QRESULT", "orders", &lines, "BLOCK", "10000"]).text(),
            "TWO\nLINES"
        );
        let explained = client.call(&["QEXPLAIN", "orders", &bad]);
        let words: Vec<String> = explained.items().iter().map(|item| item.text()).collect();
        assert_eq!(words, ["state", "dead", "reason", "dead", "detail", "cannot do that"]);
        assert_eq!(self.run("result.sh", &["orders", "and more"]).trim(), "AND MORE");
        assert_eq!(client.run("QPEEK orders STATE leased").items().len(), 0);
    }

    #[track_caller]
    fn worker_works(&self, name: &str) {
        let log = self.proxy.dir().join("recipe.log");
        let mut worker = Process::spawn(name, &mut self.recipe(name, &["orders"]), &log);
        self.jobs_are_done();
        let ended = worker.terminate(PATIENCE);
        assert!(ended.success(), "{name} ended with {ended}: {}", worker.log());
        assert_eq!(worker.log(), "", "{name} had something to complain about");
    }
}

#[test]
fn a_worker_in_bash() {
    Kitchen::open().worker_works("worker.sh");
}

#[test]
fn a_worker_in_python() {
    Kitchen::open().worker_works("worker.py");
}

#[test]
fn a_worker_in_node() {
    Kitchen::open().worker_works("worker.js");
}

#[test]
fn a_worker_in_ruby() {
    if has(
        "Ruby with its gem redis",
        Command::new("ruby").args(["-e", "require 'redis'"]),
    ) {
        Kitchen::open().worker_works("worker.rb");
    }
}

#[test]
fn a_worker_in_go() {
    let library = ["list", "github.com/gomodule/redigo/redis"];
    let mut probe = Command::new("go");
    probe.args(library).env("GO111MODULE", "off").env("GOPATH", GO_PATH);
    if has("Go with redigo", &mut probe) {
        Kitchen::open().worker_works("worker.go");
    }
}

#[test]
fn a_worker_in_rust() {
    let kitchen = Kitchen::open();
    let stopping = Arc::new(AtomicBool::new(false));
    let client = redis::Client::open(format!("redis://{}", kitchen.proxy.address())).unwrap();
    let mut connection = client.get_connection().unwrap();
    let told = Arc::clone(&stopping);
    let worker = std::thread::spawn(move || worker::run(&mut connection, "orders", || told.load(Ordering::Relaxed)));
    kitchen.jobs_are_done();
    stopping.store(true, Ordering::Relaxed);
    worker.join().unwrap().unwrap();
}

#[test]
fn a_job_that_takes_longer_than_its_lease_is_kept() {
    let kitchen = Kitchen::open();
    let mut recipe = kitchen.recipe("long_job.py", &[]);
    let log = kitchen.proxy.dir().join("recipe.log");
    let mut running = Process::spawn("long_job.py", &mut recipe, &log);
    let mut client = kitchen.proxy.client();
    wait_until(PATIENCE, "the recipe's job", || {
        !client.run("QPEEK films STATE leased").items().is_empty()
    });
    // Another worker waits for longer than the lease, and does not get it.
    let got = client.run("QPOP films BLOCK 1500");
    wait_until(PATIENCE, "the recipe's end", || running.exited().is_some());
    assert!(got.is_null(), "{got}");
    assert_eq!(running.log(), "acknowledged: 1\n");
}

#[test]
fn jobs_for_later() {
    let kitchen = Kitchen::open();
    assert_eq!(kitchen.run("delayed.sh", &[]), "in a moment\n1\ntomorrow\n1\n");
}

#[test]
fn jobs_that_come_again_and_again() {
    let kitchen = Kitchen::open();
    assert_eq!(kitchen.run("cron.sh", &[]), "still there?\n1\nnightly\n");
}

#[test]
fn tenants_take_turns() {
    let kitchen = Kitchen::open();
    let printed = kitchen.run("tenants.sh", &[]);
    assert_eq!(printed, "busy: report 1\nsmall: its only report\n");
}

#[test]
fn what_waits_in_sidekiq_moves_with_its_dates_and_retries() {
    let kitchen = Kitchen::open();
    let mut client = kitchen.proxy.client();
    let job = |queue: &str, n: usize, retry: &str| {
        format!(r#"{{"class":"Mail","args":[{n}],"queue":"{queue}","jid":"jid-{n}","retry":{retry}}}"#)
    };
    for n in 0..3 {
        client.call(&["LPUSH", "queue:default", &job("default", n, "true")]);
    }
    client.call(&["ZADD", "schedule", "3000000000.5", &job("default", 3, "4")]);
    client.call(&["ZADD", "retry", "3000000001", &job("other", 4, "false")]);
    assert_eq!(kitchen.run("from_sidekiq.py", &["default"]), "waiting: 3\nlater: 1\n");
    assert_eq!(kitchen.run("from_sidekiq.py", &["default"]), "waiting: 0\nlater: 0\n");
    let jobs = client.run("QPOP default COUNT 10 NOACK");
    let payloads: Vec<String> = jobs.items().iter().map(|job| job.items()[2].text()).collect();
    assert_eq!(payloads, [0, 1, 2].map(|n| job("default", n, "true")));
    let later = client.run("QPEEK default STATE delayed").items()[0].clone();
    assert_eq!(later.field("due_ms").integer(), 3_000_000_000_500);
    assert_eq!(later.field("max_attempts").integer(), 5);
    assert_eq!(client.run("ZCARD retry").integer(), 1, "of a queue that was not named");
}

#[test]
fn what_waits_in_bullmq_moves_with_its_dates_and_priorities() {
    const ADD: &str = r#"
        const { Queue } = require("bullmq");
        (async () => {
            const queue = new Queue("mail", { connection: { port: Number(process.env.REDIS_PORT) } });
            for (let n = 0; n < 3; n++) await queue.add("welcome", { n });
            await queue.add("reset", { n: 3 }, { priority: 1, attempts: 4 });
            await queue.add("remind", { n: 4 }, { delay: 3600000 });
            await queue.close();
        })();"#;
    let kitchen = Kitchen::open();
    let mut add = Command::new("node");
    add.args(["-e", ADD]).envs(kitchen.environment());
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

    assert_eq!(kitchen.run("from_bullmq.js", &["mail"]), "5\n");
    assert_eq!(kitchen.run("from_bullmq.js", &["mail"]), "0\n");
    let mut client = kitchen.proxy.client();
    let urgent = client.run("QPEEK mail COUNT 1").items()[0].clone();
    assert_eq!(urgent.field("max_attempts").integer(), 4);
    assert_eq!(urgent.field("meta").field("name").text(), "reset");
    let jobs = client.run("QPOP mail COUNT 10 NOACK");
    let payloads: Vec<String> = jobs.items().iter().map(|job| job.items()[2].text()).collect();
    assert_eq!(payloads, [3, 0, 1, 2].map(|n| format!(r#"{{"n":{n}}}"#)));
    assert_eq!(client.run("QPEEK mail STATE delayed").items().len(), 1);
}

#[test]
fn a_list_moves_into_a_queue_in_its_order() {
    let kitchen = Kitchen::open();
    let mut client = kitchen.proxy.client();
    for (side, push) in [("left", "RPUSH"), ("right", "LPUSH")] {
        for n in 0..250 {
            client.run(&format!("{push} old {n}"));
        }
        assert_eq!(kitchen.run("from_list.py", &["old", "new", side]).trim(), "250");
        assert_eq!(client.run("LLEN old").integer(), 0);
        let jobs = client.run("QPOP new COUNT 1000 NOACK");
        let payloads: Vec<String> = jobs.items().iter().map(|job| job.items()[2].text()).collect();
        assert_eq!(payloads, (0..250).map(|n| n.to_string()).collect::<Vec<_>>(), "{side}");
    }
}
