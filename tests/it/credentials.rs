//! A Redis that asks for a password, which is changed while the proxy runs.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Client, PATIENCE, Proxy, RedisServer, wait_until};

fn guarded_redis(password: &str) -> (RedisServer, Client) {
    let redis = RedisServer::start_with(&["--requirepass", password]);
    let mut client = redis.client();
    assert_eq!(client.call(&["AUTH", password]).to_string(), "+OK");
    (redis, client)
}

fn file_with(password: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("password").display().to_string();
    fs::write(&path, format!("{password}\n")).expect("a file");
    (dir, path)
}

#[test]
fn a_password_that_was_changed_is_read_from_its_file_by_the_next_connection() {
    let (redis, mut operator) = guarded_redis("sesame");
    let (_dir, path) = file_with("sesame");
    let proxy = Proxy::before(&redis)
        .workers(2)
        .set("upstream.password_file", &format!("{path:?}"))
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .start();
    let mut client = proxy.client();
    client.run("QPUSH q before");

    // Redis first, its connections closed, and the file only when the proxy was refused: the worst order.
    operator.run("CONFIG SET requirepass mustard");
    operator.run("CLIENT KILL TYPE normal SKIPME yes");
    client.send(&["QPUSH", "q", "meanwhile"]);
    wait_until(PATIENCE, "the old password is refused", || {
        proxy.log().contains("WRONGPASS")
    });
    fs::remove_file(&path).expect("the file goes");
    wait_until(PATIENCE, "the missing file is told", || proxy.log().contains(&path));
    fs::write(&path, "mustard").expect("a file");
    assert!(
        !client.receive().is_error(""),
        "the request waited for the new password"
    );
    assert_eq!(client.run("QLEN q").integer(), 2);
    let log = proxy.log();
    assert!(
        !log.contains("sesame") && !log.contains("mustard"),
        "a password stands in the log"
    );
}

#[test]
fn what_stands_in_a_password_file_is_not_shown_by_check() {
    let (dir, path) = file_with("sesame");
    let config = dir.path().join("proxy.toml");
    fs::write(
        &config,
        format!("[upstream]\nmode = \"single\"\npassword_file = {path:?}"),
    )
    .expect("a file");
    let mut check = Command::new(env!("CARGO_BIN_EXE_millrace"));
    let output = check
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .expect("it runs");
    let shown = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success() && shown.contains(&path) && !shown.contains("sesame"),
        "{shown}"
    );
}
