//! `millrace doctor`: is the Redis behind the proxy one that keeps jobs? The same is asked once at each start, and what
//! endangers jobs is logged.
//!
//! [`facts`] asks the servers, [`checks`] judges what they said: a table of checks, none of which asks anything itself.
//! Nothing is changed, and nothing is asked of Redis that it could not refuse: what it refuses is said to be unknown.

mod checks;
mod facts;

use std::fmt::{self, Write};

use tracing::{debug, warn};

use crate::config::Config;
use crate::upstream::topology::Topology;

pub use checks::{CHECKS, Check};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Jobs can be lost by it, or cannot be served.
    Danger,
    /// It will cost something in an outage, or when there is more load.
    Warning,
    /// Worth knowing; or what could not be found out.
    Note,
}

#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// Which server, or what else it is about.
    pub subject: String,
    pub found: String,
    pub means: &'static str,
    pub remedy: &'static str,
}

/// What came of all checks.
#[derive(Debug)]
pub struct Report {
    /// The servers that were asked.
    nodes: Vec<String>,
    /// In the order of the table.
    findings: Vec<(&'static str, Finding)>,
}

/// Asks and judges. `Err`: no primary could be asked, so nothing can be said.
pub async fn examine(config: &Config, topology: Topology) -> Result<Report, String> {
    let facts = facts::gather(config, topology).await?;
    let found = |check: &'static Check| (check.find)(&facts).into_iter().map(|finding| (check.name, finding));
    Ok(Report {
        nodes: facts.nodes.iter().map(|node| node.to_string()).collect(),
        findings: CHECKS.iter().flat_map(found).collect(),
    })
}

/// Logs what endangers jobs, once each. That Redis is away is told by those who need it.
pub async fn warn_of_dangers(config: &Config, topology: Topology) {
    match examine(config, topology).await {
        Ok(report) => {
            for (check, finding) in report.dangers() {
                warn!(
                    check,
                    server = finding.subject,
                    found = finding.found,
                    remedy = finding.remedy,
                    "redis endangers jobs"
                );
            }
        }
        Err(problem) => debug!(problem, "redis cannot be examined"),
    }
}

impl Report {
    pub fn dangers(&self) -> impl Iterator<Item = &(&'static str, Finding)> {
        let is_danger = |found: &&(&str, Finding)| found.1.severity == Severity::Danger;
        self.findings.iter().filter(is_danger)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|(_, found)| found.severity == severity)
            .count()
    }
}

/// For people: the worst first.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            writeln!(f, "{node}")?;
        }
        for severity in [Severity::Danger, Severity::Warning, Severity::Note] {
            for (check, finding) in self.findings.iter().filter(|(_, found)| found.severity == severity) {
                let Finding {
                    subject,
                    found,
                    means,
                    remedy,
                    ..
                } = finding;
                writeln!(
                    f,
                    "\n{severity:<8} {check}: {subject}: {found}\n         {means}\n         To do: {remedy}"
                )?;
            }
        }
        let mut in_order = String::new();
        for check in CHECKS
            .iter()
            .filter(|check| self.findings.iter().all(|(name, _)| *name != check.name))
        {
            write!(in_order, " {}", check.name)?;
        }
        writeln!(f, "\nin order:{in_order}")?;
        let (dangers, warnings) = (self.count(Severity::Danger), self.count(Severity::Warning));
        writeln!(
            f,
            "{dangers} endanger jobs, {warnings} warnings, {} notes",
            self.count(Severity::Note)
        )
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Danger => "DANGER",
            Self::Warning => "WARNING",
            Self::Note => "note",
        })
    }
}
