//! Millrace: a proxy that is a Redis to its clients, with a job queue's commands besides.
//!
//! The modules, in the order in which a request meets them.

pub mod cli;
pub mod config;
pub mod doctor;
pub mod log;
pub mod secret;
pub mod serve;

pub mod client;
pub mod command;
pub mod hub;
pub mod local;
pub mod plan;
pub mod queue;
pub mod resp;
pub mod script;
pub mod session;
pub mod stream;
pub mod upstream;
pub mod worker;

pub mod admin;
pub mod asker;
pub mod counters;

#[cfg(test)]
mod oracle;
