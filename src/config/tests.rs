//! The configuration as a whole: the shipped file, the errors with their places, the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use super::file::File;
use super::{Config, Endpoint, Layers, LogFormat, Source};

const SHIPPED: &str = include_str!("../../proxy.toml");

fn layers(text: &str, environment: &[(&str, &str)]) -> Result<Layers, String> {
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Layers::lay(Some("proxy.toml".into()), text.to_owned(), environment).map_err(|error| error.to_string())
}

fn config(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    layers(text, environment)?.config().map_err(|error| error.to_string())
}

fn error(text: &str) -> String {
    config(text, &[]).expect_err("this file is wrong")
}

fn password(config: &Config) -> Option<String> {
    let credentials = config.upstream.credentials.as_ref()?;
    Some(credentials.password.read().ok()?.expose().to_owned())
}

fn single(config: &Config) -> &Endpoint {
    let Source::Single(endpoint) = &config.upstream.source else {
        panic!("not single mode: {:?}", config.upstream.source)
    };
    endpoint
}

#[test]
fn the_shipped_file_holds_every_default() {
    let shipped: File = toml::from_str(SHIPPED).expect("proxy.toml is right");
    assert_eq!(shipped, File::default());
    // …and spells each of them out, so that nobody has to look a key up.
    let spelled: toml::Table = toml::from_str(SHIPPED).expect("proxy.toml is right");
    let defaults = toml::Table::try_from(File::default()).expect("the defaults are TOML");
    let mut spelled = spelled;
    let auth = spelled.remove("auth").expect("[auth] is shown");
    assert_eq!(auth.as_table().map(toml::Table::len), Some(0));
    let mut defaults = defaults;
    defaults.remove("auth");
    assert_eq!(spelled, defaults);
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = config("", &[]).expect("an empty file is right");
    assert_eq!(
        config.listen.addresses,
        ["127.0.0.1:6380".parse::<SocketAddr>().expect("an address")]
    );
    assert!(config.listen.workers >= 1);
    let Source::Embedded(embedded) = &config.upstream.source else {
        panic!("embedded is the default")
    };
    assert_eq!(embedded.binary, "redis-server");
    assert_eq!(config.limits.max_payload, 64 << 20);
    assert!(config.limits.memory > 1 << 20);
    assert_eq!(config.limits.idle_timeout, None);
    assert_eq!(config.queue(b"orders").lease, Duration::from_secs(30));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.prefix, "q");
}

#[test]
fn what_is_written_takes_effect() {
    let text = r#"
        [listen]
        address = ["127.0.0.1:7000", "[::1]:7000"]
        workers = 3
        [upstream]
        mode = "single"
        address = "unix:/run/redis.sock"
        username = "proxy"
        password = "hunter2"
        database = 4
        [queues."email-*"]
        lease = "2m"
        [auth]
        users = [{ name = "default", password_sha256 = "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08" }]
    "#;
    let config = config(text, &[]).expect("the file is right");
    assert_eq!((config.listen.addresses.len(), config.listen.workers), (2, 3));
    assert_eq!(single(&config), &Endpoint::Unix("/run/redis.sock".into()));
    assert_eq!(password(&config), Some("hunter2".to_owned()));
    assert_eq!(config.upstream.database, 4);
    assert_eq!(config.queue(b"email-eu").lease, Duration::from_secs(120));
    assert_eq!(config.queue(b"email-eu").retries, 20);
    assert_eq!(config.users[0].password_sha256[..2], [0x9f, 0x86]);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn an_error_names_the_file_the_line_the_key_and_what_was_expected() {
    let cases = [
        (
            "[listen]\nadress = \"\"",
            "proxy.toml:2: listen.adress: unknown key `adress`, expected one of `address`, ",
        ),
        (
            "\n[listn]\n",
            "proxy.toml:2: listn: unknown key `listn`, expected one of `listen`, ",
        ),
        (
            "[upstream]\n\nmode = \"many\"",
            "proxy.toml:3: upstream.mode: unknown value `many`, expected one of `embedded`, ",
        ),
        (
            "[limits]\nmax_clients = \"x\"",
            "proxy.toml:2: limits.max_clients: invalid value: string \"x\", expected a whole number",
        ),
        (
            "[limits]\nmax_clients = -1",
            "proxy.toml:2: limits.max_clients: invalid value: integer `-1`, expected a whole number",
        ),
        (
            "[limits]\nmax_clients = 0",
            "proxy.toml:2: limits.max_clients: expected 1 to 1000000, found 0",
        ),
        (
            "[limits]\nmax_payload = \"1GiB\"",
            "proxy.toml:2: limits.max_payload: expected 1B to 512MiB, found 1GiB",
        ),
        (
            "limits.memory = \"lots\"",
            "proxy.toml:1: limits.memory: invalid value: string \"lots\", expected a size such as",
        ),
        (
            "[queues.\"a.b\"]\nlease = \"5 parsecs\"",
            "proxy.toml:2: queues.\"a.b\".lease: invalid value: string \"5 parsecs\", expected a duration",
        ),
        (
            "[queues.\"*\"]\nlease = \"0s\"",
            "proxy.toml:2: queues.\"*\".lease: expected 1ms to 3650d, found 0s",
        ),
        (
            "[queues.\"a b\"]\nlease = \"1s\"",
            "proxy.toml:1: queues.\"a b\": expected a pattern of",
        ),
        (
            "[listen]\naddress = [\"here\"]",
            "proxy.toml:2: listen.address: invalid value: string \"here\", expected \"IP:port\"",
        ),
        (
            "[listen]\naddress = []",
            "proxy.toml:2: listen.address: expected an address, or else a unix_socket",
        ),
        (
            "[[auth.users]]\nname = \"a\"",
            "proxy.toml:1: auth.users: missing key `password_sha256`",
        ),
        (
            "[[auth.users]]\nname = \"a\"\npassword_sha256 = \"00\"",
            "proxy.toml:3: auth.users[0].password_sha256: expected 64 hex",
        ),
        (
            "[keys]\nprefix = \"{q}\"",
            "proxy.toml:2: keys.prefix: expected 1 to 32 of",
        ),
        (
            "[upstream]\nmode = \"single\"\nusername = \"me\"",
            "proxy.toml:3: upstream.username: expected a password",
        ),
        (
            "[upstream]\nmode = \"sentinel\"\nsentinels = []",
            "proxy.toml:3: upstream.sentinels: expected",
        ),
        (
            "[upstream]\nmode = \"sentinel\"\nmaster = \"\"",
            "proxy.toml:3: upstream.master: expected",
        ),
        (
            "[upstream]\nmode = \"single\"\ntls = { ca = \"/nowhere.pem\" }",
            "proxy.toml:3: upstream.tls.ca: expected a file that can be read: /nowhere.pem: No such file",
        ),
        (
            "[upstream]\nmode = \"single\"\ntls = { cert = \"client.pem\" }",
            "proxy.toml:3: upstream.tls.cert: expected a key with it",
        ),
        (
            "[upstream]\nmode = \"single\"\ntls = { ca = \"Cargo.toml\" }",
            "proxy.toml:3: upstream.tls.ca: Cargo.toml holds no certificate",
        ),
        (
            "[upstream]\nmode = \"single\"\ntls = { ca = \"tests/certificates/ec.pem\", server_name = \"a b\" }",
            "proxy.toml:3: upstream.tls.server_name: expected a host name",
        ),
        (
            "[upstream]\nmode = \"single\"\naddress = \"/run/redis.sock\"\ntls = {}",
            "proxy.toml:4: upstream.tls: expected none with a unix socket",
        ),
        ("[log]\nlevel = info", "proxy.toml:2: "),
        ("[log]\nlevel = \"info\"\nlevel = \"info\"", "proxy.toml:3: "),
    ];
    for (text, expected) in cases {
        let error = error(text);
        assert!(
            error.starts_with(expected),
            "{text}\n  said: {error}\n  not:  {expected}"
        );
    }
}

#[test]
fn what_comes_later_is_refused_unless_it_has_its_default() {
    let cases = [
        ("[listen]\ntls = { cert = \"a\", key = \"b\" }", "listen.tls"),
        ("[upstream]\nread_from = \"replica\"", "upstream.read_from"),
        ("[upstream]\nconnections = 2", "upstream.connections"),
        ("[admin]\ntoken = \"t\"", "admin.token"),
        (
            "[[auth.users]]\nname = \"a\"\npassword_sha256 = \"\"\nqueues = [\"a\"]",
            "auth.users[0].queues",
        ),
    ];
    for (text, key) in cases {
        let error = error(text);
        assert!(
            error.contains(&format!("{key}: ")) && error.contains("not yet supported"),
            "{text}\n  said: {error}"
        );
    }
    config(
        "[queues.\"*\"]\npartitions = 1\nrate = \"\"\nreplica_timeout = \"500ms\"",
        &[],
    )
    .expect("these are no demands");
}

#[test]
fn the_environment_wins_over_the_file() {
    let environment = [
        ("MILLRACE_UPSTREAM__MODE", "single"),
        ("MILLRACE_UPSTREAM__PASSWORD", "12345"),
        ("MILLRACE_LISTEN__ADDRESS", "127.0.0.1:1, [::1]:2"),
        ("MILLRACE_LISTEN__WORKERS", "5"),
        ("MILLRACE_QUEUES__LEASE", "7s"),
        ("MILLRACE_QUEUES__Email-*__RETRIES", "3"),
        ("MILLRACE_LIMITS__MAX_PAYLOAD", "4096"),
        ("MILLRACE_PORT", "tcp://10.0.0.1:6380"),
        ("HOME", "/root"),
    ];
    let text =
        "[upstream]\nmode = \"embedded\"\npassword_file = \"/nowhere\"\n[queues.\"*\"]\nlease = \"1s\"\nretries = 9";
    let config = config(text, &environment).expect("file and environment are right");
    assert_eq!(single(&config), &Endpoint::local(6379));
    assert_eq!(password(&config), Some("12345".to_owned()));
    assert_eq!((config.listen.addresses.len(), config.listen.workers), (2, 5));
    assert_eq!((config.queue(b"a").lease.as_secs(), config.queue(b"a").retries), (7, 9));
    assert_eq!(config.queue(b"Email-1").retries, 3);
    assert_eq!(config.limits.max_payload, 4096);
}

#[test]
fn the_names_that_deployments_already_use_are_heeded() {
    let single = |environment: &[(&str, &str)]| {
        let config = config(SHIPPED, environment).expect("the environment is right");
        match config.upstream.source {
            Source::Single(endpoint) => endpoint.to_string(),
            Source::Embedded(_) => "embedded".to_owned(),
            Source::Sentinel(sentinels) => format!("{} of {}", sentinels.master, sentinels.endpoints.len()),
            Source::Cluster(seeds) => format!("cluster of {} seeds", seeds.len()),
        }
    };
    assert_eq!(single(&[("REDIS_HOST", "redis")]), "redis:6379");
    assert_eq!(
        single(&[("REDIS_HOST", "fd00::1"), ("REDIS_PORT", "7000")]),
        "[fd00::1]:7000"
    );
    assert_eq!(single(&[("REDIS_PORT", "7000")]), "127.0.0.1:7000");
    assert_eq!(single(&[("REDIS_PORT", "tcp://10.0.0.1:6379")]), "embedded");
    assert_eq!(single(&[("REDIS_MODE", "standalone")]), "127.0.0.1:6379");
    assert_eq!(single(&[("REDIS_PASSWORD", "hunter2")]), "embedded");
    assert_eq!(single(&[("REDIS_HOST", ""), ("REDIS_PASSWORD", "")]), "embedded");
    assert_eq!(
        single(&[("REDIS_SENTINEL_HOSTS", "a:1,b:2"), ("REDIS_SENTINEL_SERVICE", "jobs")]),
        "jobs of 2"
    );
    assert_eq!(single(&[("REDIS_CLUSTER_NODES", "a:1,b:2,c:3")]), "cluster of 3 seeds");
    assert_eq!(
        single(&[("REDIS_HOST", "a"), ("MILLRACE_UPSTREAM__MODE", "embedded")]),
        "embedded"
    );
    assert_eq!(
        single(&[("REDIS_HOST", "a"), ("MILLRACE_UPSTREAM__ADDRESS", "b:1")]),
        "b:1"
    );
}

#[test]
fn an_error_from_the_environment_names_the_variable() {
    let cases = [
        (
            "MILLRACE_UPSTREAM__MOOD",
            "x",
            "environment variable MILLRACE_UPSTREAM__MOOD: upstream.mood: unknown key `mood`",
        ),
        (
            "MILLRACE_LIMITS__MAX_CLIENTS",
            "many",
            "environment variable MILLRACE_LIMITS__MAX_CLIENTS: limits.max_clients: invalid",
        ),
        (
            "MILLRACE_LIMITS__MAX_CLIENTS",
            "0",
            "environment variable MILLRACE_LIMITS__MAX_CLIENTS: limits.max_clients: expected 1",
        ),
        (
            "REDIS_PORT",
            "x",
            "environment variable REDIS_PORT: upstream.address: invalid value",
        ),
    ];
    for (variable, value, expected) in cases {
        let error = config("", &[(variable, value)]).expect_err(variable);
        assert!(error.starts_with(expected), "{variable}={value}\n  said: {error}");
    }
}

#[test]
fn a_password_file_is_read_without_its_line_break() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("password");
    let text = format!(
        "[upstream]\nmode = \"single\"\npassword_file = {:?}",
        path.display().to_string()
    );
    assert!(error(&text).contains("upstream.password_file: expected a file that can be read"));
    std::fs::write(&path, "hunter 2 \r\n").expect("a file");
    let config = config(&text, &[]).expect("the file is right");
    assert_eq!(password(&config), Some("hunter 2 ".to_owned()));
    assert!(error(&format!("{text}\npassword = \"x\"")).contains("found both"));
}

#[test]
fn what_took_effect_is_shown_without_secrets_and_can_be_read_again() {
    let text = "[upstream]\nmode = \"single\"\npassword = \"hunter2\"\n[listen]\nunix_socket = \"/tmp/m.sock\"";
    let shown = layers(text, &[])
        .and_then(|layers| layers.effective().map_err(|error| error.to_string()))
        .expect("right");
    assert!(
        shown.contains("password = \"***\"") && !shown.contains("hunter2"),
        "{shown}"
    );
    let again = config(&shown, &[]).expect("what is shown is a file");
    assert_eq!(again.listen.unix_socket, Some("/tmp/m.sock".into()));
}
