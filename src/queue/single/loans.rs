//! Calls about unique keys that are lent to other partitions than their own, and what comes of them: see
//! [`crate::queue::queues`]'s `loans`.

use bytes::Bytes;

use super::Step;
use crate::queue::id::LocalId;
use crate::queue::operation::Loan;
use crate::queue::settings::Settings;
use crate::script::loans::{self, KeyAt, KeyWanted, NotHere};
use crate::script::{CallError, Partition, Scripts, Standing};

#[derive(Clone, Debug)]
pub enum KeyCall {
    /// Of the keys' own partition. `for_push`: one wants them.
    Lend { for_push: bool, wanted: Vec<KeyWanted> },
    /// Of the one that they were lent to: keys and the numbers of their loans. `home`: their own.
    Recall {
        home: u16,
        for_push: bool,
        loans: Vec<(Bytes, u64)>,
    },
    /// A job that was made ready again wants its key again. `loan`: by which that is in the job's partition.
    Retake {
        job: LocalId,
        key: Bytes,
        loan: Option<u64>,
    },
    /// Which keys of this partition are to be looked after.
    Overdue,
}

pub enum KeyNews {
    /// One for each key that was wanted.
    Lent(Vec<KeyAt>),
    /// The keys, each with the job that holds it, if one does; and their home.
    Recalled(u16, Vec<(Bytes, u64, Option<LocalId>)>),
    /// The call, and why it has to be made again.
    Retaken(KeyCall, Option<NotHere>),
    Overdue(Vec<(Bytes, Loan)>),
}

impl KeyCall {
    pub fn encode(&self, scripts: &Scripts, partition: &Partition, settings: &Settings) -> Bytes {
        match self {
            Self::Lend { for_push, wanted } => loans::lend(scripts, partition, settings, *for_push, wanted),
            Self::Recall { for_push, loans, .. } => loans::recall(scripts, partition, settings, *for_push, loans),
            Self::Retake { job, key, loan } => loans::retake(scripts, partition, settings, *job, key, *loan),
            Self::Overdue => loans::overdue(scripts, partition, settings),
        }
    }

    pub fn read(self, reply: Bytes) -> Result<(Standing, Step), CallError> {
        let (standing, news) = match self {
            Self::Lend { .. } => {
                let (standing, lent) = loans::lent(reply)?;
                (standing, KeyNews::Lent(lent))
            }
            Self::Recall { home, loans, .. } => {
                let (standing, holders) = loans::recalled(reply)?;
                let loans = loans.into_iter().zip(holders);
                let recalled = loans.map(|((key, number), holder)| (key, number, holder));
                (standing, KeyNews::Recalled(home, recalled.collect()))
            }
            Self::Retake { .. } => {
                let (standing, not_here) = loans::retaken(reply)?;
                (standing, KeyNews::Retaken(self, not_here))
            }
            Self::Overdue => {
                let (standing, found) = loans::found(reply)?;
                (standing, KeyNews::Overdue(found))
            }
        };
        Ok((standing, Step::Keys(news)))
    }
}
