//! Millrace: a proxy that is a Redis to its clients, with a job queue's commands besides.
//!
//! The modules, in the order in which a request meets them.

pub mod cli;
pub mod config;
pub mod log;
pub mod queue;
pub mod resp;
pub mod secret;
pub mod stream;
pub mod upstream;
