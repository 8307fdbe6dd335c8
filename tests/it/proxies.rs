//! Two proxies before one Redis behave as one: what is said to one of them holds for the other.

use crate::support::{Proxy, RedisServer};

#[test]
fn a_setting_made_through_one_proxy_holds_for_the_next_call_through_the_other() {
    let redis = RedisServer::start();
    let (one, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let (mut here, mut there) = (one.client(), other.client());
    there.run("QPUSH q a"); // it knows the queue, and what held for it
    here.run("QCONFIG SET q max_len 1 retries 7");
    assert!(there.run("QPUSH q b").is_error("QFULL "));
    assert_eq!(there.run("QCONFIG GET q").field("retries").text(), "7");
    there.run("QCONFIG SET q max_len 0");
    here.run("QPUSH q b");
    assert_eq!(there.run("QLEN q").integer(), 2);
}

#[test]
fn a_pause_made_through_one_proxy_holds_for_the_next_call_through_the_other() {
    let redis = RedisServer::start();
    let (one, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let (mut here, mut there, mut waiting) = (one.client(), other.client(), other.client());
    there.run("QPOP q");
    waiting.send(&["QPOP", "q", "BLOCK", "0"]);
    here.run("QPAUSE q");
    there.run("QPUSH q a");
    assert!(there.run("QPOP q").is_null());
    here.run("QPAUSE q PUSH");
    assert!(there.run("QPUSH q b").is_error("QPAUSED "));
    assert_eq!(there.run("QSTATS q").field("paused").text(), "all");
    assert_eq!(here.run("QLEN q").integer(), 1, "the pop that waits got nothing");
    here.run("QRESUME q");
    assert_eq!(waiting.receive().items()[2].text(), "a");
}

#[test]
fn a_job_may_be_pushed_popped_and_settled_through_any_proxy() {
    let redis = RedisServer::start();
    let proxies = [0, 1, 2].map(|_| Proxy::before(&redis).start());
    let [mut one, mut two, mut three] = proxies.each_ref().map(Proxy::client);
    let id = one.run("QPUSH q a UNIQUE k").text();
    assert_eq!(two.run("QPUSH q b UNIQUE k").text(), id);
    let receipt = two.run("QPOP q").items()[1].text();
    assert_eq!(three.call(&["QEXTEND", "q", "60000", &receipt]).integer(), 1);
    assert_eq!(one.call(&["QNACK", "q", &receipt, "DELAY", "0"]).integer(), 1);
    assert_eq!(two.call(&["QACK", "q", &receipt]).integer(), 0, "it is nobody's");
    let receipt = three.run("QPOP q").items()[1].text();
    assert_eq!(one.call(&["QACK", "q", &receipt, "RESULT", "done"]).integer(), 1);
    assert_eq!(two.call(&["QRESULT", "q", &id]).text(), "done");
    for client in [&mut one, &mut two, &mut three] {
        let stats = client.run("QSTATS q");
        for (field, counted) in [("pushed", 1), ("acked", 1), ("nacked", 1), ("deduplicated", 1)] {
            assert_eq!(stats.field(field).integer(), counted, "{field}");
        }
    }
}

#[test]
fn a_queue_dropped_through_one_proxy_begins_anew_through_the_other() {
    let redis = RedisServer::start();
    let (one, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let (mut here, mut there) = (one.client(), other.client());
    there.run("QCONFIG SET q max_len 1");
    let old = there.run("QPUSH q a").text();
    assert_eq!(here.run("QDROP q").integer(), 1);
    there.run("QMPUSH q 2 b c");
    assert_eq!(there.run("QLEN q").integer(), 2, "the bound went with the queue");
    assert!(there.call(&["QJOB", "q", &old]).is_null());
}
