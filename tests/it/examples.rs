//! docs/commands.md's examples, typed: every command of theirs is given to redis-cli, in both protocols, and gets what the
//! document shows. `<name>` there stands for what the proxy made up, the same wherever it comes again; `…` for anything.

use std::collections::HashMap;
use std::process::Command;

use crate::support::{Proxy, words};

const COMMANDS: &str = include_str!("../../docs/commands.md");
/// What redis-cli writes in front of an array's element, in both protocols.
const ELEMENT: [char; 3] = [')', '#', '~'];

/// A command, and what is shown of its reply.
struct Step {
    typed: String,
    shown: Vec<String>,
}

#[test]
fn every_example_gets_what_the_document_shows_in_resp2() {
    every_example_gets_what_the_document_shows("-2");
}

#[test]
fn every_example_gets_what_the_document_shows_in_resp3() {
    every_example_gets_what_the_document_shows("-3");
}

fn every_example_gets_what_the_document_shows(protocol: &str) {
    let proxy = Proxy::embedded().start();
    let examples = examples();
    assert!(examples.len() > 20, "the examples were not found");
    for example in examples {
        proxy.client().run("FLUSHALL");
        let mut names = HashMap::new();
        for step in example {
            let printed = typed(&proxy, protocol, &step.typed, &names);
            let shown = leaves(step.shown.iter().map(String::as_str));
            let heard = leaves(printed.lines());
            let fits = shown.len() == heard.len()
                && shown
                    .iter()
                    .zip(&heard)
                    .all(|(shown, heard)| fits(shown, heard, &mut names));
            assert!(
                fits,
                "{} printed\n{printed}and not\n{}",
                step.typed,
                step.shown.join("\n")
            );
        }
    }
}

/// The blocks in which a line begins with `> `.
fn examples() -> Vec<Vec<Step>> {
    let blocks = COMMANDS.split("```text\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").unwrap().0);
    blocks.filter(|block| block.starts_with("> ")).map(steps).collect()
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("> ") {
            Some(typed) => steps.push(Step {
                typed: typed.to_owned(),
                shown: Vec::new(),
            }),
            None => steps.last_mut().unwrap().shown.push(line.to_owned()),
        }
    }
    steps
}

fn typed(proxy: &Proxy, protocol: &str, line: &str, names: &HashMap<String, String>) -> String {
    let known = |word: Vec<u8>| {
        let word = String::from_utf8(word).unwrap();
        match word.starts_with('<') {
            true => names
                .get(&word)
                .unwrap_or_else(|| panic!("{line}: {word} was never shown"))
                .clone(),
            false => word,
        }
    };
    let output = Command::new("redis-cli")
        .args(["-p", &proxy.port().to_string(), protocol])
        .args(words::split(line).into_iter().map(known))
        .env("FAKETTY", "1") // redis-cli's own name for: as in a terminal
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A reply's values, one after another, without what says how they are nested: RESP3's maps are RESP2's arrays.
fn leaves<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    lines.flat_map(|line| line.split(" => ")).map(leaf).collect()
}

fn leaf(text: &str) -> &str {
    let mut leaf = text.trim();
    while let Some((number, rest)) = leaf.split_once(ELEMENT) {
        let is_place = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        match rest.strip_prefix(' ').filter(|_| is_place) {
            Some(rest) => leaf = rest.trim_start(),
            None => break,
        }
    }
    leaf
}

fn fits(shown: &str, heard: &str, names: &mut HashMap<String, String>) -> bool {
    let name = shown.trim_matches('"');
    if name.starts_with('<') {
        let heard = heard.trim_matches('"').to_owned();
        return names.entry(name.to_owned()).or_insert_with(|| heard.clone()) == &heard;
    }
    match shown.split_once('…') {
        Some((before, after)) => heard.starts_with(before) && heard.ends_with(after),
        None => shown == heard,
    }
}

#[test]
fn a_reply_has_the_same_leaves_in_both_protocols() {
    let resp3 = ["1)  1# \"id\" => \"a\"", "    2# \"meta\" => 1# \"x\" => (nil)"];
    let resp2 = [
        "1)  1) \"id\"",
        "    2) \"a\"",
        "    3) \"meta\"",
        "    4) 1) \"x\"",
        "       2) (nil)",
    ];
    let expected = ["\"id\"", "\"a\"", "\"meta\"", "\"x\"", "(nil)"];
    assert_eq!(leaves(resp3.into_iter()), expected);
    assert_eq!(leaves(resp2.into_iter()), expected);
}
