//! The three calls of a job apart: a fixed number of pushes, then of pops, then of acknowledgements, by the same
//! clients, with the CPU time of each phase, at two queues by turns. Each may hold any number of other jobs meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use tokio::task::{JoinSet, LocalSet};

use crate::flow::{Dialect, FlowClient, PAYLOAD_BYTES};
use crate::usage::Meter;

const CLIENTS: usize = 50;
const JOBS_A_CLIENT: usize = 600;

struct PhaseClient {
    client: FlowClient,
    claims: Vec<BytesMut>,
}

#[derive(Clone, Copy)]
enum Phase {
    Push,
    Pop,
    Ack,
}

/// The address of a proxy, and the process behind it whose CPU time is wanted.
pub type Place<'a> = (&'a str, u32);

/// CPU microseconds of each of the processes for one push, one pop and one ack.
pub fn cost_of_each(places: [Place; 2], queue: &str) -> Result<[[f64; 2]; 3]> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut crews = Vec::new();
        for (address, _) in places {
            crews.push(crew(address, queue).await?);
        }
        let mut costs = [[0.0; 2]; 3];
        for (phase, costs) in [Phase::Push, Phase::Pop, Phase::Ack].into_iter().zip(&mut costs) {
            for ((crew, (_, pid)), cost) in crews.iter_mut().zip(places).zip(costs) {
                let meter = Meter::start(&[pid])?;
                *crew = all_do(phase, std::mem::take(crew)).await?;
                let spent: Duration = meter.stop()?.iter().sum();
                *cost = spent.as_secs_f64() * 1e6 / (CLIENTS * JOBS_A_CLIENT) as f64;
            }
        }
        Ok(costs)
    })
}

async fn crew(address: &str, queue: &str) -> Result<Vec<PhaseClient>> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = FlowClient::connect(Dialect::Queue, address, queue).await?;
        let claims = Vec::new();
        clients.push(PhaseClient { client, claims });
    }
    Ok(clients)
}

async fn all_do(phase: Phase, clients: Vec<PhaseClient>) -> Result<Vec<PhaseClient>> {
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn_local(client.does(phase));
    }
    let mut clients = Vec::new();
    while let Some(done) = tasks.join_next().await {
        clients.push(done??);
    }
    Ok(clients)
}

impl PhaseClient {
    async fn does(mut self, phase: Phase) -> Result<PhaseClient> {
        for _ in 0..JOBS_A_CLIENT {
            match phase {
                Phase::Push => self.client.push(&[b'x'; PAYLOAD_BYTES]).await?,
                Phase::Pop => {
                    let (claim, _) = self.client.pop().await?.context("a job that was pushed is not there")?;
                    self.claims.push(claim);
                }
                Phase::Ack => {
                    let claim = self.claims.pop().context("fewer jobs popped than pushed")?;
                    self.client.ack(&claim).await?;
                }
            }
        }
        Ok(self)
    }
}
