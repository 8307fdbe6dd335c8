//! Millrace: a proxy that is a Redis to its clients, with a job queue's commands besides.
//!
//! The modules, in the order in which a request meets them.

pub mod asker;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod local;
pub mod log;
pub mod plan;
pub mod queue;
pub mod resp;
pub mod script;
pub mod secret;
pub mod session;
pub mod stream;
pub mod upstream;

#[cfg(test)]
mod oracle;
