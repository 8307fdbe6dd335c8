//! Calls that stand for themselves, not gathered with others: looking and mending. Large ones take several script calls,
//! each with what it has come to so far; what is asked of a queue as a whole is asked of partition 0 first, and then of the
//! others ([`Single::elsewhere`]).

mod cron;
mod loans;

use bytes::Bytes;

use super::id::{LocalId, Origin};
use super::operation::{QueueName, State};
use super::reply::Reply;
use super::settings::{Change, DROPPING, SPREAD, Settings};
use super::spread::Spread;
use crate::script::check::{self, Place};
use crate::script::look::{self, Ending, JobView, PEEKED};
use crate::script::mend::{self, REVIVED, Revive};
use crate::script::remove::{self, DELETED};
use crate::script::{CallError, Changed, Partition, Scripts, Standing};

pub use cron::{CronCall, News};
pub use loans::{KeyCall, KeyNews};

#[derive(Clone, Debug)]
pub enum Single {
    Len,
    Stats,
    /// Nothing but whether the settings are what they were thought to be, as with every call.
    Confirm,
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
    /// `QCONFIG SET`, `QPAUSE`, `QRESUME`. What is to be stored depends on the settings that hold, which a look tells first.
    Configure {
        asked: Vec<Change>,
        stored: Option<Vec<Change>>,
    },
    /// The first push spreads the queue over its partitions, or a later one over more.
    Open(Spread),
    /// What this partition has as its copy of the settings.
    Witness,
    /// Partition 0 gets settings back that it had. `seen`: the version of those that it has.
    Restore {
        seen: Bytes,
        copy: Changed,
    },
    /// This partition gets the settings of partition 0. `seen`: the version of those that it has.
    Copy {
        seen: Bytes,
    },
    Revive {
        whom: Revive,
        revived: u64,
    },
    /// `noted`: it stood in partition 0 that the queue is being dropped. What is left of that is done, and a queue that was made
    /// since stays.
    Drop {
        noted: bool,
    },
    /// From there on, a part of the queue.
    Check {
        place: Place,
        repair: bool,
    },
    Cron(CronCall),
    Keys(KeyCall),
    /// Of a queue of several partitions that had this version of its settings: one of those from 1 on; or partition 0, last.
    DropPart {
        version: Bytes,
    },
}

/// What a script call came to.
pub enum Step {
    Done(Reply),
    Again(Single),
    /// As much as this partition had; the next one may have more.
    Next(Single),
    /// The job has not ended, and the client waits for that.
    Wait,
    /// It goes on in another queue.
    In(QueueName, Single),
    Keeper(News),
    Keys(KeyNews),
    /// These jobs want their unique keys again, which are elsewhere; and what comes besides.
    Retake(Vec<(LocalId, Bytes)>, Box<Step>),
}

/// What the other partitions of a queue are asked.
pub enum Elsewhere {
    /// This.
    Too(Single),
    /// A look at the jobs of all partitions in their order, which begins anew.
    Window(State, Window),
}

/// Which jobs are shown: how many, and how many before them are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub count: u64,
    pub offset: u64,
}

impl Single {
    pub fn configure(asked: Vec<Change>) -> Self {
        Self::Configure { asked, stored: None }
    }

    /// Where it begins.
    pub fn partition(&self) -> u16 {
        match self {
            Self::Check { place, .. } => place.partition,
            _ => 0,
        }
    }

    /// What the other partitions are asked when partition 0 has answered. `settings`: as they are now.
    pub fn elsewhere(&self, settings: &Settings) -> Option<Elsewhere> {
        Some(match self {
            Self::Len | Self::Stats | Self::Confirm => Elsewhere::Too(self.clone()),
            Self::Purge { state, .. } => Elsewhere::Too(Self::Purge {
                state: *state,
                removed: 0,
            }),
            Self::Drop { .. } if settings.dropping => Elsewhere::Too(Self::DropPart {
                version: settings.version.clone(),
            }),
            Self::Peek {
                state,
                count,
                offset,
                seen,
            } => {
                let seen = seen.len() as u64;
                let window = Window {
                    count: count + seen,
                    offset: offset - seen,
                };
                Elsewhere::Window(*state, window)
            }
            _ => return None,
        })
    }

    /// As it begins, after a call that was not done.
    pub fn anew(self) -> Option<Self> {
        match self {
            Self::Configure { asked, .. } => Some(Self::configure(asked)),
            // Whoever is met by new settings needs this no more, or sees for himself that he does.
            Self::Copy { .. } | Self::Open(_) | Self::Restore { .. } => None,
            other => Some(other),
        }
    }

    /// What it comes to in a partition that is no more.
    pub fn of_nothing(self, settings: &Settings) -> Reply {
        match self {
            Self::Len => Reply::Integer(0),
            Self::Stats => Reply::Stats(Box::default(), settings.pause, 0),
            Self::Settings => Reply::Settings(Box::new(settings.clone())),
            Self::Peek { seen, .. } => {
                debug_assert!(seen.is_empty());
                Reply::Views(Box::new(settings.clone()), Vec::new())
            }
            Self::Job(_) => Reply::NoView,
            Self::Explain(_) => Reply::Explanation(None, settings.pause),
            Self::Result { .. } | Self::Cron(_) | Self::Keys(_) => Reply::Nothing,
            Self::Delete { removed, .. } | Self::Purge { removed, .. } => Reply::Integer(removed as i64),
            Self::Revive { revived, .. } => Reply::Integer(revived as i64),
            Self::Drop { .. } | Self::DropPart { .. } => Reply::Integer(1),
            Self::Check { .. } => Reply::Checked(Box::default()),
            Self::Confirm | Self::Witness => Reply::Ok,
            Self::Configure { .. } | Self::Open(_) | Self::Copy { .. } | Self::Restore { .. } => Reply::Ok,
        }
    }

    pub fn encode(&self, scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64) -> Bytes {
        match self {
            Self::Len | Self::Stats | Self::Settings | Self::Confirm | Self::Configure { stored: None, .. } => {
                look::stats(scripts, partition, settings)
            }
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
            Self::Configure {
                stored: Some(changes), ..
            } => mend::configure(scripts, partition, settings, sequence, changes),
            Self::Open(spread) => {
                let changes = [(SPREAD, spread.to_string())];
                mend::configure(scripts, partition, settings, sequence, &changes)
            }
            Self::Copy { seen } => mend::copy(
                scripts,
                partition,
                settings,
                seen,
                &settings.version,
                &settings.overrides,
            ),
            Self::Restore { seen, copy } => {
                mend::copy(scripts, partition, settings, seen, &copy.version, &copy.overrides)
            }
            Self::Witness => look::settings(scripts, partition, settings),
            Self::Revive { whom, .. } => mend::revive(scripts, partition, settings, sequence, whom),
            Self::Drop { noted: true } if !settings.dropping => look::stats(scripts, partition, settings),
            Self::Drop { .. } if settings.allocated() == 1 => mend::drop(scripts, partition, settings, sequence),
            Self::Drop { .. } if settings.dropping => look::stats(scripts, partition, settings),
            // Before anything is gone it is known that all is to go: who dies on the way leaves no half of a queue.
            Self::Drop { .. } => {
                let changes = [(DROPPING, "1".to_owned())];
                mend::configure(scripts, partition, settings, sequence, &changes)
            }
            Self::DropPart { version } => mend::drop_as_of(scripts, partition, settings, sequence, version),
            Self::Check { place, repair } => check::check(scripts, partition, settings, *place, *repair),
            Self::Cron(call) => call.encode(scripts, partition, settings, sequence),
            Self::Keys(call) => call.encode(scripts, partition, settings),
        }
    }

    /// Reads the reply to its call. `settings`: those that the call was made with.
    pub fn read(
        self,
        reply: Bytes,
        queue: &QueueName,
        origin: Origin,
        settings: &Settings,
    ) -> Result<(Standing, Step), CallError> {
        match self {
            Self::Len | Self::Stats | Self::Settings => {
                let (standing, stats) = look::stats_reply(reply)?;
                let answer = match &self {
                    Self::Len => Reply::Integer(stats.ready() as i64),
                    Self::Settings => Reply::Settings(Box::new(settings.clone())),
                    _ => {
                        let partitions = settings.spread.as_ref().map_or(1, Spread::active);
                        Reply::Stats(Box::new(stats), settings.pause, partitions)
                    }
                };
                Ok((standing, self.unless_more(standing, answer)))
            }
            Self::Confirm | Self::Witness => Ok((look::stats_reply(reply)?.0, Step::Done(Reply::Ok))),
            Self::Configure { asked, stored: None } => {
                let (standing, _) = look::stats_reply(reply)?;
                let stored = Some(Vec::new()); // to be filled in
                Ok((standing, Step::Again(Self::Configure { asked, stored })))
            }
            Self::Configure { .. } => Ok((mend::configured(reply)?, Step::Again(Self::Confirm))),
            Self::Open(_) | Self::Copy { .. } | Self::Restore { .. } => {
                Ok((mend::configured(reply)?, Step::Done(Reply::Ok)))
            }
            // If another proxy was faster, the queue was there all the same.
            Self::Drop { noted: true } if !settings.dropping => {
                Ok((look::stats_reply(reply)?.0, Step::Done(Reply::Integer(1))))
            }
            Self::Drop { .. } if settings.allocated() == 1 => {
                let (standing, dropped) = mend::counted(reply)?;
                Ok((standing, Step::Done(Reply::Integer(dropped as i64))))
            }
            Self::Drop { .. } if settings.dropping => Ok((look::stats_reply(reply)?.0, Step::Done(Reply::Integer(1)))),
            Self::Drop { .. } => Ok((mend::configured(reply)?, Step::Again(Self::Drop { noted: true }))),
            Self::DropPart { .. } => Ok((mend::counted(reply)?.0, Step::Done(Reply::Integer(1)))),
            Self::Job(_) => {
                let (standing, view) = look::job_reply(reply)?;
                let view = view.map(|view| Reply::View(origin, Box::new((settings.clone(), view))));
                Ok((standing, self.unless_more(standing, view.unwrap_or(Reply::NoView))))
            }
            Self::Explain(_) => {
                let (standing, explanation) = look::explain_reply(reply)?;
                let answer = Reply::Explanation(explanation.map(|found| (origin, found)), settings.pause);
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
                    None => {
                        let seen = seen.into_iter().map(|view| (origin, view)).collect();
                        Step::Done(Reply::Views(Box::new(settings.clone()), seen))
                    }
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
            Self::Revive { whom, revived } => {
                let (standing, now) = mend::revived(reply)?;
                let revived = revived + now.count;
                let left = match &whom {
                    Revive::Dead(most) => most - now.count.min(*most),
                    _ => 0,
                };
                let step = match left_to_revive(whom, now.count) {
                    Some(whom) => Step::Again(Self::Revive { whom, revived }),
                    None if left > 0 => Step::Next(Self::Revive {
                        whom: Revive::Dead(left),
                        revived,
                    }),
                    None => Step::Done(Reply::Integer(revived as i64)),
                };
                let step = match now.keyless.is_empty() {
                    true => step,
                    false => Step::Retake(now.keyless, Box::new(step)),
                };
                Ok((standing, step))
            }
            Self::Cron(call) => call.read(reply, queue),
            Self::Keys(call) => call.read(reply),
            Self::Check { .. } => {
                let (standing, mut found) = check::found(reply, origin.partition)?;
                let next = origin.partition + 1;
                if found.next.is_none() && next < settings.allocated() {
                    found.next = Some(Place::first_of(next));
                }
                Ok((standing, self.unless_more(standing, Reply::Checked(Box::new(found)))))
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
