//! HTTP/2 (RFC 9113) on the `h2` crate, which this module polls whenever there is something to do.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use pyo3::PyResult;

use crate::app::App;
use crate::pipe::Pipe;
use crate::wire::{Answer, Headers, Request, Rules};

/// How many bytes the overhead of small frames may take in memory, for one connection.
const FRAME_BUDGET: usize = 1 << 20;

enum State {
    Preface(Pin<Box<Handshake<Pipe, Bytes>>>),
    Open(Box<Connection<Pipe, Bytes>>),
    Closed,
}

/// A request that is read or answered.
struct Stream {
    body: Option<RecvStream>,
    /// Head and beginning of the body, as long as the request waits for its whole body.
    held: Option<(http::request::Parts, BytesMut)>,
    reply: Option<SendResponse<Bytes>>,
    sender: Option<SendStream<Bytes>>,
    /// What is to be sent when the client's window allows it, and whether that is the end.
    queue: BytesMut,
    is_last: bool,
    is_head: bool,
    answered: bool,
    discarded: usize,
}

pub struct Http2 {
    rules: Arc<Rules>,
    pub pipe: Pipe,
    state: State,
    streams: HashMap<u32, Box<Stream>>,
    pending_resets: usize,
    stopping: bool,
    /// The turn was over before all received requests were passed on.
    pub has_more: bool,
    /// The streams whose answer came at once and waits for the client's window.
    pub waiting: Vec<u32>,
    /// The bytes of bodies that wait for their rest.
    pub held_size: usize,
}

impl Http2 {
    pub fn new(rules: Arc<Rules>) -> Self {
        let pipe = Pipe::default();
        let mut builder = Builder::new();
        builder
            // Requests of clients are small: nearly all frames with data are.
            .data_frame_budget(FRAME_BUDGET)
            .max_concurrent_streams(rules.max_streams)
            .max_header_list_size(rules.max_head as u32)
            .max_pending_accept_reset_streams(rules.max_pending_resets)
            .max_local_error_reset_streams(Some(rules.max_pending_resets))
            .max_concurrent_reset_streams(rules.max_pending_resets);
        let state = State::Preface(Box::pin(builder.handshake(pipe.clone())));
        let (streams, waiting) = (HashMap::new(), Vec::new());
        Http2 {
            rules,
            pipe,
            state,
            streams,
            pending_resets: 0,
            stopping: false,
            has_more: false,
            waiting,
            held_size: 0,
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether no request is running.
    pub fn is_idle(&self) -> bool {
        self.streams.values().all(|stream| stream.answered && stream.queue.is_empty())
    }

    /// Whether a request waits for its whole body.
    pub fn holds(&self) -> bool {
        self.streams.values().any(|stream| stream.held.is_some())
    }

    /// Do what the received data allows.
    pub fn advance(&mut self, app: &App<'_, '_>) -> PyResult<()> {
        self.has_more = false;
        loop {
            let mut context = Context::from_waker(Waker::noop());
            match &mut self.state {
                State::Preface(handshake) => match handshake.as_mut().poll(&mut context) {
                    Poll::Ready(Ok(connection)) => {
                        self.state = State::Open(Box::new(connection));
                        continue;
                    }
                    Poll::Ready(Err(_)) => self.state = State::Closed,
                    Poll::Pending => {}
                },
                State::Open(connection) if app.turn_is_over() => {
                    self.has_more = true;
                    if connection.poll_closed(&mut context).is_ready() {
                        self.state = State::Closed;
                    }
                }
                State::Open(connection) => match connection.poll_accept(&mut context) {
                    Poll::Ready(Some(Ok((request, reply)))) => {
                        self.accept(app, request, reply)?;
                        continue;
                    }
                    Poll::Ready(Some(Err(_)) | None) => self.state = State::Closed,
                    Poll::Pending => {}
                },
                State::Closed => {}
            }
            break;
        }
        let mut moved = false;
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            moved |= if app.turn_is_over() { self.notice_reset(app, id)? } else { self.read_stream(app, id)? };
            moved |= self.write_stream(id);
        }
        if moved && !self.is_closed() {
            return self.advance(app); // the connection sends what the streams have left
        }
        if self.stopping && self.streams.is_empty() {
            self.flush();
        }
        Ok(())
    }

    fn accept(
        &mut self,
        app: &App<'_, '_>,
        request: http::Request<RecvStream>,
        mut reply: SendResponse<Bytes>,
    ) -> PyResult<()> {
        if self.stopping {
            reply.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        let id = reply.stream_id().as_u32();
        let (parts, body) = request.into_parts();
        if is_malformed(&parts) {
            reply.send_reset(Reason::PROTOCOL_ERROR);
            self.count_reset();
            return Ok(());
        }
        let ended = body.is_end_stream();
        let is_head = parts.method == http::Method::HEAD;
        let mut stream = Box::new(Stream {
            body: if ended { None } else { Some(body) },
            held: None,
            reply: Some(reply),
            sender: None,
            queue: BytesMut::new(),
            is_last: false,
            is_head,
            answered: false,
            discarded: 0,
        });
        if !ended && self.rules.is_whole(target(&parts).as_bytes()) {
            stream.held = Some((parts, BytesMut::new()));
            self.streams.insert(id, stream);
            return Ok(());
        }
        self.streams.insert(id, stream);
        self.pass(app, id, &parts, b"", ended)
    }

    fn pass(
        &mut self,
        app: &App<'_, '_>,
        id: u32,
        parts: &http::request::Parts,
        body: &[u8],
        ended: bool,
    ) -> PyResult<()> {
        let (method, target) = (parts.method.as_str().as_bytes(), target(parts).as_bytes());
        if ended && self.rules.is_whole(target) {
            let (is_taken, answer) = app.direct(id, method, target, body)?;
            if is_taken {
                if let Some(answer) = answer {
                    self.answer(id, answer);
                }
                return Ok(());
            }
        }
        let mut headers: Headers = (parts.headers.iter())
            .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        if let Some(authority) = parts.uri.authority() {
            if !parts.headers.contains_key("host") {
                headers.insert(0, (b"host".to_vec(), authority.as_str().as_bytes().to_vec()));
            }
        }
        if let Some(answer) = app.request(&Request { stream: id, method, target, headers: &headers, body, ended })? {
            self.answer(id, answer);
        }
        Ok(())
    }

    /// Write an answer that was there at once.
    fn answer(&mut self, id: u32, answer: Answer) {
        self.respond(id, answer);
        if self.unsent(id) > 0 {
            self.waiting.push(id);
        }
    }

    /// Pass on all requests that wait for their whole body as they are.
    pub fn pass_on(&mut self, app: &App<'_, '_>) -> PyResult<()> {
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.pass_held(app, id, false)?;
        }
        Ok(())
    }

    fn pass_held(&mut self, app: &App<'_, '_>, id: u32, ended: bool) -> PyResult<()> {
        let Some((parts, body)) = self.streams.get_mut(&id).and_then(|stream| stream.held.take()) else {
            return Ok(());
        };
        self.held_size -= body.len();
        let result = self.pass(app, id, &parts, &body, ended);
        if ended {
            // It is read: the client may send as much again.
            if let Some(body_stream) = self.streams.get_mut(&id).and_then(|stream| stream.body.as_mut()) {
                let _ = body_stream.flow_control().release_capacity(body.len());
            }
        }
        result
    }

    /// Read the body of a request; return whether the connection has something to send because of it.
    fn read_stream(&mut self, app: &App<'_, '_>, id: u32) -> PyResult<bool> {
        let mut context = Context::from_waker(Waker::noop());
        let mut released = false; // more room for the client, which the connection has to announce
        loop {
            let Some(stream) = self.streams.get_mut(&id) else { return Ok(true) };
            let Some(body) = stream.body.as_mut() else {
                return Ok(self.notice_reset(app, id)? || released);
            };
            match body.poll_data(&mut context) {
                Poll::Ready(Some(Ok(data))) => {
                    let size = data.len();
                    if let Some((_, held)) = stream.held.as_mut() {
                        held.extend_from_slice(&data);
                        self.held_size += size;
                        if held.len() > self.rules.small_body {
                            self.pass_held(app, id, false)?;
                        }
                        continue;
                    }
                    if !stream.answered && app.data(id, &data)? {
                        continue;
                    }
                    let _ = body.flow_control().release_capacity(size);
                    released = true;
                    if stream.answered {
                        stream.discarded += size;
                        if stream.discarded > self.rules.max_discarded {
                            stream.body = None; // the crate resets the stream
                        }
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    stream.body = None;
                    return self.give_up(app, id);
                }
                Poll::Ready(None) => {
                    let is_held = stream.held.is_some();
                    if is_held {
                        self.pass_held(app, id, true)?;
                    } else if !stream.answered {
                        app.end(id)?;
                    }
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.body = None;
                        if stream.answered && stream.queue.is_empty() {
                            self.streams.remove(&id);
                        }
                    }
                    return Ok(true);
                }
                Poll::Pending => return Ok(self.notice_reset(app, id)? || released),
            }
        }
    }

    fn notice_reset(&mut self, app: &App<'_, '_>, id: u32) -> PyResult<bool> {
        let mut context = Context::from_waker(Waker::noop());
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(false) };
        let was_reset = if let Some(sender) = stream.sender.as_mut() {
            sender.poll_reset(&mut context).is_ready()
        } else if let Some(reply) = stream.reply.as_mut() {
            reply.poll_reset(&mut context).is_ready()
        } else {
            false
        };
        if was_reset {
            self.give_up(app, id)
        } else {
            Ok(false)
        }
    }

    /// Record that the client has reset a stream. Disconnect a client that keeps doing so (CVE-2023-44487).
    fn give_up(&mut self, app: &App<'_, '_>, id: u32) -> PyResult<bool> {
        self.pass_held(app, id, false)?;
        let Some(stream) = self.streams.remove(&id) else { return Ok(false) };
        if !stream.answered {
            app.reset(id)?;
            self.count_reset();
        } else if !stream.queue.is_empty() {
            app.reset(id)?;
        }
        Ok(true)
    }

    fn count_reset(&mut self) {
        self.pending_resets += 1;
        if self.pending_resets > self.rules.max_pending_resets {
            if let State::Open(connection) = &mut self.state {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
        }
    }

    /// Write a whole response.
    pub fn respond(&mut self, id: u32, answer: Answer) {
        let body = match answer {
            Answer::Json(body) => {
                let mut response = Response::new(());
                let headers = response.headers_mut();
                headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
                self.send_head(id, response, body.is_empty());
                body
            }
            Answer::Other(status, headers, body) => {
                self.start_response(id, status, headers, body.is_empty());
                body
            }
        };
        self.send_part(id, &body, false);
    }

    /// Begin a response. `ends`: it has no body.
    pub fn start_response(&mut self, id: u32, status: u16, headers: Headers, ends: bool) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let map = response.headers_mut();
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(&name), HeaderValue::from_maybe_shared(Bytes::from(value)))
            {
                map.append(name, value);
            }
        }
        self.send_head(id, response, ends);
    }

    fn send_head(&mut self, id: u32, mut response: Response<()>, ends: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(mut reply) = stream.reply.take() else { return };
        if let Ok(date) = HeaderValue::from_maybe_shared(crate::date::now()) {
            response.headers_mut().append(http::header::DATE, date);
        }
        let ends = ends || stream.is_head;
        if let Ok(sender) = reply.send_response(response, ends) {
            if ends {
                stream.is_last = true;
            } else {
                stream.sender = Some(sender);
            }
        }
    }

    /// Write a part of a response; the client's window decides when it is sent.
    pub fn send_part(&mut self, id: u32, data: &[u8], more: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sender.is_some() {
            stream.queue.extend_from_slice(data);
            stream.is_last = !more;
        }
        if !more {
            stream.answered = true;
            self.pending_resets = self.pending_resets.saturating_sub(1);
        }
        self.write_stream(id);
    }

    /// The number of bytes that wait for the client's window.
    pub fn unsent(&self, id: u32) -> usize {
        self.streams.get(&id).map_or(0, |stream| stream.queue.len())
    }

    /// Send what the window allows; return whether something was sent.
    fn write_stream(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let mut moved = false;
        if let Some(sender) = stream.sender.as_mut() {
            while !stream.queue.is_empty() {
                sender.reserve_capacity(stream.queue.len());
                let size = sender.capacity().min(stream.queue.len());
                if size == 0 {
                    break;
                }
                let data = stream.queue.split_to(size).freeze();
                let is_end = stream.is_last && stream.queue.is_empty();
                if sender.send_data(data, is_end).is_err() {
                    stream.queue.clear();
                }
                moved = true;
                if is_end {
                    stream.sender = None;
                    break;
                }
            }
        }
        if stream.queue.is_empty() && stream.is_last {
            if let Some(mut sender) = stream.sender.take() {
                let _ = sender.send_data(Bytes::new(), true);
                moved = true;
            }
        }
        if stream.answered && stream.queue.is_empty() && stream.body.is_none() {
            self.streams.remove(&id);
        }
        moved
    }

    /// Abort a response of which a part was sent, or that the client does not read.
    pub fn abort(&mut self, id: u32, reason: Reason) {
        if let Some(mut stream) = self.streams.remove(&id) {
            if let Some(sender) = stream.sender.as_mut() {
                sender.send_reset(reason);
            } else if let Some(reply) = stream.reply.as_mut() {
                reply.send_reset(reason);
            }
        }
    }

    /// Record that the application has read a part of a body: the client may send as much again.
    pub fn consumed(&mut self, id: u32, size: usize) {
        if let Some(body) = self.streams.get_mut(&id).and_then(|stream| stream.body.as_mut()) {
            let _ = body.flow_control().release_capacity(size);
        }
    }

    /// Accept no more requests; the others are finished.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.flush();
    }

    fn flush(&mut self) {
        if self.is_idle() {
            if let State::Open(connection) = &mut self.state {
                let mut context = Context::from_waker(Waker::noop());
                let _ = connection.poll_closed(&mut context);
                connection.abrupt_shutdown(Reason::NO_ERROR);
                let _ = connection.poll_closed(&mut context);
            }
            self.state = State::Closed;
        }
    }
}

/// Whether a head that the crate lets through is malformed (RFC 9113, sections 8.2.1 and 8.3.1): it names no host or two
/// different ones, or has spaces around a value, which proxies may read differently. Or it has no path, as CONNECT.
fn is_malformed(parts: &http::request::Parts) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut hosts = parts.headers.get_all("host").iter().map(|host| host.as_bytes());
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let Some(host) = authority.or_else(|| hosts.next()) else { return true };
    hosts.any(|other| other != host)
        || target(parts).is_empty()
        || parts.headers.values().any(|value| is_space(value.as_bytes().first()) || is_space(value.as_bytes().last()))
}

fn target(parts: &http::request::Parts) -> &str {
    parts.uri.path_and_query().map_or("", |path| path.as_str())
}
