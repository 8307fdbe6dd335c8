//! Calls about unique keys that are lent to other partitions than their own, but for those that want them, which are gathered: see
//! `queue/queues/loans.rs`.

use bytes::Bytes;

use super::Step;
use crate::queue::id::LocalId;
use crate::queue::operation::Loan;
use crate::queue::settings::Settings;
use crate::script::loans::{self, NotHere};
use crate::script::{CallError, Partition, Scripts, Standing};

#[derive(Clone, Debug)]
pub enum KeyCall {
    /// Of the partition that they were lent to: keys and the numbers of their loans. `home`: their own. `for_push`: one wants them.
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
    /// The keys, each with the job that holds it, if one does; and their home.
    Recalled(u16, Vec<(Bytes, u64, Option<LocalId>)>),
    /// The call, and why it has to be made again.
    Retaken(KeyCall, Option<NotHere>),
    Overdue(Vec<(Bytes, Loan)>),
}

impl KeyCall {
    pub fn encode(&self, scripts: &Scripts, partition: &Partition, settings: &Settings) -> Bytes {
        match self {
            Self::Recall { for_push, loans, .. } => loans::recall(scripts, partition, settings, *for_push, loans),
            Self::Retake { job, key, loan } => loans::retake(scripts, partition, settings, *job, key, *loan),
            Self::Overdue => loans::overdue(scripts, partition, settings),
        }
    }

    pub fn read(self, reply: Bytes) -> Result<(Standing, Step), CallError> {
        let (standing, news) = match self {
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
