//! The job queue: what this proxy is for.
//!
//! - [`operation`]: what a client can ask of a queue, as data.

pub mod operation;
