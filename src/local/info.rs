//! `INFO`: the sections `# Proxy` and `# Queues` are ours, all others Redis's own.
//! The numbers are gathered by whoever keeps them; here they are only written.

use std::fmt::Write;
use std::time::Duration;

use crate::resp::{ReplyWriter, Request};

/// Which sections a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    pub proxy: bool,
    pub queues: bool,
    /// Any of Redis's, and any that nobody knows: Redis has an answer for those.
    pub redis: bool,
}

/// Who can answer an `INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Ours,
    Redis,
    Both,
}

impl Sections {
    /// `INFO [section …]`
    pub fn asked(request: Request) -> Self {
        let all = Self {
            proxy: true,
            queues: true,
            redis: true,
        };
        if request.len() == 1 {
            return all;
        }
        request.args().skip(1).fold(Self::default(), |mut asked, section| {
            let is = |name: &str| section.eq_ignore_ascii_case(name.as_bytes());
            match () {
                () if is("proxy") => asked.proxy = true,
                () if is("queues") => asked.queues = true,
                () if is("all") || is("everything") || is("default") => asked = all,
                () => asked.redis = true,
            }
            asked
        })
    }

    pub fn whose(self) -> Whose {
        match (self.proxy || self.queues, self.redis) {
            (true, true) => Whose::Both,
            (true, false) => Whose::Ours,
            (false, _) => Whose::Redis,
        }
    }
}

/// What `# Proxy` and `# Queues` say, over all workers; counters are since the proxy's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub uptime: Duration,
    pub workers: usize,
    /// `embedded`, `single` …
    pub mode: &'static str,
    pub upstream_is_up: bool,
    pub clients: u64,
    pub max_clients: u64,
    pub connections: u64,
    pub requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Of all requests and replies that wait in the proxy.
    pub buffered_bytes: u64,
    pub blocked_pops: u64,
    pub pushed: u64,
    pub popped: u64,
    pub acked: u64,
    pub nacked: u64,
    pub batches: u64,
    /// Requests that went in batches; by the batches, the mean size of one.
    pub batched: u64,
    /// Acknowledged pushes that Redis lost: pushed again, and not.
    pub resent: u64,
    pub lost: u64,
}

/// The reply to an `INFO` that asks for nothing of Redis's.
pub fn write(sections: Sections, numbers: &Numbers, reply: &mut ReplyWriter) {
    reply.verbatim(&text(sections, numbers));
}

/// Redis's reply (a bulk or verbatim string) with our sections behind it. Anything else, an error, is handed on as it is.
pub fn splice(redis: &[u8], sections: Sections, numbers: &Numbers, reply: &mut ReplyWriter) {
    let Some(theirs) = theirs(redis) else {
        return reply.raw(redis);
    };
    let ours = text(sections, numbers);
    let gap = if theirs.is_empty() || ours.is_empty() {
        ""
    } else {
        "\r\n"
    };
    // Clients that are told of a cluster ask for its nodes, which they may not be able to reach.
    let theirs = theirs.replace("redis_mode:cluster", "redis_mode:standalone");
    let theirs = theirs.replace("cluster_enabled:1", "cluster_enabled:0");
    reply.verbatim(&format!("{theirs}{gap}{ours}"));
}

fn theirs(redis: &[u8]) -> Option<&str> {
    let line = memchr::memchr(b'\n', redis)?;
    let text = std::str::from_utf8(redis.get(line + 1..redis.len() - 2)?).ok()?;
    match redis[0] {
        b'$' => Some(text),
        b'=' => text.strip_prefix("txt:"),
        _ => None,
    }
}

fn text(sections: Sections, numbers: &Numbers) -> String {
    let mut parts = Vec::new();
    if sections.proxy {
        parts.push(section("Proxy", &proxy(numbers)));
    }
    if sections.queues {
        parts.push(section("Queues", &queues(numbers)));
    }
    parts.join("\r\n")
}

fn section(title: &str, fields: &[(&str, String)]) -> String {
    let mut text = format!("# {title}\r\n");
    for (name, value) in fields {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name}:{value}\r\n");
    }
    text
}

fn proxy(numbers: &Numbers) -> Vec<(&'static str, String)> {
    vec![
        ("millrace_version", env!("CARGO_PKG_VERSION").into()),
        ("proxy_process_id", std::process::id().to_string()),
        ("proxy_uptime_in_seconds", numbers.uptime.as_secs().to_string()),
        ("proxy_workers", numbers.workers.to_string()),
        ("upstream_mode", numbers.mode.into()),
        (
            "upstream_status",
            if numbers.upstream_is_up { "up" } else { "down" }.into(),
        ),
        ("proxy_connected_clients", numbers.clients.to_string()),
        ("proxy_maxclients", numbers.max_clients.to_string()),
        ("proxy_total_connections_received", numbers.connections.to_string()),
        ("proxy_total_commands_processed", numbers.requests.to_string()),
        ("proxy_total_net_input_bytes", numbers.bytes_in.to_string()),
        ("proxy_total_net_output_bytes", numbers.bytes_out.to_string()),
        ("proxy_buffered_bytes", numbers.buffered_bytes.to_string()),
    ]
}

fn queues(numbers: &Numbers) -> Vec<(&'static str, String)> {
    vec![
        ("queue_blocked_pops", numbers.blocked_pops.to_string()),
        ("queue_jobs_pushed", numbers.pushed.to_string()),
        ("queue_jobs_popped", numbers.popped.to_string()),
        ("queue_jobs_acked", numbers.acked.to_string()),
        ("queue_jobs_nacked", numbers.nacked.to_string()),
        ("queue_batches", numbers.batches.to_string()),
        ("queue_batched_requests", numbers.batched.to_string()),
        ("queue_pushes_resent", numbers.resent.to_string()),
        ("queue_pushes_lost", numbers.lost.to_string()),
    ]
}
