//! The queue's own commands: one table for the parser's names, arities, `COMMAND`, `COMMAND DOCS` and the documentation.
//! They enter the command table as a server's commands do, by an answer to `COMMAND` that is rendered here.
//! They have no key specs: a queue's name is no key, and nothing may route one by it.
//! What their options mean is read by [`crate::queue`].

mod table;

use bytes::BytesMut;

use super::route::Route;
use crate::resp::{Protocol, ReplyWriter};

pub use table::COMMANDS;

/// A queue command that this version serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Push,
    PushMany,
    Pop,
    PopAny,
    Ack,
    Nack,
    Extend,
    Len,
    Stats,
    Peek,
    Job,
    Delete,
    Purge,
    Config,
    Pause,
    Resume,
    Redrive,
    Promote,
    Drop,
    Result,
    Explain,
    Check,
    Cron,
}

/// What `COMMAND` and `COMMAND DOCS` say of a queue command.
pub struct Spec {
    pub route: Route,
    pub name: &'static str,
    /// As Redis counts: the name included; negative: at least so many.
    pub arity: i32,
    pub flags: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub since: &'static str,
    pub summary: &'static str,
    pub complexity: &'static str,
    pub arguments: &'static [Argument],
}

/// One argument in the tree that `COMMAND DOCS` describes, for completion and hints.
pub struct Argument {
    pub name: &'static str,
    pub kind: Kind,
    /// The word that announces it; empty: none.
    pub token: &'static str,
    pub optional: bool,
    pub multiple: bool,
}

pub enum Kind {
    Text,
    Integer,
    UnixTime,
    /// Just its token.
    Token,
    OneOf(&'static [Argument]),
    /// All of these, in this order.
    Block(&'static [Argument]),
}

/// The ACL category of all queue commands, beside Redis's own.
pub const CATEGORY: &str = "@queue";
/// The group that `COMMAND DOCS` puts them in.
pub const GROUP: &str = "queue";

/// The queue commands as an answer to `COMMAND`, in RESP3.
pub(super) fn answer() -> BytesMut {
    let mut answer = BytesMut::new();
    let mut reply = ReplyWriter::new(&mut answer, Protocol::Resp3);
    reply.array(COMMANDS.len());
    for spec in &COMMANDS {
        entry(&mut reply, spec.name, spec.arity, spec.flags, spec.categories);
    }
    answer
}

/// A command that has no keys, no tips and no subcommands.
pub(super) fn entry(reply: &mut ReplyWriter, name: &str, arity: i32, flags: &[&str], categories: &[&str]) {
    reply.array(10);
    reply.bulk(name.as_bytes());
    reply.integer(i64::from(arity));
    words(reply, flags);
    for _first_last_step in 0..3 {
        reply.integer(0);
    }
    words(reply, categories);
    for _tips_keys_subcommands in 0..2 {
        reply.set(0);
    }
    reply.array(0);
}

fn words(reply: &mut ReplyWriter, words: &[&str]) {
    reply.set(words.len());
    for word in words {
        reply.simple(word);
    }
}
