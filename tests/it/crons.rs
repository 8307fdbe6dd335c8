//! QCRON: one push a tick, whichever proxies run, and however they end. The schedules tick each second; what was pushed is
//! held against the ticks that Redis says were made.

use millrace::script::cron::{Asked, MAX_ENTRIES};

use crate::lane::{Bench, Lane};
use crate::support::{Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

/// A job that is repeated each second, before its first tick.
struct Each {
    queue: String,
    first: i64,
}

impl Each {
    fn add(client: &mut Client) -> Self {
        // Should the first tick have come before it is asked for, another queue is tried.
        for number in 0.. {
            let queue = format!("q{number}");
            assert_eq!(
                client
                    .call(&["QCRON", "ADD", &queue, "each", "* * * * * *", "payload"])
                    .text(),
                "OK"
            );
            let entry = entry(client, &queue);
            if entry.field("last_ms").is_null() {
                let first = entry.field("next_ms").integer();
                return Self { queue, first };
            }
        }
        unreachable!()
    }

    /// How many ticks were made; each has pushed one job, and none was left out.
    fn ticks(&self, client: &mut Client) -> i64 {
        loop {
            let last = entry(client, &self.queue).field("last_ms");
            let pushed = client.call(&["QSTATS", &self.queue]).field("pushed").integer();
            if entry(client, &self.queue).field("last_ms").to_string() != last.to_string() {
                continue; // one was made meanwhile
            }
            let ticks = match last.is_null() {
                true => 0,
                false => (last.integer() - self.first) / 1000 + 1,
            };
            assert_eq!(pushed, ticks, "jobs for ticks");
            return ticks;
        }
    }

    fn wait_for(&self, client: &mut Client, ticks: i64) {
        wait_until(PATIENCE, "ticks", || self.ticks(client) >= ticks);
    }
}

fn entry(client: &mut Client, queue: &str) -> Reply {
    client.call(&["QCRON", "LIST", queue]).items()[0].clone()
}

#[test]
fn each_tick_pushes_one_job_through_two_proxies_and_a_waiting_pop_gets_it() {
    let redis = RedisServer::start();
    let [one, two] = [(); 2].map(|()| Proxy::before(&redis).set("listen.workers", "2").start());
    let mut client = one.client();
    assert_eq!(
        client
            .run("QCRON ADD q each \"* * * * * *\" payload PRIORITY high META a b")
            .text(),
        "OK"
    );
    let job = two.client().run("QPOP q BLOCK 10000 WITHMETA");
    assert_eq!(
        (job.items()[2].text(), job.items()[4].field("a").text()),
        ("payload".into(), "b".into())
    );
    let each = Each::add(&mut client);
    each.wait_for(&mut client, 4);
    assert_eq!(client.run("QCRON DEL q each").integer(), 1);
    assert_eq!(client.run("QCRON DEL q each").integer(), 0);
    assert!(client.run("QCRON LIST q").items().is_empty());
}

#[test]
fn no_tick_is_missed_when_the_proxy_that_made_them_is_killed() {
    let redis = RedisServer::start();
    let mut one = Proxy::before(&redis).start();
    let two = Proxy::before(&redis).start();
    let each = Each::add(&mut one.client());
    let mut client = two.client();
    each.wait_for(&mut client, 2);
    one.kill();
    let before = each.ticks(&mut client);
    each.wait_for(&mut client, before + 3);
}

#[test]
fn the_first_repeated_job_in_a_redis_is_heard_of_by_all_proxies() {
    let redis = RedisServer::start();
    let mut one = Proxy::before(&redis).start();
    let two = Proxy::before(&redis).start();
    let mut direct = redis.client();
    let keepers = |direct: &mut Client| direct.run("PUBSUB NUMSUB q:wake:keepers").items()[1].integer();
    wait_until(PATIENCE, "both listen", || keepers(&mut direct) == 2);
    assert_eq!(direct.run("DBSIZE").integer(), 0, "nothing is kept for that");
    let mut hearer = redis.client();
    hearer.run("SUBSCRIBE q:wake:keepers");
    let each = Each::add(&mut one.client());
    assert_eq!(hearer.receive().items()[2].text(), "*cron*/0");
    one.kill();
    each.wait_for(&mut two.client(), 2);
}

#[test]
fn a_proxy_that_starts_keeps_what_another_was_told() {
    let redis = RedisServer::start();
    let mut one = Proxy::before(&redis).start();
    let each = Each::add(&mut one.client());
    one.kill();
    let two = Proxy::before(&redis).start();
    each.wait_for(&mut two.client(), 2);
}

#[test]
fn a_tick_whose_job_is_not_done_is_left_out_where_it_has_a_unique_key() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    assert_eq!(
        client
            .run("QCRON ADD q each \"* * * * * *\" payload UNIQUE running")
            .text(),
        "OK"
    );
    let deduplicated = |client: &mut Client| client.run("QSTATS q").field("deduplicated").integer();
    wait_until(PATIENCE, "two ticks", || deduplicated(&mut client) >= 1);
    assert_eq!(client.run("QSTATS q").field("pushed").integer(), 1);
}

#[test]
fn a_dropped_queue_ticks_no_more_and_leaves_nothing() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    for name in ["a", "b"] {
        assert_eq!(
            client
                .call(&["QCRON", "ADD", "q", name, "* * * * * *", "payload"])
                .text(),
            "OK"
        );
    }
    assert_eq!(client.run("QDROP q").integer(), 1);
    assert!(client.run("QCRON LIST q").items().is_empty());
    let mut direct = redis.client();
    wait_until(PATIENCE, "an empty table of queues", || {
        direct.run("EXISTS q:{*cron*/0}:cron").integer() == 0
    });
    assert_eq!(client.run("QSTATS q").field("pushed").integer(), 0);
}

#[test]
fn adding_a_name_again_replaces_it() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    client.run("QCRON ADD q a \"0 3 * * *\" one TZ Europe/Berlin");
    client.run("QCRON ADD q a \"* * * * * *\" two");
    let listed = client.run("QCRON LIST q");
    assert_eq!(listed.items().len(), 1);
    let entry = &listed.items()[0];
    for (field, value) in [
        ("name", "a"),
        ("schedule", "* * * * * *"),
        ("tz", "UTC"),
        ("payload", "two"),
    ] {
        assert_eq!(entry.field(field).text(), value);
    }
    let job = client.run("QPOP q BLOCK 10000");
    assert_eq!(job.items()[2].text(), "two");
    assert!(client.run("QCRON LIST q").items()[0].field("last_ms").integer() > 0);
}

#[test]
fn a_queue_has_so_many_repeated_jobs_and_no_more() {
    let bench = Bench::start();
    let mut lane = Lane::new(&bench, "orders", "w1");
    let tick = bench.now();
    let mut add = |number: u64| {
        let name = number.to_string();
        let (name, words) = (name.as_bytes(), &b"words"[..]);
        lane.change_crons(Asked::Add { name, words, tick })
    };
    for number in 0..MAX_ENTRIES {
        assert_eq!(add(number), 1);
    }
    assert_eq!(add(MAX_ENTRIES), 0);
    assert_eq!(add(0), 1, "that one is replaced");
    let told = lane.crons(Asked::Due);
    assert!(told.more && told.entries.len() < 20, "a bounded number a call");
}
