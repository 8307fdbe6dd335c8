//! What workers ask of each other: `CLIENT LIST` and `CLIENT KILL`, which are about the clients of all of them, and what
//! [`super::homes`] posts.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use super::homes::Letter;
use super::{Hub, Shared};
use crate::asker::Asker;
use crate::local::client::{Filter, KillForm, line, write_killed, write_list};
use crate::resp::ReplyWriter;

/// A letter to a worker.
pub enum Mail {
    Question(Arc<Inquiry>),
    /// Every worker has answered; this one's client asked.
    Answered(Arc<Inquiry>),
    Parcel(Vec<Letter>),
}

/// One question to all workers, and what they said so far. The last one sends it back.
pub struct Inquiry {
    /// The worker whose client asked: on another one the same key is another client's.
    worker: usize,
    asker: Asker,
    question: QuestionKind,
    filter: Filter,
    said: Mutex<Said>,
}

#[derive(Clone, Copy)]
enum QuestionKind {
    List,
    Kill(KillForm),
}

pub(super) enum Question {
    List(Filter),
    Kill(Filter, KillForm),
}

struct Said {
    missing: usize,
    lines: Vec<(u64, String)>,
    killed: usize,
}

impl Mail {
    pub(super) fn ask_all(shared: &Shared, worker: usize, asker: Asker, question: Question) {
        let (filter, question) = match question {
            Question::List(filter) => (filter, QuestionKind::List),
            Question::Kill(filter, form) => (filter, QuestionKind::Kill(form)),
        };
        let inquiry = Arc::new(Inquiry {
            worker,
            asker,
            question,
            filter,
            said: Mutex::new(Said {
                missing: shared.mailboxes.len(),
                lines: Vec::new(),
                killed: 0,
            }),
        });
        for mailbox in &shared.mailboxes {
            let _ = mailbox.send(Mail::Question(inquiry.clone())); // a worker that is gone took the process with it
        }
    }
}

impl Hub {
    pub fn read_mail(&mut self, mail: Mail) {
        self.now = Instant::now();
        match mail {
            Mail::Question(inquiry) => self.say(&inquiry),
            Mail::Answered(inquiry) => self.answer_inquiry(&inquiry),
            Mail::Parcel(letters) => self.open_parcel(letters),
        }
    }

    fn say(&mut self, inquiry: &Arc<Inquiry>) {
        let shared = self.shared.clone();
        let fitting: Vec<usize> = self
            .clients
            .iter()
            .filter(|(_, client)| inquiry.filter.fits(&client.session))
            .map(|(index, _)| index)
            .collect();
        let mut lines = Vec::new();
        for &index in &fitting {
            match inquiry.question {
                QuestionKind::List => {
                    let client = &self.clients[index];
                    let buffers = client.buffers();
                    let facts = shared.facts(self.now, buffers);
                    lines.push(line(&client.session, buffers, &facts));
                }
                // The one that asked gets its reply first.
                QuestionKind::Kill(_) if self.is_asker(inquiry, index) => {
                    self.close_when_done(index);
                }
                QuestionKind::Kill(_) => self.close_now(index),
            }
        }
        let Ok(mut said) = inquiry.said.lock() else { return };
        said.lines.append(&mut lines);
        said.killed += fitting.len();
        said.missing -= 1;
        if said.missing == 0 {
            let _ = shared.mailboxes[inquiry.worker].send(Mail::Answered(inquiry.clone()));
        }
    }

    fn is_asker(&self, inquiry: &Inquiry, index: usize) -> bool {
        inquiry.worker == self.number && self.key_of(index as u32) == Some(inquiry.asker.client)
    }

    fn answer_inquiry(&mut self, inquiry: &Inquiry) {
        let Ok(mut said) = inquiry.said.lock() else { return };
        let lines = std::mem::take(&mut said.lines);
        let killed = said.killed;
        drop(said);
        self.answer(inquiry.asker, |out, protocol| {
            let reply = &mut ReplyWriter::new(out, protocol);
            match inquiry.question {
                QuestionKind::List => write_list(lines, reply),
                QuestionKind::Kill(form) => write_killed(killed, form, reply),
            }
            None
        });
    }
}
