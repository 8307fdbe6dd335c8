//! What a client is told whose request is not let through. The words are Redis's own where it has this error.

use std::borrow::Cow;

use crate::command::{Entry, Refused};
use crate::resp::{ReplyWriter, Request};

/// An error for the client, and nothing was done.
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

// Redis cuts what it repeats of a request: the name after so many bytes, and the arguments together too.
const REPEATED: usize = 128;

pub(super) fn unknown_command(request: Request) -> Refusal {
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

pub(super) fn unknown_subcommand(request: Request) -> Refusal {
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

pub(super) fn wrong_arity(entry: &Entry) -> Refusal {
    format!("ERR wrong number of arguments for '{}' command", entry.name).into()
}

pub(super) fn own_key(entry: &Entry, own: &[u8]) -> Refusal {
    let own = String::from_utf8_lossy(own);
    format!(
        "NOPERM '{}' may not touch keys that begin with '{own}', they are the queues'",
        entry.name
    )
    .into()
}

/// In a cluster it would have to be asked of every shard.
pub(super) fn concerns_all_shards(entry: &Entry) -> Refusal {
    let name = entry.name.replace('|', " ");
    format!("ERR '{name}' is not yet supported in cluster mode: it concerns all shards").into()
}

pub(super) fn not_let_through(entry: &Entry, why: Refused) -> Refusal {
    let name = entry.name.replace('|', " ");
    match why {
        Refused::NeedsOwnConnection => {
            format!("ERR '{name}' is not yet supported through this proxy: it needs a connection to Redis of its own")
        }
        Refused::NotThroughProxy => format!("ERR '{name}' is not allowed through this proxy, send it to Redis itself"),
    }
    .into()
}
