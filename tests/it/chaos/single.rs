//! One Redis, that writes everything to its disk before it replies (so that nothing is forgotten), behind a line that can be
//! troubled, with two proxies before it.

use super::lines::{Lined, given_up, silences, troubles};
use super::{Fault, Mix, Servers, Stage, anywhere, fault, suffering};
use crate::history::Rules;
use crate::load::LEASE;
use crate::support::{Proxy, RedisServer, Relay};

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

impl Lined for Single {
    fn line(&self) -> &Relay {
        &self.line
    }
}

const TABLE: &[Fault<Single>] = &[
    fault("kill -9 of Redis", |stage, _| {
        stage.redis.server.restart();
        None
    }),
    fault("SIGSTOP of Redis", |stage, _| {
        given_up(&stage.proxies, || stage.redis.server.freeze());
        stage.redis.server.thaw();
        None
    }),
];

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
    let tables: &[&[Fault<Single>]] = &[TABLE, &anywhere(), &troubles(), &silences()];
    stage.run("single", Mix::VARIED, &addresses, tables, &Rules::strict(LEASE));
}
