//! Plain commands: what Redis says, the proxy says. Each transcript of tests/transcripts/redis is played to a bare
//! Redis first, which shows that it is true, and then through the proxy to another; the replies must be the same bytes.

use crate::support::transcript::{Protocol, Role, Transcript};
use crate::support::{Proxy, RedisServer};

fn redis_and_the_proxy_say_the_same_in(protocol: Protocol) {
    for transcript in Transcript::all_in("tests/transcripts/redis") {
        let bare = RedisServer::start();
        let said = transcript.play(&bare.address(), protocol, Role::Oracle, None);
        let behind = RedisServer::start();
        let proxy = Proxy::before(&behind).start();
        transcript.play(&proxy.address(), protocol, Role::Proxy, Some(&said));
    }
}

#[test]
fn redis_and_the_proxy_say_the_same_in_resp2() {
    redis_and_the_proxy_say_the_same_in(Protocol::Resp2);
}

#[test]
fn redis_and_the_proxy_say_the_same_in_resp3() {
    redis_and_the_proxy_say_the_same_in(Protocol::Resp3);
}
