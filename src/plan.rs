//! What becomes of a request, decided from the request, the session and the command table alone.
//! Pure: no I/O, no clock, no await, nothing allocated unless the request is refused. What is planned here is
//! carried out by the client's side: local replies by [`crate::local`], queue commands by [`crate::queue`],
//! the rest by the upstream pipes.

mod refusal;
#[cfg(test)]
mod tests;

use crate::command::keys::Unclear;
use crate::command::queue::Verb;
use crate::command::{CommandId, Entry, Flags, Keys, Local, Lookup, Refused, Route, Table};
use crate::local::command::Chosen;
use crate::local::info::{Sections, Whose};
use crate::resp::Request;
use crate::session::Session;

pub use refusal::Refusal;

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

/// In Redis's order: is there such a command, are its arguments as many as it takes, may this client use it at all.
pub fn plan(request: Request, session: &Session, rules: &Rules) -> Planned {
    let entry = match rules.table.find(request) {
        Lookup::Found(entry) => entry,
        Lookup::UnknownSubcommand => return refused(None, refusal::unknown_subcommand(request)),
        Lookup::Unknown => return refused(None, refusal::unknown_command(request)),
    };
    if !entry.accepts(request.len()) {
        return refused(Some(entry), refusal::wrong_arity(entry));
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
            Plan::Refuse(refusal::not_let_through(entry, Refused::NeedsOwnConnection))
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
        Route::Refuse(why) => Plan::Refuse(refusal::not_let_through(entry, why)),
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
        return Plan::Refuse(refusal::own_key(entry, own));
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
    (is_keyless && tips.any(|tip| is_split(&tip))).then(|| refusal::concerns_all_shards(entry))
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
