//! What is counted of each primary. The exporter keeps a series for ever, so these are written here: of the primaries that
//! there are, and of those that have left the topology no more.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::counters::{Counters, LATENCY_BOUNDS, NodeCounters};

/// All workers' of one node, added up.
#[derive(Default)]
struct Node {
    workers: u64,
    up: u64,
    connections: u64,
    lost: u64,
    buckets: [u64; LATENCY_BOUNDS.len() + 1],
    micros: u64,
}

impl Node {
    fn add(&mut self, counters: &NodeCounters) {
        self.workers += 1;
        self.up += counters.up.value();
        self.connections += counters.connections.value();
        self.lost += counters.lost.value();
        self.micros += counters.micros.value();
        for (sum, bucket) in self.buckets.iter_mut().zip(&counters.latencies.buckets) {
            *sum += bucket.value();
        }
    }
}

pub fn render(counters: &[Arc<Counters>]) -> String {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for node in counters.iter().flat_map(|counters| counters.nodes()) {
        nodes.entry(label(&node.name)).or_default().add(&node);
    }
    let mut text = String::new();
    let mut series = |name: &str, kind: &str, of: fn(&Node) -> u64| {
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (label, node) in &nodes {
            let _ = writeln!(text, "{name}{{node=\"{label}\"}} {}", of(node));
        }
        text.push('\n');
    };
    series("millrace_node_up", "gauge", |node| u64::from(node.up == node.workers));
    series("millrace_node_connections_total", "counter", |node| node.connections);
    series("millrace_node_connections_lost_total", "counter", |node| node.lost);
    latencies(&nodes, &mut text);
    text
}

fn latencies(nodes: &BTreeMap<String, Node>, text: &mut String) {
    const NAME: &str = "millrace_node_request_seconds";
    let _ = writeln!(text, "# TYPE {NAME} histogram");
    for (label, node) in nodes {
        let mut count = 0;
        let bounds = LATENCY_BOUNDS.iter().map(f64::to_string);
        for (bound, bucket) in bounds.chain(["+Inf".to_owned()]).zip(node.buckets) {
            count += bucket;
            let _ = writeln!(text, "{NAME}_bucket{{node=\"{label}\",le=\"{bound}\"}} {count}");
        }
        let seconds = node.micros as f64 / 1e6;
        let _ = writeln!(text, "{NAME}_sum{{node=\"{label}\"}} {seconds}");
        let _ = writeln!(text, "{NAME}_count{{node=\"{label}\"}} {count}");
    }
}

/// A node's name comes from a server: nothing in it may end the label.
fn label(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use std::time::Duration;

    #[test]
    fn workers_are_added_up_and_names_cannot_break_out() {
        let node = |host: &str| {
            let host = host.to_owned();
            Arc::new(NodeCounters::of(&Endpoint::Tcp { host, port: 1 }))
        };
        let workers = [Arc::new(Counters::new(0)), Arc::new(Counters::new(0))];
        for (worker, up) in workers.iter().zip([1, 0]) {
            let (shared, other) = (node("a"), node("b\"} 1\n"));
            shared.up.set(up);
            shared.connections.add(2);
            shared.record(Duration::from_micros(70));
            worker.know_nodes(vec![shared, other]);
        }
        let text = render(&workers);
        for line in [
            "millrace_node_up{node=\"a:1\"} 0",
            "millrace_node_connections_total{node=\"a:1\"} 4",
            "millrace_node_request_seconds_bucket{node=\"a:1\",le=\"0.00005\"} 0",
            "millrace_node_request_seconds_bucket{node=\"a:1\",le=\"0.0001\"} 2",
            "millrace_node_request_seconds_bucket{node=\"a:1\",le=\"+Inf\"} 2",
            "millrace_node_request_seconds_sum{node=\"a:1\"} 0.00014",
            "millrace_node_request_seconds_count{node=\"a:1\"} 2",
            "millrace_node_up{node=\"b\\\"} 1\\n:1\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        workers.iter().for_each(|worker| worker.know_nodes(Vec::new()));
        assert!(!render(&workers).contains("node="), "it is gone");
    }
}
