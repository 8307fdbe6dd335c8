//! docs/config.md, made from the doc comments of the file's mirror and from the defaults, so that it cannot be wrong.
//! Only in tests: one of them fails when the page is not what would be made, and `make docs` makes it.

use std::fmt::Write;

use super::file::File;

const MIRROR: &str = include_str!("file.rs");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md");

const INTRODUCTION: &str = r#"<!-- Made by `make docs` from src/config/file.rs. -->
# Configuration

Millrace reads the file named by `--config`, or `proxy.toml` of the working directory if there is one. Whatever the file
leaves out has its default; a key that does not exist or a value out of range stops the start with the file, the line,
the key and what was expected. `millrace check` shows what took effect, with secrets hidden.

Durations are `"250ms"`, `"30s"`, `"5m"`, `"1h"`, `"30d"`; sizes `"64KiB"`, `"512MiB"`, or a number of bytes. Paths are
relative to the working directory. *Not yet supported* marks keys that are read, but refused unless they have their default.

## The environment

Every key can be set as `MILLRACE_<SECTION>__<KEY>`, and wins over the file:

```sh
MILLRACE_UPSTREAM__MODE=single
MILLRACE_UPSTREAM__EMBEDDED__DATA_DIR=/data
MILLRACE_LISTEN__ADDRESS=127.0.0.1:6380,[::1]:6380   # a list has commas
MILLRACE_QUEUES__LEASE=1m                            # of queues."*"; another pattern stands in the middle, as it is
MILLRACE_AUTH__USERS='[{ name = "default", password_sha256 = "…" }]'   # anything else is written as in the file
```

A `MILLRACE_` name with `__` that is no key is an error, as it is in the file; names without `__` are left alone.

These names, which deployments already use, are heeded too. They win over the file, and `MILLRACE_…` wins over them;
an empty one counts as not set.

| variable | key |
| --- | --- |
| `REDIS_MODE` | `upstream.mode`; `standalone` means `single` |
| `REDIS_HOST`, `REDIS_PORT` | `upstream.address`; the one not given is 127.0.0.1, 6379 |
| `REDIS_PASSWORD` | `upstream.password` |
| `REDIS_SENTINEL_SERVICE`, `REDIS_SENTINEL_HOSTS` | `upstream.master`, `upstream.sentinels` |
| `REDIS_CLUSTER_NODES` | `upstream.seeds` |

Without `REDIS_MODE` and `MILLRACE_UPSTREAM__MODE`, the mode follows from what is set: cluster nodes mean `cluster`, else
sentinels `sentinel`, else a host or port `single`. A `REDIS_PORT` of the form `tcp://…`, which Kubernetes makes for a
service called redis, is left alone.
"#;

/// A struct of the mirror: its own comment, and its fields' names, types and comments.
#[derive(Default)]
struct Section {
    name: String,
    comment: String,
    fields: Vec<(String, String, String)>,
}

fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    let mut comment = String::new();
    let mut open: Option<Section> = None;
    for line in MIRROR.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment.push_str(if comment.is_empty() { "" } else { " " });
            comment.push_str(text);
        } else if let Some(name) = line
            .strip_prefix("pub struct ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            let comment = std::mem::take(&mut comment);
            open = Some(Section {
                name: name.to_owned(),
                comment,
                ..Section::default()
            });
        } else if line == "}" {
            sections.extend(open.take());
            comment.clear();
        } else if let (Some(section), Some((name, kind))) = (&mut open, line.split_once(": ")) {
            let name = name.trim_start_matches("pub ").to_owned();
            section.fields.push((
                name,
                kind.trim_end_matches(',').to_owned(),
                std::mem::take(&mut comment),
            ));
        }
    }
    sections
}

fn page() -> String {
    let sections = sections();
    let defaults = toml::Table::try_from(File::default()).expect("the defaults are TOML");
    let mut page = INTRODUCTION.to_owned();
    // Header in the file, struct of the mirror, where its defaults stand.
    let order = [
        ("[listen]", "Listen", vec!["listen"]),
        ("[upstream]", "Upstream", vec!["upstream"]),
        ("[upstream.embedded]", "Embedded", vec!["upstream", "embedded"]),
        ("[queues.\"*\"]", "Queue", vec!["queues", "*"]),
        ("[limits]", "Limits", vec!["limits"]),
        ("[admin]", "Admin", vec!["admin"]),
        ("[auth]", "Auth", vec!["auth"]),
        ("[[auth.users]]", "User", vec!["auth", "user"]),
        ("[log]", "Log", vec!["log"]),
        ("[keys]", "Keys", vec!["keys"]),
    ];
    for (header, name, path) in order {
        let section = sections.iter().find(|section| section.name == name).expect(name);
        writeln!(page, "\n## `{header}`\n\n{}", section.comment).expect("a string takes it");
        let table = path
            .iter()
            .try_fold(&defaults, |table, step| table.get(*step)?.as_table());
        let mut keys = section
            .fields
            .iter()
            .filter(|(.., comment)| !comment.is_empty())
            .peekable();
        if keys.peek().is_some() {
            page.push_str("\n| key | default | |\n| --- | --- | --- |\n");
        }
        for (key, kind, comment) in keys {
            let default = match table.and_then(|table| table.get(key)) {
                Some(value) => format!("`{value}`"),
                None if kind.starts_with("Option<") => "none".to_owned(),
                None => "required".to_owned(),
            };
            writeln!(page, "| `{key}` | {default} | {comment} |").expect("a string takes it");
        }
    }
    page
}

#[test]
fn the_configuration_page_says_what_the_doc_comments_say() {
    let page = page();
    if std::env::var_os("MILLRACE_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, &page).expect("docs/ is writable");
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/config.md is not what src/config/file.rs says: run `make docs`"
    );
}

#[test]
fn every_key_has_a_comment() {
    let tables = ["File", "ListenTls", "UpstreamTls"]; // these hold sections, or are explained where they are used
    for section in sections()
        .iter()
        .filter(|section| !tables.contains(&section.name.as_str()))
    {
        for (key, _, comment) in &section.fields {
            let is_section = ["embedded", "users"].contains(&key.as_str());
            assert!(
                is_section || !comment.is_empty(),
                "{}.{key} has no doc comment",
                section.name
            );
        }
    }
}
