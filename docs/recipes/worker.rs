//! A worker with the redis crate, to be taken into a program of yours.
//! It waits for a job, does it, acknowledges it with its result or gives it back as failed, and goes on until it is told to
//! stop, after the job that it has.

use redis::{Connection, RedisResult, cmd};

/// What the jobs are. `Ok` is the result, `Err` the error.
fn work(payload: &[u8]) -> Result<Vec<u8>, String> {
    if payload == b"bad" {
        return Err("cannot do that".into());
    }
    Ok(payload.to_ascii_uppercase())
}

/// Ends with an error when the connection does: call it again with a new one.
pub fn run(client: &mut Connection, queue: &str, is_stopping: impl Fn() -> bool) -> RedisResult<()> {
    type Job = (String, String, Vec<u8>, u32);
    while !is_stopping() {
        let job: Option<Job> = cmd("QPOP").arg(queue).arg("BLOCK").arg(1000).query(client)?;
        let Some((_, receipt, payload, _attempt)) = job else {
            continue;
        };
        match work(&payload) {
            Ok(result) => cmd("QACK")
                .arg(queue)
                .arg(receipt)
                .arg("RESULT")
                .arg(result)
                .exec(client)?,
            Err(error) => cmd("QNACK")
                .arg(queue)
                .arg(receipt)
                .arg("ERROR")
                .arg(error)
                .exec(client)?,
        }
    }
    Ok(())
}
