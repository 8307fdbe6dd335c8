//! What takes jobs, and says what came of them: QPOP, QMPOP, QACK, QNACK, QEXTEND, QRESULT.

use bytes::Bytes;
use smallvec::SmallVec;

use super::words::{Seen, Words};
use super::{Ask, MAX_COUNT, MAX_MS, PopAsk, Refusal, Unknown};
use crate::queue::id::QueueMark;
use crate::queue::operation::{Claim, Finish, Nack, Operation, Pop, QueueName};
use crate::script::batch::MAX_ERROR;

pub(super) fn pop(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    pop_options(words, SmallVec::from_elem(queue, 1))
}

pub(super) fn pop_any(words: &mut Words) -> Result<Ask, Refusal> {
    let count = words.number("numqueues", 1, MAX_COUNT)?;
    if count > words.left() as u64 {
        return Err(format!("ERR numqueues is {count}, but {} names follow", words.left()));
    }
    let mut queues = SmallVec::new();
    for _ in 0..count {
        let queue = words.queue()?;
        // Named twice is asked once: its first place in the order decides.
        if !queues.contains(&queue) {
            queues.push(queue);
        }
    }
    pop_options(words, queues)
}

fn pop_options(words: &mut Words, queues: SmallVec<[QueueName; 1]>) -> Result<Ask, Refusal> {
    let (mut count, mut block, mut lease, mut noack) = (None, None, None, false);
    let (mut with_meta, mut bound) = (false, false);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "COUNT" => {
                seen.once(&option)?;
                count = Some(words.number(&option, 1, MAX_COUNT)? as u32);
            }
            "BLOCK" => {
                block = Some(words.block(&mut seen)?);
            }
            "LEASE" => lease = Some(seen.ms(words, &option, 1)?),
            "NOACK" => {
                seen.once(&option)?;
                noack = true;
            }
            "WITHMETA" => {
                seen.once(&option)?;
                with_meta = true;
            }
            "BOUND" => {
                seen.once(&option)?;
                bound = true;
            }
            _ => return Err(words.unknown(&option)),
        }
    }
    if noack && lease.is_some() {
        return Err("ERR NOACK and LEASE exclude each other: a job popped with NOACK has no lease".into());
    }
    if noack && bound {
        return Err("ERR NOACK and BOUND exclude each other: a job popped with NOACK is nobody's to give back".into());
    }
    Ok(Ask::Pop(PopAsk {
        queues,
        pop: Pop {
            count: count.unwrap_or(1),
            lease,
            noack,
            waits: block.is_some(),
        },
        many: count.is_some(),
        with_meta,
        bound,
        block,
    }))
}

pub(super) fn ack(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let claims = words.claims(&queue, &["RESULT", "TTL"])?;
    let (mut result, mut ttl) = (None, None);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "RESULT" => {
                seen.once(&option)?;
                let bytes = words.value(&option)?;
                if bytes.len() > max_payload {
                    return Err(format!(
                        "ERR RESULT of {} bytes is larger than max_payload, {max_payload} bytes",
                        bytes.len()
                    ));
                }
                result = Some(Bytes::copy_from_slice(bytes));
            }
            "TTL" => ttl = Some(seen.ms(words, &option, 1)?),
            _ => return Err(words.unknown(&option)),
        }
    }
    let operation = match (result, ttl) {
        (Some(result), ttl) => Operation::Finish(Finish { claims, result, ttl }),
        (None, None) => Operation::Ack(claims),
        (None, Some(_)) => return Err("ERR TTL needs RESULT".into()),
    };
    Ok(Ask::Settle { queue, operation })
}

pub(super) fn result(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let name = words.required()?;
    let mut block = None;
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "BLOCK" => block = Some(words.block(&mut seen)?),
            _ => return Err(words.unknown(&option)),
        }
    }
    Ok(match QueueMark::of(&queue).parse(name) {
        Some(Claim { partition, job, .. }) => Ask::Result {
            queue,
            partition,
            job,
            block,
        },
        None => Ask::NoJob {
            queue,
            unknown: Unknown::Result,
        },
    })
}

pub(super) fn nack(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let claims = words.claims(&queue, &["DELAY", "ERROR", "DEAD"])?;
    let mut nack = Nack {
        claims,
        delay: None,
        error: None,
        dead: false,
    };
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "DELAY" => nack.delay = Some(seen.ms(words, &option, 0)?),
            "ERROR" => {
                seen.once(&option)?;
                let text = words.value(&option)?;
                nack.error = Some(Bytes::copy_from_slice(&text[..text.len().min(MAX_ERROR)]));
            }
            "DEAD" => {
                seen.once(&option)?;
                nack.dead = true;
            }
            _ => return Err(words.unknown(&option)),
        }
    }
    let operation = Operation::Nack(nack);
    Ok(Ask::Settle { queue, operation })
}

pub(super) fn extend(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let lease = words.number("ms", 1, MAX_MS)?;
    let claims = words.claims(&queue, &[])?;
    let operation = Operation::Extend { claims, lease };
    Ok(Ask::Settle { queue, operation })
}
