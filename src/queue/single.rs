//! Calls that stand for themselves, not gathered with others: looking and mending. Large ones take several script calls,
//! each with what it has come to so far.

use bytes::Bytes;

use super::cron::Repeated;
use super::id::{LocalId, QueueMark};
use super::operation::{QueueName, State};
use super::reply::Reply;
use super::settings::{Change, Settings};
use crate::script::check::{self, Place};
use crate::script::cron::{self, Asked, Entry, MAX_ENTRIES, TableAsked, Told};
use crate::script::look::{self, Ending, JobView, PEEKED};
use crate::script::mend::{self, REVIVED, Revive};
use crate::script::remove::{self, DELETED};
use crate::script::{CallError, Partition, Scripts, Standing};

#[derive(Clone, Debug)]
pub enum Single {
    Len,
    Stats,
    Peek {
        state: State,
        count: u64,
        offset: u64,
        seen: Vec<JobView>,
    },
    Job(LocalId),
    Explain(LocalId),
    /// `waits`: its client waits for the job's end.
    Result {
        job: LocalId,
        waits: bool,
    },
    Delete {
        jobs: Vec<LocalId>,
        removed: u64,
    },
    Purge {
        state: Option<State>,
        removed: u64,
    },
    /// The settings that hold now.
    Settings,
    Configure(Vec<Change>),
    Revive {
        whom: Revive,
        revived: u64,
    },
    Drop,
    /// From there on, a part of the queue.
    Check {
        place: Place,
        repair: bool,
    },
    Cron(CronCall),
}

/// What a script call came to.
pub enum Step {
    Done(Reply),
    Again(Single),
    /// The job has not ended, and the client waits for that.
    Wait,
    /// It goes on in another queue.
    In(QueueName, Single),
    Keeper(News),
}

/// About repeated jobs: `QCRON`, and what the keeper asks ([`super::crons`]).
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

impl Single {
    /// It is about jobs by their names, and none of these is of this queue.
    pub fn names_nothing(&self) -> bool {
        match self {
            Self::Delete { jobs, .. } => jobs.is_empty(),
            Self::Revive { whom, .. } => match whom {
                Revive::DeadIds(jobs) | Revive::DelayedIds(jobs) => jobs.is_empty(),
                Revive::Dead(_) => false,
            },
            _ => false,
        }
    }

    pub fn encode(&self, scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64) -> Bytes {
        match self {
            Self::Len | Self::Stats | Self::Settings => look::stats(scripts, partition, settings),
            Self::Peek {
                state, count, offset, ..
            } => look::peek(scripts, partition, settings, *state, *count, *offset),
            Self::Result { job, waits } => look::result(scripts, partition, settings, *job, *waits),
            Self::Explain(job) => look::explain(scripts, partition, settings, *job),
            Self::Job(job) => look::job(scripts, partition, settings, *job),
            Self::Delete { jobs, .. } => {
                let jobs = &jobs[..jobs.len().min(DELETED)];
                remove::delete(scripts, partition, settings, sequence, jobs)
            }
            Self::Purge { state, .. } => remove::purge(scripts, partition, settings, sequence, *state),
            Self::Configure(changes) => mend::configure(scripts, partition, settings, sequence, changes),
            Self::Revive { whom, .. } => mend::revive(scripts, partition, settings, sequence, whom),
            Self::Drop => mend::drop(scripts, partition, settings, sequence),
            Self::Check { place, repair, .. } => check::check(scripts, partition, settings, *place, *repair),
            Self::Cron(call) => call.encode(scripts, partition, settings, sequence),
        }
    }

    /// Reads the reply to its call.
    pub fn read(
        self,
        reply: Bytes,
        queue: &QueueName,
        mark: QueueMark,
        settings: &Settings,
    ) -> Result<(Standing, Step), CallError> {
        match self {
            Self::Len | Self::Stats | Self::Settings => {
                let (standing, stats) = look::stats_reply(reply)?;
                let answer = match &self {
                    Self::Len => Reply::Integer(stats.ready() as i64),
                    Self::Settings => Reply::Settings(Box::new(settings.clone())),
                    _ => Reply::Stats(Box::new(stats), settings.pause),
                };
                Ok((standing, self.unless_more(standing, answer)))
            }
            Self::Job(_) => {
                let (standing, view) = look::job_reply(reply)?;
                let view = view.map(|view| Reply::View(mark, Box::new((settings.clone(), view))));
                Ok((standing, self.unless_more(standing, view.unwrap_or(Reply::NoView))))
            }
            Self::Explain(_) => {
                let (standing, explanation) = look::explain_reply(reply)?;
                let answer = Reply::Explanation(explanation.map(|found| (mark, found)), settings.pause);
                Ok((standing, self.unless_more(standing, answer)))
            }
            Self::Result { waits, .. } => {
                let (standing, ending) = look::result_reply(reply)?;
                let step = match ending {
                    Ending::Result(result) => Step::Done(Reply::Bulk(result)),
                    Ending::Open if standing.more => Step::Again(self),
                    Ending::Open if waits => Step::Wait,
                    Ending::Open | Ending::Nothing => Step::Done(Reply::Nothing),
                };
                Ok((standing, step))
            }
            Self::Peek {
                state,
                count,
                offset,
                mut seen,
            } => {
                let (standing, views) = look::peek_reply(reply, state)?;
                let found = views.len() as u64;
                let asked = count.min(PEEKED);
                if !standing.more {
                    seen.extend(views);
                }
                let next = match standing.more {
                    true => Some((count, offset)),
                    false => (found == asked && count > asked).then_some((count - asked, offset + asked)),
                };
                let step = match next {
                    None => Step::Done(Reply::Views(mark, Box::new(settings.clone()), seen)),
                    Some((count, offset)) => Step::Again(Self::Peek {
                        state,
                        count,
                        offset,
                        seen,
                    }),
                };
                Ok((standing, step))
            }
            Self::Delete { mut jobs, removed } => {
                let (standing, now_removed) = remove::deleted(reply)?;
                let removed = removed + now_removed;
                jobs.drain(..jobs.len().min(DELETED));
                let step = match jobs.is_empty() {
                    true => Step::Done(Reply::Integer(removed as i64)),
                    false => Step::Again(Self::Delete { jobs, removed }),
                };
                Ok((standing, step))
            }
            Self::Purge { state, removed } => {
                let (standing, purged) = remove::purged(reply)?;
                let removed = removed + purged.removed;
                let step = match purged.more {
                    false => Step::Done(Reply::Integer(removed as i64)),
                    true => Step::Again(Self::Purge { state, removed }),
                };
                Ok((standing, step))
            }
            Self::Configure(_) => Ok((mend::configured(reply)?, Step::Done(Reply::Ok))),
            Self::Revive { whom, revived } => {
                let (standing, now_revived) = mend::counted(reply)?;
                let revived = revived + now_revived;
                let step = match left_to_revive(whom, now_revived) {
                    None => Step::Done(Reply::Integer(revived as i64)),
                    Some(whom) => Step::Again(Self::Revive { whom, revived }),
                };
                Ok((standing, step))
            }
            Self::Cron(call) => call.read(reply, queue),
            Self::Check { .. } => {
                let (standing, found) = check::found(reply)?;
                Ok((standing, self.unless_more(standing, Reply::Checked(Box::new(found)))))
            }
            Self::Drop => {
                let (standing, dropped) = mend::counted(reply)?;
                Ok((standing, Step::Done(Reply::Integer(dropped as i64))))
            }
        }
    }

    fn unless_more(self, standing: Standing, reply: Reply) -> Step {
        match standing.more {
            true => Step::Again(self),
            false => Step::Done(reply),
        }
    }
}

impl CronCall {
    fn encode(&self, scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64) -> Bytes {
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

    fn read(self, reply: Bytes, queue: &QueueName) -> Result<(Standing, Step), CallError> {
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

/// Whom the next call makes ready, after one that found so many.
fn left_to_revive(whom: Revive, revived: u64) -> Option<Revive> {
    let rest = |mut ids: Vec<LocalId>| {
        ids.drain(..ids.len().min(REVIVED));
        (!ids.is_empty()).then_some(ids)
    };
    match whom {
        Revive::Dead(most) => (revived == REVIVED as u64 && most > revived).then(|| Revive::Dead(most - revived)),
        Revive::DeadIds(ids) => rest(ids).map(Revive::DeadIds),
        Revive::DelayedIds(ids) => rest(ids).map(Revive::DelayedIds),
    }
}
