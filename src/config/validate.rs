//! From the file's mirror to `Config`: every value in its range, nothing asked for that is not built yet, everything
//! that depends on the machine or on another file resolved. The first fault found is the one reported.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::file::{self, File, Mode, ReadFrom};
use super::layers::{ConfigError, Layers};
use super::pattern::Patterns;
use super::units::{Count, Endpoint, Period, Size};
use super::{Config, Credentials, Embedded, Limits, Listen, Log, Sentinels, Source, Upstream, User, machine};
use crate::queue::operation::QueueName;
use crate::queue::settings::MAX_LEN;
use crate::queue::spread::MOST;
use crate::secret::Password;
use crate::upstream::tls::{Tls, TlsSettings};

type Result<T> = std::result::Result<T, ConfigError>;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Ten years: beyond it a date in milliseconds still has room to spare in a Lua number.
const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

pub fn config(layers: &Layers) -> Result<Config> {
    let file = &layers.merged;
    refuse_what_comes_later(layers, file)?;
    Ok(Config {
        listen: listen(layers, &file.listen)?,
        upstream: upstream(layers, &file.upstream)?,
        queues: queues(layers, file)?,
        limits: limits(layers, &file.limits)?,
        admin: file.admin.address.0,
        users: users(layers, &file.auth)?,
        log: Log {
            level: file.log.level.into(),
            format: file.log.format,
        },
        prefix: prefix(layers, &file.keys)?,
    })
}

/// The keys whose parts are not built yet, and whether they ask for something.
fn refuse_what_comes_later(layers: &Layers, file: &File) -> Result<()> {
    let refuse = |key: &[&str]| Err(layers.refuse(key, "not yet supported, so only its default is accepted"));
    let (upstream, plain) = (&file.upstream, file::Upstream::default());
    let later: [(&[&str], bool); 4] = [
        (&["listen", "tls"], file.listen.tls.is_some()),
        (&["upstream", "read_from"], upstream.read_from != ReadFrom::Primary),
        (&["upstream", "connections"], upstream.connections != plain.connections),
        (&["admin", "token"], file.admin.token.is_some()),
    ];
    if let Some((key, _)) = later.iter().find(|(_, asked)| *asked) {
        return refuse(key);
    }
    for (index, user) in file.auth.users.iter().enumerate() {
        for (key, asked) in [("queues", user.queues.is_some()), ("commands", user.commands.is_some())] {
            if asked {
                return refuse(&["auth", "users", &format!("[{index}]"), key]);
            }
        }
    }
    Ok(())
}

fn listen(layers: &Layers, listen: &file::Listen) -> Result<Listen> {
    if listen.address.0.is_empty() && listen.unix_socket.is_none() {
        return Err(layers.refuse(
            &["listen", "address"],
            "expected an address, or else a unix_socket: nobody could connect",
        ));
    }
    let workers = count(layers, &["listen", "workers"], listen.workers, 0..=256)?;
    Ok(Listen {
        addresses: listen.address.0.clone(),
        unix_socket: listen.unix_socket.clone(),
        workers: if workers == 0 { machine::cores() } else { workers },
    })
}

fn upstream(layers: &Layers, upstream: &file::Upstream) -> Result<Upstream> {
    let key = |key| ["upstream", key];
    let tls = match &upstream.tls {
        Some(tls) if upstream.mode != Mode::Embedded => Some(Arc::new(upstream_tls(layers, upstream, tls)?)),
        _ => None,
    };
    let source = match upstream.mode {
        Mode::Embedded => Source::Embedded(embedded(layers, &upstream.embedded)?),
        Mode::Sentinel => Source::Sentinel(sentinels(layers, upstream, tls.clone())?),
        Mode::Cluster => Source::Cluster(seeds(layers, upstream)?),
        Mode::Single => Source::Single(upstream.address.clone()),
    };
    let database = match source {
        Source::Embedded(_) => 0..=15, // as many as a redis-server has unless told otherwise
        Source::Single(_) | Source::Sentinel(_) => 0..=65_535,
        Source::Cluster(_) => 0..=0, // it has no other
    };
    Ok(Upstream {
        credentials: if let Source::Embedded(_) = source {
            None
        } else {
            credentials(layers, upstream)?
        },
        source,
        tls,
        database: u32::try_from(count(layers, &key("database"), upstream.database, database)?).unwrap_or_default(),
        connect_timeout: period(
            layers,
            &key("connect_timeout"),
            upstream.connect_timeout,
            MILLISECOND..=HOUR,
        )?,
        response_timeout: period(
            layers,
            &key("response_timeout"),
            upstream.response_timeout,
            MILLISECOND..=HOUR,
        )?,
        failover_timeout: period(
            layers,
            &key("failover_timeout"),
            upstream.failover_timeout,
            Duration::ZERO..=DAY,
        )?,
        connections: count(layers, &key("connections"), upstream.connections, 1..=1)?,
    })
}

fn upstream_tls(layers: &Layers, upstream: &file::Upstream, tls: &file::UpstreamTls) -> Result<Tls> {
    let refuse = |key, problem: String| layers.refuse(&["upstream", "tls", key], problem);
    if let (Mode::Single, Endpoint::Unix(_)) = (upstream.mode, &upstream.address) {
        let problem = "expected none with a unix socket as the address";
        return Err(layers.refuse(&["upstream", "tls"], problem));
    }
    let identity = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return Err(refuse("cert", "expected a key with it".to_owned())),
        (None, Some(_)) => return Err(refuse("key", "expected a cert with it".to_owned())),
    };
    let settings = TlsSettings {
        ca: tls.ca.clone(),
        identity,
        server_name: tls.server_name.clone(),
    };
    Tls::load(settings).map_err(|error| refuse(error.key, error.problem))
}

fn sentinels(layers: &Layers, upstream: &file::Upstream, tls: Option<Arc<Tls>>) -> Result<Sentinels> {
    if upstream.sentinels.is_empty() {
        return Err(layers.refuse(&["upstream", "sentinels"], "expected at least one address"));
    }
    if upstream.master.is_empty() {
        return Err(layers.refuse(&["upstream", "master"], "expected a name, found nothing"));
    }
    let username = upstream.sentinel_username.clone().filter(|name| !name.is_empty());
    let password = upstream.sentinel_password.clone();
    let password = password.filter(|password| !password.expose().is_empty());
    if username.is_some() && password.is_none() {
        let problem = "expected a sentinel_password with it";
        return Err(layers.refuse(&["upstream", "sentinel_username"], problem));
    }
    Ok(Sentinels {
        endpoints: upstream.sentinels.clone(),
        master: upstream.master.clone(),
        credentials: password.map(|password| Credentials {
            username,
            password: Password::Written(password),
        }),
        tls,
    })
}

fn seeds(layers: &Layers, upstream: &file::Upstream) -> Result<Vec<Endpoint>> {
    let refuse = |problem: &str| Err(layers.refuse(&["upstream", "seeds"], problem));
    if upstream.seeds.is_empty() {
        return refuse("expected at least one address");
    }
    // Nodes are found by what their neighbours call them, and none of them calls another one by a path.
    match upstream.seeds.iter().any(|seed| matches!(seed, Endpoint::Unix(_))) {
        true => refuse("expected addresses as `host:port`"),
        false => Ok(upstream.seeds.clone()),
    }
}

fn embedded(layers: &Layers, embedded: &file::Embedded) -> Result<Embedded> {
    if embedded.binary.is_empty() {
        return Err(layers.refuse(
            &["upstream", "embedded", "binary"],
            "expected a name or a path, found nothing",
        ));
    }
    if embedded.data_dir.as_os_str().is_empty() {
        return Err(layers.refuse(
            &["upstream", "embedded", "data_dir"],
            "expected a directory, found nothing",
        ));
    }
    Ok(Embedded {
        binary: embedded.binary.clone(),
        data_dir: embedded.data_dir.clone(),
    })
}

fn credentials(layers: &Layers, upstream: &file::Upstream) -> Result<Option<Credentials>> {
    let given = |text: &str| !text.is_empty();
    let username = upstream.username.clone().filter(|name| given(name));
    let written = upstream.password.clone().filter(|password| given(password.expose()));
    let password = match (written, &upstream.password_file) {
        (Some(_), Some(_)) => {
            return Err(layers.refuse(
                &["upstream", "password_file"],
                "expected either this or password, found both",
            ));
        }
        (password, None) => password.map(Password::Written),
        (None, Some(path)) => {
            let file = Password::File(path.clone());
            let read = file.read().map(drop);
            read.map_err(|problem| layers.refuse(&["upstream", "password_file"], problem))?;
            Some(file)
        }
    };
    match (username, password) {
        (username, Some(password)) => Ok(Some(Credentials { username, password })),
        (Some(_), None) => Err(layers.refuse(
            &["upstream", "username"],
            "expected a password or password_file with it",
        )),
        (None, None) => Ok(None),
    }
}

fn queues(layers: &Layers, file: &File) -> Result<Patterns> {
    for (pattern, queue) in &file.queues {
        let wild = |byte: &u8| matches!(byte, b'*' | b'?');
        let literal: Vec<u8> = pattern
            .bytes()
            .map(|byte| if wild(&byte) { b'x' } else { byte })
            .collect();
        if !QueueName::is_valid(&literal) {
            let problem = "expected a pattern of 1 to 128 of `A-Z a-z 0-9 . _ : -` and the wildcards `*` and `?`";
            return Err(layers.refuse(&["queues", pattern], problem));
        }
        let key = |key| ["queues", pattern, key];
        let times = [
            ("lease", queue.lease, MILLISECOND..=LONGEST),
            ("backoff", queue.backoff, Duration::ZERO..=LONGEST),
            ("max_backoff", queue.max_backoff, Duration::ZERO..=LONGEST),
            ("dead_ttl", queue.dead_ttl, Duration::ZERO..=LONGEST),
            ("result_ttl", queue.result_ttl, MILLISECOND..=LONGEST),
            ("max_wait", queue.max_wait, Duration::ZERO..=LONGEST),
            ("replica_timeout", queue.replica_timeout, MILLISECOND..=LONGEST),
        ];
        for (name, value, range) in times {
            value
                .map(|value| period(layers, &key(name), value, range))
                .transpose()?;
        }
        let numbers = [
            ("retries", queue.retries, 1..=1_000_000),
            ("max_lapses", queue.max_lapses, 0..=1_000_000),
            ("replicas", queue.replicas, 0..=1_000_000),
            ("group_concurrency", queue.group_concurrency, 1..=1_000_000),
            ("partitions", queue.partitions, 0..=MOST.into()),
        ];
        for (name, value, range) in numbers {
            value.map(|value| count(layers, &key(name), value, range)).transpose()?;
        }
        let numbers = [
            ("dead_max_len", queue.dead_max_len),
            ("max_len", queue.max_len),
            ("concurrency", queue.concurrency),
        ];
        for (name, value) in numbers {
            value
                .map(|value| count(layers, &key(name), value, 0..=MAX_LEN))
                .transpose()?;
        }
    }
    Ok(Patterns::new(file.queues.clone()))
}

fn limits(layers: &Layers, limits: &file::Limits) -> Result<Limits> {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let key = |key| ["limits", key];
    let memory = match limits.memory.0 {
        0 => machine::memory() / 2,
        _ => size(layers, &key("memory"), limits.memory, MIB..=1024 * GIB)?,
    };
    let idle_timeout = period(
        layers,
        &key("idle_timeout"),
        limits.idle_timeout,
        Duration::ZERO..=LONGEST,
    )?;
    Ok(Limits {
        max_clients: count(layers, &key("max_clients"), limits.max_clients, 1..=1_000_000)?,
        max_payload: size(layers, &key("max_payload"), limits.max_payload, 1..=512 * MIB)?, // Redis's own bound
        max_arguments: count(layers, &key("max_arguments"), limits.max_arguments, 1..=1 << 20)?, // Redis's own bound
        max_request: size(layers, &key("max_request"), limits.max_request, 16 * KIB..=64 * GIB)?,
        client_output: size(layers, &key("client_output"), limits.client_output, KIB..=64 * GIB)?,
        client_pipeline: count(layers, &key("client_pipeline"), limits.client_pipeline, 1..=1 << 20)?,
        memory,
        idle_timeout: Some(idle_timeout).filter(|time| !time.is_zero()),
    })
}

fn users(layers: &Layers, auth: &file::Auth) -> Result<Vec<User>> {
    let mut users: Vec<User> = Vec::with_capacity(auth.users.len());
    for (index, user) in auth.users.iter().enumerate() {
        let at = format!("[{index}]");
        if user.name.is_empty()
            || user
                .name
                .contains(|letter: char| letter.is_whitespace() || letter.is_control())
        {
            return Err(layers.refuse(&["auth", "users", &at, "name"], "expected a name without spaces"));
        }
        if users.iter().any(|other| other.name == user.name) {
            return Err(layers.refuse(&["auth", "users", &at, "name"], "expected each name only once"));
        }
        let Some(password_sha256) = digest(user.password_sha256.expose()) else {
            let problem = "expected 64 hexadecimal digits, as `sha256sum` prints them";
            return Err(layers.refuse(&["auth", "users", &at, "password_sha256"], problem));
        };
        users.push(User {
            name: user.name.clone(),
            password_sha256,
        });
    }
    Ok(users)
}

fn digest(hexadecimal: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = hexadecimal
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

fn prefix(layers: &Layers, keys: &file::Keys) -> Result<String> {
    // Within a queue's alphabet: no brace, which would move the hash tag.
    if keys.prefix.len() > 32 || !QueueName::is_valid(keys.prefix.as_bytes()) {
        return Err(layers.refuse(&["keys", "prefix"], "expected 1 to 32 of `A-Z a-z 0-9 . _ : -`"));
    }
    Ok(keys.prefix.clone())
}

// ---- ranges ---------------------------------------------------------------------------------------------------------

fn count(layers: &Layers, key: &[&str], value: Count, range: RangeInclusive<u64>) -> Result<usize> {
    within(layers, key, value.0, range, |count| count.to_string())
}

fn size(layers: &Layers, key: &[&str], value: Size, range: RangeInclusive<u64>) -> Result<usize> {
    within(layers, key, value.0, range, |bytes| Size(bytes).to_string())
}

fn within(
    layers: &Layers,
    key: &[&str],
    value: u64,
    range: RangeInclusive<u64>,
    written: fn(u64) -> String,
) -> Result<usize> {
    let fitting = Some(value).filter(|value| range.contains(value));
    fitting.and_then(|value| usize::try_from(value).ok()).ok_or_else(|| {
        let (least, most) = (written(*range.start()), written(*range.end()));
        layers.refuse(key, format!("expected {least} to {most}, found {}", written(value)))
    })
}

fn period(layers: &Layers, key: &[&str], value: Period, range: RangeInclusive<Duration>) -> Result<Duration> {
    if range.contains(&value.0) {
        return Ok(value.0);
    }
    let (least, most) = (Period(*range.start()), Period(*range.end()));
    Err(layers.refuse(key, format!("expected {least} to {most}, found {value}")))
}
