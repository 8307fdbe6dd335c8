//! One Redis, that writes everything to its disk before it replies (so that nothing is forgotten), behind a line that can be
//! troubled, with two proxies before it.

use std::time::{Duration, Instant};

use super::{
    Fault, Forgets, Mix, SOME, Servers, Stage, forgotten_scripts, killed_connections, paused_clients, suffering,
};
use crate::history::Rules;
use crate::load::{LEASE, Load};
use crate::support::relay::Way;
use crate::support::{PATIENCE, Proxy, RedisServer, Relay, wait_until};

struct Single {
    server: RedisServer,
    /// Between the proxies and the server.
    line: Relay,
}

impl Servers for Single {
    fn nodes(&self) -> Vec<&RedisServer> {
        vec![&self.server]
    }
}

const TABLE: &[Fault<Single>] = &[
    fault("kill -9 of Redis", |stage, _| {
        stage.redis.server.restart();
        None
    }),
    fault("SIGSTOP of Redis", |stage, _| {
        stage.redis.server.freeze();
        given_up(stage);
        stage.redis.server.thaw();
        None
    }),
    fault("SCRIPT FLUSH", forgotten_scripts),
    fault("CLIENT KILL", killed_connections),
    fault("CLIENT PAUSE", paused_clients),
    fault("line delayed by 40 ms", |stage, load| {
        stage.redis.line.delay(Way::Up, Duration::from_millis(20));
        stage.redis.line.delay(Way::Down, Duration::from_millis(20));
        healed(stage, load)
    }),
    fault("line throttled to 200 kB/s", |stage, load| {
        stage.redis.line.throttle(Way::Up, 200_000);
        stage.redis.line.throttle(Way::Down, 200_000);
        healed(stage, load)
    }),
    fault("line stalled", |stage, _| {
        stage.redis.line.stall(Way::Up);
        stage.redis.line.stall(Way::Down);
        given_up(stage);
        stage.redis.line.heal();
        None
    }),
    fault("line that carries requests only", |stage, _| {
        stage.redis.line.stall(Way::Down);
        given_up(stage);
        stage.redis.line.heal();
        None
    }),
    fault("line that carries replies only", |stage, _| {
        stage.redis.line.stall(Way::Up);
        given_up(stage);
        stage.redis.line.heal();
        None
    }),
    fault("line reset", |stage, load| {
        for _ in 0..3 {
            stage.redis.line.reset();
            load.wait_for_more(SOME);
        }
        None
    }),
    fault("line cut in the middle of a reply", |stage, load| {
        cut(stage, load, Way::Down)
    }),
    fault("line cut in the middle of a request", |stage, load| {
        cut(stage, load, Way::Up)
    }),
    fault("line that leads nowhere", |stage, _| {
        stage.redis.line.lead_nowhere();
        stage.redis.line.reset();
        given_up(stage);
        stage.redis.line.heal();
        None
    }),
];

const fn fault(name: &'static str, happens: fn(&mut Stage<Single>, &Load) -> Option<Instant>) -> Fault<Single> {
    let forgets = Forgets::Nothing;
    Fault { name, happens, forgets }
}

/// Until each proxy has given up waiting for an answer of Redis.
fn given_up(stage: &Stage<Single>) {
    let complaints = |proxy: &Proxy| proxy.log().matches("Redis did not answer within").count();
    let before: Vec<_> = stage.proxies.iter().map(complaints).collect();
    for (proxy, before) in stage.proxies.iter().zip(before) {
        wait_until(PATIENCE, "the proxy gives the connection up", || {
            complaints(proxy) > before
        });
    }
}

fn healed(stage: &Stage<Single>, load: &Load) -> Option<Instant> {
    load.wait_for_more_of_each(SOME / 2);
    stage.redis.line.heal();
    None
}

fn cut(stage: &Stage<Single>, load: &Load, way: Way) -> Option<Instant> {
    for bytes in [1, 10, 40] {
        stage.redis.line.cut(way, bytes);
        wait_until(PATIENCE, "the line is cut", || !stage.redis.line.will_cut(way));
        load.wait_for_more(SOME);
    }
    None
}

#[test]
fn a_single_redis_and_the_line_to_it_are_broken_and_no_client_notices_more_than_a_pause() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let line = Relay::to(&server.address());
    let proxy = || {
        let address = format!("{:?}", line.address());
        let plan = suffering(Proxy::before(&server)).set("upstream.address", &address);
        plan.set("upstream.response_timeout", "\"500ms\"").start()
    };
    let proxies = vec![proxy(), proxy()];
    let redis = Single { server, line };
    let mut stage = Stage { redis, proxies };
    let addresses = stage.addresses();
    stage.run("single", Mix::VARIED, &addresses, TABLE, &Rules::strict(LEASE));
}
