//! HTTP/1.1 with one request at a time.

use crate::connection::{problem, Answers};
use crate::target::{Failure, Target};

const MAX_HEADERS: usize = 64;

#[derive(Default)]
pub struct Http1 {
    /// The bytes of the requests, which are all the same unless keys take turns.
    request: Vec<u8>,
    path: String,
    slot: usize,
    input: Vec<u8>,
    /// Status of the answer, size of its head, and size of head and body, when the head is complete.
    head: Option<(u16, usize, usize)>,
}

impl Http1 {
    /// Return a request.
    pub fn send(&mut self, target: &Target, slot: usize, number: u64) -> &[u8] {
        self.slot = slot;
        let path = target.path(number);
        if self.path != path {
            let (method, host) = (&target.method, &target.authority);
            let mut head =
                format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", target.body.len());
            if let Some((name, value)) = &target.header {
                head += &format!("{name}: {value}\r\n");
            }
            self.request = [head.as_bytes(), b"\r\n", &target.body].concat();
            self.path = path;
        }
        &self.request
    }

    pub fn receive(&mut self, plain: &[u8], answers: &mut Answers) -> Result<(), Failure> {
        self.input.extend_from_slice(plain);
        if self.head.is_none() {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(size) = response.parse(&self.input)? {
                let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                let length = length.ok_or("an answer without Content-Length")?;
                let length: usize = std::str::from_utf8(length.value)?.parse()?;
                self.head = Some((response.code.unwrap_or(0), size, size + length));
            }
        }
        if let Some((status, head, whole)) = self.head {
            if self.input.len() >= whole {
                answers.push((self.slot, problem(status, &self.input[head..whole])));
                self.input.drain(..whole);
                self.head = None;
            }
        }
        Ok(())
    }
}
