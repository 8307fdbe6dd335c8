//! What a worker hears on its wake channel while clients of its wait.
//! Who is told, and when, is decided in `batch.lua`, in the step that changed the queue.

use crate::queue::id::LocalId;
use crate::queue::operation::QueueName;

/// Each names a queue and a partition of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Jobs are ready, and this worker was chosen to take them. It no longer stands among the waiting; if it wants
    /// nothing any more it must send a batch all the same, empty if need be, which calls the next.
    Come(QueueName, u16),
    /// Something is due at that Unix time in ms, sooner than what this worker was told.
    Due(QueueName, u16, u64),
    /// This job has ended, for whose result a client of its waits.
    Ended(QueueName, u16, LocalId),
    /// A queue has repeated jobs that it had not before.
    Crontab,
}

impl Wake {
    /// `None`: not a message of ours.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = message.splitn(2, |&byte| byte == b' ');
        let whose = parts.next()?;
        let slash = memchr::memrchr(b'/', whose)?;
        let (name, number) = (&whose[..slash], &whose[slash + 1..]);
        if name == QueueName::of_crontab().as_bytes() {
            return Some(Self::Crontab);
        }
        let queue = QueueName::new(name)?;
        let partition = std::str::from_utf8(number).ok()?.parse().ok()?;
        match parts.next() {
            None => Some(Self::Come(queue, partition)),
            Some([b'=', id @ ..]) => Some(Self::Ended(queue, partition, LocalId::parse(id)?)),
            Some(due) => {
                let due = std::str::from_utf8(due).ok()?.parse().ok()?;
                Some(Self::Due(queue, partition, due))
            }
        }
    }
}
