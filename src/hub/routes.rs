//! Which connection a request goes over: the owner of its key's slot, as this worker knows it, and of that node's pipes the
//! one of its protocol and database.
//!
//! What is known comes in snapshots ([`crate::upstream::topology`]); what a node says of a slot (`MOVED`) is believed at
//! once, before a snapshot says so too. Without a cluster there is one slot and one owner of it, and all else is the same.
//!
//! When a slot's owner changes:
//!   1. What waits for a connection to the old one goes to the new one.
//!   2. What has been sent to the old one is answered by it, and till then nothing of the slot goes to the new one
//!      ([`super::detours`]).
//!   3. A node that owns nothing any more gets no request more. A cluster's has a moment to answer what it owes, mostly by
//!      sending it on; then it is given up. A primary that sentinels have replaced is given up at once: what it still says
//!      it has done is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;
use smallvec::SmallVec;

use super::Hub;
use super::detours::Away;
use super::pipes::{PipeState, Role, Target};
use crate::command::keys;
use crate::config::Endpoint;
use crate::counters::NodeCounters;
use crate::queue::spread::Primaries;
use crate::upstream::link::{LinkError, PipeKind};
use crate::upstream::pipe::{Pending, Unsent};
use crate::upstream::topology::{SLOTS, Snapshot};

/// A node's place among those that a worker knows.
pub(super) type NodeKey = u32;
const NOBODY: NodeKey = NodeKey::MAX;

/// The slot of what has no key: any primary serves it.
const KEYLESS: u16 = SLOTS as u16;
/// A node that owns nothing any more answers within this what it owes. If it lives, it answers in a millisecond; one that
/// has been silent for long gets no time more.
const GRACE: Duration = Duration::from_millis(100);
/// What a node said of a slot is believed for so long, whatever snapshots say: they may be of a node that has not heard.
const FRESH: Duration = Duration::from_secs(2);

pub(super) struct Node {
    pub endpoint: Endpoint,
    /// It owns slots.
    pub owns: bool,
    pub pipes: SmallVec<[(PipeKind, usize); 2]>,
    pub ears: Option<usize>,
    pub counters: Arc<NodeCounters>,
}

pub(super) struct Routes {
    nodes: Slab<Node>,
    /// Of each slot, and of [`KEYLESS`]; a single one where there is no cluster.
    owners: Box<[NodeKey]>,
    /// Requests of a slot that lie in pipes, likewise.
    in_pipes: Box<[u32]>,
    /// Slots whose owner is known by a node's word, and since when.
    told: Vec<(u16, Instant)>,
}

impl Routes {
    pub fn new(is_cluster: bool) -> Self {
        let slots = if is_cluster { SLOTS + 1 } else { 1 };
        Self {
            nodes: Slab::new(),
            owners: vec![NOBODY; slots].into(),
            in_pipes: vec![0; slots].into(),
            told: Vec::new(),
        }
    }

    pub fn is_cluster(&self) -> bool {
        self.owners.len() > 1
    }

    pub fn slot_of(&self, key: Option<&[u8]>) -> u16 {
        match (self.is_cluster(), key) {
            (false, _) => 0,
            (true, Some(key)) => keys::slot(key),
            (true, None) => KEYLESS,
        }
    }

    pub fn of_partition(&self, slot: u16) -> u16 {
        if self.is_cluster() { slot } else { 0 }
    }

    pub fn owner(&self, slot: u16) -> Option<NodeKey> {
        Some(self.owners[usize::from(slot)]).filter(|owner| *owner != NOBODY)
    }

    pub fn node(&self, key: NodeKey) -> &Node {
        &self.nodes[key as usize]
    }

    pub fn node_mut(&mut self, key: NodeKey) -> &mut Node {
        &mut self.nodes[key as usize]
    }

    /// Of all that own slots.
    pub fn counters(&self) -> Vec<Arc<NodeCounters>> {
        let owning = self.nodes.iter().filter(|(_, node)| node.owns);
        owning.map(|(_, node)| node.counters.clone()).collect()
    }

    /// Those that own slots.
    pub fn owning(&self) -> Vec<NodeKey> {
        let owning = self.nodes.iter().filter(|(_, node)| node.owns);
        owning.map(|(key, _)| key as NodeKey).collect()
    }

    pub fn node_at(&mut self, endpoint: &Endpoint) -> NodeKey {
        let known = self.nodes.iter().find(|(_, node)| node.endpoint == *endpoint);
        let key = known.map(|(key, _)| key).unwrap_or_else(|| {
            self.nodes.insert(Node {
                endpoint: endpoint.clone(),
                owns: false,
                pipes: SmallVec::new(),
                ears: None,
                counters: Arc::new(NodeCounters::of(endpoint)),
            })
        });
        key as NodeKey
    }

    /// A request of this slot was laid on a pipe.
    pub fn laid(&mut self, slot: u16) {
        self.in_pipes[usize::from(slot)] += 1;
    }

    /// It has left the pipe.
    pub fn left(&mut self, slot: u16) {
        self.in_pipes[usize::from(slot)] -= 1;
    }

    /// It has an owner, and nothing on its way.
    pub fn is_free(&self, slot: u16) -> bool {
        self.in_pipes[usize::from(slot)] == 0 && self.owner(slot).is_some()
    }

    /// Another node says that this one is the slot's owner.
    fn tell(&mut self, slot: u16, owner: NodeKey, now: Instant) {
        self.owners[usize::from(slot)] = owner;
        self.nodes[owner as usize].owns = true;
        self.told.retain(|(told, at)| *told != slot && *at + FRESH > now);
        self.told.push((slot, now));
    }

    /// A node that cannot be reached is no longer believed to own what it was said to: that may be old. True: something was.
    fn distrust(&mut self, node: NodeKey) -> bool {
        let before = self.told.len();
        self.told.retain(|(slot, _)| self.owners[usize::from(*slot)] != node);
        self.told.len() < before
    }

    fn take_over(&mut self, snapshot: &Snapshot, worker: usize, now: Instant) {
        let shards = snapshot.shards();
        let nodes: Vec<_> = shards.iter().map(|shard| self.node_at(&shard.primary)).collect();
        self.told.retain(|(_, at)| *at + FRESH > now);
        let told: Vec<_> = self
            .told
            .iter()
            .map(|(slot, _)| (*slot, self.owners[usize::from(*slot)]))
            .collect();
        for (slot, owner) in self.owners.iter_mut().enumerate().take(SLOTS) {
            *owner = snapshot.shard_of(slot as u16).map_or(NOBODY, |shard| nodes[shard]);
        }
        for (slot, owner) in told {
            self.owners[usize::from(slot)] = owner;
        }
        if self.is_cluster() && !nodes.contains(&self.owners[SLOTS]) {
            // Workers differ, so that not all keyless commands go to one node.
            self.owners[SLOTS] = nodes.get(worker % nodes.len().max(1)).copied().unwrap_or(NOBODY);
        }
        for (key, node) in &mut self.nodes {
            node.owns = self.owners.contains(&(key as NodeKey));
        }
        self.forget_strangers();
    }

    fn forget_strangers(&mut self) {
        self.nodes
            .retain(|_, node| node.owns || !node.pipes.is_empty() || node.ears.is_some());
    }

    pub fn remove_pipe(&mut self, node: NodeKey, index: usize) {
        let at = self.node_mut(node);
        at.pipes.retain(|(_, pipe)| *pipe != index);
        at.ears = at.ears.filter(|ears| *ears != index);
        self.forget_strangers();
    }
}

impl Hub {
    /// The pipe for a slot's requests of that protocol and database; `None`: they have to wait, see [`super::detours`].
    /// Database 0 is the one that the configuration names.
    pub(super) fn way(&mut self, slot: u16, mut kind: PipeKind) -> Option<usize> {
        if self.detours.is_closed(slot) {
            return None;
        }
        if kind.database == 0 {
            kind.database = self.shared.config.upstream.database;
        }
        let owner = self.routes.owner(slot)?;
        Some(self.pipe_at(owner, kind))
    }

    pub(super) fn pipe_at(&mut self, node: NodeKey, kind: PipeKind) -> usize {
        let pipes = &self.routes.node(node).pipes;
        if let Some((_, index)) = pipes.iter().find(|(known, _)| *known == kind) {
            return *index;
        }
        let index = self.open_pipe(PipeState::new(node, Role::Requests(kind)));
        self.routes.node_mut(node).pipes.push((kind, index));
        index
    }

    /// One that was on its way, and is to be sent again.
    pub(super) fn send_again(&mut self, request: Unsent<Target>) {
        let Some(kind) = self.kind_of(&request.to) else {
            return; // a script, which each connection is given as it begins
        };
        match self.way(request.slot, kind) {
            Some(index) => self.lay(index, request),
            None => self.detours.turn_away(request, Away::Lost, self.now),
        }
    }

    fn lay(&mut self, index: usize, request: Unsent<Target>) {
        self.routes.laid(request.slot);
        let state = &mut self.pipes[index];
        state.hurry();
        state.pipe.send_again(request);
    }

    fn kind_of(&self, target: &Target) -> Option<PipeKind> {
        match target {
            Target::Client { kind, .. } => Some(*kind),
            Target::Lane(lane) if self.queues.waits(*lane) => Some(self.waiting_kind(*lane)),
            Target::Lane(_) => Some(self.queue_kind()),
            Target::Ear(_) | Target::Nobody => None,
        }
    }

    /// There is a new snapshot.
    pub fn follow(&mut self) {
        self.now = Instant::now();
        let snapshot = self.shared.topology.snapshot();
        self.routes.take_over(&snapshot, self.number, self.now);
        self.queues.know_primaries(primaries(&snapshot));
        for owner in self.routes.owning() {
            self.open_own_pipes(owner);
        }
        self.leave_old_owners();
        self.turn_ears();
        self.queues.resume();
        self.note_upstream();
        self.want_flush();
    }

    /// A node cannot be reached. What is known by others' word alone of its slots gives way to the last snapshot, which may
    /// be newer, and after which no other may come.
    pub(super) fn distrust(&mut self, node: NodeKey) {
        if self.routes.distrust(node) {
            self.follow();
        }
    }

    /// Moves what lies in pipes to nodes that do not own its slot any more.
    fn leave_old_owners(&mut self) {
        let mut again = Vec::new();
        let mut closed = Vec::new();
        let now = self.now;
        for (_, state) in &mut self.pipes {
            let (node, routes) = (state.node, &self.routes);
            let is_strange = |request: &Pending<Target>| routes.owner(request.slot) != Some(node);
            let owns = routes.node(node).owns;
            if state.role == Role::Ears {
                state.leaves = (!owns && state.is_up()).then(|| state.leaves.unwrap_or(now));
            } else if !state.is_up() {
                again.extend(
                    state
                        .pipe
                        .recall(is_strange)
                        .into_iter()
                        .map(|request| (request, false)),
                );
            } else {
                let moved = state
                    .pipe
                    .pending()
                    .filter(|request| !request.is_asking() && is_strange(request));
                closed.extend(moved.map(|request| request.slot));
                if !owns && state.owned {
                    again.extend(state.pipe.recall(is_strange).into_iter().map(|request| (request, true)));
                    let is_over = !routes.is_cluster() || state.is_silent(now);
                    let grace = if is_over { Duration::ZERO } else { GRACE };
                    state.leaves = Some(state.leaves.unwrap_or(now + grace));
                }
            }
            state.owned |= owns;
            if !owns {
                state.wake();
            } else {
                state.leaves = None;
            }
        }
        for slot in closed {
            self.detours.close(slot, now);
        }
        for (request, was_behind) in again {
            self.routes.left(request.slot);
            match was_behind {
                true if self.kind_of(&request.to).is_some() => self.detours.recall(request, now),
                _ => self.send_again(request),
            }
        }
    }

    /// A node says that the slot is another one's.
    pub(super) fn moved(&mut self, slot: u16, to: &Endpoint) {
        let owner = self.routes.node_at(to);
        let is_news = self.routes.owner(slot) != Some(owner);
        self.routes.tell(slot, owner, self.now);
        self.open_own_pipes(owner);
        if is_news {
            let ears = self.routes.node(owner).ears;
            self.queues.lose_ears(|other, pipe| other == slot && ears != Some(pipe));
            self.queues.resume(); // a lane that could not be called where it was
        }
    }

    /// One request goes to a node that does not own its slot yet.
    pub(super) fn ask(&mut self, request: Unsent<Target>, to: &Endpoint) {
        let Some(mut kind) = self.kind_of(&request.to) else {
            return;
        };
        if kind.database == 0 {
            kind.database = self.shared.config.upstream.database;
        }
        let node = self.routes.node_at(to);
        let index = self.pipe_at(node, kind);
        self.routes.laid(request.slot);
        let state = &mut self.pipes[index];
        state.hurry();
        state.pipe.send_asking(request);
    }

    /// The slots whose time has come go out again.
    pub(super) fn end_detours(&mut self) {
        if self.detours.is_empty() {
            return;
        }
        let routes = &self.routes;
        let ripe = self.detours.ripe(self.now, |slot| routes.is_free(slot));
        for slot in &ripe {
            for request in self.detours.open(*slot) {
                self.send_again(request);
            }
        }
        if !ripe.is_empty() {
            self.queues.resume();
        }
    }

    /// What has no key goes to a node that can be reached, if there is one.
    pub(super) fn keep_keyless_off(&mut self, node: NodeKey) {
        if !self.routes.is_cluster() || self.routes.owner(KEYLESS) != Some(node) {
            return;
        }
        let is_reached = |key: &NodeKey| {
            let pipes = &self.routes.node(*key).pipes;
            pipes.iter().any(|(_, index)| self.pipes[*index].is_up())
        };
        if let Some(other) = self.routes.owning().into_iter().find(is_reached) {
            self.routes.owners[SLOTS] = other;
            self.leave_old_owners();
        }
    }

    /// Why a slot's requests wait, for clients.
    pub(super) fn trouble_of(&self, slot: u16) -> String {
        let Some(owner) = self.routes.owner(slot) else {
            return match self.routes.is_cluster() && !self.routes.owning().is_empty() && slot != KEYLESS {
                true => format!("slot {slot} has no primary for now"),
                false => LinkError::NoPrimary.to_string(),
            };
        };
        let why = self.detours.why(slot);
        if let Some(why) = &why
            && self.detours.is_closed(slot)
        {
            return why.clone();
        }
        let kind = self.queue_kind();
        let pipes = &self.routes.node(owner).pipes;
        let pipe = pipes.iter().find(|(known, _)| *known == kind);
        match pipe.map(|(_, index)| self.pipes[*index].trouble.as_str()) {
            None | Some("") => why.unwrap_or_else(|| "Redis does not answer".to_owned()),
            Some(trouble) => trouble.to_owned(),
        }
    }
}

/// What the queues have to know of it, to place their partitions.
fn primaries(snapshot: &Snapshot) -> Primaries {
    if snapshot.shards().len() <= 1 {
        return Primaries::one();
    }
    let owners = (0..SLOTS as u16).map(|slot| snapshot.shard_of(slot).map(|shard| shard as u16));
    Primaries::of_cluster(&owners.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::topology::Shard;

    #[test]
    fn a_nodes_word_is_believed_before_snapshots_say_so_until_the_owner_cannot_be_reached() {
        let shard = Shard {
            primary: Endpoint::local(1),
            replicas: Vec::new(),
        };
        let snapshot = Snapshot::cluster(vec![(0, 16383, shard)], &[], 1);
        let mut routes = Routes::new(true);
        let now = Instant::now();
        routes.take_over(&snapshot, 0, now);
        let (old, new) = (routes.node_at(&Endpoint::local(1)), routes.node_at(&Endpoint::local(2)));
        routes.tell(7, new, now);
        routes.take_over(&snapshot, 0, now);
        assert_eq!(routes.owner(7), Some(new));
        assert!(!routes.distrust(old), "nobody was told of it");
        assert!(routes.distrust(new));
        routes.take_over(&snapshot, 0, now);
        assert_eq!((routes.owner(7), routes.node(old).owns), (Some(old), true));
    }
}
