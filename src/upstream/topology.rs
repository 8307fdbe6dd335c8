//! Which Redis serves which slot, as far as is known: one snapshot, read without a lock, and the word that there is a new one.
//! In the embedded and the single mode it is known from the start; else a watcher goes on finding out
//! ([`super::sentinel`], [`super::cluster`]). What a worker makes of it is in `hub/routes.rs`.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::config::Endpoint;

/// How many slots a cluster has.
pub const SLOTS: usize = 16384;
const NOBODYS: u16 = u16::MAX;

/// A primary and those that follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub primary: Endpoint,
    pub replicas: Vec<Endpoint>,
}

/// What is known at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Those that own slots, in the order of their first slot.
    shards: Vec<Shard>,
    slots: Slots,
    /// Of the last election. What says a lower one is old.
    pub epoch: u64,
    /// What is not known, and why, in words for operators; empty: all is.
    pub trouble: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Slots {
    /// The first shard owns them all, if there is one.
    Whole,
    /// Index of each slot's shard.
    Each(Box<[u16]>),
}

impl Snapshot {
    /// One primary owns all slots: every mode but the cluster.
    pub fn whole(primary: Endpoint, replicas: Vec<Endpoint>, epoch: u64) -> Self {
        Self {
            shards: vec![Shard { primary, replicas }],
            slots: Slots::Whole,
            epoch,
            trouble: String::new(),
        }
    }

    pub fn unknown(trouble: impl Into<String>) -> Self {
        Self {
            shards: Vec::new(),
            slots: Slots::Whole,
            epoch: 0,
            trouble: trouble.into(),
        }
    }

    /// From ranges of slots, first and last, and the shard that owns them. `failed`: ranges whose primary is down, by the
    /// word of the others; nobody else owns them, so requests go on being tried there.
    pub fn cluster(mut ranges: Vec<(u16, u16, Shard)>, failed: &[(u16, u16)], epoch: u64) -> Self {
        ranges.sort_by_key(|(first, ..)| *first);
        let mut shards: Vec<Shard> = Vec::new();
        let mut slots = vec![NOBODYS; SLOTS].into_boxed_slice();
        for (first, last, shard) in ranges {
            let known = shards.iter().position(|known| known.primary == shard.primary);
            let index = known.unwrap_or_else(|| {
                shards.push(shard);
                shards.len() - 1
            });
            let range = usize::from(first)..=usize::from(last);
            slots
                .get_mut(range)
                .into_iter()
                .flatten()
                .for_each(|slot| *slot = index as u16);
        }
        let mut served = slots.clone();
        for (first, last) in failed {
            let range = usize::from(*first)..=usize::from(*last);
            served
                .get_mut(range)
                .into_iter()
                .flatten()
                .for_each(|slot| *slot = NOBODYS);
        }
        let trouble = unowned(&served);
        Self {
            shards,
            slots: Slots::Each(slots),
            epoch,
            trouble,
        }
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The index of the shard that owns it.
    pub fn shard_of(&self, slot: u16) -> Option<usize> {
        let index = match &self.slots {
            Slots::Whole => 0,
            Slots::Each(slots) => usize::from(*slots.get(usize::from(slot))?),
        };
        (index < self.shards.len()).then_some(index)
    }

    pub fn primary_of(&self, slot: u16) -> Option<&Endpoint> {
        Some(&self.shards[self.shard_of(slot)?].primary)
    }

    /// The lowest slot that a shard owns: a name for it that outlives a failover.
    pub fn first_slot(&self, shard: usize) -> Option<u16> {
        match &self.slots {
            Slots::Whole => Some(0).filter(|_| shard < self.shards.len()),
            Slots::Each(slots) => slots
                .iter()
                .position(|owner| usize::from(*owner) == shard)
                .map(|slot| slot as u16),
        }
    }

    /// This slot, or the next one that has an owner.
    pub fn owned_from(&self, slot: u16) -> Option<u16> {
        (slot..SLOTS as u16).find(|slot| self.shard_of(*slot).is_some())
    }

    /// The first slot of the shard that comes after the one which owns this slot.
    pub fn next_shard_from(&self, slot: u16) -> Option<u16> {
        self.first_slot(self.shard_of(slot)? + 1)
    }

    /// Any primary at all.
    pub fn first_primary(&self) -> Option<&Endpoint> {
        self.shards.first().map(|shard| &shard.primary)
    }
}

/// The slots without an owner, in words; empty if there are none.
fn unowned(slots: &[u16]) -> String {
    let mut text = String::new();
    let mut at = 0;
    for run in slots.chunk_by(|a, b| (*a == NOBODYS) == (*b == NOBODYS)) {
        let (first, last) = (at, at + run.len() - 1);
        at += run.len();
        if run[0] == NOBODYS && text.len() < 200 {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = match first == last {
                true => write!(text, "{comma}{first}"),
                false => write!(text, "{comma}{first}-{last}"),
            };
        }
    }
    match text.is_empty() {
        true => text,
        false => format!("slots without a primary: {text}"),
    }
}

/// What makes a watcher look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A slot is another node's, by that node's own word. That is known already where it matters.
    Moved,
    /// A primary failed somebody: there will be another one, and the sooner it is found the better.
    Lost,
}

/// The readers' side.
#[derive(Clone, Debug)]
pub struct Topology {
    shared: Arc<Shared>,
    changes: watch::Receiver<()>,
}

/// The side of whoever finds out.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    lost: Notify,
    moved: Notify,
    refreshes: AtomicU64,
}

impl Topology {
    /// One primary, for ever.
    pub fn fixed(primary: Endpoint) -> Self {
        // Without its sender the channel keeps the value that it has.
        Self::watched(Snapshot::whole(primary, Vec::new(), 0)).0
    }

    /// What is known at first, and the side on which it changes.
    pub fn watched(first: Snapshot) -> (Self, Watcher) {
        let (sender, receiver) = watch::channel(());
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(first),
            lost: Notify::new(),
            moved: Notify::new(),
            refreshes: AtomicU64::new(0),
        });
        let watcher = Watcher {
            shared: shared.clone(),
            changes: sender,
        };
        let topology = Self {
            shared,
            changes: receiver,
        };
        (topology, watcher)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    pub fn doubt(&self, doubt: Doubt) {
        match doubt {
            Doubt::Moved => self.shared.moved.notify_one(),
            Doubt::Lost => self.shared.lost.notify_one(),
        }
    }

    /// How often the watcher has asked for all of it.
    pub fn refreshes(&self) -> u64 {
        self.shared.refreshes.load(Relaxed)
    }

    /// Until there is another snapshot than when this was last awaited.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await; // nobody finds out any more: it stays as it is
        }
    }

    /// Until any primary is known.
    pub async fn known(&mut self) {
        while self.snapshot().shards().is_empty() {
            self.changed().await;
        }
    }
}

impl Watcher {
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// True: that is news.
    pub fn publish(&self, snapshot: Snapshot) -> bool {
        if **self.shared.snapshot.load() == snapshot {
            return false;
        }
        self.shared.snapshot.store(Arc::new(snapshot));
        self.changes.send_replace(());
        true
    }

    pub fn count_refresh(&self) {
        self.shared.refreshes.fetch_add(1, Relaxed);
    }

    /// Until somebody doubts what is known.
    pub async fn doubted(&self) -> Doubt {
        tokio::select! {
            () = self.shared.lost.notified() => Doubt::Lost,
            () = self.shared.moved.notified() => Doubt::Moved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(port: u16) -> Shard {
        Shard {
            primary: Endpoint::local(port),
            replicas: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_snapshot_that_changed_is_heard_of_and_one_that_did_not_is_no_news() {
        let (mut topology, watcher) = Topology::watched(Snapshot::unknown("not asked yet"));
        let known = |port, epoch| Snapshot::whole(Endpoint::local(port), Vec::new(), epoch);
        assert!(watcher.publish(known(1, 1)));
        assert!(!watcher.publish(known(1, 1)));
        topology.changed().await;
        assert!(watcher.publish(known(2, 2)));
        topology.changed().await;
        assert_eq!(topology.snapshot().primary_of(16383), Some(&Endpoint::local(2)));
    }

    #[test]
    fn each_slot_has_its_owner_and_those_without_are_named() {
        let ranges = vec![
            (8192, 16383, shard(2)),
            (0, 0, shard(1)),
            (2, 4000, shard(2)),
            (4002, 8000, shard(1)),
        ];
        let snapshot = Snapshot::cluster(ranges, &[(3, 5)], 7);
        let owner = |slot| snapshot.primary_of(slot).cloned();
        assert_eq!(owner(0), Some(Endpoint::local(1)));
        assert_eq!(owner(1), None);
        assert_eq!(owner(2), Some(Endpoint::local(2)));
        assert_eq!(owner(16383), Some(Endpoint::local(2)));
        assert_eq!(owner(16384), None);
        assert_eq!(snapshot.trouble, "slots without a primary: 1, 3-5, 4001, 8001-8191");
        assert_eq!((snapshot.first_slot(0), snapshot.first_slot(1)), (Some(0), Some(2)));
        assert_eq!(snapshot.shards().len(), 2);
    }
}
