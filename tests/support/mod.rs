//! What the tests and the benches stand on: real servers, a real proxy, a client that shows every byte.
//! Each test starts its own redis-server and its own proxy in its own temporary directory, on ports that nobody else
//! was given, and they die with it. There is no fake Redis here, no shared server and no waiting by the clock:
//! whatever takes time is waited for by `wait_until`, with a deadline and a name for what did not come.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod pattern;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod relay;
pub mod reply;
pub mod sentinels;
pub mod transcript;
pub mod words;

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use client::Client;
pub use proxy::Proxy;
pub use redis::RedisServer;
pub use relay::Relay;
pub use reply::Reply;

/// Long enough for a loaded two-core machine, short enough that a hang is a failure and not a coffee break.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A pop that is woken has its job within this, on however slow a machine; one that is not, when the safety poll finds it, after up to
/// five seconds.
pub const AT_ONCE: Duration = Duration::from_secs(3);

const POLL: Duration = Duration::from_millis(2); // a server is up in 20 ms: polling slower would be most of the wait

/// Polls until `condition` holds; panics with `what` when `deadline` has passed first.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// A loopback port that no other test of this process was given. The kernel picks it; the set remembers, because the
/// kernel may pick it again before its server listens, and two proxies on one port would share its clients in silence.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("a bound port").port();
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get_or_insert_default().insert(port) {
            return port;
        }
    }
}
