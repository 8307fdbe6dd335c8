//! Millrace: a proxy that is a Redis to its clients, with a job queue's commands besides.
//!
//! The modules, in the order in which a request meets them.

pub mod command;
pub mod local;
pub mod plan;
pub mod queue;
pub mod resp;
pub mod session;

#[cfg(test)]
mod oracle;
