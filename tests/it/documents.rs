//! That the documents keep up with the code: each command and each metric is in them, and their links lead somewhere.
//! Whether what they say is true is shown by the other tests; README's tour has its own (`tour`).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use millrace::command::queue::{COMMANDS, LATER};

use crate::support::Proxy;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn each_queue_command_is_explained_or_said_to_come_later() {
    let text = document("docs/commands.md");
    for command in &COMMANDS {
        let name = command.name.to_uppercase();
        let heading = format!("\n## {name}\n\n`{name} ");
        assert!(
            text.contains(&heading),
            "{name} has no section that begins with its syntax"
        );
    }
    for name in LATER {
        assert!(text.contains(&name.to_uppercase()), "{name} is not named");
    }
}

#[test]
fn each_metric_is_explained() {
    let proxy = Proxy::embedded().start();
    proxy.client().run("QLEN q"); // so that there is a latency to tell of
    let served = get(proxy.admin_port(), "/metrics");
    let names: Vec<&str> = served.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.len() > 10, "{served}");
    let text = document("docs/operations.md");
    for name in names.iter().filter_map(|line| line.split(' ').next()) {
        let explained = text.contains(&format!("`{name}`")) || text.contains(&format!("`{name}{{"));
        assert!(explained, "{name} is not in docs/operations.md");
    }
}

#[test]
fn links_lead_somewhere() {
    for from in documents() {
        let text = fs::read_to_string(&from).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                from.clone()
            } else {
                from.with_file_name(file)
            };
            assert!(target.exists(), "{} links to {link}", from.display());
            let headings = fs::read_to_string(&target).unwrap_or_default();
            let leads = heading.is_empty() || headings.lines().any(|line| anchor(line) == heading);
            assert!(leads, "{} links to {link}", from.display());
        }
    }
}

/// All that is written for people: at the top, in docs/ and docs/recipes/.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in [root().to_owned(), root().join("docs"), root().join("docs/recipes")] {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    assert!(found.len() > 4, "{found:?}");
    found
}

/// What GitHub makes of a heading.
fn anchor(line: &str) -> String {
    let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    title.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
