//! README's tour, pasted: every line of its shell blocks is run against a proxy, and prints what README says it prints.
//! Two things are changed on the way: the ports, and that redis-cli writes as it does to a terminal.

use std::path::Path;
use std::process::Command;

use crate::support::Proxy;

const README: &str = include_str!("../../README.md");
const END_OF_BLOCK: &str = "--- the next block ---";

/// A shell block, and what README shows of its output.
struct Step {
    lines: String,
    shown: String,
}

#[test]
fn every_line_of_the_tour_prints_what_readme_shows() {
    let proxy = Proxy::embedded().start();
    let steps = tour();
    assert!(steps.len() > 5, "README's tour was not found");
    let mut script = "set -euo pipefail\n".to_owned();
    for step in &steps {
        script += &format!("{}\necho '{END_OF_BLOCK}'\n", step.lines);
    }
    let script = script
        .replace("-p 6380", &format!("-p {}", proxy.port()))
        .replace("port=6380", &format!("port={}", proxy.port()))
        .replace("127.0.0.1:9380", &format!("127.0.0.1:{}", proxy.admin_port()));
    let ran = Command::new("bash")
        .args(["-c", &script])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))) // where the Python of `make test` is
        .env("FAKETTY", "1") // redis-cli's own name for: as in a terminal
        .output()
        .unwrap();
    let (printed, complained) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{printed}\n{complained}");
    let blocks: Vec<&str> = printed.split_terminator(&format!("{END_OF_BLOCK}\n")).collect();
    assert_eq!(blocks.len(), steps.len());
    for (step, printed) in steps.iter().zip(blocks) {
        assert!(
            is_as_shown(&step.shown, printed),
            "README's lines\n{}\nprinted\n{printed}\nand not\n{}",
            step.lines,
            step.shown
        );
    }
}

#[test]
fn an_ellipsis_stands_for_anything_within_its_line() {
    for (shown, printed, fits) in [
        ("1) \"…:1\"\n", "1) \"k3x-0-1:1\"\n", true),
        ("1) \"…:1\"\n", "1) \"k3x-0-1:2\"\n", false),
        ("a\n", "a\nb\n", false),
        ("a…\n", "a\nb\n", false),
        ("…a…\n", "bab\n", true),
    ] {
        assert_eq!(is_as_shown(shown, printed), fits, "{shown:?}, {printed:?}");
    }
}

/// Each `sh` block between the tour's marks, with the `text` block that follows it.
fn tour() -> Vec<Step> {
    let (_, tour) = README.split_once("<!-- tour -->").unwrap();
    let (tour, _) = tour.split_once("<!-- end of the tour -->").unwrap();
    let mut steps: Vec<Step> = Vec::new();
    let mut rest = tour;
    while let Some((_, block)) = rest.split_once("```") {
        let (kind, block) = block.split_once('\n').unwrap();
        let (body, after) = block.split_once("```").unwrap();
        match kind {
            "sh" => steps.push(Step {
                lines: body.to_owned(),
                shown: String::new(),
            }),
            "text" => steps.last_mut().unwrap().shown = body.to_owned(),
            other => panic!("a block of {other:?} in the tour: its lines would not be tried"),
        }
        rest = after;
    }
    steps
}

fn is_as_shown(shown: &str, printed: &str) -> bool {
    let (shown, printed): (Vec<_>, Vec<_>) = (shown.lines().collect(), printed.lines().collect());
    shown.len() == printed.len() && shown.into_iter().zip(printed).all(|(shown, line)| fits(shown, line))
}

fn fits(shown: &str, line: &str) -> bool {
    let Some((before, after)) = shown.split_once('…') else {
        return shown == line;
    };
    let Some(rest) = line.strip_prefix(before) else {
        return false;
    };
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && fits(after, &rest[at..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
