//! docs/recipes: each of them is run, and does what it says.

use std::path::Path;
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

struct Kitchen {
    proxy: Proxy,
    _redis: RedisServer,
}

impl Kitchen {
    fn open() -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::before(&redis).start();
        Self { proxy, _redis: redis }
    }

    /// A recipe as its first lines say that it is run.
    fn recipe(&self, name: &str, arguments: &[&str]) -> Command {
        let clients = root().join("target/clients");
        let program = match name.rsplit('.').next() {
            Some("py") => clients.join("venv/bin/python"),
            Some("js") => "node".into(),
            _ => "bash".into(),
        };
        let mut command = Command::new(program);
        command
            .arg(root().join("docs/recipes").join(name))
            .args(arguments)
            .env("PORT", self.proxy.port().to_string())
            .env("NODE_PATH", clients.join("node_modules"));
        command
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
