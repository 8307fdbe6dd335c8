//! Which of the `[queues."…"]` tables speak for a queue: asked once when a queue is first seen, not for each request.

use std::time::Duration;

use super::QueueSettings;
use super::file::Queue;
use super::units::{Count, Period};

/// The tables, longest pattern first; of two equally long ones the first in the alphabet. The last one is `*` with
/// every key set, so that each key is found.
#[derive(Clone, Debug)]
pub struct Patterns(Vec<(String, Queue)>);

impl Patterns {
    /// `tables` in the alphabet's order, with `*` among them or not.
    pub fn new(tables: impl IntoIterator<Item = (String, Queue)>) -> Self {
        let mut patterns: Vec<_> = tables.into_iter().collect();
        patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        patterns.push(("*".to_owned(), Queue::with_every_key()));
        Self(patterns)
    }

    pub fn settings(&self, queue: &[u8]) -> QueueSettings {
        QueueSettings {
            lease: self.duration(queue, |table| table.lease),
            retries: self.small(queue, |table| table.retries),
            backoff: self.duration(queue, |table| table.backoff),
            max_backoff: self.duration(queue, |table| table.max_backoff),
            max_lapses: self.small(queue, |table| table.max_lapses),
            dead_max_len: self.number(queue, |table| table.dead_max_len),
            dead_ttl: self.duration(queue, |table| table.dead_ttl),
            max_len: self.number(queue, |table| table.max_len),
            concurrency: self.number(queue, |table| table.concurrency),
            result_ttl: self.duration(queue, |table| table.result_ttl),
            max_wait: self.duration(queue, |table| table.max_wait),
            partitions: self.find(queue, |table| table.partitions).unwrap_or_default().0 as u16, // at most 64
            compress_over: self.find(queue, |table| table.compress_over).unwrap_or_default().0,
            replicas: self.small(queue, |table| table.replicas),
            replica_timeout: self.duration(queue, |table| table.replica_timeout),
            group_concurrency: self.small(queue, |table| table.group_concurrency),
            group_rate: self.find(queue, |table| table.group_rate).unwrap_or_default(),
            rate: self.find(queue, |table| table.rate).unwrap_or_default(),
        }
    }

    /// The table that asks for the most replicas, and how many these are.
    pub fn most_replicas(&self) -> Option<(&str, u64)> {
        let asked = self
            .0
            .iter()
            .filter_map(|(name, table)| Some((name.as_str(), table.replicas?.0)));
        asked
            .filter(|(_, replicas)| *replicas > 0)
            .max_by_key(|(_, replicas)| *replicas)
    }

    fn find<T>(&self, queue: &[u8], key: impl Fn(&Queue) -> Option<T>) -> Option<T> {
        let fitting = self.0.iter().filter(|(pattern, _)| fits(pattern.as_bytes(), queue));
        fitting.map(|(_, table)| table).find_map(key)
    }

    fn duration(&self, queue: &[u8], key: impl Fn(&Queue) -> Option<Period>) -> Duration {
        self.find(queue, key).unwrap_or_default().0
    }

    fn number(&self, queue: &[u8], key: impl Fn(&Queue) -> Option<Count>) -> u64 {
        self.find(queue, key).unwrap_or_default().0
    }

    fn small(&self, queue: &[u8], key: impl Fn(&Queue) -> Option<Count>) -> u32 {
        // Validation keeps these at a million.
        u32::try_from(self.number(queue, key)).unwrap_or(u32::MAX)
    }
}

/// `*` is any run of bytes, also an empty one; `?` is any one byte. No backtracking further than the last star, so
/// that the time is bounded by the product of the two lengths.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                // What the star stands for must be one byte longer.
                let Some((star, from)) = last_star else { return false };
                last_star = Some((star, from + 1));
                (p, n) = (star + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_as_in_a_shell() {
        let fitting = [
            ("*", ""),
            ("*", "a"),
            ("email-*", "email-"),
            ("*-eu", "a-b-eu"),
            ("a?c*e", "abcde"),
            ("a", "a"),
        ];
        for (pattern, name) in fitting {
            assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("", "a"),
            ("a", "ab"),
            ("?", ""),
            ("*-eu", "eu"),
            ("a*b*c", "acb"),
            ("email-*", "mail-1"),
        ] {
            assert!(!fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn the_longest_pattern_that_sets_the_key_wins() {
        let lease = |seconds| Queue {
            lease: Some(Period(Duration::from_secs(seconds))),
            ..Queue::default()
        };
        let retries = Queue {
            retries: Some(Count(3)),
            ..Queue::default()
        };
        let tables = [("*", lease(1)), ("email-*", lease(2)), ("email-slow", retries)];
        let patterns = Patterns::new(tables.map(|(pattern, table)| (pattern.to_owned(), table)));
        let of = |name: &str| patterns.settings(name.as_bytes());
        assert_eq!((of("orders").lease.as_secs(), of("orders").retries), (1, 20));
        assert_eq!((of("email-eu").lease.as_secs(), of("email-eu").retries), (2, 20));
        assert_eq!((of("email-slow").lease.as_secs(), of("email-slow").retries), (2, 3));
        assert_eq!(of("orders").dead_ttl.as_secs(), 30 * 86_400);
    }
}
