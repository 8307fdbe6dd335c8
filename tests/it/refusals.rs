//! Bad input: each error of the queue commands is provoked, in both protocols, and what Redis holds is the same before and
//! after. The errors stand in tests/transcripts/refused.txt; those that all commands have alike are made from the table of
//! commands. An error that docs/commands.md shows and nobody provokes fails a test too.

use std::collections::{BTreeMap, BTreeSet};

use millrace::command::queue::{Argument, COMMANDS, Kind, Spec};

use crate::support::{Client, Proxy, RedisServer, Reply, words};

const REFUSED: &str = include_str!("../transcripts/refused.txt");
const COMMANDS_DOCUMENT: &str = include_str!("../../docs/commands.md");
const CODES: [&str; 5] = ["ERR ", "QFULL ", "QPAUSED ", "OOM ", "NOAUTH "];

/// Queues to be refused something, and what Redis holds of them.
struct Scene {
    client: Client,
    direct: Client,
    leased: String,
    _proxy: Proxy,
    _redis: RedisServer,
}

impl Scene {
    fn set(is_resp3: bool) -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::before(&redis).set("limits.max_payload", "\"1KiB\"").start();
        let mut client = proxy.client();
        if is_resp3 {
            client.hello3();
        }
        client.run("QPUSH q dead");
        let dead = client.run("QPOP q").items()[1].text();
        client.call(&["QNACK", "q", &dead, "DEAD"]);
        client.run("QPUSH q leased GROUP g");
        let leased = client.run("QPOP q").items()[1].text();
        for line in [
            "QPUSH q ready UNIQUE held META a b",
            "QPUSH q behind GROUP g",
            "QPUSH q later DELAY 3600000",
            "QPUSH full a",
            "QCONFIG SET full max_len 1",
            "QCONFIG SET wide partitions 3 max_len 4",
            "QPUSH wide a",
            "QPUSH paused a",
            "QPAUSE paused ALL",
        ] {
            let reply = client.run(line);
            assert!(!reply.is_error(""), "{line}: {reply}");
        }
        let direct = redis.client();
        Self {
            client,
            direct,
            leased,
            _proxy: proxy,
            _redis: redis,
        }
    }

    fn kept(&mut self) -> BTreeMap<String, String> {
        kept(&mut self.direct)
    }

    /// The error that a request gets, which has changed nothing.
    #[track_caller]
    fn refused(&mut self, words: &[Vec<u8>]) -> String {
        let shown = String::from_utf8_lossy(&words.join(&b' ')).into_owned();
        let shown: String = shown.chars().take(200).collect();
        let before = self.kept();
        let error = match self.client.call(words) {
            Reply::Error(error) => error,
            reply => panic!("{shown}: {reply}"),
        };
        let mut changed = self.kept();
        changed.retain(|key, value| before.get(key) != Some(value));
        assert_eq!(changed, BTreeMap::new(), "{shown} was refused, and this is new");
        assert_eq!(
            self.kept().len(),
            before.len(),
            "{shown} was refused, and keys are gone"
        );
        error
    }

    /// The words of a line of refused.txt: `<129>` is so many bytes, `<leased>` a receipt.
    fn words(&self, line: &str) -> Vec<Vec<u8>> {
        let word = |word: Vec<u8>| {
            let inner = word.strip_prefix(b"<").and_then(|word| word.strip_suffix(b">"));
            match inner.map(String::from_utf8_lossy) {
                None => word,
                Some(name) if name == "leased" => self.leased.clone().into_bytes(),
                Some(bytes) => vec![b'x'; bytes.parse().unwrap()],
            }
        };
        words::split(line).into_iter().map(word).collect()
    }
}

/// Every key with all that is in it, but for what is no state of a queue: the records of calls, by which one that comes twice
/// is answered as it was the first time, and the stamp, which is only the time of the last push, refused or not.
fn kept(direct: &mut Client) -> BTreeMap<String, String> {
    let keys = direct.run("KEYS *");
    let keys = keys.items().iter().map(Reply::text);
    let mut kept = BTreeMap::new();
    for key in keys.filter(|key| !key.contains(":lane:")) {
        let value = match key.ends_with(":stats") {
            true => direct.call(&["HGETALL", &key]).to_string(),
            false => direct.call(&["DUMP", &key]).to_string(),
        };
        let value = match value.split_once("\"stamp\", ") {
            Some((before, after)) => format!("{before}{}", after.split_once(", ").map_or("", |(_, rest)| rest)),
            None => value,
        };
        kept.insert(key, value);
    }
    kept
}

/// Provokes all that is listed and all that the table of commands gives; what was heard.
fn provoke(is_resp3: bool) -> BTreeSet<String> {
    let mut scene = Scene::set(is_resp3);
    let mut heard = BTreeSet::new();
    for (line, expected) in listed() {
        let words = scene.words(line);
        let error = scene.refused(&words);
        assert_eq!(error, expected, "{line}");
        heard.insert(error);
    }
    for spec in &COMMANDS {
        for (words, named) in of_every_command(spec) {
            let words: Vec<_> = words.into_iter().map(String::into_bytes).collect();
            let error = scene.refused(&words);
            assert!(
                error.starts_with("ERR ") && error.contains(&named),
                "{words:?}: {error}"
            );
            heard.insert(error);
        }
    }
    heard
}

/// Requests and their errors, line by line.
fn listed() -> Vec<(&'static str, &'static str)> {
    let mut lines = REFUSED
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut listed = Vec::new();
    while let Some(line) = lines.next() {
        let request = line.strip_prefix("> ").unwrap();
        let error = lines.next().and_then(|line| line.strip_prefix("< -"));
        listed.push((request, error.unwrap_or_else(|| panic!("no error after {line}"))));
    }
    assert!(listed.len() > 50);
    listed
}

/// Bad requests that any command can get, each with what its error must name.
fn of_every_command(spec: &Spec) -> Vec<(Vec<String>, String)> {
    let command = spec.name.to_owned();
    let least = least(spec);
    let mut bad = Vec::new();
    let fewest = spec.arity.unsigned_abs() as usize;
    if fewest > 1 {
        bad.push((least[..fewest - 1].to_vec(), command.clone()));
    }
    if spec.arity > 0 {
        bad.push(([&least[..], &["more".into()]].concat(), command));
    }
    let with = |more: &[&str]| {
        [
            &least[..],
            &more.iter().map(|word| word.to_string()).collect::<Vec<_>>(),
        ]
        .concat()
    };
    for option in options(spec.arguments) {
        let value = sample(option).split_off(1);
        let value: Vec<&str> = value.iter().map(String::as_str).collect();
        if !value.is_empty() {
            bad.push((with(&[option.token]), option.token.to_owned()));
        }
        let twice = [&[option.token][..], &value, &[option.token], &value].concat();
        bad.push((with(&twice), option.token.to_owned()));
        if matches!(option.kind, Kind::Integer | Kind::UnixTime) {
            for wrong in ["soon", "", "-1", "99999999999999999999"] {
                bad.push((with(&[option.token, wrong]), option.token.to_owned()));
            }
        }
    }
    bad
}

/// The shortest request that is a right one.
fn least(spec: &Spec) -> Vec<String> {
    let needed = spec.arguments.iter().filter(|argument| !argument.optional);
    std::iter::once(spec.name.to_owned())
        .chain(needed.flat_map(sample))
        .collect()
}

fn sample(argument: &Argument) -> Vec<String> {
    let mut words = Vec::new();
    if !argument.token.is_empty() {
        words.push(argument.token.to_owned());
    }
    match argument.kind {
        Kind::Token => {}
        Kind::Integer | Kind::UnixTime => words.push("1".into()),
        Kind::Text if argument.name == "queue" => words.push("q".into()),
        Kind::Text if argument.name == "cursor" => words.push("0".into()),
        Kind::Text => words.push("x".into()),
        Kind::OneOf(choices) => words.extend(choices.first().map(sample).into_iter().flatten()),
        Kind::Block(parts) => words.extend(parts.iter().filter(|part| !part.optional).flat_map(sample)),
    }
    words
}

/// What is announced by a word and may be left out, within blocks and choices too.
fn options(arguments: &'static [Argument]) -> Vec<&'static Argument> {
    let mut found = Vec::new();
    for argument in arguments {
        match argument.kind {
            _ if !argument.token.is_empty() => found.push(argument),
            Kind::Block(parts) | Kind::OneOf(parts) if argument.optional && !argument.multiple => {
                found.extend(options(parts));
            }
            _ => {}
        }
    }
    found
}

#[test]
fn what_is_refused_names_the_fault_and_changes_nothing_in_resp2() {
    provoke(false);
}

#[test]
fn what_is_refused_names_the_fault_and_changes_nothing_in_resp3() {
    provoke(true);
}

#[test]
fn a_queue_that_refused_its_first_push_does_not_exist() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).set("queues.\"*\".max_len", "1").start();
    let mut client = proxy.client();
    assert!(client.run("QMPUSH q 2 a b").is_error("QFULL "));
    assert_eq!(kept(&mut redis.client()), BTreeMap::new());
    assert_eq!(client.run("QSTATS q").field("pushed").integer(), 0);
    client.run("QPUSH q a");
    assert!(client.run("QPUSH q b").is_error("QFULL "));
    assert_eq!(client.run("QSTATS q").field("pushed").integer(), 1);
}

#[test]
fn each_error_that_the_document_shows_is_provoked() {
    let mut heard = provoke(false);
    heard.extend([out_of_memory(), unauthenticated()]);
    let heard: BTreeSet<_> = heard.iter().map(|error| shape(error)).collect();
    let spans = COMMANDS_DOCUMENT.split('`').skip(1).step_by(2);
    let shown = spans.filter(|span| CODES.iter().any(|code| span.starts_with(code)));
    let mut seen = 0;
    for error in shown.filter(|error| !error.contains('…')) {
        assert!(heard.contains(&shape(error)), "nobody provokes {error}");
        seen += 1;
    }
    assert!(seen > 20, "the errors were not found");
}

/// An error without the names and numbers in it.
fn shape(error: &str) -> String {
    let unquoted = error.split('\'').step_by(2).collect::<Vec<_>>().join("''");
    let mut shape = String::new();
    for letter in unquoted.replace('\n', " ").chars() {
        match letter.is_ascii_digit() {
            true if shape.ends_with('0') => {}
            true => shape.push('0'),
            false => shape.push(letter),
        }
    }
    shape
}

fn out_of_memory() -> String {
    let mut scene = Scene::set(false);
    assert_eq!(scene.direct.run("CONFIG SET maxmemory 1").text(), "OK");
    let words = scene.words("QPUSH q a");
    scene.refused(&words)
}

fn unauthenticated() -> String {
    let redis = RedisServer::start();
    let users = format!("[{{ name = \"default\", password_sha256 = \"{}\" }}]", "0".repeat(64));
    let proxy = Proxy::before(&redis).set("auth.users", &users).start();
    let reply = proxy.client().run("QPUSH q a");
    assert_eq!(redis.client().run("DBSIZE").integer(), 0);
    match reply {
        Reply::Error(error) => error,
        reply => panic!("{reply}"),
    }
}
