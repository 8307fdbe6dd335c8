//! The integration tests: one binary, a module for each thing shown. What they stand on is in tests/support.
#![allow(clippy::unwrap_used)] // here an unwrap that fails is a test that fails

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports)] // shared with the benches: neither uses all of it
mod support;

mod abuse;
mod chaos;
mod check;
mod clients;
mod cluster;
mod compression;
mod contract;
mod credentials;
mod crons;
mod doctor;
mod documents;
mod examples;
mod faults;
mod forgotten;
mod groups;
mod history;
mod lane;
mod load;
mod loans;
mod model;
mod order;
mod partitions;
mod plain;
mod protocol;
mod proxies;
mod recipes;
mod refusals;
mod replays;
mod replicas;
mod scripts;
mod sentinel;
mod servers;
mod shapes;
mod slow;
mod spread;
mod start;
mod tls;
mod tour;
mod transcripts;
mod unique;
mod waiting;
