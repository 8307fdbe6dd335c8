//! What it costs to have clients that do nothing: memory for each idle connection, and the connections and commands that
//! parked consumers cost a Redis where nothing happens.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Settings, redis_and_proxy, redis_and_proxy_with};
use crate::peers::Peer;
use crate::support::{Client, Proxy, RedisServer};
use crate::table::{Goal, Report, Row};
use crate::usage::{raise_open_files, resident_bytes};

const CLIENTS: usize = 10_000;
const ROOM: usize = 100; // for the connections that only look; more, and the proxy warns that it has too few files
const SPARE_FILES: u64 = 500; // the servers' own, and ours

const PARKED: usize = 100;
const QUEUES: usize = 100;
const SETTLE: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(10);
const END: &str = "the-end-of-the-watch";

/// Resident memory for each connection that has sent one SET.
pub fn memory(_settings: &Settings, report: &mut Report) -> Result<()> {
    let clients = CLIENTS.min(raise_open_files()?.saturating_sub(SPARE_FILES) as usize);
    let (redis, proxy) = redis_and_proxy_with(0, |plan| plan.set("limits.max_clients", &(CLIENTS + ROOM).to_string()));
    let nutcracker = Peer::nutcracker(&redis);
    let ours = bytes_a_client(&proxy.address(), proxy.pid(), clients)?;
    let theirs = match &nutcracker {
        Some(peer) => Some((
            "nutcracker",
            bytes_a_client(&peer.address(), peer.pid(), clients)? / 1024.0,
        )),
        None => None,
    };
    report.row(Row {
        what: format!("Memory an idle connection, {clients} clients"),
        unit: "KiB",
        ours: ours / 1024.0,
        peer: theirs,
        goal: Goal::Value(4.0),
        aim: Some(2.0),
    });
    Ok(())
}

fn bytes_a_client(address: &str, pid: u32, clients: usize) -> Result<f64> {
    one_set(address)?; // whatever a server allocates at its first request is not a client's
    let before = resident_bytes(pid)?;
    let held = (0..clients).map(|_| one_set(address)).collect::<Result<Vec<_>>>()?;
    let after = resident_bytes(pid)?;
    drop(held);
    Ok(after.saturating_sub(before) as f64 / clients as f64)
}

fn one_set(address: &str) -> Result<Client> {
    let mut client = Client::connect(address).with_context(|| format!("connecting to {address}"))?;
    let reply = client.try_call(&["SET", "idle", "value"])?;
    anyhow::ensure!(reply.to_string() == "+OK", "SET got {reply}");
    Ok(client)
}

/// Commands a second from a proxy with a hundred blocked pops.
pub fn commands(settings: &Settings, report: &mut Report) -> Result<()> {
    let (redis, proxy) = redis_and_proxy(settings.workers);
    let parked = park(&proxy, PARKED, 1)?;
    report.row(Row {
        what: format!("Commands to Redis, {PARKED} blocked pops, idle"),
        unit: "a second",
        ours: commands_a_second(&redis),
        peer: None,
        goal: Goal::Value(5.0),
        aim: None,
    });
    drop(parked);
    Ok(())
}

/// Ten thousand pops that wait in a hundred queues: the connections to Redis that they add, and commands a second.
pub fn blocked(settings: &Settings, report: &mut Report) -> Result<()> {
    let clients = CLIENTS.min(raise_open_files()?.saturating_sub(SPARE_FILES) as usize);
    let max_clients = (CLIENTS + ROOM).to_string();
    let (redis, proxy) = redis_and_proxy_with(settings.workers, |plan| plan.set("limits.max_clients", &max_clients));
    proxy.client().run("QPOP warm-up BLOCK 1"); // every connection that one waiting pop needs is there
    let connections = || redis.info("connected_clients").parse::<f64>();
    let before = connections()?;
    let parked = park(&proxy, clients, QUEUES)?;
    report.row(Row {
        what: format!("Connections to Redis that {clients} blocked pops add"),
        unit: "",
        ours: connections()? - before,
        peer: None,
        goal: Goal::Value(0.0),
        aim: None,
    });
    report.row(Row {
        what: format!("Commands to Redis, {clients} blocked pops, {QUEUES} queues, idle"),
        unit: "a second",
        ours: commands_a_second(&redis),
        peer: None,
        goal: Goal::Value(20.0),
        aim: None,
    });
    drop(parked);
    Ok(())
}

/// Pops that wait, spread over so many queues, when all of them are parked.
fn park(proxy: &Proxy, clients: usize, queues: usize) -> Result<Vec<Client>> {
    let mut parked = Vec::with_capacity(clients);
    for n in 0..clients {
        let mut client = Client::connect(&proxy.address())?;
        client.try_send(&["QPOP", &format!("idle-{}", n % queues), "BLOCK", "0"])?;
        parked.push(client);
    }
    std::thread::sleep(SETTLE);
    let info = proxy.client().run("INFO queues").text();
    let blocked = format!("queue_blocked_pops:{clients}\r");
    anyhow::ensure!(info.contains(&blocked), "not all of {clients} pops wait: {info}");
    Ok(parked)
}

/// What Redis is sent while nothing happens.
fn commands_a_second(redis: &RedisServer) -> f64 {
    let mut monitor = redis.client();
    monitor.send(&["MONITOR"]);
    std::thread::sleep(WATCHED);
    redis.client().call(&["ECHO", END]);
    let mut sent = 0u32;
    loop {
        let line = monitor.receive().text();
        match () {
            () if line.contains(END) => break,
            () if line.contains(" lua] ") || line == "OK" => {} // what a script calls was not sent
            () => sent += 1,
        }
    }
    f64::from(sent) / WATCHED.as_secs_f64()
}
