//! What becomes of a request, decided from the request, the session and the command table alone.
//! Pure: no I/O, no clock, no await, nothing allocated unless the request is refused. What is planned here is
//! carried out by the client's side: local replies by [`crate::local`], queue commands by [`crate::queue`],
//! the rest by the upstream pipes.

use std::borrow::Cow;

use crate::command::keys::Unclear;
use crate::command::queue::Verb;
use crate::command::{CommandId, Entry, Flags, Keys, Local, Lookup, Refused, Route, Table};
use crate::local::command::Chosen;
use crate::local::info::{Sections, Whose};
use crate::resp::{ReplyWriter, Request};
use crate::session::Session;

/// What requests are planned by, the same for all clients of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'r> {
    pub table: &'r Table,
    /// How the proxy's own keys begin (`q:{`); `None`: plain commands may touch them.
    pub own_keys: Option<&'r [u8]>,
    /// Redis is a cluster, which we hide: to its clients the proxy is one Redis.
    pub cluster: bool,
}

#[derive(Debug)]
pub struct Planned {
    /// `None`: there is no such command.
    pub command: Option<CommandId>,
    pub plan: Plan,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Answered by the proxy itself.
    Local(Local),
    /// A queue command; its options are not read yet.
    Queue(Verb),
    /// `QSCAN`: sent to Redis as the SCAN that it stands for.
    ScanQueues,
    /// Sent to Redis as it is, and so is the reply to the client.
    Forward(Forward),
    /// Sent to Redis as it is; something of ours is added to the reply.
    Splice(Splice, Forward),
    Refuse(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The argument that is its first key, by whose slot a primary is found; `None`: it has no key, any primary serves it.
    pub first_key: Option<u32>,
    /// It changes nothing: it may be sent again when its fate is unknown, and a replica may serve it.
    pub readonly: bool,
}

/// What is added to Redis's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Splice {
    /// `INFO`: our sections, by [`crate::local::info::splice`].
    Info(Sections),
    /// `QSCAN`: the queues' names, by [`crate::queue::names::write`]: those that match the glob, asked of the owner of
    /// this slot.
    QueueNames(bytes::Bytes, u16),
    /// `COMMAND DOCS`: our commands, by [`crate::local::command::splice_docs`].
    CommandDocs(Chosen),
}

/// An error for the client, and nothing was done. Its words are Redis's where Redis has this error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Cow<'static, [u8]>);

impl Refusal {
    /// The error line without its `-`: a code, then a sentence. It may hold what the client sent, so any bytes.
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    pub fn write(&self, reply: &mut ReplyWriter) {
        reply.error(&self.0);
    }
}

impl From<&'static str> for Refusal {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text.into_bytes()))
    }
}

impl From<Vec<u8>> for Refusal {
    fn from(text: Vec<u8>) -> Self {
        Self(Cow::Owned(text))
    }
}

/// In Redis's order: is there such a command, are its arguments as many as it takes, may this client use it at all.
pub fn plan(request: Request, session: &Session, rules: &Rules) -> Planned {
    let entry = match rules.table.find(request) {
        Lookup::Found(entry) => entry,
        Lookup::UnknownSubcommand => return refused(None, unknown_subcommand(request)),
        Lookup::Unknown => return refused(None, unknown_command(request)),
    };
    if !entry.accepts(request.len()) {
        return refused(Some(entry), wrong_arity(entry));
    }
    if session.user.is_none() && !entry.has(Flags::NO_AUTH) {
        return refused(Some(entry), "NOAUTH Authentication required.".into());
    }
    Planned {
        command: Some(entry.id),
        plan: plan_command(entry, request, rules),
    }
}

fn refused(entry: Option<&Entry>, refusal: Refusal) -> Planned {
    Planned {
        command: entry.map(|entry| entry.id),
        plan: Plan::Refuse(refusal),
    }
}

fn plan_command(entry: &Entry, request: Request, rules: &Rules) -> Plan {
    match entry.route {
        Route::Forward => forward(entry, request, rules),
        Route::ForwardUnlessItBlocks if blocks(request) => {
            Plan::Refuse(not_let_through(entry, Refused::NeedsOwnConnection))
        }
        Route::ForwardUnlessItBlocks => forward(entry, request, rules),
        Route::ScanQueues => Plan::ScanQueues,
        Route::Queue(verb) => Plan::Queue(verb),
        Route::Local(local) => Plan::Local(local),
        Route::Info => plan_info(request, rules),
        Route::CommandDocs => plan_docs(request, rules.table),
        Route::CommandList if is_word(request, 3, b"MODULE") => FORWARD_KEYLESS,
        Route::CommandList => Plan::Local(Local::CommandList),
        Route::CommandGetKeysAndFlags if is_queue_command(rules.table, request.arg(2)) => {
            Plan::Local(Local::CommandGetKeysAndFlags)
        }
        Route::CommandGetKeysAndFlags => FORWARD_KEYLESS,
        Route::Refuse(why) => Plan::Refuse(not_let_through(entry, why)),
    }
}

const KEYLESS: Forward = Forward {
    first_key: None,
    readonly: true,
};
const FORWARD_KEYLESS: Plan = Plan::Forward(KEYLESS);

fn forward(entry: &Entry, request: Request, rules: &Rules) -> Plan {
    let keys = Keys::find(entry, request);
    if let Some(own) = rules.own_keys
        && touches(own, &keys, entry, request)
    {
        return Plan::Refuse(own_key(entry, own));
    }
    // Unclear keys: Redis is asked all the same, and has the right words for what is wrong.
    let is_clear = keys.is_ok();
    let first_key = keys.ok().and_then(|keys| keys.first());
    if rules.cluster
        && let Some(refusal) = refuse_in_cluster(entry, is_clear && first_key.is_none())
    {
        return Plan::Refuse(refusal);
    }
    Plan::Forward(Forward {
        first_key: first_key.map(|at| at as u32),
        readonly: entry.is_readonly(),
    })
}

/// What is about all of a cluster's nodes, and so is not answered by one of them.
fn refuse_in_cluster(entry: &Entry, is_keyless: bool) -> Option<Refusal> {
    if &*entry.name == "cluster" || entry.name.starts_with("cluster|") {
        return Some("ERR This instance has cluster support disabled".into());
    }
    let is_split = |tip: &&str| {
        matches!(
            *tip,
            "request_policy:all_shards" | "request_policy:all_nodes" | "request_policy:special"
        )
    };
    let mut tips = entry.tips.iter().map(|tip| &**tip);
    let name = entry.name.replace('|', " ");
    let refusal = || format!("ERR '{name}' is not yet supported in cluster mode: it concerns all shards").into();
    (is_keyless && tips.any(|tip| is_split(&tip))).then(refusal)
}

/// A guard against accidents, no wall: a script that makes up its keys and a `FLUSHALL` go past it.
/// Where not all keys can be found (`SORT … GET pattern`), every argument that looks like a key of ours counts as one.
fn touches(own: &[u8], keys: &Result<Keys, Unclear>, entry: &Entry, request: Request) -> bool {
    match keys {
        Ok(keys) if entry.finder.is_complete() => keys.positions().any(|at| request.arg(at).starts_with(own)),
        _ => request.args().any(|argument| argument.starts_with(own)),
    }
}

/// `XREAD [COUNT n] [BLOCK ms] STREAMS …`, `XREADGROUP GROUP group consumer [COUNT n] [BLOCK ms] [NOACK] STREAMS …`
fn blocks(request: Request) -> bool {
    let mut at = 1;
    while at < request.len() {
        let word = request.arg(at);
        let is = |option: &[u8]| word.eq_ignore_ascii_case(option);
        at += match () {
            () if is(b"BLOCK") => return true,
            () if is(b"STREAMS") => return false,
            () if is(b"GROUP") => 3,
            () if is(b"COUNT") => 2,
            () => 1,
        };
    }
    false
}

fn plan_info(request: Request, rules: &Rules) -> Plan {
    let sections = Sections::asked(request);
    match sections.whose() {
        Whose::Ours => Plan::Local(Local::Info),
        Whose::Redis if !rules.cluster => FORWARD_KEYLESS,
        Whose::Redis | Whose::Both => Plan::Splice(Splice::Info(sections), KEYLESS),
    }
}

fn plan_docs(request: Request, table: &Table) -> Plan {
    let names = || request.args().skip(2);
    let is_ours = |name: &&[u8]| is_queue_command(table, name);
    match names().filter(is_ours).count() {
        0 if names().len() > 0 => FORWARD_KEYLESS,
        ours if ours > 0 && ours == names().len() => Plan::Local(Local::CommandDocs),
        _ => Plan::Splice(Splice::CommandDocs(Chosen::asked(request)), KEYLESS),
    }
}

fn is_queue_command(table: &Table, name: &[u8]) -> bool {
    table.named(name).is_some_and(Entry::is_queue_command)
}

fn is_word(request: Request, at: usize, word: &[u8]) -> bool {
    at < request.len() && request.arg(at).eq_ignore_ascii_case(word)
}

// Redis cuts what it repeats of a request: the name after so many bytes, and the arguments together too.
const REPEATED: usize = 128;

fn unknown_command(request: Request) -> Refusal {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(cut(request.name(), REPEATED));
    text.extend_from_slice(b"', with args beginning with: ");
    let start = text.len();
    for argument in request.args().skip(1) {
        // The quotes count, so that the last argument shown is shorter by those before it.
        let shown = text.len() - start;
        if shown >= REPEATED {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(cut(argument, REPEATED - shown));
        text.extend_from_slice(b"' ");
    }
    text.into()
}

fn unknown_subcommand(request: Request) -> Refusal {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(cut(request.arg(1), REPEATED));
    text.extend_from_slice(b"'. Try ");
    text.extend(request.name().iter().map(u8::to_ascii_uppercase));
    text.extend_from_slice(b" HELP.");
    text.into()
}

/// Redis prints it as a C string, which ends at a zero byte too.
fn cut(bytes: &[u8], len: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(len)];
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

fn wrong_arity(entry: &Entry) -> Refusal {
    format!("ERR wrong number of arguments for '{}' command", entry.name).into()
}

fn own_key(entry: &Entry, own: &[u8]) -> Refusal {
    let own = String::from_utf8_lossy(own);
    format!(
        "NOPERM '{}' may not touch keys that begin with '{own}', they are the queues'",
        entry.name
    )
    .into()
}

fn not_let_through(entry: &Entry, why: Refused) -> Refusal {
    let name = entry.name.replace('|', " ");
    match why {
        Refused::NeedsOwnConnection => {
            format!("ERR '{name}' is not yet supported through this proxy: it needs a connection to Redis of its own")
        }
        Refused::NotThroughProxy => format!("ERR '{name}' is not allowed through this proxy, send it to Redis itself"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::resp::OwnedRequest;
    use crate::session::{Peer, Users};

    fn planned(line: &str) -> Plan {
        planned_before(false, line)
    }

    fn planned_before(cluster: bool, line: &str) -> Plan {
        let words: Vec<_> = line.split(' ').collect();
        let request = OwnedRequest::from_words(&words);
        let session = Session::new(1, Peer::Unix("/s".into()), &Users::new(Vec::new()), Instant::now());
        let rules = Rules {
            table: &Table::builtin(),
            own_keys: Some(b"q:{"),
            cluster,
        };
        plan(request.as_request(), &session, &rules).plan
    }

    fn refusal(line: &str) -> String {
        match planned(line) {
            Plan::Refuse(refusal) => String::from_utf8_lossy(refusal.text()).into_owned(),
            plan => panic!("{line}: {plan:?}"),
        }
    }

    #[test]
    fn a_plain_command_is_forwarded_by_its_first_key() {
        for (line, first_key, readonly) in [
            ("GET k", Some(1), true),
            ("set k v", Some(1), false),
            ("EVAL script 1 k", Some(3), false),
            ("EVAL script 0", None, false),
            ("EVAL script x", None, false),
            ("SORT k STORE d", Some(1), false),
            ("XREAD STREAMS s 0", Some(2), true),
            ("XREADGROUP GROUP block c STREAMS s 0", Some(5), false),
            ("OBJECT ENCODING k", Some(2), true),
            ("PUBLISH channel m", None, false),
            ("DBSIZE", None, true),
            ("FLUSHALL", None, false),
            ("CONFIG GET save", None, false),
            ("SCRIPT LOAD x", None, false),
            ("SCAN 0", None, true),
            ("TIME", None, false),
            ("COMMAND DOCS get", None, true),
            ("COMMAND LIST FILTERBY MODULE x", None, true),
            ("COMMAND GETKEYSANDFLAGS get k", None, true),
            ("INFO server", None, true),
        ] {
            let forward = Forward { first_key, readonly };
            assert_eq!(planned(line), Plan::Forward(forward), "{line}");
        }
    }

    #[test]
    fn before_a_cluster_what_concerns_all_shards_is_refused_and_the_cluster_is_hidden() {
        for line in [
            "DBSIZE",
            "KEYS *",
            "SCAN 0",
            "FLUSHALL",
            "FLUSHDB ASYNC",
            "RANDOMKEY",
            "SCRIPT LOAD x",
            "FUNCTION FLUSH",
            "CONFIG SET a b",
        ] {
            let Plan::Refuse(refusal) = planned_before(true, line) else {
                panic!("{line} is not refused");
            };
            let text = String::from_utf8_lossy(refusal.text());
            assert!(
                text.ends_with("is not yet supported in cluster mode: it concerns all shards"),
                "{text}"
            );
        }
        for line in ["CLUSTER SLOTS", "CLUSTER KEYSLOT k"] {
            let told = "ERR This instance has cluster support disabled".into();
            assert_eq!(planned_before(true, line), Plan::Refuse(told), "{line}");
        }
        for line in [
            "PUBLISH c m",
            "TIME",
            "EVAL x 0",
            "CONFIG GET save",
            "COMMAND DOCS get",
            "LASTSAVE",
        ] {
            assert!(
                matches!(
                    planned_before(true, line),
                    Plan::Forward(Forward { first_key: None, .. })
                ),
                "{line}"
            );
        }
        for line in ["MSET a 1 b 2", "DEL a b", "EVAL x 1 k"] {
            assert!(
                matches!(
                    planned_before(true, line),
                    Plan::Forward(Forward { first_key: Some(_), .. })
                ),
                "{line}"
            );
        }
        assert!(matches!(planned_before(true, "INFO cluster"), Plan::Splice(..)));
    }

    #[test]
    fn queue_commands_stay_with_the_proxy() {
        assert_eq!(planned("qpush orders x"), Plan::Queue(Verb::Push));
        assert_eq!(planned("QPOP orders BLOCK 0"), Plan::Queue(Verb::Pop));
        assert_eq!(
            refusal("QPUSH orders"),
            "ERR wrong number of arguments for 'qpush' command"
        );
        assert_eq!(
            refusal("QLEN orders x"),
            "ERR wrong number of arguments for 'qlen' command"
        );
    }

    #[test]
    fn what_both_know_is_asked_of_redis_and_completed() {
        for (line, is_expected) in [
            ("INFO", true),
            ("INFO all", true),
            ("INFO proxy server", true),
            ("COMMAND DOCS", true),
            ("COMMAND DOCS get qpush", true),
            ("COMMAND DOCS qpush", false),
            ("INFO proxy queues", false),
        ] {
            assert_eq!(matches!(planned(line), Plan::Splice(..)), is_expected, "{line}");
        }
        assert_eq!(planned("COMMAND DOCS qpush QPOP"), Plan::Local(Local::CommandDocs));
        assert_eq!(planned("INFO Proxy"), Plan::Local(Local::Info));
        assert_eq!(
            planned("COMMAND GETKEYSANDFLAGS qpush q x"),
            Plan::Local(Local::CommandGetKeysAndFlags)
        );
    }

    #[test]
    fn what_needs_a_connection_of_its_own_is_refused_for_now() {
        for line in [
            "BLPOP k 0",
            "BRPOP k 0",
            "BLMOVE a b LEFT LEFT 0",
            "BRPOPLPUSH a b 0",
            "BZPOPMIN k 0",
            "BZPOPMAX k 0",
            "BLMPOP 0 1 k LEFT",
            "BZMPOP 0 1 k MIN",
            "XREAD BLOCK 0 STREAMS s 0",
            "XREAD COUNT 1 block 0 STREAMS s 0",
            "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
            "WAIT 1 0",
            "MULTI",
            "EXEC",
            "DISCARD",
            "WATCH k",
            "UNWATCH",
            "SUBSCRIBE c",
            "PSUBSCRIBE c",
            "SSUBSCRIBE c",
            "UNSUBSCRIBE",
            "MONITOR",
            "CLIENT TRACKING ON",
            "CLIENT CACHING YES",
            "SCRIPT DEBUG YES",
        ] {
            let error = refusal(line);
            assert!(
                error.starts_with("ERR '") && error.ends_with("it needs a connection to Redis of its own"),
                "{line}: {error}"
            );
        }
        for line in [
            "SHUTDOWN",
            "REPLICAOF NO ONE",
            "FAILOVER",
            "DEBUG SLEEP 1",
            "CLIENT PAUSE 1",
            "READONLY",
            "ASKING",
            "SYNC",
        ] {
            assert!(refusal(line).contains("is not allowed through this proxy"), "{line}");
        }
    }

    #[test]
    fn plain_commands_keep_their_hands_off_the_proxys_keys() {
        for line in [
            "GET q:{orders/0}:ready",
            "MSET a 1 q:{orders/0}:x 2",
            "EVAL script 2 a q:{orders/0}:x",
            "RENAME a q:{b}",
            "SORT a BY q:{orders/0}:*",
            "SORT a GET x STORE q:{orders/0}:x",
            "EVAL script x q:{orders/0}:x",
        ] {
            assert!(refusal(line).starts_with("NOPERM '"), "{line}");
        }
        for line in [
            "SET a q:{orders/0}:x",
            "GET q:orders",
            "GET q",
            "EVAL script 1 a q:{orders/0}:x",
        ] {
            assert!(matches!(planned(line), Plan::Forward(_)), "{line}");
        }
    }

    #[test]
    fn the_proxys_keys_are_open_where_the_configuration_says_so() {
        let request = OwnedRequest::from_words(&["GET", "q:{orders/0}:ready"]);
        let session = Session::new(1, Peer::Unix("/s".into()), &Users::new(Vec::new()), Instant::now());
        let rules = Rules {
            table: &Table::builtin(),
            own_keys: None,
            cluster: false,
        };
        assert!(matches!(
            plan(request.as_request(), &session, &rules).plan,
            Plan::Forward(_)
        ));
    }
}
