//! `COMMAND`: the table, as clients and their completion read it. Redis's commands as Redis describes them, ours besides.
//! Only the documentation of Redis's commands is not in the table: for that Redis is asked, and ours is added.

use crate::command::queue::{self, Argument, Kind, Spec};
use crate::command::{Entry, Flags, Keys, Lookup, Table, glob};
use crate::resp::{OwnedRequest, ReplyWriter, Request};

use super::{SYNTAX_ERROR, help_lines};

pub(super) fn all(table: &Table, reply: &mut ReplyWriter) {
    reply.array(table.commands().count());
    for entry in table.commands() {
        entry.write(reply);
    }
}

pub(super) fn count(table: &Table, reply: &mut ReplyWriter) {
    reply.integer(table.commands().count() as i64);
}

/// `COMMAND INFO [name …]`
pub(super) fn info(request: Request, table: &Table, reply: &mut ReplyWriter) {
    if request.len() == 2 {
        return all(table, reply);
    }
    reply.array(request.len() - 2);
    for name in request.args().skip(2) {
        match table.named(name) {
            Some(entry) => entry.write(reply),
            None => reply.null(),
        }
    }
}

/// `COMMAND LIST [FILTERBY ACLCAT category|PATTERN pattern]`; by module, Redis is asked.
pub(super) fn list(request: Request, table: &Table, reply: &mut ReplyWriter) {
    let is = |at: usize, word: &[u8]| request.arg(at).eq_ignore_ascii_case(word);
    match request.len() {
        2 => names(table, |_| true, reply),
        5 if is(2, b"FILTERBY") && is(3, b"ACLCAT") => {
            let category = request.arg(4);
            let is_in = |known: &str| known.as_bytes()[1..].eq_ignore_ascii_case(category);
            names(table, |entry| entry.categories.iter().any(|known| is_in(known)), reply);
        }
        5 if is(2, b"FILTERBY") && is(3, b"PATTERN") => {
            names(
                table,
                |entry| glob::matches(request.arg(4), entry.name.as_bytes()),
                reply,
            );
        }
        _ => reply.error(SYNTAX_ERROR),
    }
}

fn names(table: &Table, wanted: impl Fn(&Entry) -> bool + Copy, reply: &mut ReplyWriter) {
    let wanted = || table.entries().iter().filter(|entry| wanted(entry));
    reply.array(wanted().count());
    for entry in wanted() {
        reply.bulk(entry.name.as_bytes());
    }
}

/// `COMMAND GETKEYS command [argument …]`, and `GETKEYSANDFLAGS` of commands that have none.
pub(super) fn keys(request: Request, table: &Table, reply: &mut ReplyWriter) {
    let inner: Vec<_> = request.args().skip(2).collect();
    let inner = OwnedRequest::from_words(&inner);
    let inner = inner.as_request();
    let Lookup::Found(entry) = table.find(inner) else {
        return reply.error("ERR Invalid command specified");
    };
    if !entry.has_keys() {
        return reply.error("ERR The command has no key arguments");
    }
    if !entry.accepts(inner.len()) {
        return reply.error("ERR Invalid number of arguments specified for command");
    }
    match Keys::find(entry, inner) {
        Ok(keys) if !keys.is_empty() => {
            reply.array(keys.positions().count());
            for at in keys.positions() {
                reply.bulk(inner.arg(at));
            }
        }
        _ if entry.has(Flags::NO_MANDATORY_KEYS) => reply.array(0),
        _ => reply.error("ERR Invalid arguments specified for command"),
    }
}

/// Which of our commands a `COMMAND DOCS` asks for, by their place in [`queue::COMMANDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen(u32);

impl Chosen {
    /// `COMMAND DOCS [name …]`: all without a name.
    pub fn asked(request: Request) -> Self {
        let is_asked = |spec: &Spec| {
            request.len() == 2
                || request
                    .args()
                    .skip(2)
                    .any(|name| name.eq_ignore_ascii_case(spec.name.as_bytes()))
        };
        let chosen = queue::COMMANDS.iter().enumerate().filter(|(_, spec)| is_asked(spec));
        Self(chosen.fold(0, |chosen, (place, _)| chosen | 1 << place))
    }

    fn specs(self) -> impl Iterator<Item = &'static Spec> {
        queue::COMMANDS
            .iter()
            .enumerate()
            .filter(move |(place, _)| self.0 & 1 << place != 0)
            .map(|(_, spec)| spec)
    }

    fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

/// `COMMAND DOCS` when only our own commands are asked for.
pub(super) fn docs(request: Request, reply: &mut ReplyWriter) {
    let chosen = Chosen::asked(request);
    reply.map(chosen.len());
    write_docs(chosen, reply);
}

/// Redis's reply (a map, an array in RESP2) with our commands behind its own. An error is handed on as it is.
pub fn splice_docs(redis: &[u8], chosen: Chosen, reply: &mut ReplyWriter) {
    let Some((len, body)) = opened(redis) else {
        return reply.raw(redis);
    };
    let pairs = match redis[0] {
        b'%' => len,
        _ => len / 2,
    };
    reply.map(pairs + chosen.len());
    reply.raw(body);
    write_docs(chosen, reply);
}

/// The length of an array or map, and the elements that follow.
fn opened(reply: &[u8]) -> Option<(usize, &[u8])> {
    let end = memchr::memchr(b'\r', reply)?;
    let (b'*' | b'%', digits) = reply[..end].split_first()? else {
        return None;
    };
    let len = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((len, reply.get(end + 2..)?))
}

fn write_docs(chosen: Chosen, reply: &mut ReplyWriter) {
    for spec in chosen.specs() {
        reply.bulk(spec.name.as_bytes());
        reply.map(5);
        for (field, value) in [
            ("summary", spec.summary),
            ("since", spec.since),
            ("group", queue::GROUP),
            ("complexity", spec.complexity),
        ] {
            reply.bulk(field.as_bytes());
            reply.bulk(value.as_bytes());
        }
        reply.bulk(b"arguments");
        write_arguments(spec.arguments, reply);
    }
}

fn write_arguments(arguments: &[Argument], reply: &mut ReplyWriter) {
    reply.array(arguments.len());
    for argument in arguments {
        write_argument(argument, reply);
    }
}

fn write_argument(argument: &Argument, reply: &mut ReplyWriter) {
    let (kind, within): (_, &[Argument]) = match argument.kind {
        Kind::Text => ("string", &[]),
        Kind::Integer => ("integer", &[]),
        Kind::UnixTime => ("unix-time", &[]),
        Kind::Token => ("pure-token", &[]),
        Kind::OneOf(choices) => ("oneof", choices),
        Kind::Block(parts) => ("block", parts),
    };
    let flags: Vec<_> = [(argument.optional, "optional"), (argument.multiple, "multiple")]
        .into_iter()
        .filter_map(|(is_set, flag)| is_set.then_some(flag))
        .collect();
    let texts = [("name", argument.name), ("type", kind), ("token", argument.token)];
    let texts = || texts.iter().filter(|(_, text)| !text.is_empty());
    reply.map(texts().count() + usize::from(!flags.is_empty()) + usize::from(!within.is_empty()));
    for (field, text) in texts() {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !flags.is_empty() {
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.into_iter().for_each(|flag| reply.simple(flag));
    }
    if !within.is_empty() {
        reply.bulk(b"arguments");
        write_arguments(within, reply);
    }
}

pub(super) fn help(reply: &mut ReplyWriter) {
    help_lines("COMMAND", &HELP, reply);
}

const HELP: [&str; 18] = [
    "(no subcommand)",
    "    Return details about all Redis commands.",
    "COUNT",
    "    Return the total number of commands in this Redis server.",
    "LIST",
    "    Return a list of all commands in this Redis server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple Redis commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple Redis commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full Redis command.",
    "GETKEYSANDFLAGS <full-command>",
    "    Return the keys and the access flags from a full Redis command.",
];
