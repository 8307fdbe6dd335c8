//! The embedded Redis against the real redis-server: its death, its parent's death, its neighbours.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use super::{Embedded, EmbeddedError};
use crate::config;

const DEADLINE: Duration = Duration::from_secs(20);

fn settings(directory: &Path) -> config::Embedded {
    config::Embedded {
        binary: "redis-server".to_owned(),
        data_dir: directory.to_owned(),
    }
}

fn private_directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn call(socket: &Path, words: &[&str]) -> redis::RedisResult<String> {
    let client = redis::Client::open(format!("unix://{}", socket.display()))?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query(&mut client.get_connection()?)
}

fn pid(directory: &Path) -> Option<i32> {
    fs::read_to_string(directory.join("redis.pid"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: it sends a signal to a process that the test has started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "kill {pid}");
}

async fn wait_until(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < deadline, "{what}: not within {deadline:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn it_listens_on_a_private_socket_only_and_ends_when_told() {
    let parent = private_directory();
    let directory = parent.path().join("new").join("data \"quoted\"");
    let redis = Embedded::start(&settings(&directory))
        .await
        .expect("redis-server is installed");
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(redis.socket_path())), (0o700, 0o700));
    for (name, value) in [
        ("port", "0"),
        ("appendonly", "yes"),
        ("maxmemory-policy", "noeviction"),
        ("save", ""),
    ] {
        let client = redis::Client::open(format!("unix://{}", redis.socket_path().display()));
        let mut connection = client.and_then(|client| client.get_connection()).expect("it listens");
        let found: Vec<String> = redis::cmd("CONFIG")
            .arg("GET")
            .arg(name)
            .query(&mut connection)
            .expect("it answers");
        assert_eq!(found[1], value, "{name}");
    }
    let socket = redis.socket_path().to_owned();
    redis.stop().await;
    assert!(call(&socket, &["PING"]).is_err(), "it has ended");
    assert_eq!(
        pid(&directory),
        None,
        "it has ended cleanly: it took its pid file along"
    );
}

#[tokio::test]
async fn a_redis_that_dies_is_started_again_with_its_data() {
    let directory = private_directory();
    let redis = Embedded::start(&settings(directory.path()))
        .await
        .expect("redis-server is installed");
    call(redis.socket_path(), &["SET", "k", "kept"]).expect("it answers");
    let first = pid(directory.path()).expect("a pid file");
    kill(first, libc::SIGKILL);
    let socket = redis.socket_path().to_owned();
    wait_until(DEADLINE, "a new redis answers", || {
        pid(directory.path()) != Some(first) && call(&socket, &["GET", "k"]).is_ok_and(|value| value == "kept")
    })
    .await;
    redis.stop().await;
}

#[tokio::test]
async fn a_second_proxy_in_the_same_directory_is_told_who_is_there() {
    let directory = private_directory();
    let redis = Embedded::start(&settings(directory.path()))
        .await
        .expect("redis-server is installed");
    let error = Embedded::start(&settings(directory.path()))
        .await
        .err()
        .expect("the directory is taken");
    assert!(
        error.to_string().contains(&format!("(pid {})", std::process::id())),
        "{error}"
    );
    redis.stop().await;
    let redis = Embedded::start(&settings(directory.path()))
        .await
        .expect("the directory is free again");
    redis.stop().await;
}

#[tokio::test]
async fn a_proxy_that_was_killed_leaves_nothing_that_blocks_the_next_start() {
    let directory = private_directory();
    let mut proxy = Command::new(env::current_exe().expect("this test's binary"))
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "upstream::embedded::tests::a_proxy_to_be_killed",
        ])
        .env("MILLRACE_TEST_DIRECTORY", directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test's binary starts");
    let lines = BufReader::new(proxy.stdout.take().expect("its output")).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.contains("ready"));
    assert!(ready, "the other proxy starts its redis");
    kill(proxy.id().cast_signed(), libc::SIGKILL);
    proxy.wait().expect("it is dead");
    let redis = Embedded::start(&settings(directory.path()))
        .await
        .expect("nothing is in the way");
    assert_eq!(call(redis.socket_path(), &["GET", "k"]).expect("it answers"), "kept");
    redis.stop().await;
}

/// The other process of the test above, and no test by itself.
#[tokio::test]
#[ignore = "started by a_proxy_that_was_killed_leaves_nothing_that_blocks_the_next_start"]
async fn a_proxy_to_be_killed() {
    let directory = env::var_os("MILLRACE_TEST_DIRECTORY").expect("started by the other test");
    let redis = Embedded::start(&settings(Path::new(&directory)))
        .await
        .expect("redis-server is installed");
    call(redis.socket_path(), &["SET", "k", "kept"]).expect("it answers");
    println!("\nready");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_redis_left_behind_is_ended_before_another_writes_to_its_file() {
    let directory = private_directory();
    let path = directory.path().canonicalize().expect("it exists");
    let mut orphan = Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--appendonly",
            "yes",
            "--save",
            "",
            "--logfile",
            "orphan.log",
            "--unixsocket",
            "redis.sock",
        ])
        .args([
            "--pidfile".as_ref(),
            path.join("redis.pid").as_os_str(),
            "--dir".as_ref(),
            path.as_os_str(),
        ])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let socket = path.join("redis.sock");
    wait_until(DEADLINE, "the orphan answers", || {
        call(&socket, &["SET", "k", "kept"]).is_ok()
    })
    .await;
    let redis = Embedded::start(&settings(&path)).await.expect("the orphan gives way");
    assert!(orphan.try_wait().expect("a child").is_some(), "the orphan has ended");
    assert_eq!(call(redis.socket_path(), &["GET", "k"]).expect("it answers"), "kept");
    redis.stop().await;
}

#[tokio::test]
async fn a_pid_file_that_names_a_stranger_harms_nobody() {
    let directory = private_directory();
    let mut stranger = Command::new("sleep")
        .arg("1000")
        .current_dir(directory.path())
        .spawn()
        .expect("sleep");
    fs::write(directory.path().join("redis.pid"), stranger.id().to_string()).expect("a file");
    let redis = Embedded::start(&settings(directory.path()))
        .await
        .expect("redis-server is installed");
    assert!(stranger.try_wait().expect("a child").is_none(), "the stranger lives");
    redis.stop().await;
    stranger
        .kill()
        .and_then(|()| stranger.wait())
        .expect("the stranger was ours");
}

#[tokio::test]
async fn a_binary_that_is_missing_too_old_or_something_else_is_refused() {
    let directory = private_directory();
    let fake = |said: &str| {
        let path = directory.path().join("fake-redis");
        fs::write(&path, format!("#!/bin/sh\necho '{said}'\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("our file");
        path.display().to_string()
    };
    let data = directory.path().join("data");
    let start = async |binary: String| {
        let settings = config::Embedded {
            binary,
            data_dir: data.clone(),
        };
        Embedded::start(&settings).await.err().expect("it is refused")
    };
    let old = start(fake(
        "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64",
    ))
    .await;
    assert!(
        old.to_string().contains("is version 6.0.16, expected 6.2 or newer"),
        "{old}"
    );
    let strange = start(fake("busybox")).await;
    assert!(matches!(strange, EmbeddedError::Stranger { .. }), "{strange}");
    let missing = start("no-such-redis".to_owned()).await;
    assert!(
        missing
            .to_string()
            .starts_with("no-such-redis is not installed; install redis-server"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_redis_that_cannot_start_says_why() {
    let directory = private_directory();
    fs::create_dir(directory.path().join("appendonlydir")).expect("a directory");
    fs::write(
        directory.path().join("appendonlydir/appendonly.aof.manifest"),
        "nonsense\n",
    )
    .expect("a file");
    let error = Embedded::start(&settings(directory.path()))
        .await
        .err()
        .expect("its data is broken");
    assert!(
        matches!(&error, EmbeddedError::Died { tail, .. } if !tail.is_empty()),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_that_others_may_write_to_or_with_too_long_a_path_is_refused() {
    let directory = private_directory();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("our directory");
    let error = Embedded::start(&settings(directory.path()))
        .await
        .err()
        .expect("it is refused");
    assert!(matches!(error, EmbeddedError::Exposed { .. }), "{error}");
    let long = private_directory();
    let error = Embedded::start(&settings(&long.path().join("x".repeat(120))))
        .await
        .err()
        .expect("it is refused");
    assert!(matches!(error, EmbeddedError::PathTooLong { .. }), "{error}");
}

#[tokio::test]
async fn a_redis_that_hung_when_it_was_told_to_end_ends_when_it_goes_on() {
    let directory = private_directory();
    let redis = Embedded::start(&settings(directory.path()))
        .await
        .expect("redis-server is installed");
    let pid = pid(directory.path()).expect("a pid file");
    kill(pid, libc::SIGSTOP);
    let status = |key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .map(|value| value.trim().to_owned())
            .unwrap_or_default()
    };
    // Not before: of two signals that wait for a running process SIGTERM would be taken first.
    wait_until(DEADLINE, "redis is stopped", || status("State:").starts_with('T')).await;
    // The kernel keeps SIGTERM for a stopped process until somebody lets it continue.
    let stop = tokio::spawn(redis.stop());
    let sigterm = |set: u64| set & (1 << (libc::SIGTERM - 1)) != 0;
    let is_pending = || u64::from_str_radix(&status("ShdPnd:"), 16).is_ok_and(sigterm);
    wait_until(DEADLINE, "SIGTERM is pending", is_pending).await;
    kill(pid, libc::SIGCONT);
    stop.await.expect("stop returns");
}
