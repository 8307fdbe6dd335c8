//! The job queue: what this proxy is for. Pure: no tokio, no I/O, no clock.
//!
//! - [`parse`]: a queue command → what it asks. [`operation`]: the words for that. [`id`]: how a job is named.
//!   [`payload`]: how its payload is kept.
//! - [`queues`]: all queues as one worker sees them. [`lane`]: one partition of one of them; [`gather`]: what goes in one call,
//!   [`pace`]: and when, [`flight`]: and what is known of it until its reply is here.
//!   [`waiting`]: pops that wait. [`awaiting`]: who waits for a job's end.
//! - [`single`]: calls that stand for themselves. [`settings`]: what a queue goes by.
//! - [`cron`]: repeated jobs. [`crons`]: who sees to it that they are pushed.
//! - [`recent`]: pushes that were answered lately, should Redis lose them.
//! - [`names`]: which queues there are.
//! - [`reply`]: what a command comes to, and how it is written.

pub mod awaiting;
pub mod cron;
pub mod crons;
pub mod flight;
pub mod gather;
pub mod id;
pub mod lane;
pub mod names;
pub mod operation;
pub mod pace;
pub mod parse;
pub mod payload;
pub mod queues;
pub mod recent;
pub mod reply;
pub mod scale;
pub mod settings;
pub mod single;
pub mod spread;
pub mod waiting;
