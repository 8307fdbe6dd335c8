//! Those who wait: who is served first, that nobody waits in vain, and that a push calls one of them and no crowd.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::{AT_ONCE, Client, PATIENCE, Proxy, RedisServer, wait_until};

/// Pops that the proxy holds back.
fn blocked(client: &mut Client) -> usize {
    let info = client.run("INFO queues").text();
    let line = info.lines().find_map(|line| line.strip_prefix("queue_blocked_pops:"));
    line.unwrap().parse().unwrap()
}

/// Clients that wait, one after another: each has come to its place before the next one asks.
fn wait_in_turn(proxy: &Proxy, pops: &[&str]) -> Vec<Client> {
    let mut looking = proxy.client();
    let mut waiting = Vec::new();
    for pop in pops {
        let mut client = proxy.client();
        client.send(&pop.split(' ').collect::<Vec<_>>());
        waiting.push(client);
        wait_until(PATIENCE, "the pop waits", || blocked(&mut looking) == waiting.len());
    }
    waiting
}

/// The number that a client's job has as its payload.
fn number(client: &mut Client) -> usize {
    client.receive().items()[2].text().parse().unwrap()
}

/// How often Redis has executed a command, scripts' calls included.
fn calls(redis: &RedisServer, command: &str) -> usize {
    let stats = redis.client().run("INFO commandstats").text();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn who_has_waited_longest_at_a_proxy_is_served_first() {
    let redis = RedisServer::start();
    let (proxy, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let mut waiting = wait_in_turn(&proxy, &["QPOP q BLOCK 0 NOACK"; 50]);
    let mut pushing = other.client();
    for (place, client) in waiting.iter_mut().enumerate() {
        pushing.call(&["QPUSH", "q", &place.to_string()]);
        assert_eq!(number(client), place);
    }
}

#[test]
fn who_was_called_in_vain_keeps_its_place() {
    let redis = RedisServer::start();
    let (proxy, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let mut waiting = wait_in_turn(&proxy, &["QPOP q BLOCK 0 NOACK"; 20]);
    let is_over = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        // Takes what it can before those who were called for it come.
        let rival = scope.spawn(|| {
            let (mut client, mut taken) = (other.client(), 0);
            while !is_over.load(Ordering::Relaxed) {
                taken += usize::from(!client.run("QPOP q NOACK").is_null());
            }
            taken
        });
        let mut pushing = other.client();
        let mut looking = proxy.client();
        for job in 0.. {
            if blocked(&mut looking) == 0 {
                break;
            }
            pushing.call(&["QPUSH", "q", &job.to_string()]);
        }
        is_over.store(true, Ordering::Relaxed);
        rival.join().unwrap()
    });
    assert!(taken > 0, "nobody was called in vain");
    let served: Vec<usize> = waiting.iter_mut().map(number).collect();
    assert!(served.is_sorted(), "{served:?}");
}

#[test]
fn a_pop_of_many_queues_keeps_its_place_among_those_of_each() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).workers(1).start();
    let other = Proxy::before(&redis).start();
    let pops = [
        "QPOP b BLOCK 0 NOACK",
        "QMPOP 2 a b BLOCK 0 NOACK",
        "QPOP b BLOCK 0 NOACK",
        "QMPOP 3 c b a BLOCK 0 NOACK",
    ];
    let mut waiting = wait_in_turn(&proxy, &pops);
    let mut pushing = other.client();
    for retries in 1..=5 {
        // New settings call all who wait: in `a` those two who also wait in `b`, in vain.
        pushing.run(&format!("QCONFIG SET a retries {retries}"));
        wait_until(PATIENCE, "the proxy waits in `a` again", || {
            redis.client().run("EXISTS q:{a/0}:waiting").integer() == 1
        });
        proxy.client().run("QLEN a"); // behind the call that was in vain
    }
    for (place, client) in waiting.iter_mut().enumerate() {
        pushing.call(&["QPUSH", "b", &place.to_string()]);
        assert_eq!(number(client), place);
    }
}

#[test]
fn a_pop_of_many_queues_is_served_once_by_whichever_has_work() {
    let redis = RedisServer::start();
    let (proxy, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let names: Vec<String> = (0..50).map(|n| format!("queue-{n}")).collect();
    let pop = format!("QMPOP 50 {} BLOCK 0 NOACK", names.join(" "));
    let mut pushing = other.client();
    for name in &names {
        let mut waiting = wait_in_turn(&proxy, &[&pop]);
        pushing.call(&["QPUSH", name, "1"]);
        let job = waiting[0].receive();
        assert_eq!(job.items()[0].text(), *name);
    }
    // Its places in the other queues are empty: nobody takes what is pushed there now.
    for name in &names {
        pushing.call(&["QPUSH", name, "2"]);
    }
    for name in &names {
        assert_eq!(pushing.call(&["QLEN", name]).integer(), 1, "{name}");
    }
    assert_eq!(blocked(&mut proxy.client()), 0);
}

#[test]
fn a_push_calls_one_of_those_who_wait_and_no_crowd() {
    const WAITING: usize = 50; // at each of two proxies
    let redis = RedisServer::start();
    let [one, other, pushing] = [0, 1, 2].map(|_| Proxy::before(&redis).start());
    let _waiting = [&one, &other].map(|proxy| wait_in_turn(proxy, &["QPOP q BLOCK 0 NOACK"; WAITING]));
    let mut looking = [one.client(), other.client()];
    let mut left = || looking.iter_mut().map(blocked).sum::<usize>();
    let (mut client, started) = (pushing.client(), Instant::now());
    let before = ["evalsha", "publish"].map(|command| calls(&redis, command));
    const PUSHES: usize = 2 * WAITING - 2; // as long as somebody waits at each of them
    for pushed in 1..=PUSHES {
        client.run("QPUSH q x");
        wait_until(PATIENCE, "one of them has it", || left() == 2 * WAITING - pushed);
    }
    let after = ["evalsha", "publish"].map(|command| calls(&redis, command));
    // The slow poll that finds what a dead proxy left: each worker of the two asks one queue every five seconds.
    let polls = 8 * (1 + started.elapsed().as_secs() as usize / 5);
    // While one push follows another the proxy they come through looks ten times a second whether those who were called have come.
    let polls = polls + started.elapsed().as_millis() as usize / 100;
    let (scripts, messages) = (after[0] - before[0], after[1] - before[1]);
    assert!(scripts <= 2 * PUSHES + polls, "{scripts} calls for {PUSHES} pushes");
    assert!(messages <= PUSHES + polls, "{messages} messages for {PUSHES} pushes");
}

/// A frozen proxy still has its connections, so Redis hands on to it what it says to those who wait there.
#[test]
fn a_job_for_which_a_frozen_proxy_is_called_goes_to_who_waits_at_the_next() {
    let redis = RedisServer::start();
    let [frozen, living, pushing] = [0, 1, 2].map(|_| Proxy::before(&redis).start());
    let queues: Vec<String> = (0..20).map(|number| format!("q{number}")).collect();
    let pops: Vec<String> = queues
        .iter()
        .map(|queue| format!("QPOP {queue} BLOCK 0 NOACK"))
        .collect();
    let pops: Vec<&str> = pops.iter().map(String::as_str).collect();
    let first = wait_in_turn(&frozen, &pops);
    let mut next = wait_in_turn(&living, &pops);
    for queue in &queues {
        let waiting = format!("q:{{{queue}/0}}:waiting");
        wait_until(PATIENCE, "both are known to wait", || {
            redis.client().call(&["ZCARD", &waiting]).integer() == 2
        });
    }
    frozen.freeze();
    let pushed = Instant::now();
    // Through one that has nobody who waits, and through one that has.
    for (number, queue) in queues.iter().enumerate() {
        let through = if number % 2 == 0 { &pushing } else { &living };
        through.client().call(&["QPUSH", queue, "job"]);
    }
    for client in &mut next {
        assert_eq!(client.receive().items()[2].text(), "job");
    }
    assert!(pushed.elapsed() < AT_ONCE, "{:?}", pushed.elapsed());
    frozen.thaw();
    drop(first);
}

/// Ten wait at the very proxy through which all is pushed, as fast as they come, and one at another: it must get some too.
#[track_caller]
fn nobody_is_starved(settings: &str, push: impl Fn(&mut Client) + Sync) {
    const ENOUGH: usize = 5;
    let redis = RedisServer::start();
    let (busy, quiet) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    busy.client().run(settings);
    let (got, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut client = busy.client();
                while !is_over.load(Ordering::Relaxed) {
                    client.run("QPOP q BLOCK 50 NOACK");
                }
            });
        }
        scope.spawn(|| {
            let mut client = quiet.client();
            while !is_over.load(Ordering::Relaxed) {
                let job = client.run("QPOP q BLOCK 100 NOACK");
                got.fetch_add(usize::from(!job.is_null()), Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut client = busy.client();
            while !is_over.load(Ordering::Relaxed) {
                push(&mut client);
            }
        });
        let started = Instant::now();
        while got.load(Ordering::Relaxed) < ENOUGH && started.elapsed() < PATIENCE {
            thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let got = got.load(Ordering::Relaxed);
    assert!(got >= ENOUGH, "who waits at the other proxy got {got} jobs");
}

#[test]
fn no_proxy_takes_all_the_jobs_while_others_wait_at_another() {
    nobody_is_starved("QRESUME q", |client| {
        client.run("QPUSH q x");
        client.run("QPOP nothing BLOCK 1"); // so slowly that somebody always waits
    });
}

#[test]
fn no_proxy_takes_all_that_a_rate_allows_while_others_wait_at_another() {
    nobody_is_starved("QCONFIG SET q rate 50/s", |client| {
        client.run("QMPUSH q 2 x y");
        client.run("QPOP nothing BLOCK 30"); // more than the rate allows
    });
}
