//! Local replies held against a real Redis, and those that Redis does not have.

use bytes::BytesMut;
use sha2::{Digest, Sha256};

use super::client::{Buffers, KillForm};
use super::*;
use crate::oracle::Oracle;
use crate::plan::{Plan, Rules, plan};
use crate::resp::{OwnedRequest, Protocol};
use crate::session::{Peer, User};

/// A client of a proxy that consists of a table and of users.
struct Client {
    table: Table,
    users: Users,
    session: Session,
    effect: Effect,
}

impl Client {
    fn new(users: Vec<User>) -> Self {
        let users = Users::new(users);
        let session = Session::new(7, Peer::Unix("/run/s".into()), &users, Instant::now());
        Self {
            table: Table::builtin(),
            users,
            session,
            effect: Effect::None,
        }
    }

    /// With the table of this very server: another one, even of the same version, lists its commands in another order.
    fn of(redis: &mut Oracle) -> Self {
        redis.ask(&["HELLO", "3"]);
        let table = Table::from_answer(&redis.ask(&["COMMAND"])).unwrap();
        Self {
            table,
            ..Self::new(Vec::new())
        }
    }

    /// The reply to what the proxy answers without asking anybody.
    fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Vec<u8> {
        let request = OwnedRequest::from_words(words);
        let request = request.as_request();
        let rules = Rules {
            table: &self.table,
            own_keys: Some(b"q:{"),
            cluster: false,
        };
        let planned = plan(request, &self.session, &rules);
        let facts = Facts {
            table: &self.table,
            users: &self.users,
            redis_version: "7.0.15",
            cluster: false,
            databases: 16,
            now: self.session.since,
            buffers: Buffers::default(),
        };
        let mut out = BytesMut::new();
        match planned.plan {
            Plan::Local(local) => self.effect = reply(local, request, &mut self.session, &facts, &mut out),
            Plan::Refuse(refusal) => refusal.write(&mut ReplyWriter::new(&mut out, self.session.protocol)),
            plan => panic!("not answered here: {plan:?}"),
        }
        self.session.begin(planned.command, facts.now);
        out.to_vec()
    }

    fn says(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split(' ').collect();
        String::from_utf8(self.ask(&words)).unwrap()
    }

    fn line(&self) -> String {
        let facts = Facts {
            table: &self.table,
            users: &self.users,
            redis_version: "",
            cluster: false,
            databases: 1,
            now: self.session.since,
            buffers: Buffers::default(),
        };
        client::line(&self.session, facts.buffers, &facts).1
    }
}

fn user(name: &str, password: &str) -> User {
    User {
        name: name.into(),
        password: Sha256::digest(password).into(),
    }
}

/// Asks both the same, and wants the same bytes.
fn compare(redis: &mut Oracle, client: &mut Client, words: &[&[u8]]) {
    let expected = redis.ask(words);
    let shown: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
    assert_eq!(
        String::from_utf8_lossy(&client.ask(words)),
        String::from_utf8_lossy(&expected),
        "{shown:?} in {:?}",
        client.session.protocol
    );
}

fn compare_lines(redis: &mut Oracle, client: &mut Client, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line
            .split(' ')
            .map(|word| if word == "\"\"" { b"" } else { word.as_bytes() })
            .collect();
        compare(redis, client, &words);
    }
}

/// Both in the same protocol, with the same client id.
fn both(redis: &mut Oracle, client: &mut Client, protocol: &str) {
    redis.ask(&["HELLO", protocol]);
    let id = String::from_utf8(redis.ask(&["CLIENT", "ID"])).unwrap();
    client.session.id = id.trim_matches([':', '\r', '\n']).parse().unwrap();
    client.ask(&["HELLO", protocol]);
}

#[test]
fn what_redis_answers_too_is_answered_alike() {
    let mut redis = Oracle::start(&[]);
    let mut client = Client::of(&mut redis);
    for protocol in ["2", "3"] {
        both(&mut redis, &mut client, protocol);
        compare_lines(
            &mut redis,
            &mut client,
            "PING
             ping hello
             PING a b
             ECHO x
             echo
             SELECT 3
             SELECT 16
             SELECT -1
             SELECT x
             SELECT 01
             SELECT 99999999999
             SELECT 0
             AUTH x
             AUTH default x
             AUTH nobody x
             AUTH a b c
             ACL WHOAMI
             HELLO
             HELLO 4
             HELLO x
             HELLO 3 foo
             HELLO 2 SETNAME
             HELLO 2 AUTH default
             HELLO 3 AUTH nobody x
             HELLO 3 AUTH default x SETNAME me
             CLIENT GETNAME
             HELLO 2 SETNAME you
             CLIENT GETNAME
             CLIENT SETNAME \"\"
             CLIENT GETNAME
             CLIENT ID
             CLIENT ID 1
             CLIENT SETNAME a\tb
             CLIENT NO-EVICT on
             CLIENT NO-EVICT maybe
             CLIENT NO-EVICT off
             CLIENT REPLY maybe
             CLIENT REPLY on
             CLIENT LIST foo
             CLIENT LIST TYPE foo
             CLIENT LIST ID x
             CLIENT LIST ID
             CLIENT KILL ID 0
             CLIENT KILL ID x
             CLIENT KILL TYPE foo
             CLIENT KILL foo bar
             CLIENT KILL SKIPME maybe
             CLIENT KILL USER nobody
             CLIENT KILL ID 1 ID
             CLIENT KILL
             CLIENT
             CLIENT nosuch
             CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type internal-ip
             client|list
             COMMAND GETKEYS
             COMMAND GETKEYS GET
             COMMAND GETKEYS GET k
             COMMAND GETKEYS GET k k
             COMMAND GETKEYS NOSUCH k
             COMMAND GETKEYS PING x
             COMMAND GETKEYS OBJECT
             COMMAND GETKEYS OBJECT ENCODING k
             COMMAND GETKEYS OBJECT NOSUCH k
             COMMAND GETKEYS EVAL script 0
             COMMAND GETKEYS EVAL script x
             COMMAND GETKEYS ZUNION x a
             COMMAND GETKEYS MSET a 1 b 2
             COMMAND COUNT x
             COMMAND INFO nosuch
             COMMAND INFO client|list get nosuch xread
             COMMAND LIST FILTERBY ACLCAT nosuch
             COMMAND LIST FILTERBY
             COMMAND LIST FILTERBY nosuch x
             COMMAND HELP
             COMMAND nosuch
             GET
             get a b
             nosuch
             NoSuch a b",
        )
    }
}

#[test]
fn an_unknown_command_is_repeated_as_redis_repeats_it() {
    let mut redis = Oracle::start(&[]);
    let mut client = Client::new(Vec::new());
    let long = "x".repeat(300);
    for words in [
        &[long.as_bytes(), b"a"][..],
        &[b"nosuch", long.as_bytes(), b"never shown"],
        &[b"nosuch", &long.as_bytes()[..100], b"b", long.as_bytes(), b"c"],
        &[b"nosuch", &long.as_bytes()[..125], b"b"],
        &[b"nosuch", &long.as_bytes()[..124], b"b", b"c"],
        &[b"no\r\nsuch", b"a\r\nb"],
        &[b"no\0such", b"a\0b", b"c"],
        &[b"no\xffsuch", b"\xfe"],
        &[b""],
        &[b"", b""],
        &[b"CLIENT", long.as_bytes()],
        &[b"client", b"a\r\nb\0c"],
        &[b"cLiEnT", b""],
    ] {
        compare(&mut redis, &mut client, words);
    }
}

#[test]
fn nothing_but_authentication_is_served_before_it() {
    let mut redis = Oracle::start(&["--requirepass", "secret"]);
    for protocol in ["2", "3"] {
        let mut client = Client::new(vec![user("default", "secret")]);
        redis.ask(&["RESET"]);
        let mut lines = |lines: &str| compare_lines(&mut redis, &mut client, lines);
        lines(
            "GET k
             PING
             CLIENT SETNAME x
             GET
             nosuch x
             CLIENT nosuch
             HELLO
             HELLO 3
             HELLO 3 SETNAME x
             HELLO 5
             AUTH wrong
             AUTH default wrong
             AUTH nobody secret
             HELLO 2 AUTH default wrong
             RESET
             AUTH secret
             AUTH wrong
             PING
             RESET
             PING
             AUTH default secret
             PING
             RESET",
        );
        redis.ask(&["HELLO", protocol, "AUTH", "default", "secret"]);
        client.ask(&["HELLO", protocol, "AUTH", "default", "secret"]);
        compare_lines(&mut redis, &mut client, "PING\nCLIENT GETNAME\nACL WHOAMI");
    }
}

#[test]
fn a_client_is_listed_by_what_it_said() {
    let mut client = Client::new(Vec::new());
    for line in [
        "CLIENT SETNAME me",
        "CLIENT SETINFO LIB-NAME redis-py",
        "CLIENT SETINFO lib-ver 5.0.1",
        "CLIENT NO-TOUCH ON",
        "SELECT 4",
    ] {
        assert_eq!(client.says(line), "+OK\r\n", "{line}");
    }
    assert_eq!(
        client.line(),
        "id=7 addr=/run/s:0 laddr=/run/s:0 fd=-1 name=me age=0 idle=0 flags=UT db=4 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 \
         qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=select user=default \
         redir=-1 resp=2 lib-name=redis-py lib-ver=5.0.1\n"
    );
    assert_eq!(client.says("RESET"), "+RESET\r\n");
    assert!(client.line().contains(" name= ") && client.line().contains(" flags=U db=0 "));
    assert_eq!(
        client.says("CLIENT SETINFO lib-name a\tb"),
        "-ERR lib-name cannot contain spaces, newlines or special characters.\r\n"
    );
    assert_eq!(
        client.says("CLIENT SETINFO colour red"),
        "-ERR Unrecognized option 'colour'\r\n"
    );
}

#[test]
fn the_line_has_the_fields_of_redis_in_its_order() {
    let mut redis = Oracle::start(&[]);
    let theirs = String::from_utf8(redis.ask(&["CLIENT", "INFO"])).unwrap();
    let names = |line: &str| {
        line.split_whitespace()
            .filter_map(|field| Some(field.split_once('=')?.0.to_string()))
            .collect::<Vec<_>>()
    };
    let ours = names(&Client::new(Vec::new()).line());
    let theirs = names(&theirs);
    assert_eq!(ours[..theirs.len()], theirs);
}

#[test]
fn the_clients_to_kill_are_those_that_fit_every_option() {
    let mut client = Client::new(Vec::new());
    let other = Session::new(
        8,
        Peer::tcp("10.0.0.1:99".parse().unwrap(), "10.0.0.2:6380".parse().unwrap()),
        &client.users,
        Instant::now(),
    );
    for (line, me, it) in [
        ("CLIENT KILL ID 8", false, true),
        ("CLIENT KILL ID 7", false, false),
        ("CLIENT KILL ID 7 SKIPME no", true, false),
        ("CLIENT KILL TYPE normal", false, true),
        ("CLIENT KILL TYPE pubsub SKIPME no", false, false),
        ("CLIENT KILL ADDR 10.0.0.1:99", false, true),
        ("CLIENT KILL LADDR 10.0.0.2:6380 ID 9", false, false),
        ("CLIENT KILL USER default SKIPME no", true, true),
        ("CLIENT KILL 10.0.0.1:99", false, true),
        ("CLIENT KILL /run/s:0", true, false),
    ] {
        assert_eq!(client.says(line), "", "{line}");
        let Effect::KillClients(filter, form) = &client.effect else {
            panic!("{line}: {:?}", client.effect);
        };
        assert_eq!((filter.fits(&client.session), filter.fits(&other)), (me, it), "{line}");
        assert_eq!(*form == KillForm::Address, line.split(' ').count() == 3, "{line}");
    }
    for (line, me, it) in [
        ("CLIENT LIST", true, true),
        ("CLIENT LIST ID 3 8", false, true),
        ("CLIENT LIST ID -1", false, false),
        ("CLIENT LIST TYPE master", false, false),
    ] {
        assert_eq!(client.says(line), "", "{line}");
        let Effect::ListClients(filter) = &client.effect else {
            panic!("{line}: {:?}", client.effect);
        };
        assert_eq!((filter.fits(&client.session), filter.fits(&other)), (me, it), "{line}");
    }
}

#[test]
fn replies_can_be_switched_off() {
    let mut client = Client::new(Vec::new());
    let mut reply = |line: &str| {
        let reply = client.says(line);
        if client.session.mutes_reply() {
            String::new()
        } else {
            reply
        }
    };
    assert_eq!(
        ["CLIENT REPLY SKIP", "PING", "PING"].map(&mut reply),
        ["", "", "+PONG\r\n"]
    );
    assert_eq!(
        [
            "CLIENT REPLY OFF",
            "PING",
            "CLIENT REPLY SKIP",
            "GET",
            "CLIENT REPLY ON",
            "PING"
        ]
        .map(&mut reply),
        ["", "", "", "", "+OK\r\n", "+PONG\r\n"]
    );
}

// Redis lists commands in the order of a hash table that it may be moving just then: the same lines, in any order.
fn compare_unordered(redis: &mut Oracle, client: &mut Client, line: &str) {
    let sorted = |reply: Vec<u8>| {
        let text = String::from_utf8(reply).unwrap();
        let mut lines: Vec<_> = text.split("\r\n").map(String::from).collect();
        lines.sort();
        lines
    };
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(sorted(client.ask(&words)), sorted(redis.ask(&words)), "{line}");
}

#[test]
fn the_whole_table_is_listed_with_ours_in_it() {
    let mut redis = Oracle::start(&[]);
    let mut client = Client::of(&mut redis);
    let number = |reply: &str| reply.trim_matches([':', '\r', '\n']).parse::<usize>().unwrap();
    for protocol in ["2", "3"] {
        both(&mut redis, &mut client, protocol);
        for line in [
            "COMMAND INFO object",
            "COMMAND LIST FILTERBY PATTERN get*",
            "COMMAND LIST FILTERBY PATTERN OBJECT|*",
            "COMMAND LIST FILTERBY ACLCAT Geo",
        ] {
            compare_unordered(&mut redis, &mut client, line);
        }
        let count = number(&client.says("COMMAND COUNT"));
        let theirs = number(&String::from_utf8(redis.ask(&["COMMAND", "COUNT"])).unwrap());
        assert_eq!(count, theirs + crate::command::queue::COMMANDS.len());
        let all = client.says("COMMAND");
        assert!(all.starts_with(&format!("*{count}\r\n*10\r\n$5\r\nqpush\r\n:-3\r\n")));
        assert!(all.contains("\r\n*10\r\n$3\r\nget\r\n:2\r\n"));
        assert!(client.says("COMMAND LIST FILTERBY ACLCAT queue").starts_with(&format!(
            "*{}\r\n$5\r\nqpush\r\n",
            crate::command::queue::COMMANDS.len()
        )));
    }
}

#[test]
fn documentation_of_ours_stands_behind_that_of_redis() {
    use super::command::{Chosen, splice_docs};
    let mut redis = Oracle::start(&[]);
    for (protocol, name, header) in [
        (Protocol::Resp2, "2", "*4\r\n$3\r\nget\r\n*"),
        (Protocol::Resp3, "3", "%2\r\n$3\r\nget\r\n%"),
    ] {
        redis.ask(&["HELLO", name]);
        let words = ["COMMAND", "DOCS", "get", "qlen"];
        let mut out = BytesMut::new();
        let chosen = Chosen::asked(OwnedRequest::from_words(&words).as_request());
        splice_docs(&redis.ask(&words), chosen, &mut ReplyWriter::new(&mut out, protocol));
        let spliced = String::from_utf8(out.to_vec()).unwrap();
        assert!(spliced.starts_with(header), "{spliced}");
        assert!(spliced.contains("$4\r\nqlen\r\n") && spliced.contains("Returns the number of a queue's ready jobs."));
        let mut scanner = crate::resp::frame::FrameScanner::default();
        assert_eq!(
            scanner.scan(&out),
            Ok(Some(crate::resp::frame::Frame::Reply(out.len())))
        );

        let mut client = Client::new(Vec::new());
        client.session.protocol = protocol;
        let docs = client.says("COMMAND DOCS QPUSH qnack");
        let mut scanner = crate::resp::frame::FrameScanner::default();
        assert_eq!(
            scanner.scan(docs.as_bytes()),
            Ok(Some(crate::resp::frame::Frame::Reply(docs.len())))
        );
    }
}

#[test]
fn info_gains_our_sections() {
    use super::info::{Numbers, Sections, splice, write};
    let mut redis = Oracle::start(&[]);
    let numbers = Numbers {
        workers: 2,
        mode: "single",
        pushed: 5,
        ..Numbers::default()
    };
    for (protocol, name) in [(Protocol::Resp2, "2"), (Protocol::Resp3, "3")] {
        redis.ask(&["HELLO", name]);
        let written = |reply: &mut dyn FnMut(&mut ReplyWriter)| {
            let mut out = BytesMut::new();
            reply(&mut ReplyWriter::new(&mut out, protocol));
            let mut scanner = crate::resp::frame::FrameScanner::default();
            assert_eq!(
                scanner.scan(&out),
                Ok(Some(crate::resp::frame::Frame::Reply(out.len())))
            );
            String::from_utf8(out.to_vec()).unwrap()
        };
        let asked = |words: &[&str]| Sections::asked(OwnedRequest::from_words(words).as_request());
        let theirs = redis.ask(&["INFO"]);
        let all = written(&mut |reply| splice(&theirs, asked(&["INFO"]), &numbers, reply));
        assert!(all.contains("# Server\r\n") && all.contains("\r\n\r\n# Proxy\r\nmillrace_version:"));
        assert!(all.contains("\r\n\r\n# Queues\r\n") && all.ends_with("queue_pushes_lost:0\r\n\r\n"));
        let ours = written(&mut |reply| write(asked(&["INFO", "Queues"]), &numbers, reply));
        assert!(ours.contains("queue_jobs_pushed:5\r\n") && !ours.contains("# Proxy"));
        let error = b"-LOADING Redis is loading the dataset in memory\r\n";
        assert_eq!(
            written(&mut |reply| splice(error, asked(&["INFO"]), &numbers, reply)).as_bytes(),
            error
        );
    }
}
