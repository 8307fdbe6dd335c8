//! The life of a job in four dialects: Millrace's queue commands, a bare Redis list, a Redis stream with a consumer
//! group, beanstalkd's tubes. One client of a flow holds one connection and has one request in flight.

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;

use crate::support::client::encode;
use crate::wire::{Wire, nth_bulk};

pub const PAYLOAD_BYTES: usize = 200;

const STOCK: usize = 10_000; // as many as producers and consumers may drift apart in a run

#[derive(Clone, Copy, PartialEq)]
pub enum Dialect {
    /// QPUSH, QPOP … BLOCK, QACK.
    Queue,
    /// LPUSH, RPOP: no lease and nothing to acknowledge.
    List,
    /// XADD, XREADGROUP … BLOCK, XACK and XDEL.
    Stream,
    /// put, reserve, delete.
    Beanstalkd,
}

pub struct FlowClient {
    dialect: Dialect,
    wire: Wire,
    queue: String,
    pop: Vec<u8>,
}

impl FlowClient {
    pub async fn connect(dialect: Dialect, address: &str, queue: &str) -> Result<FlowClient> {
        let mut wire = Wire::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        if dialect == Dialect::Beanstalkd {
            for line in [
                format!("use {queue}\r\n"),
                format!("watch {queue}\r\n"),
                "ignore default\r\n".into(),
            ] {
                wire.call_beanstalkd(line.as_bytes()).await?;
            }
        }
        let pop = match dialect {
            Dialect::Queue => encode(&["QPOP", queue, "BLOCK", "1000"]),
            Dialect::List => encode(&["RPOP", queue]),
            Dialect::Stream => {
                let words = [
                    "XREADGROUP",
                    "GROUP",
                    "g",
                    "c",
                    "COUNT",
                    "1",
                    "BLOCK",
                    "1000",
                    "STREAMS",
                    queue,
                    ">",
                ];
                encode(&words)
            }
            Dialect::Beanstalkd => b"reserve\r\n".to_vec(),
        };
        Ok(FlowClient {
            dialect,
            wire,
            queue: queue.into(),
            pop,
        })
    }

    /// What has to be there before the first push: a stream's group; and a stock in the list, because RPOP does not
    /// wait, and what it spends on finding nothing must not be counted against it.
    pub async fn prepare(&mut self) -> Result<()> {
        let reply = match self.dialect {
            Dialect::Queue | Dialect::Beanstalkd => return Ok(()),
            Dialect::Stream => {
                self.wire
                    .call(&encode(&["XGROUP", "CREATE", &self.queue, "g", "0", "MKSTREAM"]))
                    .await?
            }
            Dialect::List => {
                let mut words: Vec<&[u8]> = vec![b"LPUSH", self.queue.as_bytes()];
                words.resize(STOCK + 2, &[b'x'; PAYLOAD_BYTES]);
                self.wire.call(&encode(&words)).await?
            }
        };
        refuse_errors(&reply)
    }

    pub async fn push(&mut self, payload: &[u8]) -> Result<()> {
        let queue = self.queue.as_bytes();
        let reply = match self.dialect {
            Dialect::Queue => self.wire.call(&encode(&[b"QPUSH", queue, payload])).await?,
            Dialect::List => self.wire.call(&encode(&[b"LPUSH", queue, payload])).await?,
            Dialect::Stream => self.wire.call(&encode(&[b"XADD", queue, b"*", b"p", payload])).await?,
            Dialect::Beanstalkd => {
                let mut request = format!("put 0 0 60 {}\r\n", payload.len()).into_bytes();
                request.extend_from_slice(payload);
                request.extend_from_slice(b"\r\n");
                self.wire.call_beanstalkd(&request).await?
            }
        };
        refuse_errors(&reply)
    }

    /// One job: what names it for `ack`, and its payload. `None`: there was none, or none came within a second.
    pub async fn pop(&mut self) -> Result<Option<(BytesMut, BytesMut)>> {
        if self.dialect == Dialect::Beanstalkd {
            return self.reserve().await.map(Some);
        }
        let reply = self.wire.call(&self.pop).await?;
        refuse_errors(&reply)?;
        let at = |n| nth_bulk(&reply, n);
        Ok(match self.dialect {
            Dialect::List => at(0).map(|payload| (BytesMut::new(), payload)),
            Dialect::Queue => at(1).zip(at(2)),
            Dialect::Stream | Dialect::Beanstalkd => at(1).zip(at(3)),
        })
    }

    async fn reserve(&mut self) -> Result<(BytesMut, BytesMut)> {
        let mut reply = self.wire.call_beanstalkd(&self.pop).await?;
        let line_end = memchr::memchr(b'\r', &reply).context("a reply without a line")?;
        let line = reply.split_to(line_end);
        ensure!(
            line.starts_with(b"RESERVED "),
            "beanstalkd answered {:?}",
            line.escape_ascii().to_string()
        );
        let id = line[9..].split(|byte| *byte == b' ').next().unwrap_or_default();
        let payload = BytesMut::from(&reply[2..reply.len() - 2]);
        Ok((BytesMut::from(id), payload))
    }

    /// Whether `ack` is a request at all.
    pub fn acknowledges(&self) -> bool {
        self.dialect != Dialect::List
    }

    pub async fn ack(&mut self, claim: &[u8]) -> Result<()> {
        let queue = self.queue.as_bytes();
        let reply = match self.dialect {
            Dialect::List => return Ok(()),
            Dialect::Queue => self.wire.call(&encode(&[b"QACK", queue, claim])).await?,
            Dialect::Stream => {
                self.wire.call(&encode(&[b"XACK", queue, b"g", claim])).await?;
                self.wire.call(&encode(&[b"XDEL", queue, claim])).await?
            }
            Dialect::Beanstalkd => {
                let reply = self
                    .wire
                    .call_beanstalkd(&[b"delete ", claim, b"\r\n"].concat())
                    .await?;
                ensure!(
                    reply.starts_with(b"DELETED"),
                    "beanstalkd answered {:?}",
                    reply.escape_ascii().to_string()
                );
                return Ok(());
            }
        };
        ensure!(
            reply.starts_with(b":1"),
            "an acknowledgement got {:?}",
            reply.escape_ascii().to_string()
        );
        Ok(())
    }
}

fn refuse_errors(reply: &[u8]) -> Result<()> {
    let refused = reply.starts_with(b"-") || reply.starts_with(b"OUT_OF_MEMORY");
    ensure!(!refused, "the server answered {:?}", reply.escape_ascii().to_string());
    Ok(())
}
