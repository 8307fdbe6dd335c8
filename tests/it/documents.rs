//! That the documents keep up with the code: each command is in them as the table has it, each metric too, and their links
//! lead somewhere.
//! Whether what they say is true is shown by the other tests; README's tour and the examples
//! have their own (`tour`, `examples`).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use millrace::command::queue::{Argument, COMMANDS, Kind, Spec};
use millrace::doctor::CHECKS;

use crate::support::Proxy;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn each_queue_command_is_explained_as_the_table_has_it() {
    let text = document("docs/commands.md");
    for spec in &COMMANDS {
        let name = spec.name.to_uppercase();
        let section = text.split_once(&format!("\n## {name}\n")).map(|(_, rest)| rest);
        let section = section.unwrap_or_else(|| panic!("{name} has no section"));
        let section = section.split("\n## ").next().unwrap();
        let unbroken = section.replace('\n', " ");
        for part in [
            format!(" `{}`  {}", syntax(spec), spec.summary),
            "**Reply**: ".into(),
            format!("**Cost**: {}", spec.complexity),
            format!("**Since**: {}.", spec.since),
        ] {
            assert!(unbroken.contains(&part), "{name} lacks\n{part}");
        }
        assert!(section.contains(&format!("\n> {name} ")), "{name} has no example");
    }
}

#[test]
fn each_check_of_the_doctor_is_explained_and_no_other() {
    let text = document("docs/operations.md");
    let table = text.split_once("| check | looks at |").expect("the table").1;
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| `"));
    let explained: Vec<_> = rows.map(|row| row.split('`').next().unwrap()).collect();
    let checked: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(explained, checked);
}

#[test]
fn command_docs_say_what_the_table_says() {
    let proxy = Proxy::embedded().start();
    let mut client = proxy.client();
    for is_resp3 in [false, true] {
        if is_resp3 {
            client.hello3();
        }
        for spec in &COMMANDS {
            let docs = client.call(&["COMMAND", "DOCS", spec.name]).field(spec.name);
            for (field, told) in [
                ("summary", spec.summary),
                ("complexity", spec.complexity),
                ("since", spec.since),
            ] {
                assert_eq!(docs.field(field).text(), told, "{}", spec.name);
            }
            let told = docs.field("arguments").items().len();
            assert_eq!(told, spec.arguments.len(), "arguments of {}", spec.name);
        }
    }
}

/// A command with its arguments, as documentation writes them.
fn syntax(spec: &Spec) -> String {
    let arguments = spec.arguments.iter().map(written);
    std::iter::once(spec.name.to_uppercase())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn written(argument: &Argument) -> String {
    let list = |parts: &[Argument]| parts.iter().map(written).collect::<Vec<_>>();
    let value = match argument.kind {
        Kind::Text | Kind::Integer | Kind::UnixTime => argument.name.to_owned(),
        Kind::Token => String::new(),
        Kind::Block(parts) => list(parts).join(" "),
        Kind::OneOf(choices) => {
            let choices = list(choices);
            let between = if choices.iter().any(|choice| choice.contains(' ')) {
                " | "
            } else {
                "|"
            };
            choices.join(between)
        }
    };
    let one = match (argument.token, value.as_str()) {
        ("", value) => value.to_owned(),
        (token, "") => token.to_owned(),
        (token, value) => format!("{token} {value}"),
    };
    match (argument.optional, argument.multiple) {
        (true, true) => format!("[{one} …]"),
        (true, false) => format!("[{one}]"),
        (false, true) => format!("{one} [{one} …]"),
        (false, false) => one,
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
