//! Who asked: where a reply belongs, however long it takes and whatever way it comes.

use crate::client::replies::Ticket;

/// A client of this proxy. A key is never given twice, so one that is kept too long finds nobody rather than a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// The worker that owns it.
    pub worker: u16,
    pub index: u32,
    pub generation: u32,
}

/// One request of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    pub client: ClientKey,
    pub ticket: Ticket,
}

/// For tests: the first request of some client.
#[cfg(test)]
pub fn asker(index: u32) -> Asker {
    let client = ClientKey {
        worker: 0,
        index,
        generation: 1,
    };
    Asker { client, ticket: 0 }
}
