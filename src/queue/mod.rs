//! The job queue: what this proxy is for.
//!
//! - [`operation`]: what a client can ask of a queue, as data.
//! - [`id`]: how a job is named, here and to clients.

pub mod id;
pub mod operation;
