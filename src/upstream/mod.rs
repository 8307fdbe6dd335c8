//! The Redis behind the proxy: who it is, and the connections to it.
//!
//! - [`embedded`]: a redis-server of our own, started, watched and ended.
//! - [`link`]: a new connection, until it may be used.
//! - [`tls`]: whom to trust on the way there, and as whom to come.
//! - [`topology`]: who the primary is; [`sentinel`] finds out by asking sentinels.
//! - [`pipe`]: the requests of many clients on one connection, and what becomes of them when it is lost.

pub mod embedded;
pub mod link;
pub mod pipe;
pub mod sentinel;
pub mod tls;
pub mod topology;
