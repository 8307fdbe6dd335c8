//! Millrace: a proxy that is a Redis to its clients, with a job queue's commands besides.
//!
//! The modules, in the order in which a request meets them.

pub mod queue;
pub mod resp;
pub mod script;
pub mod stream;
pub mod upstream;
