//! What is measured, a file a subject. Every row starts its own servers, runs ours and the peer in turn, several rounds
//! of each, and reports the medians.

pub mod depth;
pub mod idle;
pub mod jobs;
pub mod latency;
pub mod plain;
pub mod waiting;

use crate::support::proxy::ProxyPlan;
use crate::support::{Proxy, RedisServer};

/// How a run was asked for.
pub struct Settings {
    pub rounds: usize,
    /// Worker threads of the proxy in the rows about jobs; 0 is one a core, the proxy's own default.
    pub workers: usize,
}

/// The Redis and the proxy of a row: TCP between all, as the peers have it.
fn redis_and_proxy(workers: usize) -> (RedisServer, Proxy) {
    redis_and_proxy_with(workers, |plan| plan)
}

fn redis_and_proxy_with(workers: usize, adapt: impl FnOnce(ProxyPlan) -> ProxyPlan) -> (RedisServer, Proxy) {
    let redis = RedisServer::start();
    let proxy = adapt(Proxy::before(&redis).workers(workers)).start();
    (redis, proxy)
}
