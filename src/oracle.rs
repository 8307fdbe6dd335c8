//! A real redis-server for the tests of this library: what it answers is what we should answer.
//! Its own process, on a unix socket in a directory of its own; it ends with the value. Not in the binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::resp::OwnedRequest;
use crate::resp::frame::{Frame, FrameScanner};

pub struct Oracle {
    process: Child,
    socket: UnixStream,
    _directory: tempfile::TempDir,
}

impl Oracle {
    pub fn start(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redis.sock");
        let mut process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--dir"])
            .arg(directory.path())
            .arg("--unixsocket")
            .arg(&path)
            .args(settings)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tests need redis-server in the PATH");
        let log = BufReader::new(process.stdout.take().unwrap());
        let ready = log
            .lines()
            .map_while(Result::ok)
            .find(|line| line.contains("now ready to accept connections"));
        assert!(ready.is_some(), "redis-server ended before it was ready");
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self {
            process,
            socket,
            _directory: directory,
        }
    }

    /// One request, one reply, as bytes.
    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Vec<u8> {
        self.socket
            .write_all(OwnedRequest::from_words(words).as_request().raw())
            .unwrap();
        let (mut reply, mut scanner) = (Vec::new(), FrameScanner::default());
        loop {
            if let Some(Frame::Reply(len)) = scanner.scan(&reply).unwrap() {
                assert_eq!(len, reply.len(), "more than one reply");
                return reply;
            }
            let mut part = [0; 65536];
            let len = self.socket.read(&mut part).unwrap();
            assert!(len > 0, "redis-server closed the connection");
            reply.extend_from_slice(&part[..len]);
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
