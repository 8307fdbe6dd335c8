//! What `make bench` prints: one row for each thing that was promised, ours beside the peer's, and whether it is met.

/// What a row is held to.
#[derive(Clone, Copy)]
pub enum Goal {
    /// Ours divided by the peer's is at most this.
    Ratio(f64),
    /// Ours is at most this, in the row's unit.
    Value(f64),
    /// Printed for the reader; nothing was promised.
    None,
}

pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub ours: f64,
    /// Whose figure stands beside it, and the figure.
    pub peer: Option<(&'static str, f64)>,
    pub goal: Goal,
    /// What we should like to reach beyond the goal, in the goal's measure.
    pub aim: Option<f64>,
}

/// The rows of a run, and what cannot be said in a row.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    pub fn row(&mut self, row: Row) {
        eprintln!("  {}", line(&row));
        self.rows.push(row);
    }

    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// A measurement that came to nothing is told in the table: it must not look like one that was not asked for.
    pub fn failed(&mut self, name: &str, error: &anyhow::Error) {
        self.notes.push(format!("{name}: FAILED: {error:#}"));
    }

    pub fn print(&self) {
        println!("\n{}", heading());
        for row in &self.rows {
            println!("{}", line(row));
        }
        for note in &self.notes {
            println!("  {note}");
        }
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|(_, peer)| self.ours / peer)
    }

    fn measured(&self) -> Option<f64> {
        match self.goal {
            Goal::Ratio(_) => self.ratio(),
            Goal::Value(_) => Some(self.ours),
            Goal::None => None,
        }
    }

    fn met(&self) -> Option<bool> {
        let (Goal::Ratio(limit) | Goal::Value(limit)) = self.goal else {
            return None;
        };
        self.measured().map(|measured| measured <= limit)
    }
}

fn heading() -> String {
    columns(["what", "unit", "ours", "peer", "ratio", "goal", "met"])
}

fn line(row: &Row) -> String {
    let peer = row
        .peer
        .map_or_else(|| "-".into(), |(name, figure)| format!("{name} {figure:.1}"));
    let ratio = row.ratio().map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
    let goal = match row.goal {
        Goal::Ratio(limit) => format!("{limit:.2} x"),
        Goal::Value(limit) => format!("{limit}"),
        Goal::None => "-".into(),
    };
    let aim = row
        .aim
        .zip(row.measured())
        .filter(|(aim, measured)| measured <= aim)
        .map_or("", |_| " and the aim");
    let met = match row.met() {
        Some(true) => format!("yes{aim}"),
        Some(false) => "NO".into(),
        None => String::new(),
    };
    columns([
        &row.what,
        row.unit,
        &format!("{:.1}", row.ours),
        &peer,
        &ratio,
        &goal,
        &met,
    ])
}

fn columns([what, unit, ours, peer, ratio, goal, met]: [&str; 7]) -> String {
    format!("{what:<52} {unit:<9} {ours:>8}  {peer:<18} {ratio:>6}  {goal:>7}  {met}")
}

/// The middle one: a round that the machine disturbed does not count.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
