//! Clients that send what no client should, read nothing, or come in too great a number: the guilty one hears it in
//! Redis's words and is closed where Redis would close it, nobody else notices, and memory stays bounded.
//! A real redis-server gets the same bytes and says what is right.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

use crate::support::client::encode;
use crate::support::{Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

const SECRET_SHA256: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"
const PING: &[u8] = b"*2\r\n$4\r\nPING\r\n$6\r\nmarker\r\n";

/// What `bytes` come to, one piece after the other: the replies, and at last whether the connection is still good.
fn outcome(mut client: Client, pieces: &[&[u8]]) -> Vec<String> {
    for piece in pieces.iter().chain([&PING]) {
        if client.try_send_bytes(piece).is_err() {
            break; // closed already: what was said before can still be read
        }
    }
    let mut heard = Vec::new();
    loop {
        match client.try_receive() {
            Ok(Reply::Bulk(text)) if text == b"marker" => heard.push("open".into()),
            Ok(reply) => {
                heard.push(reply.to_string());
                continue;
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => heard.push("silent".into()),
            Err(_) => heard.push("closed".into()),
        }
        return heard;
    }
}

fn resident_bytes(proxy: &Proxy) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// No line with a zero byte: Redis does not find its end, and waits for ever.
fn malformed() -> Vec<Vec<u8>> {
    let mut cases: Vec<Vec<u8>> = [
        "*-1\r\n",
        "*-2147483649\r\n",
        "*0\r\n",
        "*\r\n",
        "*x\r\n",
        "*1x\r\n",
        "*01\r\n$4\r\nPING\r\n",
        "* 1\r\n",
        "*2147483648\r\n",
        "*99999999999999999999\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$+4\r\nPING\r\n",
        "*1\r\n$04\r\nPING\r\n",
        "*1\r\n$99999999999\r\n",
        "*1\r\n$99999999999999999999\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n*1\r\n$4\r\nPING\r\n",
        "*1\r\n\r\n",
        "*1\r\nPING\r\n",
        "*1\r\n$0\r\n\r\n",
        "*2\r\n$4\r\nECHO\r\n$2\r\nabXX",
        "*1\r\n$4\r\nPINGXX",
        "\r\n\r\n\n",
        "   \r\n",
        "PING\n",
        "PING a b c\r\n",
        "ECHO \"a\\x00\\n\\\"\" \r\n",
        "ECHO 'it\\'s'\r\n",
        "ECHO \"unbalanced\r\n",
        "ECHO 'unbalanced\r\n",
        "ECHO \"a\"b\r\n",
        "nonsense and more\r\n",
        "%2\r\n+a\r\n",
        "$4\r\nPING\r\n",
        "+OK\r\n",
        "GET / HTTP/1.1\r\nAccept: */*\r\nHost: example.org\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n",
        "PING\r\n*1\r\n$-9\r\nPING\r\n",
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*x\r\nPING\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    cases.push((1..=255).filter(|byte| *byte != b'\n').chain(*b"\r\n").collect());
    cases.push([&b"ECHO "[..], &vec![b'x'; 60_000], b"\r\n"].concat());
    for head in ["", "*", "*1\r\n$", "*1\r\nx"] {
        cases.push([head.as_bytes(), &vec![b'1'; 1_000_000]].concat()); // far more than Redis reads at a time
    }
    cases
}

#[test]
fn malformed_input_is_answered_as_redis_answers_it_and_closed_where_redis_closes() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).allow_log("another protocol").start();
    let mut bystander = proxy.client();
    for case in malformed() {
        let shown = case[..case.len().min(80)].escape_ascii().to_string();
        let right = outcome(Client::connect(&redis.address()).unwrap(), &[&case]);
        assert_eq!(outcome(proxy.client(), &[&case]), right, "{shown}");
        assert_eq!(bystander.run("PING"), Reply::Simple("PONG".into()), "beside {shown}");
    }
}

#[test]
fn what_comes_byte_by_byte_is_the_same_as_what_comes_at_once() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).allow_log("another protocol").start();
    // Redis closes at the second line of HTTP, and whether it has written its reply to the first by then is chance.
    let tells = |case: &Vec<u8>| case.len() < 500 && !case.starts_with(b"GET / HTTP");
    for case in malformed().into_iter().filter(tells) {
        let shown = case.escape_ascii().to_string();
        let right = outcome(Client::connect(&redis.address()).unwrap(), &[&case]);
        let bytes: Vec<&[u8]> = case.chunks(1).collect();
        assert_eq!(outcome(proxy.client(), &bytes), right, "{shown}");
    }
}

#[test]
fn a_fault_is_told_behind_the_replies_before_it() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let requests = [
        &encode(&["SET", "k", "v"])[..],
        &encode(&["GET", "k"]),
        b"*1\r\n$-1\r\n",
    ]
    .concat();
    let heard = outcome(proxy.client(), &[&requests]);
    let fault = "-ERR Protocol error: invalid bulk length";
    assert_eq!(heard, ["+OK", "\"v\"", fault, "closed"]);
}

#[test]
fn half_requests_take_no_memory_for_what_they_only_announce() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut bystander = proxy.client();
    let before = resident_bytes(&proxy);
    let mut halves: Vec<Client> = (0..100).map(|_| proxy.client()).collect();
    for half in &mut halves {
        half.send_bytes(b"*1000000\r\n$3\r\nSET\r\n$100000000\r\nabc");
    }
    wait_until(PATIENCE, "all halves have been read", || {
        bystander.run("CLIENT LIST").text().matches("qbuf=0 ").count() <= 1
    });
    let grown = resident_bytes(&proxy).saturating_sub(before);
    assert!(grown < 16 << 20, "100 half requests cost {grown} bytes");
    assert_eq!(bystander.run("SET k v"), Reply::Simple("OK".into()));
}

#[test]
fn ten_thousand_mixed_commands_in_one_pipeline_are_answered_in_order() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    let mut requests = Vec::new();
    for n in 0..10_000 {
        let word = n.to_string();
        requests.extend(match n % 6 {
            0 => encode(&["ECHO", &word]),
            1 => encode(&["SET", "k", &word]),
            2 => encode(&["GET", "k"]),
            3 => encode(&["QPUSH", "mixed", &word]),
            4 => encode(&["QLEN", "mixed"]),
            _ => format!("NOSUCH {n}\r\n").into_bytes(),
        });
    }
    client.send_bytes(&requests);
    for n in 0..10_000 {
        let reply = client.receive();
        let right = match n % 6 {
            0 => reply.bytes() == n.to_string().as_bytes(),
            1 => reply == Reply::Simple("OK".into()),
            2 => reply.bytes() == (n - 1).to_string().as_bytes(),
            3 => matches!(reply, Reply::Bulk(_)),
            4 => reply == Reply::Integer(n / 6 + 1),
            _ => reply.is_error(&format!(
                "ERR unknown command 'NOSUCH', with args beginning with: '{n}'"
            )),
        };
        assert!(right, "{reply} to request {n}");
    }
}

#[test]
fn a_client_that_reads_too_slowly_is_closed_at_client_output() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis)
        .set("limits.client_output", "\"4MiB\"")
        .allow_log("reads too slowly")
        .start();
    let mut other = proxy.client();
    other.call(&[&b"SET"[..], b"big", &vec![b'x'; 200_000]]);
    let mut slow = proxy.client();
    slow.call(&["CLIENT", "SETNAME", "slow"]);
    slow.send_bytes(&encode(&["GET", "big"]).repeat(200));
    wait_until(PATIENCE, "the slow client is closed", || {
        !other.run("CLIENT LIST").text().contains("name=slow")
    });
    assert_eq!(other.run("STRLEN big"), Reply::Integer(200_000));
}

#[test]
fn a_client_that_never_reads_does_not_make_the_proxy_grow() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    proxy.client().call(&[&b"SET"[..], b"k", &vec![b'x'; 1000]]);
    let before = resident_bytes(&proxy);
    // COMMAND is made here, 200 KB for 9 bytes; GET comes from Redis.
    for request in [&b"COMMAND\r\n"[..], b"PING\r\n", b"GET k\r\n"] {
        let mut deaf = TcpStream::connect(proxy.address()).unwrap();
        deaf.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let requests = request.repeat(10_000);
        let stuck = (0..2_000).any(|_| deaf.write_all(&requests).is_err());
        assert!(stuck, "the proxy read everything of {}", request.escape_ascii());
        let grown = resident_bytes(&proxy).saturating_sub(before);
        assert!(grown < 48 << 20, "{grown} bytes for {}", request.escape_ascii());
    }
    assert_eq!(proxy.client().run("PING"), Reply::Simple("PONG".into()));
}

#[test]
fn requests_beyond_client_pipeline_wait_for_their_turn() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).set("limits.client_pipeline", "8").start();
    let mut client = proxy.client();
    let requests: Vec<u8> = (0..1000)
        .flat_map(|n| encode(&["RPUSH", "list", &n.to_string()]))
        .collect();
    client.send_bytes(&requests);
    for n in 0..1000 {
        assert_eq!(client.receive(), Reply::Integer(n + 1));
    }
}

#[test]
fn out_of_memory_is_an_error_and_passes() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).set("limits.memory", "\"8MiB\"").start();
    let payload = vec![b'x'; 1 << 20];
    let push = encode(&[&b"QPUSH"[..], b"q", &payload]);
    redis.freeze();
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send_bytes(&push);
    }
    wait_until(PATIENCE, "a push is refused", || {
        let mut other = proxy.client(); // a new one: a push that was let in keeps all behind it waiting
        other.send(&["QPUSH", "q", "small"]);
        !other.hears_nothing_for(Duration::from_millis(20))
    });
    let mut other = proxy.client();
    assert!(other.run("GET k").is_error("OOM "));
    assert_eq!(other.run("PING"), Reply::Simple("PONG".into()), "it needs no memory");
    redis.thaw();
    let replies: Vec<Reply> = clients.iter_mut().map(Client::receive).collect();
    assert!(replies.iter().any(|reply| reply.is_error("OOM ")));
    assert!(
        replies
            .iter()
            .all(|reply| reply.is_error("OOM ") || matches!(reply, Reply::Bulk(_)))
    );
    wait_until(PATIENCE, "pushes go again", || {
        matches!(proxy.client().call(&[&b"QPUSH"[..], b"q", &payload]), Reply::Bulk(_))
    });
}

#[test]
fn a_payload_over_the_limit_is_an_error_and_the_connection_stays() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).set("limits.max_payload", "\"1KiB\"").start();
    let mut client = proxy.client();
    let refused = client.call(&["QPUSH", "q", &"x".repeat(1025)]);
    assert!(
        refused.is_error("ERR ") && refused.to_string().contains("1024"),
        "{refused}"
    );
    assert!(
        client
            .call(&["QMPUSH", "q", "2", "small", &"x".repeat(1025)])
            .is_error("ERR ")
    );
    assert_eq!(client.run("QLEN q"), Reply::Integer(0));
    assert!(matches!(
        client.call(&["QPUSH", "q", &"x".repeat(1024)]),
        Reply::Bulk(_)
    ));
}

#[test]
fn clients_beyond_max_clients_are_told_and_closed() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).workers(2).set("limits.max_clients", "3").start();
    let mut first = proxy.client();
    wait_until(PATIENCE, "the others are gone", || {
        first.run("CLIENT LIST").text().lines().count() == 1
    });
    let mut more = [proxy.client(), proxy.client()];
    for client in &mut more {
        assert_eq!(client.run("PING"), Reply::Simple("PONG".into()));
    }
    let mut refused = proxy.client();
    assert!(refused.receive().is_error("ERR max number of clients reached"));
    assert!(refused.is_closed());
    drop(more);
    wait_until(PATIENCE, "there is room again", || {
        proxy
            .client()
            .try_call(&["PING"])
            .is_ok_and(|reply| !reply.is_error("ERR"))
    });
}

#[test]
fn strangers_may_send_little_and_do_nothing() {
    let redis = RedisServer::start();
    let guarded = RedisServer::start_with(&["--requirepass", "secret"]);
    let user = format!("[{{ name = \"default\", password_sha256 = \"{SECRET_SHA256}\" }}]");
    let proxy = Proxy::before(&redis).set("auth.users", &user).start();
    let big = "x".repeat(20_000);
    for case in [
        encode(&["GET", "k"]),
        encode(&["NOSUCH"]),
        encode(&["AUTH", "wrong"]),
        encode(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]),
        encode(&["AUTH", &big]),
        b"*10\r\n$16385\r\n".to_vec(),
        [encode(&["AUTH", "secret"]), encode(&["ECHO", &big])].concat(),
    ] {
        let case = [case, encode(&["QUIT"])].concat(); // the PING behind it would not be answered as one
        let right = outcome(Client::connect(&guarded.address()).unwrap(), &[&case]);
        let shown = case[..case.len().min(80)].escape_ascii().to_string();
        assert_eq!(outcome(proxy.client(), &[&case]), right, "{shown}");
    }
    assert!(proxy.client().run("QPUSH q job").is_error("NOAUTH "));
}

#[test]
fn client_reply_mutes_what_redis_mutes() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    for lines in [
        "CLIENT REPLY OFF\r\nSET a 1\r\nECHO x\r\nNOSUCH\r\nCLIENT REPLY ON\r\nGET a\r\n",
        "CLIENT REPLY SKIP\r\nSET a 2\r\nGET a\r\n",
        "CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nECHO x\r\nECHO y\r\n",
        "CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nECHO x\r\n",
        "CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nECHO x\r\nECHO y\r\nCLIENT REPLY ON\r\n",
        "CLIENT REPLY OFF\r\nRESET\r\nECHO x\r\n",
        "CLIENT REPLY MAYBE\r\n",
    ] {
        let right = outcome(Client::connect(&redis.address()).unwrap(), &[lines.as_bytes()]);
        assert_eq!(outcome(proxy.client(), &[lines.as_bytes()]), right, "{lines}");
    }
}

#[test]
fn client_list_and_kill_reach_the_clients_of_all_workers() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).workers(2).start();
    let mut asking = proxy.client();
    let mut clients: Vec<Client> = (0..16).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(&["QPOP", "nothing", "BLOCK", "0"]);
    }
    let list = "the list shows all clients";
    wait_until(PATIENCE, list, || {
        asking.run("CLIENT LIST").text().lines().count() == 17
    });
    let mut named = proxy.client();
    let id = named.run("CLIENT ID").integer().to_string();
    assert_eq!(asking.call(&["CLIENT", "KILL", "ID", &id]), Reply::Integer(1));
    assert!(named.is_closed());
    assert_eq!(asking.run("CLIENT KILL TYPE normal"), Reply::Integer(16));
    for client in &mut clients {
        assert!(client.is_closed(), "a killed client is closed, whatever it waits for");
    }
    assert_eq!(asking.run("CLIENT KILL TYPE normal SKIPME no"), Reply::Integer(1));
    assert!(asking.is_closed());
}

/// This machine's address in its network, if it has one.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing: it only picks a route
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

#[test]
fn without_users_only_this_machine_is_served() {
    let Some(host) = own_address() else {
        eprintln!("no network: there is no address but the loopback's to connect from");
        return;
    };
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).listening_on("0.0.0.0").start();
    let mut stranger = Client::connect(&format!("{host}:{}", proxy.port())).unwrap();
    assert!(stranger.receive().is_error("DENIED "));
    assert!(stranger.is_closed());
    assert_eq!(proxy.client().run("PING"), Reply::Simple("PONG".into()));
    let mut local = Client::connect_unix(&proxy.socket()).unwrap();
    assert_eq!(local.run("PING"), Reply::Simple("PONG".into()));
}

#[test]
fn an_idle_client_is_closed_and_one_that_waits_is_not() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).set("limits.idle_timeout", "\"1s\"").start();
    let (mut idle, mut waiting) = (proxy.client(), proxy.client());
    waiting.send(&["QPOP", "q", "BLOCK", "0"]);
    assert!(idle.is_closed());
    proxy.client().run("QPUSH q job");
    assert_eq!(waiting.receive().items()[2], Reply::Bulk(b"job".to_vec()));
}

#[test]
fn select_keeps_the_plain_keys_of_databases_apart() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let (mut zero, mut seven) = (proxy.client(), proxy.client());
    seven.run("SELECT 7");
    zero.run("SET k zero");
    seven.run("SET k seven");
    assert_eq!(zero.run("GET k").text(), "zero");
    assert_eq!(seven.run("GET k").text(), "seven");
    assert!(seven.run("SELECT 16").is_error("ERR DB index is out of range"));
    seven.run("SELECT 0");
    assert_eq!(seven.run("GET k").text(), "zero");
}

#[test]
fn clients_of_both_protocols_are_served_at_once() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).workers(1).start();
    let (mut old, mut new) = (proxy.client(), proxy.client());
    new.hello3();
    old.run("HSET h f v");
    for _ in 0..50 {
        old.send(&["HGETALL", "h"]);
        new.send(&["HGETALL", "h"]);
        old.send(&["QSTATS", "q"]);
        new.send(&["QSTATS", "q"]);
    }
    for _ in 0..50 {
        assert_eq!(old.receive().to_string(), r#"["f", "v"]"#);
        assert_eq!(new.receive().to_string(), r#"{"f": "v"}"#);
        assert!(matches!(old.receive(), Reply::Array(_)));
        assert!(matches!(new.receive(), Reply::Map(_)));
    }
    assert_eq!(
        (old.run("GET none"), new.run("GET none")),
        (Reply::NullBulk, Reply::Null)
    );
}

#[test]
fn a_client_that_closes_its_side_gets_its_replies_and_no_job() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut half = TcpStream::connect(proxy.address()).unwrap();
    half.set_read_timeout(Some(PATIENCE)).unwrap();
    half.write_all(b"SET k v\r\nQPOP q BLOCK 0\r\nGET k\r\nPING\r\n")
        .unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    half.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "+OK\r\n*-1\r\n$1\r\nv\r\n+PONG\r\n");
    let mut client = proxy.client();
    client.run("QPUSH q job");
    assert_eq!(client.run("QLEN q"), Reply::Integer(1));
}
