//! Who sees to it that repeated jobs are pushed: the keeper, one worker of each proxy. It knows which queues have some, and when the
//! first tick of each is due; it has no clock, and makes no calls itself.
//!
//! 1. It reads the table of the queues that have repeated jobs, now and then, and at once when one is added, of which all keepers
//!    are told (`crontab.lua`). A queue that is new there, or has changed, is asked what is due.
//! 2. When a queue's time has come it asks again: what is due comes with its words, and goes into the next batch of the partition
//!    where such a push belongs; it is made by the proxy that comes first (`batch.lua`). So a tick costs the first proxy two calls,
//!    and another, which finds nothing due any more, one. Partition 0 is told in a third one of a tick that went elsewhere.
//! 3. A queue that has none left is forgotten, in the table too.
//!
//! What a proxy could not do, because Redis refused or was out of memory, it tries again after a moment.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::operation::QueueName;

/// A change of which this worker did not hear is seen after so long.
const READ: Duration = Duration::from_secs(10);
/// After a call that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the keeper wants to be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Wants {
    Table,
    Due(QueueName),
    /// Out of the table, if its version is still that one.
    Forget(QueueName, Bytes),
}

#[derive(Debug)]
struct Watched {
    version: Bytes,
    /// `None`: it is being asked, or that failed.
    due: Option<Instant>,
}

#[derive(Debug)]
pub struct Crons {
    queues: HashMap<QueueName, Watched, ahash::RandomState>,
    /// An entry whose queue has another date by now means nothing.
    dues: BinaryHeap<Reverse<(Instant, QueueName)>>,
    read_at: Instant,
    reading: bool,
}

impl Crons {
    pub fn new(now: Instant) -> Self {
        Self {
            queues: HashMap::default(),
            dues: BinaryHeap::new(),
            read_at: now,
            reading: false,
        }
    }

    /// When [`Self::wants`] wants something.
    pub fn next(&self) -> Option<Instant> {
        let read = (!self.reading).then_some(self.read_at);
        let due = self.dues.peek().map(|Reverse((due, _))| *due);
        [read, due].into_iter().flatten().min()
    }

    pub fn wants(&mut self, now: Instant) -> Vec<Wants> {
        let mut wants = Vec::new();
        if !self.reading && self.read_at <= now {
            self.reading = true;
            self.read_at = now + READ;
            wants.push(Wants::Table);
        }
        while self.dues.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((due, queue))) = self.dues.pop() else {
                break;
            };
            if let Some(watched) = self.queues.get_mut(&queue)
                && watched.due == Some(due)
            {
                watched.due = None;
                wants.push(Wants::Due(queue));
            }
        }
        wants
    }

    /// The table has changed.
    pub fn changed(&mut self, now: Instant) {
        self.read_at = now;
    }

    /// A call about that queue, or about the table, failed.
    pub fn failed(&mut self, queue: &QueueName, now: Instant) {
        if *queue == QueueName::of_crontab() {
            self.reading = false;
            self.read_at = now + RETRY;
        } else {
            self.expect(queue, Some(now + RETRY));
        }
    }

    /// The whole table, queues and their versions. Those that are to be asked.
    pub fn read(&mut self, table: Vec<(QueueName, Bytes)>) -> Vec<Wants> {
        self.reading = false;
        let mut before = std::mem::take(&mut self.queues);
        let mut wants = Vec::new();
        for (queue, version) in table {
            let known = before.remove(&queue).filter(|watched| watched.version == version);
            let due = known.and_then(|watched| watched.due);
            if due.is_none() {
                wants.push(Wants::Due(queue.clone()));
            }
            self.queues.insert(queue, Watched { version, due });
        }
        self.dues.retain(|Reverse((due, queue))| {
            let watched = self.queues.get(queue);
            watched.is_some_and(|watched| watched.due == Some(*due))
        });
        wants
    }

    /// When the queue is to be asked next; `None`: it has no repeated jobs.
    pub fn expect(&mut self, queue: &QueueName, due: Option<Instant>) -> Option<Wants> {
        match due {
            Some(due) => {
                let watched = self.queues.get_mut(queue)?;
                watched.due = Some(due);
                self.dues.push(Reverse((due, queue.clone())));
                None
            }
            None => {
                let (queue, watched) = self.queues.remove_entry(queue)?;
                Some(Wants::Forget(queue, watched.version))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name.as_bytes()).unwrap()
    }

    fn table(rows: &[(&str, &'static str)]) -> Vec<(QueueName, Bytes)> {
        rows.iter()
            .map(|(name, version)| (queue(name), Bytes::from(*version)))
            .collect()
    }

    #[test]
    fn the_table_is_read_at_once_then_seldom_and_when_it_changed() {
        let now = Instant::now();
        let mut crons = Crons::new(now);
        assert_eq!(crons.wants(now), [Wants::Table]);
        assert_eq!(crons.wants(now), [], "it is being read");
        assert_eq!(crons.read(table(&[("a", "1")])), [Wants::Due(queue("a"))]);
        assert_eq!(crons.next(), Some(now + READ));
        crons.changed(now);
        assert_eq!(crons.wants(now), [Wants::Table]);
    }

    #[test]
    fn a_queue_is_asked_when_its_time_has_come_and_when_it_changed() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut crons = Crons::new(now);
        crons.wants(now);
        crons.read(table(&[("a", "1")]));
        crons.expect(&queue("a"), Some(later));
        assert_eq!(crons.wants(now), []);
        assert_eq!(crons.wants(later), [Wants::Due(queue("a"))]);
        crons.expect(&queue("a"), Some(later + READ));
        crons.changed(later);
        crons.wants(later);
        assert_eq!(crons.read(table(&[("a", "1")])), [], "nothing is new");
        crons.changed(later);
        crons.wants(later);
        assert_eq!(crons.read(table(&[("a", "2")])), [Wants::Due(queue("a"))]);
    }

    #[test]
    fn one_that_got_no_answer_is_asked_again_and_one_that_has_none_left_is_forgotten() {
        let now = Instant::now();
        let mut crons = Crons::new(now);
        crons.wants(now);
        crons.failed(&QueueName::of_crontab(), now);
        assert_eq!(crons.next(), Some(now + RETRY));
        assert_eq!(crons.wants(now + RETRY), [Wants::Table]);
        crons.read(table(&[("a", "1")]));
        crons.failed(&queue("a"), now);
        assert_eq!(crons.wants(now + RETRY), [Wants::Due(queue("a"))]);
        assert_eq!(
            crons.expect(&queue("a"), None),
            Some(Wants::Forget(queue("a"), "1".into()))
        );
    }
}
