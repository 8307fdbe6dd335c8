//! The three calls of a job apart: a fixed number of pushes, then of pops, then of acknowledgements, by the same
//! clients, with the CPU time of each phase. The queue may hold any number of other jobs meanwhile.

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

/// CPU microseconds of process `pid` for one push, one pop and one ack.
pub fn cost_of_each(address: &str, queue: &str, pid: u32) -> Result<[f64; 3]> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = FlowClient::connect(Dialect::Queue, address, queue).await?;
            clients.push(PhaseClient {
                client,
                claims: Vec::new(),
            });
        }
        let mut costs = [0.0; 3];
        for (phase, cost) in [Phase::Push, Phase::Pop, Phase::Ack].into_iter().zip(&mut costs) {
            let meter = Meter::start(&[pid])?;
            clients = all_do(phase, clients).await?;
            let spent: Duration = meter.stop()?.iter().sum();
            *cost = spent.as_secs_f64() * 1e6 / (CLIENTS * JOBS_A_CLIENT) as f64;
        }
        Ok(costs)
    })
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
