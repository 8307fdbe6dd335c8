//! Who the primary is, as far as is known: one snapshot that every worker reads when it connects and hears changes of.
//! The embedded and the single mode know it from the start; in sentinel mode [`super::sentinel`] goes on finding out.
//! It is read for a new connection and not for a request, so a `watch` channel is quick enough.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::config::Endpoint;

/// What is known at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Who the primary is; or why that is not known, in words for operators.
    pub primary: Result<Endpoint, String>,
    /// Of the primary's election. What a lower one says is old.
    pub epoch: u64,
}

/// The readers' side.
#[derive(Clone, Debug)]
pub struct Topology {
    known: watch::Receiver<Known>,
    doubts: Arc<Notify>,
}

/// The side of whoever finds out.
#[derive(Debug)]
pub struct Watcher {
    known: watch::Sender<Known>,
    doubts: Arc<Notify>,
}

impl Topology {
    /// One primary, for ever.
    pub fn fixed(primary: Endpoint) -> Self {
        // Without its sender the channel keeps the value that it has.
        Self::watched(Ok(primary)).0
    }

    /// What is known at first, and the side on which it changes.
    pub fn watched(primary: Result<Endpoint, String>) -> (Self, Watcher) {
        let (sender, known) = watch::channel(Known { primary, epoch: 0 });
        let doubts = Arc::new(Notify::new());
        let watcher = Watcher {
            known: sender,
            doubts: doubts.clone(),
        };
        (Self { known, doubts }, watcher)
    }

    pub fn primary(&self) -> Result<Endpoint, String> {
        self.known.borrow().primary.clone()
    }

    /// The primary failed somebody: now is the time to look for another one.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Until the primary is another one than `old`.
    pub async fn other_than(&mut self, old: Option<&Endpoint>) {
        let differs = |known: &Known| known.primary.as_ref().ok() != old && known.primary.is_ok();
        if self.known.wait_for(differs).await.is_err() {
            std::future::pending::<()>().await; // nobody finds out any more: it stays as it is
        }
    }
}

impl Watcher {
    pub fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// True: that is news.
    pub fn publish(&self, known: Known) -> bool {
        self.known.send_if_modified(|old| {
            let news = *old != known;
            *old = known;
            news
        })
    }

    /// Until somebody doubts the primary.
    pub async fn doubted(&self) {
        self.doubts.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_primary_that_changed_is_heard_of_and_one_that_did_not_is_no_news() {
        let (mut topology, watcher) = Topology::watched(Err("not asked yet".into()));
        let known = |port, epoch| Known {
            primary: Ok(Endpoint::local(port)),
            epoch,
        };
        assert!(watcher.publish(known(1, 1)));
        assert!(!watcher.publish(known(1, 1)));
        topology.other_than(None).await;
        assert!(watcher.publish(known(2, 2)));
        topology.other_than(Some(&Endpoint::local(1))).await;
        assert_eq!(topology.primary(), Ok(Endpoint::local(2)));
    }
}
