//! The closed loop: every client has one request in flight and sends the next when the reply is there.
//! Clients are started, warmed up, and then watched for a window; CPU, jobs and latencies are counted inside it only.
//!
//! Producers are faster than consumers, who make two requests a job. Left alone, they would pile up jobs whose push is
//! paid for and whose pop never comes; so they wait while `BACKLOG` jobs are under way, and in the window as many jobs
//! are pushed as are finished, in every dialect.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::flow::{Dialect, FlowClient, PAYLOAD_BYTES};
use crate::latency::Latencies;
use crate::usage::Meter;

const BACKLOG: usize = 10_000; // above what the clients have in flight, so that it never starves them of work
const WARM_UP: Duration = Duration::from_millis(700);
const WINDOW: Duration = Duration::from_millis(2500);

/// Who the clients are.
#[derive(Clone, Copy)]
pub enum Crew {
    /// Some push; others pop and acknowledge.
    Apart { producers: usize, consumers: usize },
    /// Each pushes, pops and acknowledges in turn.
    Whole { clients: usize },
}

pub struct Closed<'a> {
    pub dialect: Dialect,
    pub address: &'a str,
    pub queue: &'a str,
    pub crew: Crew,
    /// Whose CPU time is wanted.
    pub pids: &'a [u32],
}

pub struct Outcome {
    pub jobs: u64,
    /// Those of the warm-up too.
    pub all_jobs: u64,
    pub elapsed: Duration,
    /// One figure for each of the pids.
    pub cpu: Vec<Duration>,
    pub push: Latencies,
    pub pop: Latencies,
    pub ack: Latencies,
}

impl Outcome {
    pub fn jobs_per_second(&self) -> f64 {
        self.jobs as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU time of the n-th process for one job, in microseconds.
    pub fn cpu_a_job(&self, n: usize) -> f64 {
        self.cpu[n].as_secs_f64() * 1e6 / self.jobs as f64
    }
}

/// What the clients of one run count together; they share a thread.
struct Tally {
    jobs: Cell<u64>,
    room: Semaphore,
    push: RefCell<Latencies>,
    pop: RefCell<Latencies>,
    ack: RefCell<Latencies>,
}

impl Closed<'_> {
    pub fn run(&self) -> Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.watch())
    }

    async fn watch(&self) -> Result<Outcome> {
        let tally = Rc::new(Tally {
            jobs: Cell::new(0),
            room: Semaphore::new(BACKLOG),
            push: RefCell::new(Latencies::new()),
            pop: RefCell::new(Latencies::new()),
            ack: RefCell::new(Latencies::new()),
        });
        let mut clients = self.start_clients(&tally).await?;
        run_for(WARM_UP, &mut clients).await?;

        let meter = Meter::start(self.pids)?;
        let (before, started) = (tally.jobs.get(), Instant::now());
        for latencies in [&tally.push, &tally.pop, &tally.ack] {
            latencies.borrow_mut().clear();
        }
        run_for(WINDOW, &mut clients).await?;
        let (all_jobs, elapsed, cpu) = (tally.jobs.get(), started.elapsed(), meter.stop()?);
        let jobs = all_jobs - before;
        ensure!(jobs > 0, "no job was finished within the window");

        let take = |latencies: &RefCell<Latencies>| latencies.replace(Latencies::new());
        Ok(Outcome {
            jobs,
            all_jobs,
            elapsed,
            cpu,
            push: take(&tally.push),
            pop: take(&tally.pop),
            ack: take(&tally.ack),
        })
    }

    async fn start_clients(&self, tally: &Rc<Tally>) -> Result<JoinSet<Result<()>>> {
        self.client().await?.prepare().await?;
        let mut clients = JoinSet::new();
        match self.crew {
            Crew::Apart { producers, consumers } => {
                for _ in 0..producers {
                    clients.spawn_local(produce(self.client().await?, tally.clone()));
                }
                for _ in 0..consumers {
                    clients.spawn_local(consume(self.client().await?, tally.clone()));
                }
            }
            Crew::Whole { clients: count } => {
                for _ in 0..count {
                    clients.spawn_local(do_all(self.client().await?, tally.clone()));
                }
            }
        }
        Ok(clients)
    }

    async fn client(&self) -> Result<FlowClient> {
        FlowClient::connect(self.dialect, self.address, self.queue).await
    }
}

/// Lets the clients work; the first that fails ends the run with its reason.
async fn run_for(time: Duration, clients: &mut JoinSet<Result<()>>) -> Result<()> {
    match tokio::time::timeout(time, clients.join_next()).await {
        Err(_elapsed) => Ok(()),
        Ok(ended) => {
            if let Some(outcome) = ended {
                outcome??;
            }
            anyhow::bail!("a client ended before its time")
        }
    }
}

async fn produce(mut client: FlowClient, tally: Rc<Tally>) -> Result<()> {
    loop {
        tally.room.acquire().await?.forget();
        push(&mut client, &tally).await?;
    }
}

async fn consume(mut client: FlowClient, tally: Rc<Tally>) -> Result<()> {
    loop {
        pop_and_ack(&mut client, &tally).await?;
    }
}

async fn do_all(mut client: FlowClient, tally: Rc<Tally>) -> Result<()> {
    loop {
        push(&mut client, &tally).await?;
        while !pop_and_ack(&mut client, &tally).await? {}
    }
}

async fn push(client: &mut FlowClient, tally: &Tally) -> Result<()> {
    let started = Instant::now();
    client.push(&[b'x'; PAYLOAD_BYTES]).await?;
    tally.push.borrow_mut().record(started.elapsed());
    Ok(())
}

/// Whether there was a job.
async fn pop_and_ack(client: &mut FlowClient, tally: &Tally) -> Result<bool> {
    let started = Instant::now();
    let Some((claim, _payload)) = client.pop().await? else {
        return Ok(false);
    };
    tally.pop.borrow_mut().record(started.elapsed());
    if client.acknowledges() {
        let started = Instant::now();
        client.ack(&claim).await?;
        tally.ack.borrow_mut().record(started.elapsed());
    }
    tally.jobs.set(tally.jobs.get() + 1);
    tally.room.add_permits(1);
    Ok(true)
}
