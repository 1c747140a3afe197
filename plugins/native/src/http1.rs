//! HTTP/1.1 (RFC 9112), one request at a time. `httparse` parses; this module refuses what proxies may read differently.

use std::mem::MaybeUninit;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use pyo3::PyResult;

use crate::app::App;
use crate::wire::{Answer, Headers, Request, Rules};

const MAX_HEADERS: usize = 512;
const MAX_CHUNK_LINE: usize = 256;
const PLAIN_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// Which part of the body comes next.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    /// So many bytes.
    Length(u64),
    /// A chunk's size and line end.
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// The line end after the last chunk.
    LastEnd,
    Complete,
}

/// A request that waits for its whole body.
struct Held {
    method: Vec<u8>,
    target: Vec<u8>,
    headers: Headers,
    /// The beginning of the body.
    body: Vec<u8>,
}

/// The request that is read or answered.
struct Current {
    body: Body,
    held: Option<Held>,
    is_head: bool,
    is_old: bool,
    awaits_continue: bool,
    keep_alive: bool,
    /// Bytes of the body that the application has not read.
    unread: usize,
    answered: bool,
    streaming: bool,
    chunked_answer: bool,
    discarded: usize,
}

pub struct Http1 {
    rules: Arc<Rules>,
    input: BytesMut,
    pub output: BytesMut,
    current: Option<Current>,
    /// The client broke the protocol: the next answer is the last.
    broken: bool,
    /// The server stops: the current answer is the last.
    pub stopping: bool,
    pub closed: bool,
    eof: bool,
    /// The turn was over before all received requests were passed on.
    pub has_more: bool,
}

/// Why a head is refused: the status of the answer.
struct Refused(u16);

struct Head {
    method: Vec<u8>,
    target: Vec<u8>,
    headers: Headers,
    body: Body,
    is_old: bool,
    keep_alive: bool,
    awaits_continue: bool,
}

impl Http1 {
    pub fn new(rules: Arc<Rules>) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let (broken, stopping, closed, eof, has_more) = (false, false, false, false, false);
        Http1 { rules, input, output, current: None, broken, stopping, closed, eof, has_more }
    }

    /// Whether no request is running.
    pub fn is_idle(&self) -> bool {
        self.current.as_ref().is_none_or(|current| current.answered)
    }

    /// Whether the client has sent only a part of the next request's head, or of an unwanted body.
    pub fn has_partial_request(&self) -> bool {
        self.is_idle() && (self.current.is_some() || !self.input.is_empty())
    }

    /// Whether a request waits for its whole body.
    pub fn holds(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.held.is_some())
    }

    /// The bytes of the body that waits for its rest.
    pub fn held_size(&self) -> usize {
        self.current.as_ref().and_then(|current| current.held.as_ref()).map_or(0, |held| held.body.len())
    }

    /// Whether no more data should be read from the client for now.
    pub fn is_full(&self) -> bool {
        self.input.len() > self.rules.max_read_ahead && !self.closed
    }

    pub fn receive(&mut self, app: &App<'_, '_>, data: &[u8]) -> PyResult<()> {
        if self.broken || self.closed {
            return Ok(());
        }
        self.input.extend_from_slice(data);
        self.advance(app)?;
        if self.is_full() && self.current.as_ref().is_some_and(|current| current.streaming) {
            self.closed = true; // if the server stopped reading, it would not detect a closed connection
        }
        Ok(())
    }

    /// Record that the client sends no more data. It may still wait for an answer.
    pub fn receive_end(&mut self, app: &App<'_, '_>) -> PyResult<()> {
        self.eof = true;
        self.pass_on(app)?;
        self.close_if_done(app)
    }

    fn close_if_done(&mut self, app: &App<'_, '_>) -> PyResult<()> {
        match &self.current {
            None if self.has_more => {}
            None => self.closed = true,
            Some(current) if current.answered => self.closed = true,
            Some(current) if current.body != Body::Complete && !self.broken => {
                app.reset(1)?; // the client disconnected in the middle of its request
                self.closed = true;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Pass on a request that waits for its whole body as it is.
    pub fn pass_on(&mut self, app: &App<'_, '_>) -> PyResult<()> {
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        let Some(Held { method, target, headers, body }) = current.held.take() else { return Ok(()) };
        let ended = current.body == Body::Complete;
        current.unread = body.len();
        let request = Request { stream: 1, method: &method, target: &target, headers: &headers, body: &body, ended };
        self.pass(app, &request, true)
    }

    /// Pass on a request, and write its answer if there is one at once. `is_whole`: its route takes the shortest way.
    fn pass(&mut self, app: &App<'_, '_>, request: &Request<'_>, is_whole: bool) -> PyResult<()> {
        if request.ended && is_whole {
            let (is_taken, answer) = app.direct(request.stream, request.method, request.target, request.body)?;
            if is_taken {
                if let Some(answer) = answer {
                    self.respond(&answer);
                }
                return Ok(());
            }
        }
        if let Some(answer) = app.request(request)? {
            self.respond(&answer);
        }
        Ok(())
    }

    /// Do what the received data allows.
    pub fn advance(&mut self, app: &App<'_, '_>) -> PyResult<()> {
        self.has_more = false;
        while !self.closed && !self.broken {
            match self.current.as_ref().map(|current| current.body) {
                None if self.stopping => self.closed = true,
                None if app.turn_is_over() && !self.input.is_empty() => {
                    self.has_more = true;
                    break;
                }
                None => match self.read_head() {
                    Ok(None) => break,
                    Ok(Some(head)) => self.begin(app, head)?,
                    Err(Refused(status)) => self.refuse(status),
                },
                Some(Body::Complete) => {
                    self.pass_on(app)?;
                    if !self.recycle() {
                        break;
                    }
                }
                Some(body) => {
                    if !self.read_body(app, body)? {
                        break;
                    }
                }
            }
        }
        if self.current.as_ref().is_some_and(|current| current.held.is_some() && current.awaits_continue) {
            self.pass_on(app)?;
        }
        if self.eof {
            self.close_if_done(app)?;
        }
        if self.broken || self.closed {
            self.input.clear();
        }
        Ok(())
    }

    /// Continue after an answer, if the request was read to its end; return whether there may be another request.
    fn recycle(&mut self) -> bool {
        let Some(current) = &self.current else { return true };
        if !current.answered {
            return false;
        }
        if !current.keep_alive || self.stopping {
            self.closed = true;
            return false;
        }
        self.current = None;
        true
    }

    fn read_head(&mut self) -> Result<Option<Head>, Refused> {
        let Some(end) = head_end(&self.input, self.rules.max_head)? else { return Ok(None) };
        let head = parse_head(&self.input[..end])?;
        self.input.advance(end);
        Ok(Some(head))
    }

    fn begin(&mut self, app: &App<'_, '_>, head: Head) -> PyResult<()> {
        let ended = head.body == Body::Complete;
        let mut current = Current {
            body: head.body,
            held: None,
            is_head: head.method == b"HEAD",
            is_old: head.is_old,
            awaits_continue: head.awaits_continue,
            keep_alive: head.keep_alive,
            unread: 0,
            answered: false,
            streaming: false,
            chunked_answer: false,
            discarded: 0,
        };
        let is_whole = self.rules.is_whole(&head.target);
        if !ended && is_whole {
            let Head { method, target, headers, .. } = head;
            current.held = Some(Held { method, target, headers, body: Vec::new() });
            self.current = Some(current);
            return Ok(());
        }
        self.current = Some(current);
        let (method, target, headers) = (&head.method[..], &head.target[..], &head.headers);
        self.pass(app, &Request { stream: 1, method, target, headers, body: b"", ended }, is_whole)
    }

    /// Read a part of the body; return whether there may be more.
    fn read_body(&mut self, app: &App<'_, '_>, body: Body) -> PyResult<bool> {
        let next = match body {
            Body::Length(left) | Body::Chunk(left) => {
                if self.input.is_empty() || self.is_body_full() {
                    return Ok(false);
                }
                let size = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len()).min(16 * 1024);
                let data = self.input.split_to(size).freeze();
                self.pass_body(app, &data)?;
                match (left - size as u64, body) {
                    (0, Body::Length(_)) => Body::Complete,
                    (0, _) => Body::ChunkEnd,
                    (left, Body::Length(_)) => Body::Length(left),
                    (left, _) => Body::Chunk(left),
                }
            }
            Body::ChunkSize => match chunk_size(&self.input) {
                Ok(None) => return Ok(false),
                Ok(Some((length, size))) => {
                    self.input.advance(length);
                    if size == 0 {
                        Body::LastEnd
                    } else {
                        Body::Chunk(size)
                    }
                }
                Err(Refused(_)) => return self.break_off(app),
            },
            Body::ChunkEnd | Body::LastEnd => {
                // A trailer would begin here. The protocol has none.
                let expected = &b"\r\n"[..self.input.len().min(2)];
                if !self.input.starts_with(expected) {
                    return self.break_off(app);
                }
                if expected.len() < 2 {
                    return Ok(false);
                }
                self.input.advance(2);
                if body == Body::ChunkEnd {
                    Body::ChunkSize
                } else {
                    Body::Complete
                }
            }
            Body::Complete => Body::Complete,
        };
        let Some(current) = self.current.as_mut() else { return Ok(false) };
        current.body = next;
        if next == Body::Complete && current.held.is_none() && !current.answered {
            app.end(1)?;
        }
        Ok(true)
    }

    fn is_body_full(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.answered && current.unread > self.rules.max_unread_body)
    }

    fn pass_body(&mut self, app: &App<'_, '_>, data: &Bytes) -> PyResult<()> {
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        current.awaits_continue = false; // the client did not wait for it
        if let Some(held) = current.held.as_mut() {
            held.body.extend_from_slice(data);
            if held.body.len() > self.rules.small_body {
                self.pass_on(app)?;
            }
            return Ok(());
        }
        if !current.answered && app.data(1, data)? {
            current.unread += data.len();
            return Ok(());
        }
        current.discarded += data.len();
        if current.discarded > self.rules.max_discarded {
            self.closed = true;
        }
        Ok(())
    }

    /// Refuse the rest of a body that is not valid. A running request sends the refusal itself, so that it gets one answer.
    fn break_off(&mut self, app: &App<'_, '_>) -> PyResult<bool> {
        self.broken = true;
        self.pass_on(app)?;
        match self.current.as_ref() {
            Some(current) if !current.answered => app.malformed(1)?,
            _ => self.closed = true,
        }
        Ok(false)
    }

    /// Refuse a request before the application gets it, and close.
    fn refuse(&mut self, status: u16) {
        self.broken = true;
        self.write_head(status, &[(b"content-length".to_vec(), b"0".to_vec())], true);
        self.closed = true;
    }

    fn write_head(&mut self, status: u16, headers: &[(Vec<u8>, Vec<u8>)], last: bool) {
        let reason = http::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("");
        let out = &mut self.output;
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.to_string().as_bytes());
        out.extend_from_slice(b" ");
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in headers {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.truncate(out.len() - 2);
        self.write_head_end(last);
    }

    fn write_head_end(&mut self, last: bool) {
        self.output.extend_from_slice(b"\r\ndate: ");
        self.output.extend_from_slice(&crate::date::now());
        self.output.extend_from_slice(if last { b"\r\nconnection: close\r\n\r\n" } else { b"\r\n\r\n" });
    }

    /// Write a whole response.
    pub fn respond(&mut self, answer: &Answer) {
        let Some((is_head, last)) = self.take_answer() else { return };
        let body = match answer {
            Answer::Json(body) => {
                self.output.extend_from_slice(PLAIN_HEAD);
                self.output.extend_from_slice(body.len().to_string().as_bytes());
                self.write_head_end(last);
                body
            }
            Answer::Other(status, headers, body) => {
                self.write_head(*status, headers, last);
                body
            }
        };
        if !is_head {
            self.output.extend_from_slice(body);
        }
        self.finish();
    }

    /// Whether the answer has no body, and whether it is the connection's last; None if there is nothing to answer.
    fn take_answer(&mut self) -> Option<(bool, bool)> {
        let (broken, stopping) = (self.broken, self.stopping);
        let current = self.current.as_mut().filter(|current| !current.answered && !current.streaming)?;
        current.keep_alive &= !broken && !stopping;
        Some((current.is_head, !current.keep_alive))
    }

    /// Begin a response that is written in parts.
    pub fn start_response(&mut self, status: u16, mut headers: Headers) {
        let Some((is_head, mut last)) = self.take_answer() else { return };
        let Some(current) = self.current.as_mut() else { return };
        let has_length = headers.iter().any(|(name, _)| name == b"content-length");
        current.streaming = true;
        if !has_length && !is_head {
            if current.is_old {
                current.keep_alive = false;
                last = true;
            } else {
                current.chunked_answer = true;
                headers.push((b"transfer-encoding".to_vec(), b"chunked".to_vec()));
            }
        }
        self.write_head(status, &headers, last);
    }

    /// Write a part of a response.
    pub fn send_part(&mut self, data: &[u8], more: bool) {
        let Some(current) = self.current.as_mut().filter(|current| current.streaming) else { return };
        let chunked = current.chunked_answer;
        if !data.is_empty() && !current.is_head {
            if chunked {
                self.output.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            }
            self.output.extend_from_slice(data);
            if chunked {
                self.output.extend_from_slice(b"\r\n");
            }
        }
        if !more {
            current.streaming = false;
            if chunked {
                self.output.extend_from_slice(b"0\r\n\r\n");
            }
            self.finish();
        }
    }

    fn finish(&mut self) {
        let Some(current) = self.current.as_mut() else { return };
        current.answered = true;
        // Without the body, nobody knows where the next request begins.
        if self.broken
            || self.stopping
            || (current.body != Body::Complete && (!current.keep_alive || current.awaits_continue))
        {
            self.closed = true;
        }
        if current.body == Body::Complete {
            self.recycle();
        }
    }

    /// Let the client send the body: the application waits for it.
    pub fn send_continue(&mut self) {
        if let Some(current) = self.current.as_mut() {
            if std::mem::take(&mut current.awaits_continue) {
                self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
    }

    /// Record that the application has read a part of the body.
    pub fn consumed(&mut self, size: usize) {
        if let Some(current) = self.current.as_mut() {
            current.unread = current.unread.saturating_sub(size);
        }
    }
}

/// Return the length of the head, or None if it is incomplete.
///
/// A line end without a carriage return (RFC 9112, section 2.2) and a folded line (section 5.2) can smuggle a request
/// past a proxy that reads them differently.
fn head_end(input: &[u8], max: usize) -> Result<Option<usize>, Refused> {
    let input = &input[..input.len().min(max)];
    if input.first().is_some_and(|&byte| byte == b'\r' || byte == b'\n') {
        return Err(Refused(400));
    }
    let mut from = 0;
    while let Some(at) = input[from..].iter().position(|&byte| byte == b'\n').map(|at| from + at) {
        if at == 0 || input[at - 1] != b'\r' {
            return Err(Refused(400));
        }
        if input[..=at].ends_with(BLANK_LINE) {
            return Ok(Some(at + 1));
        }
        if matches!(input.get(at + 1), Some(b' ' | b'\t')) {
            return Err(Refused(400));
        }
        from = at + 1;
    }
    if input.len() >= max {
        Err(Refused(431))
    } else {
        Ok(None)
    }
}

fn parse_head(input: &[u8]) -> Result<Head, Refused> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(input, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Refused(400)),
        Err(httparse::Error::TooManyHeaders) => return Err(Refused(431)),
        Err(httparse::Error::Version) if has_other_version(input) => return Err(Refused(505)),
        Err(_) => return Err(Refused(400)),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refused(400));
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refused(400));
    }
    let is_old = version == 0;
    let headers: Headers = (request.headers.iter())
        .map(|field| (field.name.to_ascii_lowercase().into_bytes(), field.value.trim_ascii().to_vec()))
        .collect();
    let values =
        |wanted: &'static [u8]| headers.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| &value[..]);
    let hosts = values(b"host").count();
    if hosts > 1 || (hosts == 0 && !is_old) {
        return Err(Refused(400));
    }
    let length = content_length(values(b"content-length"))?;
    let encodings: Vec<&[u8]> = values(b"transfer-encoding").collect();
    // Two lengths can smuggle a request past a proxy (RFC 9112, section 6.1). So can a chunked body in HTTP/1.0.
    let body = match (&encodings[..], length) {
        ([], None | Some(0)) => Body::Complete,
        ([], Some(length)) => Body::Length(length),
        (_, Some(_)) => return Err(Refused(400)),
        ([encoding], None) if encoding.eq_ignore_ascii_case(b"chunked") => {
            if is_old {
                return Err(Refused(400));
            }
            Body::ChunkSize
        }
        _ => return Err(Refused(501)),
    };
    let closes = values(b"connection")
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
    let expects = values(b"expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"));
    Ok(Head {
        method: method.as_bytes().to_vec(),
        target: origin_form(target.as_bytes()).to_vec(),
        body,
        is_old,
        keep_alive: !is_old && !closes,
        awaits_continue: expects && !is_old && body != Body::Complete,
        headers,
    })
}

/// Whether the request line ends in a version of HTTP other than ours.
fn has_other_version(input: &[u8]) -> bool {
    let line = input.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn content_length<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, Refused> {
    let mut found: Option<&[u8]> = None;
    for value in values.flat_map(|value| value.split(|&byte| byte == b',')).map(|value| value.trim_ascii()) {
        if found.is_some_and(|other| other != value) {
            return Err(Refused(400));
        }
        found = Some(value);
    }
    let Some(text) = found else { return Ok(None) };
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Refused(400));
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or(Refused(400))
}

/// Return the path and query of a request target, which may be a full URL (RFC 9112, section 3.2.2).
fn origin_form(target: &[u8]) -> Vec<u8> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.len() >= scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme));
    let Some(scheme) = scheme else { return target.to_vec() };
    let rest = &target[scheme.len()..];
    let rest = &rest[rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len())..];
    if rest.starts_with(b"/") {
        rest.to_vec()
    } else {
        [b"/", rest].concat()
    }
}

/// Return the length of the line with a chunk's size, and the size; None if the line is incomplete.
fn chunk_size(input: &[u8]) -> Result<Option<(usize, u64)>, Refused> {
    let refused = Refused(400);
    let Some(first) = input.first() else { return Ok(None) };
    if !first.is_ascii_hexdigit() {
        return Err(refused);
    }
    let line = &input[..input.len().min(MAX_CHUNK_LINE)];
    let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
        return if line.len() == MAX_CHUNK_LINE { Err(refused) } else { Ok(None) };
    };
    match httparse::parse_chunk_size(&line[..=end]) {
        Ok(httparse::Status::Complete((length, size))) if length == end + 1 => Ok(Some((length, size))),
        _ => Err(refused),
    }
}
