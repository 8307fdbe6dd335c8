//! A random walk of one user over a queue of several partitions, through two proxies by turns, held against what is promised of it:
//! no job is lost, none is there twice, each is in the state that it was brought to, whichever partition it lies in, and however
//! many there are by now; a key has one job, a group one at a time and in order; within a partition the priorities go before each other, and
//! what was pushed first goes first. The scripts alone, and time, are `model`'s.
//!
//! `MILLRACE_MODEL_CALLS` sets how many calls, `MILLRACE_MODEL_SEED` from where; a failure prints the seed and the last calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::support::{Client, Proxy, RedisServer, Reply};

const PRIORITIES: [&str; 4] = ["urgent", "high", "normal", "low"];
const STATES: [&str; 4] = ["ready", "delayed", "leased", "dead"];
const GROUPS: [&str; 4] = ["a", "b", "c", "d"];
const KEYS: [&str; 3] = ["x", "y", "z"];
/// Of a delay, which never ends by itself here.
const LONG: &str = "1000000";
/// Jobs in the queue, before it is made emptier.
const MANY: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ready,
    Delayed,
    Leased,
    Dead,
}

#[derive(Clone, Debug)]
struct Job {
    /// In the order of the pushes.
    number: u64,
    partition: String,
    priority: usize,
    group: Option<&'static str>,
    key: Option<&'static str>,
    state: State,
    attempt: i64,
    receipt: Option<String>,
    /// It has been somewhere else since its push: its place among the others is another one now.
    moved: bool,
}

#[derive(Default)]
struct Model {
    jobs: BTreeMap<String, Job>,
    holders: BTreeMap<&'static str, String>,
    ended: Vec<String>,
    pushes: u64,
    pushed: i64,
    deduplicated: i64,
    acked: i64,
    paused: bool,
    exists: bool,
}

impl Model {
    fn in_state(&self, state: State) -> Vec<String> {
        let jobs = self.jobs.iter().filter(|(_, job)| job.state == state);
        jobs.map(|(id, _)| id.clone()).collect()
    }

    /// Whether a pop may give it out now.
    fn is_free(&self, job: &Job) -> bool {
        let others = || self.jobs.values().filter(|other| other.group == job.group);
        let holds_up = |other: &Job| match other.state {
            State::Leased => true,
            State::Ready => !job.moved && !other.moved && other.number < job.number,
            _ => false,
        };
        job.state == State::Ready && (job.group.is_none() || !others().any(holds_up))
    }

    fn pushed(&mut self, id: &str, job: Job) {
        if let Some(key) = job.key {
            self.holders.insert(key, id.to_owned());
        }
        assert!(self.jobs.insert(id.to_owned(), job).is_none(), "{id} was given twice");
        (self.pushed, self.exists) = (self.pushed + 1, true);
    }

    fn popped(&mut self, words: &[Reply]) {
        let (receipt, attempt) = (words[1].text(), words[3].integer());
        let id = receipt.split(':').next().unwrap().to_owned();
        let job = self
            .jobs
            .get(&id)
            .unwrap_or_else(|| panic!("{id} is no job any more"))
            .clone();
        assert!(self.is_free(&job), "{id} was not to be had: {job:?}");
        for other in self.jobs.values() {
            let stands_before = other.state == State::Ready
                && other.group.is_none()
                && job.group.is_none()
                && other.partition == job.partition
                && (other.priority < job.priority
                    || other.priority == job.priority && !other.moved && !job.moved && other.number < job.number);
            assert!(!stands_before, "{id}, {job:?}, went before {other:?}");
        }
        assert_eq!(attempt, job.attempt + 1, "{id}");
        let job = self.jobs.get_mut(&id).unwrap();
        (job.state, job.attempt, job.receipt) = (State::Leased, attempt, Some(receipt));
    }

    fn becomes(&mut self, id: &str, state: State) {
        let job = self.jobs.get_mut(id).unwrap();
        (job.state, job.receipt, job.moved) = (state, None, true);
        if state == State::Dead {
            self.free_key(id);
        }
    }

    fn revived(&mut self, id: &str) {
        let job = self.jobs.get_mut(id).unwrap();
        job.attempt = 0;
        if let Some(key) = job.key {
            self.holders.entry(key).or_insert_with(|| id.to_owned());
        }
        self.becomes(id, State::Ready);
    }

    fn ends(&mut self, id: &str) {
        self.free_key(id);
        self.jobs.remove(id);
        self.ended.push(id.to_owned());
    }

    fn free_key(&mut self, id: &str) {
        self.holders.retain(|_, holder| holder != id);
    }
}

struct Walk {
    clients: [Client; 2],
    model: Model,
    random: u64,
    last: VecDeque<String>,
}

impl Walk {
    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % below
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.random(of.len())].clone())
    }

    fn some_of(&mut self, of: &[String]) -> Vec<String> {
        let some: BTreeSet<_> = (0..1 + self.random(4)).filter_map(|_| self.one_of(of)).collect();
        some.into_iter().collect()
    }

    fn call(&mut self, words: &[&str]) -> Reply {
        let client = self.random(2);
        let reply = self.clients[client].call(words);
        self.last
            .push_back(format!("through {client}: {} -> {reply}", words.join(" ")));
        if self.last.len() > 30 {
            self.last.pop_front();
        }
        reply
    }

    fn call_of(&mut self, command: &str, ids: &[String], options: &[&str]) -> Reply {
        let ids = ids.iter().map(String::as_str);
        let words: Vec<_> = [command, "q"]
            .into_iter()
            .chain(ids)
            .chain(options.iter().copied())
            .collect();
        self.call(&words)
    }

    fn step(&mut self) {
        match self.random(100) {
            0..30 => self.push(),
            30..34 => self.push_many(),
            34..62 => self.pop(),
            62..72 => self.ack(),
            72..80 => self.nack(),
            80..83 => self.promote(),
            83..86 => self.redrive(),
            86..90 => self.delete(),
            90 => self.purge(),
            91 => self.drop_queue(),
            92..94 => self.resize(),
            94..96 => self.pause(),
            _ => self.look(),
        }
        self.compare_stats();
        if self.model.jobs.len() > MANY {
            self.purge();
        }
    }

    fn push(&mut self) {
        let number = self.model.pushes;
        let priority = self.random(4);
        let (mut group, mut key, mut state) = (None, None, State::Ready);
        match self.random(10) {
            0..3 => group = self.one_of(&GROUPS),
            3..5 => key = self.one_of(&KEYS),
            5..8 => (group, key) = (self.one_of(&GROUPS), self.one_of(&KEYS)),
            8 => state = State::Delayed,
            _ => {}
        }
        let payload = number.to_string();
        let mut words = vec!["QPUSH", "q", &payload, "PRIORITY", PRIORITIES[priority]];
        words.extend(group.iter().flat_map(|name| ["GROUP", *name]));
        words.extend(key.iter().flat_map(|name| ["UNIQUE", *name]));
        if state == State::Delayed {
            words.extend(["DELAY", LONG]);
        }
        let id = self.call(&words).text();
        match key.and_then(|key| self.model.holders.get(key)) {
            Some(holder) => {
                assert_eq!(id, *holder, "the job that has the key");
                self.model.deduplicated += 1;
            }
            None => self.pushed(id, priority, group, key, state),
        }
    }

    fn pushed(
        &mut self,
        id: String,
        priority: usize,
        group: Option<&'static str>,
        key: Option<&'static str>,
        state: State,
    ) {
        let job = Job {
            number: self.model.pushes,
            partition: id.split('-').nth(1).unwrap().to_owned(),
            priority,
            group,
            key,
            state,
            attempt: 0,
            receipt: None,
            moved: state == State::Delayed,
        };
        self.model.pushes += 1;
        self.model.pushed(&id, job);
    }

    fn push_many(&mut self) {
        let group = self.one_of(&[None, Some("a"), Some("b")]).flatten();
        let mut words = vec!["QMPUSH", "q", "3", "1", "2", "3"];
        words.extend(group.iter().flat_map(|name| ["GROUP", *name]));
        let ids = self.call(&words);
        for id in ids.items() {
            self.pushed(id.text(), 2, group, None, State::Ready);
        }
    }

    fn pop(&mut self) {
        let count = self.random(5);
        let number = count.to_string();
        let found = match count {
            0 => self.call(&["QPOP", "q"]),
            _ => self.call(&["QPOP", "q", "COUNT", &number]),
        };
        if found.is_null() {
            let free = self.model.jobs.iter().find(|(_, job)| self.model.is_free(job));
            assert!(self.model.paused || free.is_none(), "nothing found beside {free:?}");
            return;
        }
        assert!(!self.model.paused);
        match count {
            0 => self.model.popped(found.items()),
            _ => {
                assert!((1..=count).contains(&found.items().len()));
                found.items().iter().for_each(|job| self.model.popped(job.items()));
            }
        }
    }

    /// Receipts or ids of leased jobs, and perhaps of one that has ended; the ids of the leased ones.
    fn leased(&mut self) -> (Vec<String>, Vec<String>) {
        let leased = self.model.in_state(State::Leased);
        let ids = self.some_of(&leased);
        let mut names = Vec::new();
        for id in &ids {
            let receipt = self.model.jobs[id].receipt.clone().unwrap();
            names.push(if self.random(3) == 0 { id.clone() } else { receipt });
        }
        let ended = std::mem::take(&mut self.model.ended);
        names.extend(self.one_of(&ended).filter(|_| ids.len() % 2 == 1));
        self.model.ended = ended;
        (names, ids)
    }

    fn ack(&mut self) {
        let (names, ids) = self.leased();
        if names.is_empty() {
            return;
        }
        assert_eq!(self.call_of("QACK", &names, &[]).integer(), ids.len() as i64);
        self.model.acked += ids.len() as i64;
        ids.iter().for_each(|id| self.model.ends(id));
    }

    fn nack(&mut self) {
        let (names, ids) = self.leased();
        if names.is_empty() {
            return;
        }
        let grouped = ids.iter().any(|id| self.model.jobs[id].group.is_some());
        let (options, state) = match self.random(3) {
            0 => (vec!["DEAD", "ERROR", "why"], State::Dead),
            1 if !grouped => (vec!["DELAY", LONG], State::Delayed),
            _ => (vec!["DELAY", "0"], State::Ready),
        };
        assert_eq!(self.call_of("QNACK", &names, &options).integer(), ids.len() as i64);
        ids.iter().for_each(|id| self.model.becomes(id, state));
    }

    fn promote(&mut self) {
        let all: Vec<_> = self.model.jobs.keys().cloned().collect();
        let ids = self.some_of(&all);
        if ids.is_empty() {
            return;
        }
        let delayed: Vec<_> = ids
            .iter()
            .filter(|id| self.model.jobs[*id].state == State::Delayed)
            .collect();
        assert_eq!(self.call_of("QPROMOTE", &ids, &[]).integer(), delayed.len() as i64);
        delayed.into_iter().for_each(|id| self.model.becomes(id, State::Ready));
    }

    fn redrive(&mut self) {
        let dead = self.model.in_state(State::Dead);
        let ids = self.some_of(&dead);
        let all = self.random(4) == 0 || ids.is_empty();
        let reply = match all {
            true => self.call(&["QREDRIVE", "q"]),
            false => self.call_of("QREDRIVE", &ids, &[]),
        };
        // Of several with one key the one that is first has it again: which that is, is no promise.
        let revived = if all { dead } else { ids };
        assert_eq!(reply.integer(), revived.len() as i64);
        for id in &revived {
            self.model.revived(id);
        }
        self.learn_holders(&revived);
    }

    /// Keys that several jobs wanted again.
    fn learn_holders(&mut self, revived: &[String]) {
        for key in KEYS {
            let wanted = revived.iter().filter(|id| self.model.jobs[*id].key == Some(key));
            if wanted.count() > 1 && self.model.holders.get(key).is_some_and(|id| revived.contains(id)) {
                let id = self.call(&["QPUSH", "q", "who", "UNIQUE", key]).text();
                self.model.deduplicated += 1;
                assert!(revived.contains(&id), "{key} is {id}'s");
                self.model.holders.insert(key, id);
            }
        }
    }

    fn delete(&mut self) {
        let all: Vec<_> = self.model.jobs.keys().cloned().collect();
        let ids = self.some_of(&all);
        if !ids.is_empty() {
            assert_eq!(self.call_of("QDEL", &ids, &[]).integer(), ids.len() as i64);
            ids.iter().for_each(|id| self.model.ends(id));
        }
    }

    fn purge(&mut self) {
        let state = self.random(4);
        let ids = self
            .model
            .in_state([State::Ready, State::Delayed, State::Leased, State::Dead][state]);
        assert_eq!(
            self.call(&["QPURGE", "q", "STATE", STATES[state]]).integer(),
            ids.len() as i64
        );
        ids.iter().for_each(|id| self.model.ends(id));
    }

    fn drop_queue(&mut self) {
        let existed = self.model.exists;
        let dropped = self.call(&["QDROP", "q"]).integer();
        assert_eq!(dropped, i64::from(existed));
        let pushes = self.model.pushes;
        self.model = Model {
            pushes,
            ended: self.model.jobs.keys().cloned().collect(),
            ..Model::default()
        };
    }

    fn resize(&mut self) {
        let partitions = (1 + self.random(6)).to_string();
        assert_eq!(
            self.call(&["QCONFIG", "SET", "q", "partitions", &partitions]).text(),
            "OK"
        );
        self.model.exists = true;
        assert_eq!(
            self.call(&["QCONFIG", "GET", "q"]).field("partitions").text(),
            partitions
        );
    }

    fn pause(&mut self) {
        let command = if self.model.paused { "QRESUME" } else { "QPAUSE" };
        assert_eq!(self.call(&[command, "q"]).text(), "OK");
        (self.model.paused, self.model.exists) = (!self.model.paused, true);
    }

    /// All jobs, in all states, and one of them more closely.
    fn look(&mut self) {
        for (at, state) in [State::Ready, State::Delayed, State::Leased, State::Dead]
            .into_iter()
            .enumerate()
        {
            let shown = self.call(&["QPEEK", "q", "STATE", STATES[at], "COUNT", "1000"]);
            let mut ids: Vec<_> = shown.items().iter().map(|job| job.field("id").text()).collect();
            ids.sort();
            assert_eq!(ids, self.model.in_state(state), "{state:?} jobs");
        }
        let all: Vec<_> = self.model.jobs.keys().cloned().collect();
        if let Some(id) = self.one_of(&all) {
            let (shown, job) = (self.call(&["QJOB", "q", &id]), self.model.jobs[&id].clone());
            assert_eq!(shown.field("state").text(), STATES[job.state as usize]);
            assert_eq!(shown.field("priority").text(), PRIORITIES[job.priority]);
            assert_eq!(shown.field("attempt").integer(), job.attempt);
        }
        let ended = self.model.ended.clone();
        if let Some(id) = self.one_of(&ended) {
            assert!(self.call(&["QJOB", "q", &id]).is_null(), "{id} has ended");
        }
        let found = self.call(&["QCHECK", "q"]);
        assert_eq!(found.field("unsound").integer(), 0, "{found}");
    }

    fn compare_stats(&mut self) {
        let stats = self.call(&["QSTATS", "q"]);
        let of = |name: &str| stats.field(name).integer();
        let count = |state| self.model.in_state(state).len() as i64;
        let states = [State::Ready, State::Delayed, State::Leased, State::Dead];
        assert_eq!(STATES.map(of), states.map(count), "{STATES:?}");
        let counters = [self.model.pushed, self.model.deduplicated, self.model.acked];
        assert_eq!(
            ["pushed", "deduplicated", "acked"].map(of),
            counters,
            "pushed, deduplicated, acked"
        );
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn a_queue_of_several_partitions_is_one_queue_to_its_user() {
    let calls = from_environment("MILLRACE_MODEL_CALLS", 20_000) / 5;
    let seed = from_environment("MILLRACE_MODEL_SEED", getrandom::u64().unwrap());
    println!("MILLRACE_MODEL_SEED={seed}");
    let redis = RedisServer::start();
    let proxies = [0, 1].map(|_| Proxy::before(&redis).set("queues.\"*\".partitions", "3").start());
    let mut walk = Walk {
        clients: proxies.each_ref().map(Proxy::client),
        model: Model::default(),
        random: seed | 1,
        last: VecDeque::new(),
    };
    for step in 0..calls {
        let went = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.step()));
        if went.is_err() {
            let last: Vec<_> = walk.last.into_iter().collect();
            panic!("MILLRACE_MODEL_SEED={seed}, step {step}, after\n{}", last.join("\n"));
        }
    }
}
