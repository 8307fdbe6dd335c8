//! What networks do on the way to a Redis, whichever deployment it belongs to.

use std::time::{Duration, Instant};

use super::{Fault, SOME, Servers, Stage, fault};
use crate::load::Load;
use crate::support::relay::Way;
use crate::support::{PATIENCE, Proxy, Relay, wait_until};

/// Servers of which one that is asked is behind a line that can be troubled.
pub(super) trait Lined: Servers {
    fn line(&self) -> &Relay;
}

/// The Redis behind it goes on answering.
pub(super) const fn troubles<R: Lined>() -> [Fault<R>; 5] {
    [
        fault("line delayed by 40 ms", |stage, load| {
            let line = stage.redis.line();
            line.delay(Way::Up, Duration::from_millis(20));
            line.delay(Way::Down, Duration::from_millis(20));
            healed(line, load)
        }),
        fault("line throttled to 200 kB/s", |stage, load| {
            let line = stage.redis.line();
            line.throttle(Way::Up, 200_000);
            line.throttle(Way::Down, 200_000);
            healed(line, load)
        }),
        fault("line reset", |stage, load| {
            for _ in 0..3 {
                stage.redis.line().reset();
                load.wait_for_more(SOME);
            }
            None
        }),
        fault("line cut in the middle of a reply", |stage, load| {
            cut(stage.redis.line(), load, Way::Down)
        }),
        fault("line cut in the middle of a request", |stage, load| {
            cut(stage.redis.line(), load, Way::Up)
        }),
    ]
}

/// It is not heard of, and nobody takes its place.
pub(super) const fn silences<R: Lined>() -> [Fault<R>; 4] {
    [
        fault("line stalled", |stage, _| {
            silenced(stage, |line| {
                line.stall(Way::Up);
                line.stall(Way::Down);
            })
        }),
        fault("line that carries requests only", |stage, _| {
            silenced(stage, |line| line.stall(Way::Down))
        }),
        fault("line that carries replies only", |stage, _| {
            silenced(stage, |line| line.stall(Way::Up))
        }),
        fault("line that leads nowhere", |stage, _| {
            silenced(stage, |line| {
                line.lead_nowhere();
                line.reset();
            })
        }),
    ]
}

fn silenced<R: Lined>(stage: &Stage<R>, silence: fn(&Relay)) -> Option<Instant> {
    let line = stage.redis.line();
    given_up(&stage.proxies, || silence(line));
    line.heal();
    None
}

/// Until each proxy has given up waiting for an answer of a Redis that was silenced.
pub(super) fn given_up(proxies: &[Proxy], silence: impl FnOnce()) {
    let complaints = |proxy: &Proxy| proxy.log().matches("Redis did not answer within").count();
    let before: Vec<_> = proxies.iter().map(complaints).collect();
    silence();
    for (proxy, before) in proxies.iter().zip(before) {
        wait_until(PATIENCE, "the proxy gives the connection up", || {
            complaints(proxy) > before
        });
    }
}

fn healed(line: &Relay, load: &Load) -> Option<Instant> {
    load.wait_for_more_of_each(SOME / 2);
    line.heal();
    None
}

pub(super) fn cut(line: &Relay, load: &Load, way: Way) -> Option<Instant> {
    for bytes in [1, 10, 40] {
        line.cut(way, bytes);
        wait_until(PATIENCE, "the line is cut", || !line.will_cut(way));
        load.wait_for_more(SOME);
    }
    None
}
