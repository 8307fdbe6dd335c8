//! What the servers say of themselves: asked here, judged in [`super::checks`].
//!
//! The rights and the commands that the scripts need are found out by queueing each command in a transaction that is then
//! discarded: Redis looks at both as it queues, of any version, and executes nothing. (`ACL DRYRUN` needs rights that a
//! user made for the proxy has no other use for.)

use std::collections::HashMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::timeout;

use crate::config::{Config, Endpoint, Sentinels, Source};
use crate::resp::reader::{Element, Reader};
use crate::script::keys::wake_channel;
use crate::stream::Stream;
use crate::upstream::link;
use crate::upstream::sentinel::{self, Word};
use crate::upstream::topology::Topology;

/// The settings that are judged. One by one, as Redis 6.2 takes only one.
pub const SETTINGS: [&str; 15] = [
    "maxmemory",
    "maxmemory-policy",
    "save",
    "appendonly",
    "appendfsync",
    "min-replicas-to-write",
    "timeout",
    "client-output-buffer-limit",
    "maxclients",
    "lua-time-limit",
    "cluster-require-full-coverage",
    "stop-writes-on-bgsave-error",
    "cluster-allow-reads-when-down",
    "cluster-node-timeout",
    "databases",
];

/// Every command that the scripts and the pipes use, with words that make it a whole one. `K` is a key of a queue, `C` a
/// wake channel.
pub const NEEDED: [&str; 50] = [
    "EVALSHA 0 1 K",
    "SCRIPT LOAD 0",
    "SUBSCRIBE C",
    "PUBLISH C 0",
    "ZREM K 0",
    "ZADD K 0 0",
    "HDEL K 0",
    "ZSCORE K 0",
    "HSET K 0 0",
    "HGET K 0",
    "ZRANGE K 0 0",
    "ZRANGEBYSCORE K 0 0",
    "EXISTS K",
    "ZCARD K",
    "SET K 0",
    "HMGET K 0",
    "LPOP K",
    "UNLINK K",
    "RPUSH K 0",
    "LPUSH K 0",
    "LLEN K",
    "HEXISTS K 0",
    "ZRANGEBYLEX K - +",
    "ZCOUNT K 0 0",
    "PEXPIRE K 1",
    "LINDEX K 0",
    "HINCRBY K 0 1",
    "ZREMRANGEBYSCORE K 0 0",
    "ZPOPMIN K",
    "ZMSCORE K 0",
    "ZLEXCOUNT K - +",
    "TIME",
    "PTTL K",
    "LRANGE K 0 0",
    "LPOS K 0",
    "HSETNX K 0 0",
    "HGETALL K",
    "GET K",
    "GETRANGE K 0 0",
    "LREM K 0 0",
    "RPOP K",
    "LSET K 0 0",
    "RENAME K K",
    "HLEN K",
    "HSTRLEN K 0",
    "HRANDFIELD K 1",
    "HSCAN K 0",
    "ZSCAN K 0",
    "PING",
    "ROLE",
];

/// Those by which proxies wake each other in a cluster, since 7.0. `C` is a channel of a partition.
const SHARDED: [&str; 2] = ["SSUBSCRIBE C", "SPUBLISH C 0"];

#[derive(Debug, Default)]
pub struct Facts {
    /// Primaries first.
    pub nodes: Vec<Node>,
    /// Servers that were named and cannot be asked, and why.
    pub unreachable: Vec<(String, String)>,
    /// In sentinel mode what each of them said.
    pub sentinels: Vec<(String, Result<Word, String>)>,
    pub is_sentinel_mode: bool,
    pub is_cluster_mode: bool,
    /// Connections that this proxy may come to have to each primary.
    pub connections: u64,
    /// The pattern of queues that asks for the most replicas, and how many these are.
    pub replicas: Option<(String, u64)>,
}

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub is_primary: bool,
    info: HashMap<String, String>,
    settings: HashMap<String, String>,
    /// Why settings could not be read, if any could not.
    pub settings_refused: Option<String>,
    /// Its clock against ours, in ms, and by how much that may be wrong.
    pub clock: (i64, i64),
    /// Commands that our user may not call, or not with our keys and channels.
    pub forbidden: Vec<String>,
    pub missing: Vec<String>,
    /// In cluster mode commands for wake-ups that it may not call.
    pub forbidden_wakes: Vec<String>,
    /// In cluster mode what CLUSTER INFO says.
    pub cluster: HashMap<String, String>,
}

impl Node {
    pub fn info(&self, field: &str) -> Option<&str> {
        self.info.get(field).map(String::as_str)
    }

    pub fn number(&self, field: &str) -> Option<u64> {
        self.info(field)?.parse().ok()
    }

    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// The replicas that a primary names: address, and fields such as `state` and `lag`.
    pub fn replicas(&self) -> Vec<(Endpoint, HashMap<String, String>)> {
        let named = (0..).map_while(|number| self.info(&format!("slave{number}")));
        let fields = named.map(|line| {
            let pairs = line.split(',').filter_map(|pair| pair.split_once('='));
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect::<HashMap<_, _>>()
        });
        let addressed = |fields: HashMap<String, String>| {
            let (host, port) = (fields.get("ip")?.clone(), fields.get("port")?.parse().ok()?);
            Some((Endpoint::Tcp { host, port }, fields))
        };
        fields.filter_map(addressed).collect()
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.is_primary { "primary" } else { "replica" };
        write!(
            f,
            "{}: Redis {}, {role}",
            self.name,
            self.info("redis_version").unwrap_or("of unknown version")
        )
    }
}

/// Asks all that can be found.
pub async fn gather(config: &Config, mut topology: Topology) -> Result<Facts, String> {
    let mut facts = Facts {
        is_cluster_mode: matches!(config.upstream.source, Source::Cluster(_)),
        connections: config.listen.workers as u64 * 4, // queues, wake-ups, plain commands in RESP2 and RESP3
        replicas: config.most_replicas().map(|(name, most)| (name.to_owned(), most)),
        ..Facts::default()
    };
    if let Source::Sentinel(sentinels) = &config.upstream.source {
        facts.is_sentinel_mode = true;
        facts.sentinels = ask_sentinels(config, sentinels).await;
    }
    let _ = timeout(config.upstream.connect_timeout * 2, topology.known()).await; // the snapshot says what is missing
    let snapshot = topology.snapshot();
    for shard in snapshot.shards() {
        facts.ask(&shard.primary, config).await;
    }
    if facts.nodes.is_empty() {
        let said = facts
            .unreachable
            .iter()
            .map(|(name, problem)| format!("{name}: {problem}"));
        let trouble = Some(snapshot.trouble.clone()).filter(|text| !text.is_empty());
        return Err(said.chain(trouble).collect::<Vec<_>>().join("; "));
    }
    let replicas: Vec<_> = facts.nodes.iter().flat_map(Node::replicas).collect();
    for (endpoint, _) in replicas {
        facts.ask(&endpoint, config).await;
    }
    Ok(facts)
}

impl Facts {
    async fn ask(&mut self, endpoint: &Endpoint, config: &Config) {
        let patience = config.upstream.connect_timeout + config.upstream.response_timeout;
        let asked = match timeout(patience, ask(endpoint, config)).await {
            Ok(asked) => asked,
            Err(_) => Err(format!("no answers within {patience:?}")),
        };
        match asked {
            Ok(node) => self.nodes.push(node),
            Err(problem) => self.unreachable.push((endpoint.to_string(), problem)),
        }
    }
}

async fn ask(endpoint: &Endpoint, config: &Config) -> Result<Node, String> {
    let stream = link::enter(endpoint, config).await.map_err(|error| error.in_full())?;
    let server = Server { stream };
    let info = fields(&server.text("INFO").await?, ':');
    let mut settings = HashMap::new();
    let mut settings_refused = None;
    for name in SETTINGS {
        match server.call(&["CONFIG", "GET", name]).await?.as_slice() {
            [error] if error.starts_with('-') => settings_refused = Some(error[1..].to_owned()),
            [_, value] => drop(settings.insert(name.to_owned(), value.clone())),
            _ => {} // this version has none
        }
    }
    let cluster = match info.get("cluster_enabled").map(String::as_str) {
        Some("1") => fields(&server.text("CLUSTER INFO").await.unwrap_or_default(), ':'),
        _ => HashMap::new(),
    };
    let clock = server.clock().await?;
    let key = format!("{}:{{doctor/0}}:jobs", config.prefix);
    let (forbidden, missing) = server
        .rights(&NEEDED, &key, &wake_channel(&config.prefix, "doctor"))
        .await?;
    let channel = format!("{}:{{doctor/0}}:wake:doctor", config.prefix);
    let forbidden_wakes = match config.upstream.source {
        Source::Cluster(_) => server.rights(&SHARDED, &key, &channel).await?.0,
        _ => Vec::new(),
    };
    Ok(Node {
        name: endpoint.to_string(),
        is_primary: info.get("role").is_none_or(|role| role == "master"),
        info,
        settings,
        settings_refused,
        clock,
        forbidden,
        missing,
        forbidden_wakes,
        cluster,
    })
}

/// A connection for questions, in RESP2.
struct Server {
    stream: Stream,
}

impl Server {
    /// The reply's strings and numbers, in order; an error is one that begins with `-`.
    async fn call(&self, words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let reply = link::call(&self.stream, &words)
            .await
            .map_err(|error| error.in_full())?;
        flat(reply).ok_or_else(|| "what answers is no Redis".to_owned())
    }

    async fn text(&self, line: &str) -> Result<String, String> {
        let words: Vec<_> = line.split(' ').collect();
        let text = self.call(&words).await?.into_iter().next().unwrap_or_default();
        match text.strip_prefix('-') {
            Some(error) => Err(format!("{line} is refused: {error}")),
            None => Ok(text),
        }
    }

    async fn clock(&self) -> Result<(i64, i64), String> {
        let before = now();
        let reply = self.call(&["TIME"]).await?;
        let after = now();
        let number = |at: usize| reply.get(at).and_then(|text| text.parse::<i64>().ok());
        let (Some(seconds), Some(micros)) = (number(0), number(1)) else {
            return Ok((0, i64::MAX)); // refused: that is said of its rights
        };
        Ok((
            seconds * 1000 + micros / 1000 - (before + after) / 2,
            (after - before) / 2 + 1,
        ))
    }

    /// The commands that are forbidden, and those that are missing.
    async fn rights(&self, lines: &[&str], key: &str, channel: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let (mut forbidden, mut missing) = (Vec::new(), Vec::new());
        if self.call(&["MULTI"]).await? != ["OK"] {
            return Ok((vec!["MULTI".to_owned()], missing));
        }
        for line in lines {
            let words = line.split(' ').map(|word| match word {
                "K" => key,
                "C" => channel,
                word => word,
            });
            let words: Vec<&str> = words.collect();
            let reply = self.call(&words).await?;
            let error = reply.first().map_or("", String::as_str);
            if error.starts_with("-NOPERM") {
                forbidden.push(words[0].to_owned());
            } else if error.starts_with("-ERR unknown command") {
                missing.push(words[0].to_owned());
            }
        }
        self.call(&["DISCARD"]).await?;
        Ok((forbidden, missing))
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

fn flat(reply: Bytes) -> Option<Vec<String>> {
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let mut reader = Reader::new(reply);
    let mut left = 1;
    let mut all = Vec::new();
    while left > 0 {
        left -= 1;
        match reader.element().ok()? {
            Element::Simple(line) | Element::Bulk(line) => all.push(text(line)),
            Element::Error(line) => all.push(format!("-{}", text(line))),
            Element::Integer(number) => all.push(number.to_string()),
            Element::Array(len) => left += len,
            Element::Map(len) => left += 2 * len,
            Element::Null | Element::Boolean(_) | Element::Double(_) => all.push(String::new()),
        }
    }
    Some(all)
}

fn fields(text: &str, between: char) -> HashMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(between));
    lines
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

// ---- sentinels ------------------------------------------------------------------------------------------------------

/// Those of the configuration, and those that they name.
async fn ask_sentinels(config: &Config, settings: &Sentinels) -> Vec<(String, Result<Word, String>)> {
    let patience = config.upstream.connect_timeout;
    let mut known = settings.endpoints.clone();
    let mut said = Vec::new();
    let mut at = 0;
    while let Some(endpoint) = known.get(at).cloned() {
        at += 1;
        let word = match timeout(patience, sentinel::ask(&endpoint, settings)).await {
            Ok(word) => word,
            Err(_) => Err("it does not answer".to_owned()),
        };
        let others = word.iter().flat_map(|word| &word.others);
        let new: Vec<_> = others.filter(|other| !known.contains(other)).cloned().collect();
        known.extend(new.into_iter().take(sentinel::MAX_LEARNED));
        said.push((endpoint.to_string(), word));
    }
    said
}
