//! Cluster mode: which node serves which slot, by the word of the nodes. It carries no request.
//!
//! 1. Any node that is up will do: one at a time is asked, in random order, those that failed lately last, the configured
//!    seeds among them (a seed's name is resolved anew each time). The first that can be believed is. In a hurry nobody is
//!    waited for alone for long: the next one is asked beside it.
//! 2. Not believed is a node that knows of fewer elections than we do (it was cut off), one that knows none of the nodes that
//!    we know (it was taken for another cluster), and, as long as another one says otherwise, one that says that its cluster
//!    has failed.
//! 3. If most of the nodes that were named belong to another cluster, all to the same, and none says otherwise, then ours was
//!    made anew at its addresses, and that one is ours. A seed alone, which may be of another cluster, makes no such majority.
//! 4. When, see [`timing`].

mod timing;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use timing::{Due, Timing, Told};

use super::link::{self, LinkError};
use super::redirect::Address;
use super::topology::{SLOTS, Shard, Snapshot, Topology, Watcher};
use crate::config::{Config, Endpoint};
use crate::resp::reader::{BadReply, Element, Reader};

/// A node that answers nothing (it may be on the machine that died) holds up the others for no longer while in a hurry.
const HURRY_PATIENCE: Duration = Duration::from_millis(250);
/// And while another one is left to be asked, or one has answered, for no longer than this.
const ALONE: Duration = Duration::from_millis(50);
/// A node that failed is asked after the others for so long.
const SHUNNED: Duration = Duration::from_secs(10);
/// Nodes that are asked in one go; what these do not know will be asked of others the next time.
const ASKED: usize = 8;

/// What one node says.
#[derive(Clone, Debug)]
struct Word {
    /// Of the last election.
    epoch: u64,
    is_ok: bool,
    ranges: Vec<(u16, u16, Shard)>,
    /// Of these the primary is down.
    failed: Vec<(u16, u16)>,
    /// Names that stay with a node for life.
    ids: HashSet<String>,
}

type Said<T> = (Endpoint, Result<T, String>);

/// How long a node is waited for.
#[derive(Clone, Copy)]
struct Pace {
    /// Before it is taken for dead.
    patience: Duration,
    /// Before another one is asked too.
    alone: Duration,
}

struct Cluster {
    config: Rc<Config>,
    seeds: Vec<Endpoint>,
    believed: Believed,
    failed: HashMap<Endpoint, Instant>,
    watcher: Watcher,
    complaint: String,
}

/// What the last one said that was believed.
#[derive(Default)]
struct Believed {
    /// All nodes that it named.
    nodes: Vec<Endpoint>,
    ids: HashSet<String>,
    epoch: u64,
}

/// Starts the watcher on a thread of its own, so that no worker waits for a node.
pub fn start(seeds: Vec<Endpoint>, config: &Config) -> io::Result<Topology> {
    let (topology, watcher) = Topology::watched(Snapshot::unknown("no node of the cluster has answered yet"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = config.clone();
    std::thread::Builder::new().name("cluster".to_owned()).spawn(move || {
        let cluster = Cluster {
            config: Rc::new(config),
            seeds,
            believed: Believed::default(),
            failed: HashMap::new(),
            watcher,
            complaint: String::new(),
        };
        LocalSet::new().block_on(&runtime, cluster.watch());
    })?;
    Ok(topology)
}

impl Cluster {
    /// Asks until the thread ends; the process's end ends it.
    async fn watch(mut self) {
        let mut timing = Timing::new(Instant::now());
        let mut glances = JoinSet::new();
        loop {
            tokio::select! {
                () = sleep_until(timing.wake(Instant::now())) => {}
                Some(Ok(glanced)) = glances.join_next() => if self.is_news(glanced) {
                    timing.elected(Instant::now());
                },
                doubt = self.watcher.doubted() => timing.doubted(doubt, Instant::now()),
            }
            let now = Instant::now();
            let pace = self.pace(timing.is_in_hurry(now));
            match timing.due(now) {
                Due::Nothing => {}
                Due::Glance => self.glance(&mut glances, pace.patience),
                Due::All => {
                    let told = self.refresh(pace).await;
                    timing.told(told, Instant::now());
                }
            }
        }
    }

    fn pace(&self, is_in_hurry: bool) -> Pace {
        let patience = self.config.upstream.connect_timeout;
        match is_in_hurry {
            true => Pace {
                patience: patience.min(HURRY_PATIENCE),
                alone: ALONE,
            },
            false => Pace {
                patience,
                alone: patience,
            },
        }
    }

    /// Asks one node for the number of elections, beside all else: one that answers nothing holds up nobody.
    fn glance(&self, glances: &mut JoinSet<Said<(u64, bool)>>, patience: Duration) {
        if let Some(node) = self.order().into_iter().next() {
            let config = self.config.clone();
            glances.spawn_local(async move {
                let said = within(patience, ask_epoch(&node, &config)).await;
                (node, said)
            });
        }
    }

    /// There was an election of which we know nothing yet.
    fn is_news(&mut self, (node, said): Said<(u64, bool)>) -> bool {
        match said {
            Ok((epoch, _)) => epoch > self.believed.epoch,
            Err(_) => {
                self.failed.insert(node, Instant::now());
                false
            }
        }
    }

    async fn refresh(&mut self, pace: Pace) -> Told {
        let (before, epoch) = (self.watcher.snapshot(), self.believed.epoch);
        let is_known = self.ask_for_all(pace).await;
        Told {
            is_known,
            was_election: self.believed.epoch > epoch,
            owners_changed: before.shards() != self.watcher.snapshot().shards(),
        }
    }

    /// Asks node after node, until one can be believed. False: there is none.
    async fn ask_for_all(&mut self, pace: Pace) -> bool {
        self.watcher.count_refresh();
        let mut complaints = Vec::new();
        let mut second_best: Option<Word> = None;
        let (mut named, mut disowned) = (0, Vec::new());
        let mut asking = Asking {
            nodes: self.order().into_iter().take(ASKED).collect(),
            asked: JoinSet::new(),
            config: self.config.clone(),
            pace,
        };
        while let Some((node, word)) = asking.next_word(second_best.is_some()).await {
            let is_named = self.believed.nodes.contains(&node);
            named += usize::from(is_named);
            let judged = word.and_then(|word| match self.believed.judge(&word) {
                Ok(()) => Ok(word),
                Err(said) => {
                    disowned.extend(is_named.then_some(word));
                    Err(said)
                }
            });
            match judged {
                Ok(word) if word.is_ok => {
                    self.complain(complaints);
                    self.believe(word);
                    return true;
                }
                Ok(word) => {
                    complaints.push(format!("{node}: cluster_state:fail"));
                    if second_best.as_ref().is_none_or(|best| best.epoch < word.epoch) {
                        second_best = Some(word);
                    }
                }
                Err(said) => {
                    self.failed.insert(node.clone(), Instant::now());
                    complaints.push(format!("{node}: {said}"));
                }
            }
        }
        if second_best.is_none()
            && let Some(word) = self.believed.made_anew(disowned, named)
        {
            warn!(
                said = complaints.join("; "),
                "the cluster was made anew, with other nodes at its addresses: it is followed"
            );
            self.complaint.clear();
            self.believe(word);
            return true;
        }
        let told = self.complain(complaints);
        let is_known = !self.watcher.snapshot().shards().is_empty();
        match second_best.filter(|word| !word.ranges.is_empty()) {
            Some(word) => {
                self.believe(word);
                true
            }
            None if is_known => true,
            None => {
                let trouble = format!("no node of a cluster can be asked: {told}");
                self.watcher.publish(Snapshot::unknown(trouble));
                false
            }
        }
    }

    fn believe(&mut self, word: Word) {
        self.believed = Believed::of(&word);
        self.failed.retain(|_, since| since.elapsed() < SHUNNED);
        let epoch = word.epoch;
        let snapshot = Snapshot::cluster(word.ranges, &word.failed, epoch);
        let (primaries, trouble) = (snapshot.shards().len(), snapshot.trouble.clone());
        if self.watcher.publish(snapshot) {
            info!(epoch, primaries, trouble, "the cluster's slots are known");
        }
    }

    /// Those that did well first, each time in another order.
    fn order(&self) -> Vec<Endpoint> {
        let named = &self.believed.nodes;
        let seeds = self.seeds.iter().filter(|seed| !named.contains(seed));
        let mut all: Vec<_> = named.iter().chain(seeds).cloned().collect();
        for at in (1..all.len()).rev() {
            all.swap(at, random_below(at + 1));
        }
        let failed = |node: &Endpoint| self.failed.get(node).is_some_and(|at| at.elapsed() < SHUNNED);
        // A seed that no node names may be a name for all of them, or of another cluster: after those that were named.
        all.sort_by_key(|node| (failed(node), !named.contains(node)));
        all
    }

    /// What was said is logged once.
    fn complain(&mut self, mut complaints: Vec<String>) -> String {
        complaints.sort_unstable();
        let told = complaints.join("; ");
        if self.complaint != told {
            if !told.is_empty() {
                warn!(said = told, "not every node of the cluster can be asked");
            }
            self.complaint.clone_from(&told);
        }
        told
    }
}

impl Believed {
    fn of(word: &Word) -> Self {
        let primaries = word.ranges.iter().map(|(.., shard)| &shard.primary);
        let replicas = word.ranges.iter().flat_map(|(.., shard)| &shard.replicas);
        let nodes: HashSet<_> = primaries.chain(replicas).cloned().collect();
        Self {
            nodes: nodes.into_iter().collect(),
            ids: word.ids.clone(),
            epoch: word.epoch,
        }
    }

    fn judge(&self, word: &Word) -> Result<(), String> {
        if !self.ids.is_empty() && self.ids.is_disjoint(&word.ids) {
            return Err("it belongs to another cluster".to_owned());
        }
        if word.epoch < self.epoch {
            return Err(format!(
                "its map is old, of epoch {} and not {}",
                word.epoch, self.epoch
            ));
        }
        Ok(())
    }

    /// `others`: what was said by nodes that were named and are not believed, of `asked` that were. The last word of the cluster
    /// to which they all belong, if they are most of those asked.
    fn made_anew(&self, others: Vec<Word>, asked: usize) -> Option<Word> {
        let serves = |word: &&Word| word.is_ok && !word.ranges.is_empty();
        let last = others.iter().filter(serves).max_by_key(|word| word.epoch)?;
        let agree = others.iter().all(|word| !word.ids.is_disjoint(&last.ids));
        let is_other = self.ids.is_disjoint(&last.ids);
        (agree && is_other && 2 * others.len() > asked).then(|| last.clone())
    }
}

/// Nodes that are asked for all, one after another, or side by side when they take their time.
struct Asking {
    nodes: VecDeque<Endpoint>,
    asked: JoinSet<Said<Word>>,
    config: Rc<Config>,
    pace: Pace,
}

impl Asking {
    /// What the next one says, or why it says nothing. `None`: nobody is left; with `enough`, nobody who has not been
    /// waited for already.
    async fn next_word(&mut self, enough: bool) -> Option<Said<Word>> {
        if self.asked.is_empty() {
            self.ask_another();
        }
        loop {
            match timeout(self.pace.alone, self.asked.join_next()).await {
                Ok(said) => return said?.ok(),
                Err(_) if self.nodes.is_empty() && enough => return None,
                Err(_) => self.ask_another(),
            }
        }
    }

    fn ask_another(&mut self) {
        if let Some(node) = self.nodes.pop_front() {
            let (config, patience) = (self.config.clone(), self.pace.patience);
            self.asked.spawn_local(async move {
                let said = within(patience, ask(&node, &config)).await;
                (node, said)
            });
        }
    }
}

async fn within<T>(patience: Duration, asking: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(patience, asking).await {
        Ok(said) => said,
        Err(_) => Err("it does not answer".to_owned()),
    }
}

async fn ask(node: &Endpoint, config: &Config) -> Result<Word, String> {
    let lost = |error: LinkError| error.in_full();
    let stream = link::enter(node, config).await.map_err(lost)?;
    let slots = link::ask(&stream, &["CLUSTER", "SLOTS"]).await?;
    // After the slots, never before: the map is of this election or a later one.
    let info = link::ask(&stream, &["CLUSTER", "INFO"]).await?;
    let (epoch, is_ok) = read_epoch(&info)?;
    let failed = match memchr::memmem::find(&info, b"cluster_slots_fail:0\r").is_some() {
        true => Vec::new(),
        false => read_failed(&link::ask(&stream, &["CLUSTER", "NODES"]).await?),
    };
    let (ranges, ids) =
        read_slots(slots, node).map_err(|error| format!("its CLUSTER SLOTS is not understood: {error}"))?;
    Ok(Word {
        epoch,
        is_ok,
        ranges,
        failed,
        ids,
    })
}

/// The slots of primaries that are taken for dead, out of CLUSTER NODES: a line a node, words with a space between, the third
/// its flags, from the ninth on its slots.
fn read_failed(nodes: &[u8]) -> Vec<(u16, u16)> {
    let text = String::from_utf8_lossy(nodes);
    let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_dead = |words: &Vec<&str>| {
        let mut flags = words.get(2).into_iter().flat_map(|flags| flags.split(','));
        words.len() > 8 && flags.clone().any(|flag| flag == "master") && flags.any(|flag| flag == "fail")
    };
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some((first.parse().ok()?, last.parse().ok()?)) // not so those on their way: [1->-id]
    };
    let dead = lines.filter(is_dead);
    dead.flat_map(|words| words[8..].iter().filter_map(|word| range(word)).collect::<Vec<_>>())
        .collect()
}

async fn ask_epoch(node: &Endpoint, config: &Config) -> Result<(u64, bool), String> {
    let stream = link::enter(node, config).await.map_err(|error| error.in_full())?;
    read_epoch(&link::ask(&stream, &["CLUSTER", "INFO"]).await?)
}

/// The number of the last election, and whether the cluster serves.
fn read_epoch(info: &[u8]) -> Result<(u64, bool), String> {
    let info = String::from_utf8_lossy(info);
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.trim().parse().ok());
    let epoch = epoch.ok_or_else(|| "what answers is no node of a cluster".to_owned())?;
    Ok((epoch, field("cluster_state").is_some_and(|state| state.trim() == "ok")))
}

type Slots = (Vec<(u16, u16, Shard)>, HashSet<String>);

/// Each range: first slot, last slot, its primary, its replicas; each node: host, port, id, and since 7.0 more.
fn read_slots(reply: Bytes, teller: &Endpoint) -> Result<Slots, BadReply> {
    let mut reader = Reader::new(reply);
    let (mut ranges, mut ids) = (Vec::new(), HashSet::new());
    for _ in 0..reader.array()? {
        let len = reader.array()?;
        let (first, last) = (slot(reader.integer()?)?, slot(reader.integer()?)?);
        let mut nodes = Vec::new();
        for _ in 2..len {
            nodes.extend(read_node(&mut reader, teller, &mut ids)?);
        }
        let mut nodes = nodes.into_iter();
        if let Some(primary) = nodes.next() {
            let replicas = nodes.collect();
            ranges.push((first, last, Shard { primary, replicas }));
        }
    }
    Ok((ranges, ids))
}

/// `None`: it says of itself no port at which it could be reached.
fn read_node(reader: &mut Reader, teller: &Endpoint, ids: &mut HashSet<String>) -> Result<Option<Endpoint>, BadReply> {
    let len = reader.array()?;
    let host = reader.bulk_or_null()?.unwrap_or_default();
    let port = u16::try_from(reader.integer()?).map_err(|_| BadReply("no port"))?;
    if len > 2 {
        ids.insert(String::from_utf8_lossy(&reader.bulk()?).into_owned());
    }
    for _ in 3..len {
        skip(reader)?;
    }
    Ok(Address::new(&String::from_utf8_lossy(&host), port).seen_from(teller))
}

fn skip(reader: &mut Reader) -> Result<(), BadReply> {
    let parts = match reader.element()? {
        Element::Array(parts) => parts,
        Element::Map(pairs) => 2 * pairs,
        _ => 0,
    };
    (0..parts).try_for_each(|_| skip(reader))
}

fn slot(number: i64) -> Result<u16, BadReply> {
    let slot = u16::try_from(number).ok().filter(|slot| usize::from(*slot) < SLOTS);
    slot.ok_or(BadReply("no slot"))
}

fn random_below(bound: usize) -> usize {
    let mut random = [0; 8];
    // Without randomness it is less fair, and works.
    let _ = getrandom::fill(&mut random);
    (u64::from_le_bytes(random) % bound as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(ids: &[&str], epoch: u64) -> Word {
        Word {
            epoch,
            is_ok: true,
            ranges: Vec::new(),
            failed: Vec::new(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    #[test]
    fn a_node_that_was_cut_off_and_one_of_another_cluster_are_not_believed() {
        let mut believed = Believed::default();
        for (ids, epoch) in [(["a", "b"], 0), (["b", "c"], 7), (["b", "c"], 7)] {
            let word = says(&ids, epoch);
            assert_eq!(believed.judge(&word), Ok(()), "the first one is, and then who is known");
            believed = Believed::of(&word);
        }
        let refused = |ids: &[&str], epoch| believed.judge(&says(ids, epoch)).unwrap_err();
        assert!(refused(&["b", "c"], 6).contains("old"));
        assert!(refused(&["x", "y"], 9).contains("another cluster"));
    }

    #[test]
    fn a_cluster_was_made_anew_if_most_of_its_nodes_belong_to_one_other() {
        let believed = Believed::of(&says(&["a", "b", "c"], 7));
        let serves = |ids: &[&str], epoch| {
            let node = Endpoint::local(1);
            let replicas = Vec::new();
            let shard = Shard {
                primary: node,
                replicas,
            };
            Word {
                ranges: vec![(0, 16383, shard)],
                ..says(ids, epoch)
            }
        };
        let anew = |words: &[Word], asked| believed.made_anew(words.to_vec(), asked).map(|word| word.epoch);
        assert_eq!(anew(&[serves(&["x", "y"], 1), serves(&["y", "x"], 2)], 3), Some(2));
        assert_eq!(
            anew(&[serves(&["x", "y"], 1)], 3),
            None,
            "an address may be another's by now"
        );
        assert_eq!(
            anew(&[serves(&["x"], 1), serves(&["y"], 2)], 2),
            None,
            "they do not know each other yet"
        );
        assert_eq!(
            anew(&[says(&["x"], 1), says(&["x"], 1)], 2),
            None,
            "it serves nothing yet"
        );
        assert_eq!(
            anew(&[serves(&["a", "b"], 1), serves(&["a", "b"], 1)], 2),
            None,
            "cut off, all of them"
        );
    }

    #[test]
    fn the_slots_of_dead_primaries_are_known() {
        let nodes = "$9\r\na 1:1@2 master - 0 0 1 connected 0-5 [7->-b]\nb 1:2@3 master,fail - 0 0 2 connected 6-9 11 [12-<-a]\n\
                     c 1:3@4 slave,fail b 0 0 2 connected\nd 1:4@5 master,fail? - 0 0 3 connected 20\n\r\n";
        assert_eq!(read_failed(nodes.as_bytes()), [(6, 9), (11, 11)]);
    }

    #[test]
    fn nodes_are_read_as_each_version_tells_of_them() {
        let teller = Endpoint::Tcp {
            host: "10.0.0.9".into(),
            port: 7000,
        };
        // Of one range a node that has no name for itself; of the other one a host name, 7.0's metadata, and a replica.
        let reply = "*2\r\n*3\r\n:0\r\n:0\r\n*3\r\n$0\r\n\r\n:7000\r\n$1\r\na\r\n\
                     *4\r\n:1\r\n:16383\r\n*4\r\n$2\r\nr1\r\n:7001\r\n$1\r\nb\r\n*2\r\n$2\r\nip\r\n$8\r\n10.0.0.2\r\n\
                     *3\r\n$-1\r\n:7002\r\n$1\r\nc\r\n";
        let (ranges, ids) = read_slots(Bytes::from_static(reply.as_bytes()), &teller).expect("it is understood");
        let told: Vec<_> = ranges
            .iter()
            .map(|(first, last, shard)| {
                let replicas: Vec<_> = shard.replicas.iter().map(Endpoint::to_string).collect();
                (*first, *last, shard.primary.to_string(), replicas)
            })
            .collect();
        let second = (1, 16383, "r1:7001".to_owned(), vec!["10.0.0.9:7002".to_owned()]);
        assert_eq!(told, [(0, 0, "10.0.0.9:7000".to_owned(), vec![]), second]);
        assert_eq!(ids.len(), 3);
        let wrong = "*1\r\n*3\r\n:0\r\n:16384\r\n*3\r\n$0\r\n\r\n:7000\r\n$1\r\na\r\n";
        assert!(read_slots(Bytes::from_static(wrong.as_bytes()), &teller).is_err());
    }
}
