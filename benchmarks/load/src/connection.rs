//! A connection to the server: its socket, TLS and HTTP.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use rustls::ClientConnection;

use crate::http1::Http1;
use crate::http2::Http2;
use crate::target::{Failure, Target};

const MAX_READ: usize = 64 * 1024;

/// The requests that were answered, each with its slot and its problem, if there is one.
pub type Answers = Vec<(usize, Option<String>)>;

enum Http {
    One(Http1),
    Two(Box<Http2>),
}

pub struct Connection {
    socket: TcpStream,
    tls: ClientConnection,
    http: Http,
    /// Whether the socket takes no more bytes for now.
    is_blocked: bool,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connect to the server, for a number of requests at the same time. Nothing waits for the handshake.
    pub fn open(target: &Target, slots: usize) -> Result<Self, Failure> {
        let socket = TcpStream::connect(target.address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut tls = ClientConnection::new(target.config.clone(), target.name.clone())?;
        tls.set_buffer_limit(None);
        let http = if target.is_http2 { Http::Two(Box::new(Http2::new(slots)?)) } else { Http::One(Http1::default()) };
        Ok(Connection { socket, tls, http, is_blocked: false, buffer: vec![0; MAX_READ] })
    }

    /// Let `epoll` report data as `number`.
    pub fn watch(&self, epoll: &Epoll, number: usize) -> nix::Result<()> {
        epoll.add(&self.socket, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))
    }

    /// Send a request. Its answer comes in `receive`, as that of `slot`.
    pub fn send(&mut self, target: &Target, slot: usize, number: u64) -> Result<(), Failure> {
        match &mut self.http {
            Http::One(http) => self.tls.writer().write_all(http.send(target, slot, number))?,
            Http::Two(http) => http.send(target, slot, number)?,
        }
        self.flush()
    }

    /// Send what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), Failure> {
        if let Http::Two(http) = &mut self.http {
            http.advance()?;
            http.write_to(&mut self.tls.writer())?;
        }
        self.is_blocked = false;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    break;
                }
                other => other?,
            };
        }
        Ok(())
    }

    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Read what has arrived, and add the requests that it answers.
    pub fn receive(&mut self, answers: &mut Answers) -> Result<(), Failure> {
        let size = match self.socket.read(&mut self.buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        if size == 0 {
            return Err("the server has closed the connection".into());
        }
        let mut rest = &self.buffer[..size];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            let state = self.tls.process_new_packets()?;
            let mut left = state.plaintext_bytes_to_read();
            let mut reader = self.tls.reader();
            while left > 0 {
                let plain = reader.fill_buf()?;
                match &mut self.http {
                    Http::One(http) => http.receive(plain, answers)?,
                    Http::Two(http) => http.receive(plain),
                }
                let taken = plain.len();
                reader.consume(taken);
                left -= taken;
            }
        }
        let mut has_output = self.tls.wants_write();
        if let Http::Two(http) = &mut self.http {
            http.advance()?;
            http.answered(answers);
            has_output |= http.has_output();
        }
        if has_output {
            self.flush()?;
        }
        Ok(())
    }

    /// Send one request and wait for its answer.
    pub fn call(&mut self, target: &Target, number: u64) -> Result<(), Failure> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        self.watch(&epoll, 0)?;
        self.send(target, 0, number)?;
        let mut answers = Answers::new();
        while answers.is_empty() {
            epoll.wait(&mut [EpollEvent::empty()], if self.is_blocked { 1u16 } else { 1000 })?;
            self.receive(&mut answers)?;
            self.flush()?;
        }
        answers.pop().and_then(|(_, problem)| problem).map_or(Ok(()), |problem| Err(problem.into()))
    }

    /// Say that no more data follows.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut self.socket);
    }
}

/// Return what is wrong with an answer: it must have status 200 and whole JSON.
pub fn problem(status: u16, body: &[u8]) -> Option<String> {
    let text = body.trim_ascii();
    let is_json = text.len() > 2 && matches!((text[0], text[text.len() - 1]), (b'{', b'}') | (b'[', b']'));
    (status != 200 || !is_json).then(|| format!("{status} {}", String::from_utf8_lossy(body)))
}
