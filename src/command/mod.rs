//! What the proxy knows of every command: its arity, flags and keys, and which way its requests go.
//! The facts come from the server's own `COMMAND`, so there is no hand-written list of Redis's commands here,
//! only of those that the proxy answers or refuses itself ([`route`]) and of the queue's ([`queue`]).
//! Pure: no tokio, no I/O. Decides nothing about a request; that is [`crate::plan`]'s.
//!
//! - [`table`]: the snapshot that a worker looks commands up in.
//! - [`answer`] reads the server's answer to `COMMAND`, [`flags`] its words.
//! - [`keys`]: where the keys stand among a request's arguments.
//! - [`glob`]: patterns of names.

mod answer;
pub mod flags;
pub mod glob;
pub mod keys;
pub mod queue;
pub mod route;
pub mod table;

pub use answer::BadAnswer;
pub use flags::Flags;
pub use keys::Keys;
pub use queue::Verb;
pub use route::{Local, Refused, Route};
pub use table::{CommandId, Entry, Lookup, Table};
