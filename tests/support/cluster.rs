//! A Redis cluster on free ports: n primaries with the slots dealt out evenly, and replicas of each. It elects soon (a node
//! is taken for dead after 600 ms). Its nodes can be frozen, killed and started again, failed over, added and removed, and
//! slots moved with their keys, as an operator would while it serves.

use std::time::Duration;

use super::certificates::Certificates;
use super::{Client, RedisServer, Relay, Reply, free_port, wait_until};

pub const SLOTS: usize = 16384;
const NODE_TIMEOUT: &str = "600"; // ms
/// An election, its repetition, and a loaded machine.
const WITHIN: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub nodes: Vec<Node>,
    /// To each node, if it is known by that address alone.
    pub lines: Vec<Relay>,
    shape: Shape,
}

/// How its nodes are reached.
#[derive(Clone)]
pub struct Shape {
    host: String,
    /// What seeds call that host.
    name: String,
    /// Further ones, as redis-server takes them: `&["--cluster-require-full-coverage", "no"]`.
    arguments: Vec<String>,
    /// Of TLS, name and value; empty: there is none.
    tls: Vec<(String, String)>,
}

impl Shape {
    pub fn with(arguments: &[&str]) -> Shape {
        Shape {
            host: "127.0.0.1".to_owned(),
            name: "127.0.0.1".to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            tls: Vec::new(),
        }
    }

    pub fn at(self, host: &str) -> Shape {
        let name = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let host = host.to_owned();
        Shape { host, name, ..self }
    }

    pub fn named(self, name: &str) -> Shape {
        let name = name.to_owned();
        Shape { name, ..self }
    }

    /// Clients and the nodes among themselves: nothing else is taken.
    pub fn over_tls(self, certificates: &Certificates) -> Shape {
        let mut tls = certificates.server_settings(0);
        tls.retain(|(name, _)| name != "tls-port");
        tls.push(("tls-cluster".to_owned(), "yes".to_owned()));
        Shape { tls, ..self }
    }

    /// All that a node on that port is started with.
    fn arguments_on(&self, port: u16) -> Vec<String> {
        let mut all = self.arguments.clone();
        if !self.tls.is_empty() {
            all.extend(["--port", "0", "--tls-port"].map(str::to_owned));
            all.push(port.to_string());
        }
        let tls = self
            .tls
            .iter()
            .map(|(name, value)| [format!("--{name}"), value.clone()]);
        all.extend(tls.flatten());
        all
    }
}

pub struct Node {
    pub server: RedisServer,
    pub id: String,
    /// It answers nothing: killed or frozen by the test.
    down: bool,
}

/// How a replica becomes a primary.
#[derive(Clone, Copy, Debug)]
pub enum Failover {
    /// Nothing that was acknowledged is lost.
    Graceful,
    /// The primary is not asked.
    Force,
    /// Nor are the other primaries.
    Takeover,
}

impl Cluster {
    /// Nodes 0 to `primaries` are the primaries, then come the replicas of each in turn.
    pub fn start(primaries: usize, replicas_each: usize) -> Cluster {
        Self::start_with(primaries, replicas_each, &[])
    }

    /// Further arguments as redis-server takes them.
    pub fn start_with(primaries: usize, replicas_each: usize, arguments: &[&str]) -> Cluster {
        Self::start_as(primaries, replicas_each, Shape::with(arguments))
    }

    pub fn start_as(primaries: usize, replicas_each: usize, shape: Shape) -> Cluster {
        let nodes = (0..primaries * (1 + replicas_each)).map(|_| Node::start(&shape));
        let cluster = Cluster {
            nodes: nodes.collect(),
            lines: Vec::new(),
            shape,
        };
        cluster.form(primaries);
        cluster
    }

    /// The nodes forget all that they have and know, themselves too, and form another cluster, of primaries alone.
    pub fn form_anew(&mut self) {
        for node in &mut self.nodes {
            node.call("FLUSHALL");
            node.call("CLUSTER RESET HARD");
            node.id = node.call("CLUSTER MYID").text();
        }
        self.form(self.nodes.len());
    }

    fn form(&self, primaries: usize) {
        for (index, node) in self.nodes.iter().enumerate() {
            // Equal epochs would first have to be told apart by the nodes themselves.
            node.call(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
            if index < primaries {
                let (first, next) = (index * SLOTS / primaries, (index + 1) * SLOTS / primaries);
                node.call(&format!("CLUSTER ADDSLOTSRANGE {first} {}", next - 1));
            }
            if index > 0 {
                node.meet(&self.nodes[0]);
            }
        }
        self.wait_until_all_know_all();
        for (index, replica) in self.nodes.iter().enumerate().skip(primaries) {
            replica.replicate(&self.nodes[(index - primaries) % primaries]);
        }
        for replica in &self.nodes[primaries..] {
            replica.wait_until_it_follows();
        }
        self.wait_until_it_serves();
        self.wait_until_replicas_are_known();
    }

    /// Each node is behind a line: there it is found by all but the other nodes, which speak with each other on ports of
    /// their own; but its replicas follow it there.
    pub fn start_behind_lines(primaries: usize, replicas_each: usize) -> Cluster {
        let mut cluster = Self::start(primaries, replicas_each);
        for node in &cluster.nodes {
            let line = Relay::to(&node.server.address());
            node.call(&format!("CONFIG SET cluster-announce-port {}", line.port()));
            cluster.lines.push(line);
        }
        wait_until(WITHIN, "the lines are known", || {
            let knows = |node: &Node| {
                let nodes = node.call("CLUSTER NODES").text();
                cluster.lines.iter().all(|line| nodes.contains(&line.address()))
            };
            cluster.nodes.iter().all(knows)
        });
        cluster
    }

    /// All nodes that are up, as TOML.
    pub fn seeds(&self) -> String {
        let up = (0..self.nodes.len()).filter(|index| !self.nodes[*index].down);
        let address = |index: usize| match self.lines.get(index) {
            Some(line) => line.address(),
            None => format!("{}:{}", self.shape.name, self.nodes[index].server.port()),
        };
        let seeds: Vec<_> = up.map(|index| format!("{:?}", address(index))).collect();
        format!("[{}]", seeds.join(", "))
    }

    /// Its index. Of several that claim the slot it is the one that was elected last.
    #[track_caller]
    pub fn primary_of(&self, slot: u16) -> usize {
        let claims = self.nodes.iter().enumerate().filter(|(_, node)| !node.down);
        let claims = claims.filter_map(|(index, node)| Some((node.claims(slot)?, index)));
        claims.max().unwrap_or_else(|| panic!("slot {slot} has no primary")).1
    }

    /// The index of a replica of that node which is up.
    #[track_caller]
    pub fn replica_of(&self, primary: usize) -> usize {
        let id = &self.nodes[primary].id;
        let follows = |node: &Node| !node.down && node.myself().0.get(3) == Some(id);
        let found = self.nodes.iter().position(follows);
        found.unwrap_or_else(|| panic!("node {primary} has no replica"))
    }

    /// Makes a replica the primary, and waits until it is. It gives the order up after 5 s, for instance when the others have
    /// voted about this primary lately and don't do it again so soon; then it is told anew.
    #[track_caller]
    pub fn failover(&self, replica: usize, how: Failover) {
        let node = &self.nodes[replica];
        let how = match how {
            Failover::Graceful => "CLUSTER FAILOVER",
            Failover::Force => "CLUSTER FAILOVER FORCE",
            Failover::Takeover => "CLUSTER FAILOVER TAKEOVER",
        };
        let mut told = None; // when it had given up so often
        wait_until(WITHIN, "the replica is a primary", || {
            let given_up = node.server.log().matches("Manual failover timed out").count();
            if told != Some(given_up) && node.try_call(how).to_string() == "+OK" {
                told = Some(given_up);
            }
            node.is_primary()
        });
    }

    #[track_caller]
    pub fn wait_until_primary(&self, index: usize) {
        wait_until(WITHIN, "the replica is a primary", || self.nodes[index].is_primary());
    }

    /// Until another node than `old` serves the slot; its index.
    #[track_caller]
    pub fn wait_for_another_than(&self, old: usize, slot: u16) -> usize {
        let other = || {
            let nodes = self.nodes.iter().enumerate().filter(|(_, node)| !node.down);
            let mut claims = nodes.filter_map(|(index, node)| Some((node.claims(slot)?, index)));
            claims.find(|(_, index)| *index != old).map(|(_, index)| index)
        };
        wait_until(WITHIN, "another primary", || other().is_some());
        other().expect("it was there a moment ago")
    }

    pub fn kill(&mut self, index: usize) {
        self.nodes[index].server.kill();
        self.nodes[index].down = true;
    }

    pub fn freeze(&mut self, index: usize) {
        self.nodes[index].server.freeze();
        self.nodes[index].down = true;
    }

    pub fn thaw(&mut self, index: usize) {
        self.nodes[index].server.thaw();
        self.nodes[index].down = false;
    }

    /// After `kill`, with the addresses and the data that it had.
    pub fn restart(&mut self, index: usize) {
        self.nodes[index].server.restart();
        self.nodes[index].down = false;
    }

    // Moving a slot, as redis-cli does it:
    //   1. `begin_move`: the target takes what comes with ASKING, the source sends there whom it has no key for.
    //   2. `move_keys`: key by key, until the source has none.
    //   3. `end_move`: the target is the owner, and all have heard of it, and of the epoch of its claim. A next target that has
    //      not would claim the slot with one no higher, and lose it to an old message; then neither has it, and nothing in
    //      Redis mends that.

    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to);
        self.move_keys(slot, from, to);
        self.end_move(slot, from, to);
    }

    #[track_caller]
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        target.call(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", source.id));
        source.call(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", target.id));
    }

    #[track_caller]
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let port = self.nodes[to].server.port().to_string();
        let mut source = self.nodes[from].server.client();
        loop {
            let keys = source.run(&format!("CLUSTER GETKEYSINSLOT {slot} 10"));
            if keys.items().is_empty() {
                return;
            }
            let head = [
                "MIGRATE",
                self.nodes[to].server.host(),
                &port,
                "",
                "0",
                "5000",
                "REPLACE",
                "KEYS",
            ];
            let head = head.iter().map(|word| word.as_bytes());
            let words: Vec<&[u8]> = head.chain(keys.items().iter().map(Reply::bytes)).collect();
            let moved = source.call(&words); // NOKEY: they went by themselves meanwhile
            assert!(!moved.is_error(""), "slot {slot} cannot be moved: {moved}");
        }
    }

    #[track_caller]
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let owner = &self.nodes[to].id;
        let others = (0..self.nodes.len()).filter(|index| ![from, to].contains(index));
        for index in [to, from].into_iter().chain(others) {
            let node = &self.nodes[index];
            if !node.down && node.is_primary() {
                node.call(&format!("CLUSTER SETSLOT {slot} NODE {owner}"));
            }
        }
        wait_until(WITHIN, "all have heard who owns the slot", || {
            let claim = self.nodes[to].claims(slot);
            claim.is_some() && self.up().all(|node| node.line_of(owner).claims(slot) == claim)
        });
    }

    /// A new node without slots; its index.
    pub fn add_node(&mut self) -> usize {
        let node = Node::start(&self.shape);
        let known = self.up().next().expect("a node is up");
        node.meet(known);
        self.nodes.push(node);
        self.wait_until_all_know_all();
        self.nodes.len() - 1
    }

    /// Its slots go to the others first, in turn; then all forget it, and it ends.
    pub fn remove_node(&mut self, index: usize) {
        let slots = self.nodes[index].slots();
        let others: Vec<_> = (0..self.nodes.len())
            .filter(|other| *other != index && !self.nodes[*other].down && self.nodes[*other].is_primary())
            .collect();
        for (turn, slot) in slots.into_iter().enumerate() {
            self.move_slot(slot, index, others[turn % others.len()]);
        }
        let removed = self.nodes.remove(index);
        for node in self.up() {
            // A replica of it follows somebody else first, and then forgets it too.
            wait_until(WITHIN, "the node is forgotten", || {
                let told = node.try_call(&format!("CLUSTER FORGET {}", removed.id));
                told.to_string() == "+OK" || told.is_error("ERR Unknown node")
            });
        }
    }

    /// Until each node that is up says that all is well.
    #[track_caller]
    pub fn wait_until_it_serves(&self) {
        wait_until(WITHIN, "the cluster serves", || {
            let is_ok = |node: &Node| node.cluster_info("cluster_state") == "ok";
            self.up().all(is_ok)
        });
    }

    fn wait_until_all_know_all(&self) {
        let known = self.nodes.len().to_string();
        wait_until(WITHIN, "the nodes know each other", || {
            self.up().all(|node| node.cluster_info("cluster_known_nodes") == known)
        });
        self.wait_until_it_serves();
    }

    fn wait_until_replicas_are_known(&self) {
        let replicas = self.up().filter(|node| !node.is_primary()).count();
        wait_until(WITHIN, "all know who is a replica", || {
            let sees = |node: &Node| {
                let nodes = node.call("CLUSTER NODES").text();
                nodes.lines().filter(|line| line.contains("slave")).count() == replicas
            };
            self.up().all(sees)
        });
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.down)
    }
}

impl Node {
    fn start(shape: &Shape) -> Node {
        let (port, bus) = (free_port(), free_port().to_string());
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
        all.extend(["--cluster-node-timeout", NODE_TIMEOUT]);
        all.extend(["--cluster-allow-replica-migration", "no"]);
        // A replica that a loaded machine has kept from its primary for long is elected all the same.
        all.extend(["--cluster-replica-validity-factor", "0"]);
        all.extend(["--appendonly", "yes", "--repl-diskless-sync-delay", "0"]);
        let all = all.into_iter().map(str::to_owned).chain(shape.arguments_on(port));
        let server = RedisServer::start_on(&shape.host, port, all.collect());
        let id = server.client().run("CLUSTER MYID").text();
        Node {
            server,
            id,
            down: false,
        }
    }

    pub fn is_down(&self) -> bool {
        self.down
    }

    /// One command at the node itself, which must not be refused.
    #[track_caller]
    pub fn call(&self, line: &str) -> Reply {
        let reply = self.server.client().run(line);
        assert!(!reply.is_error(""), "{line}: {reply}");
        reply
    }

    pub fn try_call(&self, line: &str) -> Reply {
        self.server.client().run(line)
    }

    pub fn is_primary(&self) -> bool {
        self.myself().is_primary()
    }

    /// The slots that it says it serves.
    pub fn slots(&self) -> Vec<u16> {
        self.myself().slots()
    }

    /// The epoch of its claim to the slot, if it has one.
    fn claims(&self, slot: u16) -> Option<u64> {
        self.myself().claims(slot)
    }

    pub fn cluster_info(&self, field: &str) -> String {
        let info = self.call("CLUSTER INFO").text();
        let found = info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found
            .unwrap_or_else(|| panic!("CLUSTER INFO has no {field}"))
            .to_owned()
    }

    fn myself(&self) -> NodeLine {
        self.line_of(&self.id)
    }

    /// What it knows of a node.
    fn line_of(&self, id: &str) -> NodeLine {
        let nodes = self.call("CLUSTER NODES").text();
        let line = nodes.lines().find(|line| line.starts_with(id));
        let words = line.unwrap_or_default().split(' ').map(str::to_owned);
        NodeLine(words.collect())
    }

    fn meet(&self, other: &Node) {
        let bus = other.call("CONFIG GET cluster-port").field("cluster-port").text();
        let (host, port) = (other.server.host(), other.server.port());
        self.call(&format!("CLUSTER MEET {host} {port} {bus}"));
    }

    pub fn replicate(&self, primary: &Node) {
        wait_until(WITHIN, "the replica takes its primary", || {
            self.try_call(&format!("CLUSTER REPLICATE {}", primary.id)).to_string() == "+OK"
        });
    }

    pub fn wait_until_it_follows(&self) {
        wait_until(WITHIN, "the replica follows", || {
            self.call("INFO replication").text().contains("master_link_status:up")
        });
    }
}

/// A line of CLUSTER NODES, in words: a node as one of them sees it. No words: it is not known there.
struct NodeLine(Vec<String>);

impl NodeLine {
    fn is_primary(&self) -> bool {
        self.0.get(2).is_some_and(|flags| flags.contains("master"))
    }

    /// Those that it serves.
    fn slots(&self) -> Vec<u16> {
        if !self.is_primary() {
            return Vec::new();
        }
        let ranges = self.0[8..].iter().filter(|range| !range.starts_with('['));
        let slots = ranges.flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let slot = |text: &str| text.parse::<u16>().expect("a slot");
            slot(first)..=slot(last)
        });
        slots.collect()
    }

    /// The epoch of its claim to the slot, if it has one.
    fn claims(&self, slot: u16) -> Option<u64> {
        let serves = self.slots().contains(&slot);
        serves.then(|| self.0[6].parse().expect("an epoch"))
    }
}
