//! What a worker counts. It alone writes its counters, without a lock; anybody may read them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::Endpoint;

/// Written by one thread only, so that adding needs no locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the latency histogram, in seconds: doubling from 50 µs; slower ones count as infinite.
pub const LATENCY_BOUNDS: [f64; 16] = [
    0.00005, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096,
    1.6, 6.4,
];

/// Latencies of one command.
#[derive(Debug, Default)]
pub struct Latencies {
    pub buckets: [Count; LATENCY_BOUNDS.len() + 1],
}

impl Latencies {
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].add(1);
    }
}

/// One worker's of one primary.
#[derive(Debug)]
pub struct NodeCounters {
    pub name: String,
    /// 1: the queues' pipe has a connection.
    pub up: Count,
    /// Made, and of these lost.
    pub connections: Count,
    pub lost: Count,
    /// From when a request was laid on a connection to its reply.
    pub latencies: Latencies,
    pub micros: Count,
}

impl NodeCounters {
    pub fn of(node: &Endpoint) -> Self {
        Self {
            name: node.to_string(),
            up: Count::default(),
            connections: Count::default(),
            lost: Count::default(),
            latencies: Latencies::default(),
            micros: Count::default(),
        }
    }

    pub fn record(&self, took: Duration) {
        self.latencies.record(took);
        self.micros.add(took.as_micros() as u64);
    }
}

/// One worker's.
#[derive(Debug, Default)]
pub struct Counters {
    pub clients: Count,
    pub connections: Count,
    pub requests: Count,
    pub bytes_in: Count,
    pub bytes_out: Count,
    pub buffered_bytes: Count,
    pub blocked_pops: Count,
    pub pushed: Count,
    pub popped: Count,
    pub acked: Count,
    pub nacked: Count,
    pub batches: Count,
    pub batched: Count,
    pub resent: Count,
    pub lost: Count,
    /// 1: the queues' pipe to a primary has a connection.
    pub upstream_up: Count,
    pub upstream_connections_lost: Count,
    /// Requests that a node sent to another one for good, and for once.
    pub moved: Count,
    pub asked: Count,
    /// Requests that wait for a primary, or for their slot to be served again.
    pub waiting: Count,
    pub refused_clients: Count,
    /// By the command's index in the table.
    pub latencies: Box<[Latencies]>,
    /// Of the primaries that there are. The lock is taken when these become others, and when they are read.
    nodes: Mutex<Vec<Arc<NodeCounters>>>,
}

impl Counters {
    pub fn new(commands: usize) -> Self {
        Self {
            latencies: (0..commands).map(|_| Latencies::default()).collect(),
            ..Self::default()
        }
    }

    pub fn know_nodes(&self, nodes: Vec<Arc<NodeCounters>>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    pub fn nodes(&self) -> Vec<Arc<NodeCounters>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
