//! How a proxy starts: on all of its addresses, or not at all.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

#[test]
fn an_address_that_is_taken_ends_the_start_before_a_redis_is_started() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let taken = listener.local_addr().expect("a bound port").to_string();
    let any = "127.0.0.1:0";
    for (clients, admin) in [(&*taken, any), (any, &taken)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = format!(
            "listen.address = {clients:?}\nadmin.address = {admin:?}\n\
             upstream = {{ mode = \"embedded\", embedded.data_dir = \"data\" }}\n"
        );
        fs::write(dir.path().join("proxy.toml"), config).expect("a file");
        let mut start = Command::new(env!("CARGO_BIN_EXE_millrace"));
        let start = start.current_dir(dir.path()).args(["--config", "proxy.toml"]);
        let ended = start.output().expect("it runs");
        let said = String::from_utf8([ended.stdout, ended.stderr].concat()).expect("text");
        assert!(!ended.status.success(), "{said}");
        assert!(said.contains(&format!("listen on {taken}")), "{said}");
        assert!(!dir.path().join("data").exists(), "a Redis was started: {said}");
    }
}
