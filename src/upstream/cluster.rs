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
//!
//! What is asked, and how the replies are read: [`word`]. Who is believed: [`believed`]. When: [`timing`].

mod believed;
mod timing;
mod word;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use believed::Believed;
use timing::{Due, Timing, Told};
use word::Word;

use super::topology::{Snapshot, Topology, Watcher};
use crate::config::{Config, Endpoint};

/// While in a hurry a node that answers nothing (it may be on the machine that died) holds up the others for no longer. It
/// goes on being waited for: all of them may take their time.
const ALONE: Duration = Duration::from_millis(50);
/// A node that failed is asked after the others for so long.
const SHUNNED: Duration = Duration::from_secs(10);
/// Nodes that are asked in one go; what these do not know will be asked of others the next time.
const ASKED: usize = 8;

type Said<T> = (Endpoint, Result<T, String>);

struct Cluster {
    config: Rc<Config>,
    seeds: Vec<Endpoint>,
    believed: Believed,
    failed: HashMap<Endpoint, Instant>,
    watcher: Watcher,
    complaint: String,
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
            match timing.due(now) {
                Due::Nothing => {}
                Due::Glance => self.glance(&mut glances),
                Due::All => {
                    let alone = match timing.is_in_hurry(now) {
                        true => ALONE,
                        false => self.patience(),
                    };
                    let told = self.refresh(alone).await;
                    timing.told(told, Instant::now());
                }
            }
        }
    }

    /// Before a node is taken for dead.
    fn patience(&self) -> Duration {
        self.config.upstream.connect_timeout
    }

    /// Asks one node for the number of elections, beside all else: one that answers nothing holds up nobody.
    fn glance(&self, glances: &mut JoinSet<Said<u64>>) {
        if let Some(node) = self.order().into_iter().next() {
            let (config, patience) = (self.config.clone(), self.patience());
            glances.spawn_local(async move {
                let said = within(patience, word::ask_epoch(&node, &config)).await;
                (node, said)
            });
        }
    }

    /// There was an election of which we know nothing yet.
    fn is_news(&mut self, (node, said): Said<u64>) -> bool {
        match said {
            Ok(epoch) => epoch > self.believed.epoch,
            Err(_) => {
                self.failed.insert(node, Instant::now());
                false
            }
        }
    }

    /// `alone`: how long a node is waited for before another one is asked beside it.
    async fn refresh(&mut self, alone: Duration) -> Told {
        let (before, epoch) = (self.watcher.snapshot(), self.believed.epoch);
        let is_known = self.ask_for_all(alone).await;
        Told {
            is_known,
            was_election: self.believed.epoch > epoch,
            owners_changed: before.shards() != self.watcher.snapshot().shards(),
        }
    }

    /// Asks node after node, until one can be believed. False: there is none.
    async fn ask_for_all(&mut self, alone: Duration) -> bool {
        self.watcher.count_refresh();
        let mut complaints = Vec::new();
        let mut second_best: Option<Word> = None;
        let (mut named, mut disowned) = (0, Vec::new());
        let mut asking = Asking {
            nodes: self.order().into_iter().take(ASKED).collect(),
            asked: JoinSet::new(),
            config: self.config.clone(),
            alone,
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
        let anew = self.believed.made_anew(disowned, named);
        self.make_do(second_best, anew, complaints)
    }

    /// No node says that the cluster serves. `second_best`: the latest word of those that say it does not; `anew`: that of
    /// another cluster, at the addresses of this one. False: there is nothing to go by.
    fn make_do(&mut self, second_best: Option<Word>, anew: Option<Word>, complaints: Vec<String>) -> bool {
        if let (None, Some(word)) = (&second_best, anew) {
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

/// Nodes that are asked for all, one after another, or side by side when they take their time.
struct Asking {
    nodes: VecDeque<Endpoint>,
    asked: JoinSet<Said<Word>>,
    config: Rc<Config>,
    alone: Duration,
}

impl Asking {
    /// What the next one says, or why it says nothing. `None`: nobody is left; with `enough`, nobody who has not been
    /// waited for already.
    async fn next_word(&mut self, enough: bool) -> Option<Said<Word>> {
        if self.asked.is_empty() {
            self.ask_another();
        }
        loop {
            match timeout(self.alone, self.asked.join_next()).await {
                Ok(said) => return said?.ok(),
                Err(_) if self.nodes.is_empty() && enough => return None,
                Err(_) => self.ask_another(),
            }
        }
    }

    fn ask_another(&mut self) {
        if let Some(node) = self.nodes.pop_front() {
            let (config, patience) = (self.config.clone(), self.config.upstream.connect_timeout);
            self.asked.spawn_local(async move {
                let said = within(patience, word::ask(&node, &config)).await;
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

fn random_below(bound: usize) -> usize {
    let mut random = [0; 8];
    // Without randomness it is less fair, and works.
    let _ = getrandom::fill(&mut random);
    (u64::from_le_bytes(random) % bound as u64) as usize
}
