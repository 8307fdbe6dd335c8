//! The fixed rate: pushes fall due by the clock, whether or not the server keeps up, and the time of a job counts from
//! the moment its push was DUE, not from when a free client got round to it. A server that stalls for a second thus
//! shows a second of latency on every job that fell due meanwhile: nothing is coordinated away.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::flow::{Dialect, FlowClient, PAYLOAD_BYTES};
use crate::latency::Latencies;

const WARM_UP: Duration = Duration::from_millis(500);

pub struct Paced<'a> {
    pub dialect: Dialect,
    pub address: &'a str,
    pub queue: &'a str,
    pub producers: usize,
    pub consumers: usize,
    /// Jobs a second, over all producers.
    pub rate: u32,
    pub window: Duration,
}

/// From the moment a push was due.
pub struct Delays {
    /// Until its reply.
    pub pushed: Latencies,
    /// Until a consumer had the job.
    pub popped: Latencies,
}

struct Schedule {
    start: Instant,
    due: RefCell<VecDeque<Instant>>,
    ready: Semaphore,
    delays: RefCell<Delays>,
}

impl Paced<'_> {
    pub fn run(&self) -> Result<Delays> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.watch())
    }

    async fn watch(&self) -> Result<Delays> {
        let schedule = Rc::new(Schedule {
            start: Instant::now(),
            due: RefCell::new(VecDeque::new()),
            ready: Semaphore::new(0),
            delays: RefCell::new(Delays {
                pushed: Latencies::new(),
                popped: Latencies::new(),
            }),
        });
        let mut tasks = JoinSet::new();
        for number in 0..self.producers + self.consumers {
            let mut client = FlowClient::connect(self.dialect, self.address, self.queue).await?;
            if number == 0 {
                client.prepare().await?;
            }
            let schedule = schedule.clone();
            if number < self.producers {
                tasks.spawn_local(produce(client, schedule));
            } else {
                tasks.spawn_local(consume(client, schedule));
            }
        }
        tasks.spawn_local(fall_due(schedule.clone(), Duration::from_secs(1) / self.rate));

        for window in [WARM_UP, self.window] {
            schedule.delays.replace(Delays {
                pushed: Latencies::new(),
                popped: Latencies::new(),
            });
            if let Ok(Some(ended)) = tokio::time::timeout(window, tasks.join_next()).await {
                ended??;
            }
        }
        Ok(schedule.delays.replace(Delays {
            pushed: Latencies::new(),
            popped: Latencies::new(),
        }))
    }
}

/// Adds a push to the schedule every `interval`. By a timerfd: the runtime's own timer counts in milliseconds.
async fn fall_due(schedule: Rc<Schedule>, interval: Duration) -> Result<()> {
    // SAFETY: the descriptor belongs to the file, and the file to what is registered: it stays open as long as that.
    let timer = unsafe { AsyncFd::register(timer(interval)?)? };
    let mut next = Instant::now();
    loop {
        let mut guard = timer.readable().await?;
        let mut expirations = [0; 8]; // how many; the clock says that too, so it is read only to be gone
        let _ = guard.try_io(|timer| timer.get_ref().read(&mut expirations));
        while next <= Instant::now() {
            schedule.due.borrow_mut().push_back(next);
            schedule.ready.add_permits(1);
            next += interval;
        }
    }
}

fn timer(interval: Duration) -> io::Result<File> {
    let step = libc::timespec {
        tv_sec: 0,
        tv_nsec: i64::from(interval.subsec_nanos()),
    };
    let times = libc::itimerspec {
        it_interval: step,
        it_value: step,
    };
    // SAFETY: a new descriptor that nobody else owns, and a valid pointer to times of ours.
    unsafe {
        let raw = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let timer = File::from_raw_fd(raw);
        match libc::timerfd_settime(raw, 0, &times, std::ptr::null_mut()) {
            0 => Ok(timer),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

async fn produce(mut client: FlowClient, schedule: Rc<Schedule>) -> Result<()> {
    loop {
        schedule.ready.acquire().await?.forget();
        let Some(due) = schedule.due.borrow_mut().pop_front() else {
            continue;
        };
        // The job carries its due time, as nanoseconds since the start, to whoever pops it.
        let mut payload = [b'x'; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&(due.duration_since(schedule.start).as_nanos() as u64).to_be_bytes());
        client.push(&payload).await?;
        schedule.delays.borrow_mut().pushed.record(due.elapsed());
    }
}

async fn consume(mut client: FlowClient, schedule: Rc<Schedule>) -> Result<()> {
    loop {
        let Some((claim, payload)) = client.pop().await? else {
            continue;
        };
        if let Some(nanoseconds) = payload.first_chunk() {
            let due = schedule.start + Duration::from_nanos(u64::from_be_bytes(*nanoseconds));
            schedule.delays.borrow_mut().popped.record(due.elapsed());
        }
        client.ack(&claim).await?;
    }
}
