//! What a worker hears on its wake channel while clients of its wait.
//! Who is told, and when, is decided in `batch.lua`, in the step that changed the queue.

use crate::queue::id::LocalId;
use crate::queue::operation::QueueName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Jobs are ready, and this worker was chosen to take them. It no longer stands among the waiting; if it wants
    /// nothing any more it must send a batch all the same, empty if need be, which calls the next.
    Come(QueueName),
    /// Something is due at that Unix time in ms, sooner than what this worker was told.
    Due(QueueName, u64),
    /// This job has ended, for whose result a client of its waits.
    Ended(QueueName, LocalId),
    /// A queue has repeated jobs that it had not before.
    Crontab,
}

impl Wake {
    /// `None`: not a message of ours.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = message.splitn(2, |&byte| byte == b' ');
        let name = parts.next()?;
        let crontab = QueueName::of_crontab();
        if name == crontab.as_bytes() {
            return Some(Self::Crontab);
        }
        let queue = QueueName::new(name)?;
        match parts.next() {
            None => Some(Self::Come(queue)),
            Some([b'=', id @ ..]) => Some(Self::Ended(queue, LocalId::parse(id)?)),
            Some(due) => Some(Self::Due(queue, std::str::from_utf8(due).ok()?.parse().ok()?)),
        }
    }
}
