//! Calls about repeated jobs: `QCRON`, and what their keeper asks ([`crate::queue::crons`]).

use bytes::Bytes;

use super::{Single, Step};
use crate::queue::cron::Repeated;
use crate::queue::operation::QueueName;
use crate::queue::reply::Reply;
use crate::queue::settings::Settings;
use crate::script::cron::{self, Asked, Entry, MAX_ENTRIES, TableAsked, Told};
use crate::script::{CallError, Partition, Scripts, Standing};

/// What is asked, and what that has come to in the calls before.
#[derive(Clone, Debug)]
pub enum CronCall {
    /// `tick`: its first, once Redis's clock is known.
    Add {
        job: Box<Repeated>,
        tick: Option<u64>,
    },
    Delete(Bytes),
    List {
        seen: Vec<Entry>,
    },
    Due,
    /// The table of queues that have some is another queue's: [`QueueName::of_crontab`].
    AddToTable(QueueName),
    Forget(QueueName, Bytes),
    ReadTable {
        cursor: Bytes,
        seen: Vec<(Bytes, Bytes)>,
    },
}

/// What the keeper hears.
pub enum News {
    Due(Told),
    Table(Vec<(Bytes, Bytes)>),
}

impl CronCall {
    pub fn encode(&self, scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64) -> Bytes {
        let cron = |asked| cron::cron(scripts, partition, settings, sequence, asked);
        let table = |asked| cron::table(scripts, partition, settings, asked);
        match self {
            Self::Add { job, tick: Some(tick) } => cron(Asked::Add {
                name: &job.name,
                words: &job.words,
                tick: *tick,
            }),
            Self::Add { tick: None, .. } | Self::Due => cron(Asked::Due),
            Self::Delete(name) => cron(Asked::Delete(name)),
            Self::List { seen } => cron(Asked::List(seen.len() as u64)),
            Self::AddToTable(queue) => table(TableAsked::Add(queue.as_bytes())),
            Self::Forget(queue, version) => table(TableAsked::Forget(queue.as_bytes(), version)),
            Self::ReadTable { cursor, .. } => table(TableAsked::Read(cursor)),
        }
    }

    pub fn read(self, reply: Bytes, queue: &QueueName) -> Result<(Standing, Step), CallError> {
        Ok(match self {
            Self::Add { job, tick: None } => {
                let (standing, _) = cron::told(reply)?;
                let step = match job.schedule.next_after(standing.now) {
                    None => refusal(format!(
                        "ERR schedule '{}' never comes",
                        job.schedule_text.escape_ascii()
                    )),
                    tick => Step::Again(Single::Cron(Self::Add { job, tick })),
                };
                (standing, step)
            }
            Self::Add { .. } => {
                let (standing, added) = cron::counted(reply)?;
                let step = match added {
                    0 => refusal(format!(
                        "ERR queue '{queue}' has as many repeated jobs as it may, {MAX_ENTRIES}"
                    )),
                    _ => Step::In(QueueName::of_crontab(), Single::Cron(Self::AddToTable(queue.clone()))),
                };
                (standing, step)
            }
            Self::Delete(_) => {
                let (standing, deleted) = cron::counted(reply)?;
                (standing, Step::Done(Reply::Integer(deleted as i64)))
            }
            Self::List { mut seen } => {
                let (standing, told) = cron::told(reply)?;
                seen.extend(told.entries);
                let step = match told.more {
                    true => Step::Again(Single::Cron(Self::List { seen })),
                    false => Step::Done(Reply::Repeated(seen)),
                };
                (standing, step)
            }
            Self::Due => {
                let (standing, told) = cron::told(reply)?;
                (standing, Step::Keeper(News::Due(told)))
            }
            Self::AddToTable(_) | Self::Forget(..) => (cron::page(reply)?.0, Step::Done(Reply::Ok)),
            Self::ReadTable { mut seen, .. } => {
                let (standing, page) = cron::page(reply)?;
                seen.extend(page.queues);
                let step = match page.next {
                    Some(cursor) => Step::Again(Single::Cron(Self::ReadTable { cursor, seen })),
                    None => Step::Keeper(News::Table(seen)),
                };
                (standing, step)
            }
        })
    }
}

fn refusal(line: String) -> Step {
    Step::Done(Reply::Error(line.into()))
}
