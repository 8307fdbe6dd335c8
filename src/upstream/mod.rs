//! The Redis behind the proxy: who it is, and the connections to it.
//!
//! - [`embedded`]: a redis-server of our own, started, watched and ended.
//! - [`link`]: a new connection, until it may be used.
//! - [`tls`]: whom to trust on the way there, and as whom to come.
//! - [`topology`]: which Redis serves which slot; [`sentinel`] and [`cluster`] find out.
//! - [`redirect`]: the errors by which a node sends a request elsewhere.
//! - [`pipe`]: the requests of many clients on one connection, and what becomes of them when it is lost.

pub mod cluster;
pub mod embedded;
pub mod link;
pub mod pipe;
pub mod redirect;
pub mod sentinel;
pub mod tls;
pub mod topology;

use std::io;

use crate::config::{Config, Endpoint, Source};
use topology::Topology;

/// Who serves what, as the configuration says it is found out. The embedded Redis is started by [`embedded`].
pub fn find(config: &Config) -> io::Result<Topology> {
    Ok(match &config.upstream.source {
        Source::Embedded(embedded) => Topology::fixed(Endpoint::Unix(embedded::socket_in(&embedded.data_dir))),
        Source::Single(endpoint) => Topology::fixed(endpoint.clone()),
        Source::Sentinel(sentinels) => sentinel::start(sentinels.clone(), config.upstream.connect_timeout)?,
        Source::Cluster(seeds) => cluster::start(seeds.clone(), config)?,
    })
}
