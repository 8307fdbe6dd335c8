//! Which way a command's requests go, known once its name is: the one place that names the commands
//! that are not simply forwarded. What a route means for a single request is decided by [`crate::plan`].

use super::flags::Flags;
use super::queue::Verb;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Forward,
    /// Forwarded, unless its options make it block: `XREAD`, `XREADGROUP`.
    ForwardUnlessItBlocks,
    Queue(Verb),
    /// `QSCAN`: about all queues, and so no call of a lane but Redis's SCAN.
    ScanQueues,
    Local(Local),
    /// Answered here, or by Redis, or by both: it depends on what is asked for.
    Info,
    CommandDocs,
    CommandList,
    CommandGetKeysAndFlags,
    Refuse(Refused),
}

/// A reply that the proxy makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Auth,
    Echo,
    Hello,
    Info,
    Ping,
    Quit,
    Reset,
    Select,
    AclWhoAmI,
    ClientGetName,
    ClientHelp,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientReply,
    ClientSetInfo,
    ClientSetName,
    Command,
    CommandCount,
    CommandDocs,
    CommandGetKeys,
    CommandGetKeysAndFlags,
    CommandHelp,
    CommandInfo,
    CommandList,
}

/// Why a command is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It takes a connection for itself (it waits, or keeps something in it), and ours are shared.
    NeedsOwnConnection,
    /// It is about the server itself, or about its connection, which is not the client's.
    NotThroughProxy,
}

/// For a command of the server's, by its full name and its flags.
pub(super) fn of_server_command(name: &str, flags: Flags) -> Route {
    if let Some(local) = local(name) {
        return Route::Local(local);
    }
    match name {
        "info" => Route::Info,
        "command|docs" => Route::CommandDocs,
        "command|list" => Route::CommandList,
        "command|getkeysandflags" => Route::CommandGetKeysAndFlags,
        "xread" | "xreadgroup" => Route::ForwardUnlessItBlocks,
        _ => match refused(name, flags) {
            Some(why) => Route::Refuse(why),
            None => Route::Forward,
        },
    }
}

fn local(name: &str) -> Option<Local> {
    Some(match name {
        "acl|whoami" => Local::AclWhoAmI,
        "auth" => Local::Auth,
        "client|getname" => Local::ClientGetName,
        "client|help" => Local::ClientHelp,
        "client|id" => Local::ClientId,
        "client|info" => Local::ClientInfo,
        "client|kill" => Local::ClientKill,
        "client|list" => Local::ClientList,
        "client|no-evict" => Local::ClientNoEvict,
        "client|no-touch" => Local::ClientNoTouch,
        "client|reply" => Local::ClientReply,
        "client|setinfo" => Local::ClientSetInfo,
        "client|setname" => Local::ClientSetName,
        "command" => Local::Command,
        "command|count" => Local::CommandCount,
        "command|getkeys" => Local::CommandGetKeys,
        "command|help" => Local::CommandHelp,
        "command|info" => Local::CommandInfo,
        "echo" => Local::Echo,
        "hello" => Local::Hello,
        "ping" => Local::Ping,
        "quit" => Local::Quit,
        "reset" => Local::Reset,
        "select" => Local::Select,
        _ => return None,
    })
}

fn refused(name: &str, flags: Flags) -> Option<Refused> {
    match name {
        "multi" | "exec" | "discard" | "watch" | "unwatch" => Some(Refused::NeedsOwnConnection),
        "subscribe" | "psubscribe" | "ssubscribe" => Some(Refused::NeedsOwnConnection),
        "unsubscribe" | "punsubscribe" | "sunsubscribe" => Some(Refused::NeedsOwnConnection),
        "client|tracking" | "client|trackinginfo" | "client|caching" | "client|getredir" => {
            Some(Refused::NeedsOwnConnection)
        }
        "wait" | "waitaof" | "monitor" | "script|debug" => Some(Refused::NeedsOwnConnection),
        _ if flags.contains(Flags::BLOCKING) => Some(Refused::NeedsOwnConnection),
        "asking" | "readonly" | "readwrite" => Some(Refused::NotThroughProxy),
        "client|pause" | "client|unpause" | "client|unblock" => Some(Refused::NotThroughProxy),
        "client|capa" | "client|import-source" => Some(Refused::NotThroughProxy),
        "sync" | "psync" | "replconf" | "replicaof" | "slaveof" | "failover" => Some(Refused::NotThroughProxy),
        "debug" | "shutdown" => Some(Refused::NotThroughProxy),
        _ => None,
    }
}
