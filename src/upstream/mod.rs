//! The Redis behind the proxy: who it is, and the connections to it.
//!
//! - [`pipe`]: the requests of many clients on one connection, and what becomes of them when it is lost.

pub mod pipe;
