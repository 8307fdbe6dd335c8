//! `/metrics`: what the workers counted, handed to the exporter at each scrape.
//! The workers count for themselves and without a lock; only here do their numbers meet.

mod nodes;

use std::sync::{Arc, Mutex};

use metrics::{Recorder, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::counters::{Counters, LATENCY_BOUNDS};
use crate::hub::Shared;

const REQUEST_SECONDS: &str = "millrace_request_seconds";

pub struct Exposition {
    shared: Arc<Shared>,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// What of each command's latencies the exporter has been given: counts by command, by bucket.
    given: Mutex<Vec<[u64; LATENCY_BOUNDS.len() + 1]>>,
}

impl Exposition {
    pub fn new(shared: Arc<Shared>) -> anyhow::Result<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(REQUEST_SECONDS.into()), &LATENCY_BOUNDS)?
            .build_recorder();
        describe(&recorder);
        Ok(Self {
            given: Mutex::new(vec![Default::default(); shared.table.entries().len()]),
            handle: recorder.handle(),
            recorder,
            shared,
        })
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        with_local_recorder(&self.recorder, || {
            self.publish_totals();
            self.publish_latencies();
        });
        self.handle.run_upkeep();
        self.handle.render() + &nodes::render(&self.shared.counters)
    }

    fn publish_totals(&self) {
        let numbers = self.shared.numbers();
        for (name, value) in [
            ("millrace_connections_total", numbers.connections),
            ("millrace_requests_total", numbers.requests),
            ("millrace_client_bytes_in_total", numbers.bytes_in),
            ("millrace_client_bytes_out_total", numbers.bytes_out),
            ("millrace_jobs_pushed_total", numbers.pushed),
            ("millrace_jobs_popped_total", numbers.popped),
            ("millrace_jobs_acked_total", numbers.acked),
            ("millrace_jobs_nacked_total", numbers.nacked),
            ("millrace_batches_total", numbers.batches),
            ("millrace_batched_requests_total", numbers.batched),
            ("millrace_pushes_resent_total", numbers.resent),
            ("millrace_pushes_lost_total", numbers.lost),
        ] {
            counter!(name).absolute(value);
        }
        let topology = &self.shared.topology;
        let sum = |of: fn(&Counters) -> u64| self.shared.counters.iter().map(|counters| of(counters)).sum();
        counter!("millrace_redirects_total", "kind" => "moved").absolute(sum(|c| c.moved.value()));
        counter!("millrace_redirects_total", "kind" => "ask").absolute(sum(|c| c.asked.value()));
        counter!("millrace_topology_refreshes_total").absolute(topology.refreshes());
        gauge!("millrace_upstream_primaries").set(topology.snapshot().shards().len() as f64);
        gauge!("millrace_upstream_waiting_requests").set(sum(|c| c.waiting.value()) as f64);
        let lost = self
            .shared
            .counters
            .iter()
            .map(|c| c.upstream_connections_lost.value())
            .sum();
        counter!("millrace_upstream_connections_lost_total").absolute(lost);
        let refused = self.shared.counters.iter().map(|c| c.refused_clients.value()).sum();
        counter!("millrace_clients_refused_total").absolute(refused);
        gauge!("millrace_clients").set(numbers.clients as f64);
        gauge!("millrace_blocked_pops").set(numbers.blocked_pops as f64);
        gauge!("millrace_buffered_bytes").set(numbers.buffered_bytes as f64);
        gauge!("millrace_upstream_up").set(f64::from(u8::from(numbers.upstream_is_up)));
        gauge!("millrace_uptime_seconds").set(numbers.uptime.as_secs_f64());
    }

    fn publish_latencies(&self) {
        let Ok(mut given) = self.given.lock() else { return };
        for entry in self.shared.table.entries() {
            let index = entry.id.index();
            for bucket in 0..=LATENCY_BOUNDS.len() {
                let total: u64 = self
                    .shared
                    .counters
                    .iter()
                    .map(|counters| counters.latencies[index].buckets[bucket].value())
                    .sum();
                let new = total - given[index][bucket];
                if new > 0 {
                    given[index][bucket] = total;
                    // Each stands for its bucket's upper bound, so the sum errs to the slow side.
                    let seconds = LATENCY_BOUNDS.get(bucket).copied().unwrap_or(10.0);
                    let name = entry.name.to_string();
                    histogram!(REQUEST_SECONDS, "command" => name).record_many(seconds, new as usize);
                }
            }
        }
    }
}

fn describe(recorder: &PrometheusRecorder) {
    let text = |text: &'static str| metrics::SharedString::const_str(text);
    recorder.describe_histogram(
        REQUEST_SECONDS.into(),
        Some(metrics::Unit::Seconds),
        text("From a request's arrival to its reply, by command; each value is its bucket's upper bound."),
    );
    recorder.describe_gauge("millrace_clients".into(), None, text("Clients connected."));
    recorder.describe_gauge(
        "millrace_blocked_pops".into(),
        None,
        text("Pops that have no reply yet."),
    );
    recorder.describe_gauge(
        "millrace_upstream_up".into(),
        None,
        text("1 if every worker has a connection to a primary."),
    );
    recorder.describe_counter(
        "millrace_batched_requests_total".into(),
        None,
        text("Queue requests sent in batches; by millrace_batches_total, the mean size of one."),
    );
}
