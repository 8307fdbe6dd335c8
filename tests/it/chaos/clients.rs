//! The proxies themselves, and the lines from the clients to them: two proxies before one Redis. Here connections are lost,
//! and clients make new ones, as client libraries do. What a client had popped and could say nothing of any more comes back
//! when its lease ends.

use std::time::Duration;

use super::lines::cut;
use super::{Fault, Mix, SOME, Servers, Stage, fault, suffering};
use crate::history::Rules;
use crate::load::LOST;
use crate::support::relay::Way;
use crate::support::{Proxy, RedisServer, Relay};

/// The Redis, and a line to each proxy.
struct Lines {
    server: RedisServer,
    to_proxies: Vec<Relay>,
}

impl Servers for Lines {
    fn nodes(&self) -> Vec<&RedisServer> {
        vec![&self.server]
    }
}

const MIX: Mix = Mix {
    lease: Duration::from_secs(3),
    reconnects: true,
    ..Mix::VARIED
};

const TABLE: &[Fault<Lines>] = &[
    fault("clients' line delayed by 40 ms", |stage, load| {
        stage.redis.to_proxies[0].lengthen(Duration::from_millis(20));
        load.wait_for_more_of_each(SOME / 2);
        stage.redis.to_proxies[0].heal();
        None
    }),
    fault("clients' line stalled", |stage, load| {
        for way in [Way::Up, Way::Down] {
            stage.redis.to_proxies[0].stall(way);
        }
        load.wait_for_more(SOME);
        stage.redis.to_proxies[0].heal();
        None
    }),
    fault("clients' line that carries requests only", |stage, load| {
        stage.redis.to_proxies[1].stall(Way::Down);
        load.wait_for_more(SOME);
        stage.redis.to_proxies[1].heal();
        None
    }),
    fault("clients' line reset", |stage, load| {
        for line in &stage.redis.to_proxies {
            line.reset();
            load.wait_for_more(SOME);
        }
        None
    }),
    fault("clients' line cut in the middle of a reply", |stage, load| {
        cut(&stage.redis.to_proxies[0], load, Way::Down)
    }),
    fault("clients' line cut in the middle of a request", |stage, load| {
        cut(&stage.redis.to_proxies[1], load, Way::Up)
    }),
    fault("SIGSTOP of a proxy", |stage, load| {
        stage.proxies[1].freeze();
        load.wait_for_more(SOME);
        stage.proxies[1].thaw();
        None
    }),
    fault("kill -9 of a proxy", |stage, load| {
        stage.proxies[1].kill();
        load.wait_for_more_of_each(SOME);
        stage.proxies[1].restart();
        None
    }),
    fault("SIGTERM of a proxy", |stage, load| {
        stage.proxies[0].stop();
        load.wait_for_more_of_each(SOME);
        stage.proxies[0].restart();
        None
    }),
];

#[test]
fn proxies_and_the_lines_to_them_are_broken_and_nothing_is_lost_or_repeated() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let proxies: Vec<_> = (0..2).map(|_| suffering(Proxy::before(&server)).start()).collect();
    let to_proxies: Vec<_> = proxies.iter().map(|proxy| Relay::to(&proxy.address())).collect();
    let addresses: Vec<_> = to_proxies.iter().map(Relay::address).collect();
    let redis = Lines { server, to_proxies };
    let mut stage = Stage { redis, proxies };
    let rules = Rules::strict(MIX.lease).allow(&[LOST]);
    // A wake-up that died with the proxy that gave it is made good by the slow poll of another, one queue each five seconds.
    let queues = MIX.queues().len() as u32;
    let patience = rules.patience + MIX.lease + Duration::from_secs(5) * queues;
    stage.run("clients", MIX, &addresses, &[TABLE], &Rules { patience, ..rules });
}
