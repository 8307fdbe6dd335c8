//! What a queue command comes to, still as data, and how it is written for its client.

use bytes::Bytes;
use smallvec::SmallVec;

use super::id;
use super::operation::{QueueName, Return};
use crate::resp::ReplyWriter;
use crate::script::{Job, JobView, QueueStats};

/// The reply to one queue command.
#[derive(Debug)]
pub enum Reply {
    /// `QPUSH`: the job's id within its queue.
    Id { queue: QueueName, job: Bytes },
    /// `QMPUSH`.
    Ids { queue: QueueName, jobs: Vec<Bytes> },
    /// A pop that found something. `many`: `COUNT` was given, so an array of jobs comes back.
    Jobs { jobs: Jobs, many: bool },
    /// A pop that found nothing, in the time it had. `many` as above.
    NoJob { many: bool },
    Integer(i64),
    Stats(Box<QueueStats>),
    Views { queue: QueueName, jobs: Vec<JobView> },
    View { queue: QueueName, job: Option<Box<JobView>> },
    /// A whole error line, without its `-`.
    Error(String),
}

/// Jobs that one pop took out of one queue.
#[derive(Debug)]
pub struct Jobs {
    pub queue: QueueName,
    pub noack: bool,
    pub jobs: SmallVec<[Job; 1]>,
}

impl Jobs {
    /// What to give back if these do not reach their client.
    pub fn into_returns(self) -> Vec<Return> {
        let noack = self.noack;
        self.jobs
            .into_iter()
            .map(|job| Return {
                job: job.id,
                delivery: job.delivery,
                taken: noack.then_some((job.payload, job.meta)),
            })
            .collect()
    }
}

impl Reply {
    pub fn write(&self, out: &mut ReplyWriter<'_>) {
        match self {
            Self::Id { queue, job } => out.bulk(&id::render(queue, job)),
            Self::Ids { queue, jobs } => {
                out.array(jobs.len());
                for job in jobs {
                    out.bulk(&id::render(queue, job));
                }
            }
            Self::Jobs { jobs, many } => {
                if *many {
                    out.array(jobs.jobs.len());
                }
                for job in &jobs.jobs {
                    write_job(&jobs.queue, job, out);
                }
            }
            // As Redis: LPOP without a count gives the null bulk string, an array of things the null array.
            Self::NoJob { .. } => out.null_array(),
            Self::Integer(value) => out.integer(*value),
            Self::Stats(stats) => stats.write(out),
            Self::Views { queue, jobs } => {
                out.array(jobs.len());
                for job in jobs {
                    job.write(queue, out);
                }
            }
            Self::View { queue, job } => match job {
                Some(job) => job.write(queue, out),
                None => out.null_array(),
            },
            Self::Error(text) => out.error(text),
        }
    }
}

/// `queue, receipt, payload, attempt`
fn write_job(queue: &QueueName, job: &Job, out: &mut ReplyWriter<'_>) {
    out.array(4);
    out.bulk(queue.as_bytes());
    out.bulk(&id::render_receipt(queue, &job.id, job.delivery));
    out.bulk(&job.payload);
    out.integer(i64::from(job.delivery));
}
