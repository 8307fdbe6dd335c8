//! The command table: one immutable snapshot of what is known of every command, looked up once a request.
//! Made from the server's answer to `COMMAND`; from a copy of Redis 7.0's until that is there, and for whatever
//! an older server leaves out.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::BytesMut;

use super::answer::{self, BadAnswer, Described};
use super::flags::Flags;
use super::keys::{Finder, KeySpec};
use super::queue;
use super::route::{self, Route};
use crate::resp::{Protocol, ReplyWriter, Request};

// What Redis 7.0.15 (Debian's) answers to COMMAND after HELLO 3. Made anew by:
//   cargo test --lib command::table -- --ignored
const REDIS_7_0: &[u8] = include_bytes!("redis-7.0.resp3");

/// Numbers the commands of one table, subcommands too, from 0: an index for whatever is kept by command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandId(u16);

impl CommandId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[derive(Debug)]
pub struct Entry {
    pub id: CommandId,
    /// In lower case, as clients are told it; of a subcommand the full one: `client|list`.
    pub name: Box<str>,
    /// Redis's way: the name included; negative: at least so many.
    pub arity: i32,
    pub flags: Flags,
    /// `@read`, `@fast` …
    pub categories: Box<[Box<str>]>,
    /// Among others `request_policy:…` and `response_policy:…`, how to split a request over shards and merge the replies.
    pub tips: Box<[Box<str>]>,
    pub keys: Box<[KeySpec]>,
    pub finder: Finder,
    pub route: Route,
    subcommands: Subcommands,
    listed: Listed,
    /// As the server said it, RESP3.
    raw: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subcommands {
    None,
    /// Some are known; an older server may have others, and does not say.
    Some,
    All,
}

/// Where `COMMAND` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    /// On its own.
    Command,
    /// Within its container.
    Subcommand,
}

impl Entry {
    pub fn accepts(&self, arguments: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 {
            arguments >= arity
        } else {
            arguments == arity
        }
    }

    pub fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Changes nothing, and so may be sent again when its fate is unknown. What is not known to be so is a write.
    pub fn is_readonly(&self) -> bool {
        self.has(Flags::READONLY) && !self.has(Flags::WRITE)
    }

    /// It can have keys (channels are none).
    pub fn has_keys(&self) -> bool {
        self.keys.iter().any(|spec| !spec.not_key)
    }

    pub fn is_queue_command(&self) -> bool {
        matches!(self.route, Route::Queue(_) | Route::ScanQueues)
    }

    /// The entry of `COMMAND` and `COMMAND INFO`.
    pub fn write(&self, reply: &mut ReplyWriter) {
        match reply.protocol() {
            Protocol::Resp3 => reply.raw(&self.raw),
            Protocol::Resp2 => answer::write_resp2(&self.raw, reply),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Lookup<'t> {
    Found(&'t Entry),
    /// The command has subcommands, and this is none of them.
    UnknownSubcommand,
    Unknown,
}

#[derive(Debug)]
pub struct Table {
    entries: Vec<Entry>,
    names: HashMap<Box<[u8]>, CommandId, BuildHasherDefault<NameHasher>>,
}

impl Table {
    /// What there is before a server was asked: Redis 7.0's commands, and ours.
    pub fn builtin() -> Self {
        Self::from_answer(REDIS_7_0).expect("the copy in this binary is one that the tests have read")
    }

    /// From the server's whole answer to `COMMAND` on a RESP3 connection, with our commands added.
    /// The server is right in all that it says; what it leaves out (before 7.0: key specs, tips, subcommands)
    /// comes from the built-in copy.
    pub fn from_answer(answer: &[u8]) -> Result<Self, BadAnswer> {
        let builtin = answer::read(REDIS_7_0)?;
        let builtin: HashMap<&str, &Described> = builtin.iter().map(|described| (described.name, described)).collect();
        let ours = queue::answer();
        let mut table = Self {
            entries: Vec::new(),
            names: HashMap::default(),
        };
        for (described, spec) in answer::read(&ours)?.iter().zip(&queue::COMMANDS) {
            table.add(described, Subcommands::None, Listed::Command, spec.route);
        }
        for described in answer::read(answer)? {
            table.add_server_command(&described, builtin.get(described.name).copied());
        }
        table.add_client_subcommands()?;
        Ok(table)
    }

    pub fn find(&self, request: Request) -> Lookup<'_> {
        let mut name = Name::default();
        let Some(entry) = name.push(request.name()).and_then(|()| self.get(&name)) else {
            return Lookup::Unknown;
        };
        if entry.listed == Listed::Subcommand {
            return Lookup::Unknown; // `client|list` as one word
        }
        if entry.subcommands == Subcommands::None || request.len() == 1 {
            return Lookup::Found(entry);
        }
        let subcommand = name
            .push(b"|")
            .and_then(|()| name.push(request.arg(1)))
            .and_then(|()| self.get(&name));
        match (subcommand, entry.subcommands) {
            (Some(subcommand), _) => Lookup::Found(subcommand),
            (None, Subcommands::All) => Lookup::UnknownSubcommand,
            (None, _) => Lookup::Found(entry),
        }
    }

    /// By its full name (`get`, `client|list`), in any case.
    pub fn named(&self, full_name: &[u8]) -> Option<&Entry> {
        let mut name = Name::default();
        name.push(full_name)?;
        self.get(&name)
    }

    pub fn entry(&self, id: CommandId) -> &Entry {
        &self.entries[id.index()]
    }

    /// All commands and subcommands, also those that `COMMAND` does not name, in the order of their ids.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What `COMMAND` lists.
    pub fn commands(&self) -> impl Iterator<Item = &Entry> + Clone {
        self.entries.iter().filter(|entry| entry.listed == Listed::Command)
    }

    fn get(&self, name: &Name) -> Option<&Entry> {
        self.names.get(name.as_bytes()).map(|&id| self.entry(id))
    }

    fn add_server_command(&mut self, described: &Described, builtin: Option<&Described>) {
        let said = if described.in_full { Some(described) } else { builtin };
        let subcommands = match said.map_or(0, |said| said.subcommands.len()) {
            0 => Subcommands::None,
            _ if described.in_full => Subcommands::All,
            _ => Subcommands::Some,
        };
        let described = &described.completed_by(builtin);
        let route = route::of_server_command(described.name, described.flags);
        self.add(described, subcommands, Listed::Command, route);
        for subcommand in said.into_iter().flat_map(|said| &said.subcommands) {
            let route = route::of_server_command(subcommand.name, subcommand.flags);
            self.add(subcommand, Subcommands::None, Listed::Subcommand, route);
        }
    }

    /// Those of Redis 7.2 that clients send when they connect; they are answered here, so it does not matter
    /// whether the server knows them.
    fn add_client_subcommands(&mut self) -> Result<(), BadAnswer> {
        let mut described = BytesMut::new();
        let mut reply = ReplyWriter::new(&mut described, Protocol::Resp3);
        let (flags, categories) = (["noscript", "loading", "stale"], ["@slow", "@connection"]);
        reply.array(2);
        queue::entry(&mut reply, "client|setinfo", 4, &flags, &categories);
        queue::entry(&mut reply, "client|no-touch", 3, &flags, &categories);
        for described in answer::read(&described)? {
            let route = route::of_server_command(described.name, described.flags);
            self.add(&described, Subcommands::None, Listed::Subcommand, route);
        }
        Ok(())
    }

    /// The first to come by a name keeps it: ours before the server's.
    fn add(&mut self, described: &Described, subcommands: Subcommands, listed: Listed, route: Route) {
        let Ok(id) = u16::try_from(self.entries.len()).map(CommandId) else {
            return; // 65,536 commands: whoever has the last of them gets "unknown command"
        };
        if self.names.contains_key(described.name.as_bytes()) {
            return;
        }
        let owned = |words: &[&str]| words.iter().map(|&word| word.into()).collect();
        let name = described.name.to_ascii_lowercase();
        self.names.insert(name.as_bytes().into(), id);
        self.entries.push(Entry {
            id,
            finder: Finder::for_command(&name, &described.keys),
            name: name.into(),
            arity: described.arity,
            flags: described.flags,
            categories: owned(&described.categories),
            tips: owned(&described.tips),
            keys: described.keys.clone().into(),
            route,
            subcommands,
            listed,
            raw: described.raw.into(),
        });
    }
}

impl<'a> Described<'a> {
    fn completed_by(&self, builtin: Option<&Described<'a>>) -> Self {
        let said = Self {
            subcommands: Vec::new(),
            categories: self.categories.clone(),
            tips: self.tips.clone(),
            keys: self.keys.clone(),
            ..*self
        };
        match builtin {
            Some(builtin) if !self.in_full => Self {
                tips: builtin.tips.clone(),
                keys: builtin.keys.clone(),
                ..said
            },
            _ => said,
        }
    }
}

/// A name in lower case on the stack: a look-up allocates nothing.
struct Name {
    bytes: [u8; Self::MAX_LEN],
    len: usize,
}

impl Name {
    // Twice the longest that Redis and its modules have; whatever is longer is unknown.
    const MAX_LEN: usize = 64;

    /// `None`: no command is called so.
    fn push(&mut self, part: &[u8]) -> Option<()> {
        let end = self.len + part.len();
        let place = self.bytes.get_mut(self.len..end)?;
        place.copy_from_slice(part);
        place.make_ascii_lowercase();
        self.len = end;
        Some(())
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Default for Name {
    fn default() -> Self {
        Self {
            bytes: [0; Self::MAX_LEN],
            len: 0,
        }
    }
}

/// FNV-1a: names are a few bytes, and all in the table are the server's, so nobody can make them collide.
struct NameHasher(u64);

impl Default for NameHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    // The length of a slice, which tells two names apart no better than their bytes.
    fn write_usize(&mut self, _len: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Oracle;
    use crate::resp::OwnedRequest;

    fn found<'t>(table: &'t Table, words: &[&str]) -> Option<&'t str> {
        match table.find(OwnedRequest::from_words(words).as_request()) {
            Lookup::Found(entry) => Some(&entry.name),
            Lookup::UnknownSubcommand | Lookup::Unknown => None,
        }
    }

    #[test]
    fn a_command_is_found_by_its_name_in_any_case() {
        let table = Table::builtin();
        for (words, expected) in [
            (&["GET", "k"][..], Some("get")),
            (&["gEt"], Some("get")),
            (&["client", "LIST"], Some("client|list")),
            (&["CLIENT"], Some("client")),
            (&["client", "setinfo", "lib-name", "x"], Some("client|setinfo")),
            (&["client", "none"], None),
            (&["client|list"], None),
            (&["QPUSH", "q", "x"], Some("qpush")),
            (&["qdrop", "q"], Some("qdrop")),
            (&["no-such-command"], None),
            (&[""], None),
            (&[&"x".repeat(1000)], None),
            (&["client", &"x".repeat(1000)], None),
        ] {
            assert_eq!(found(&table, words), expected, "{words:?}");
        }
    }

    #[test]
    fn an_id_leads_back_to_its_command() {
        let table = Table::builtin();
        for (index, entry) in table.entries().iter().enumerate() {
            assert_eq!(entry.id.index(), index);
            assert_eq!(table.entry(entry.id).name, entry.name);
            assert_eq!(table.named(entry.name.as_bytes()).map(|named| named.id), Some(entry.id));
        }
    }

    #[test]
    fn what_is_not_said_to_be_read_only_is_a_write() {
        let table = Table::builtin();
        let readonly = |name: &[u8]| table.named(name).unwrap().is_readonly();
        assert!(readonly(b"get") && readonly(b"scan") && readonly(b"qlen") && readonly(b"object|encoding"));
        assert!(!readonly(b"getset") && !readonly(b"xadd") && !readonly(b"eval") && !readonly(b"publish"));
    }

    #[test]
    fn a_newer_server_may_know_more_and_less_than_the_copy() {
        let answer = b"*2\r\n*10\r\n$3\r\nget\r\n:-7\r\n~1\r\n+write\r\n:0\r\n:0\r\n:0\r\n~0\r\n~0\r\n~0\r\n*0\r\n\
            *10\r\n$8\r\nbrandnew\r\n:2\r\n~0\r\n:0\r\n:0\r\n:0\r\n~0\r\n~0\r\n~0\r\n*0\r\n";
        let table = Table::from_answer(answer).unwrap();
        let get = table.named(b"get").unwrap();
        assert_eq!((get.arity, get.is_readonly(), get.has_keys()), (-7, false, false));
        assert_eq!(found(&table, &["brandnew"]), Some("brandnew"));
        assert_eq!(found(&table, &["set"]), None);
        assert_eq!(found(&table, &["qpop"]), Some("qpop"));
    }

    #[test]
    fn what_an_older_server_leaves_out_comes_from_the_copy() {
        let answer = b"*4\r\n*7\r\n$4\r\nxadd\r\n:-5\r\n~1\r\n+write\r\n:1\r\n:1\r\n:1\r\n~1\r\n+@write\r\n\
            *7\r\n$4\r\neval\r\n:-3\r\n~2\r\n+noscript\r\n+movablekeys\r\n:0\r\n:0\r\n:0\r\n~0\r\n\
            *7\r\n$6\r\nobject\r\n:-2\r\n~1\r\n+readonly\r\n:2\r\n:2\r\n:1\r\n~0\r\n\
            *7\r\n$6\r\nmodule\r\n:-2\r\n~1\r\n+write\r\n:1\r\n:-2\r\n:2\r\n~0\r\n";
        let table = Table::from_answer(answer).unwrap();
        let keys = |words: &[&str]| {
            let request = OwnedRequest::from_words(words);
            let Lookup::Found(entry) = table.find(request.as_request()) else {
                panic!("{words:?} is not found");
            };
            super::super::Keys::find(entry, request.as_request())
                .unwrap()
                .positions()
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&["xadd", "k", "*", "f", "v"]), [1]);
        assert_eq!(keys(&["eval", "return 1", "2", "a", "b", "c"]), [3, 4]);
        assert_eq!(keys(&["object", "encoding", "k"]), [2]);
        assert_eq!(
            table.named(b"xadd").unwrap().tips[..],
            [Box::from("nondeterministic_output")]
        );
        assert_eq!(
            found(&table, &["object", "later"]),
            Some("object"),
            "an older server does not say what it has"
        );
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        for answer in [
            "-NOPERM this user has no permissions\r\n",
            "",
            "*1\r\n",
            "*1\r\n*10\r\n$3\r\nge",
            "*1\r\n*1\r\n$3\r\nget\r\n",
            "*1\r\n*-1\r\n",
            "+OK\r\n",
            "*99999999999\r\n",
            "*0\r\n+OK\r\n",
            &"*1\r\n".repeat(10_000),
        ] {
            assert!(Table::from_answer(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn the_copy_says_what_this_redis_says_if_it_is_the_same() {
        let mut redis = Oracle::start(&[]);
        redis.ask(&["HELLO", "3"]);
        let answer = redis.ask(&["COMMAND"]);
        let table = Table::from_answer(&answer).unwrap();
        assert!(table.commands().count() > 200);
        if !String::from_utf8_lossy(&redis.ask(&["INFO", "server"])).contains("redis_version:7.0.15") {
            return;
        }
        let builtin = Table::builtin();
        assert_eq!(table.entries().len(), builtin.entries().len());
        for entry in table.entries() {
            let copy = builtin.named(entry.name.as_bytes()).unwrap();
            assert_eq!(
                (copy.arity, copy.flags, &copy.keys),
                (entry.arity, entry.flags, &entry.keys),
                "{}",
                copy.name
            );
        }
    }

    #[test]
    #[ignore = "writes the built-in copy anew, from the redis-server in the PATH"]
    fn write_the_builtin_copy() {
        let mut redis = Oracle::start(&[]);
        redis.ask(&["HELLO", "3"]);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/command/redis-7.0.resp3");
        std::fs::write(path, redis.ask(&["COMMAND"])).unwrap();
    }
}
