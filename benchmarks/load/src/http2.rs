//! HTTP/2 by the `h2` crate, without a runtime: it reads from and writes to memory.

use std::future::Future;
use std::io::{self, Write};
use std::pin::{pin, Pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{self, ResponseFuture, SendRequest};
use h2::RecvStream;
use http::{HeaderName, HeaderValue, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{problem, Answers};
use crate::target::{Failure, Target};

/// The bytes that the server may send ahead.
const WINDOW: u32 = 16 * 1024 * 1024;

#[derive(Default)]
struct Buffers {
    input: BytesMut,
    output: Vec<u8>,
}

#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Buffers>>);

impl Pipe {
    fn buffers(&self) -> std::sync::MutexGuard<'_, Buffers> {
        self.0.lock().expect("one thread uses it")
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut buffers = self.buffers();
        if buffers.input.is_empty() {
            return Poll::Pending;
        }
        let size = buffers.input.len().min(buffer.remaining());
        buffer.put_slice(&buffers.input[..size]);
        buffers.input.advance(size);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.buffers().output.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Adds a slot to those that something has arrived for.
struct SlotWaker {
    slot: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.woken.lock().expect("one thread uses it").push(self.slot);
    }
}

enum Stream {
    None,
    Waiting(ResponseFuture),
    Reading(u16, RecvStream, Vec<u8>),
}

pub struct Http2 {
    pipe: Pipe,
    connection: client::Connection<Pipe, Bytes>,
    sender: SendRequest<Bytes>,
    streams: Vec<Stream>,
    wakers: Vec<Waker>,
    woken: Arc<Mutex<Vec<usize>>>,
    /// The request that all others repeat, unless keys take turns.
    request: Option<(String, Request<()>)>,
}

impl Http2 {
    pub fn new(slots: usize) -> Result<Self, Failure> {
        let pipe = Pipe::default();
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let handshake = pin!(builder.handshake(pipe.clone()));
        let Poll::Ready(made) = handshake.poll(&mut Context::from_waker(Waker::noop())) else {
            return Err("HTTP/2 did not begin".into());
        };
        let (sender, connection) = made?;
        let woken = Arc::<Mutex<Vec<usize>>>::default();
        let wakers = (0..slots).map(|slot| Arc::new(SlotWaker { slot, woken: woken.clone() }).into()).collect();
        let streams = (0..slots).map(|_| Stream::None).collect();
        Ok(Http2 { pipe, connection, sender, streams, wakers, woken, request: None })
    }

    fn request(&mut self, target: &Target, number: u64) -> Result<Request<()>, Failure> {
        let path = target.path(number);
        if let Some((known, request)) = &self.request {
            if *known == path {
                return Ok(request.clone());
            }
        }
        let uri = Uri::builder().scheme("https").authority(target.authority.as_str()).path_and_query(path.as_str());
        let mut request = Request::builder().method(target.method.as_str()).uri(uri.build()?).body(())?;
        let headers = request.headers_mut();
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(target.body.len()));
        if let Some((name, value)) = &target.header {
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        self.request = Some((path, request.clone()));
        Ok(request)
    }

    pub fn send(&mut self, target: &Target, slot: usize, number: u64) -> Result<(), Failure> {
        let request = self.request(target, number)?;
        let (response, mut body) = self.sender.send_request(request, target.body.is_empty())?;
        if !target.body.is_empty() {
            body.send_data(target.body.clone(), true)?;
        }
        self.streams[slot] = Stream::Waiting(response);
        self.read(slot).map_or(Ok(()), |answer| Err(answer.unwrap_or_default().into()))
        // leaves its waker
    }

    pub fn receive(&mut self, plain: &[u8]) {
        self.pipe.buffers().input.extend_from_slice(plain);
    }

    /// Read and write frames.
    pub fn advance(&mut self) -> Result<(), Failure> {
        match Pin::new(&mut self.connection).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Err("the server has closed the connection".into()),
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Pending => Ok(()),
        }
    }

    pub fn has_output(&self) -> bool {
        !self.pipe.buffers().output.is_empty()
    }

    /// Write what waits for the server.
    pub fn write_to(&mut self, writer: &mut impl Write) -> io::Result<()> {
        let mut buffers = self.pipe.buffers();
        if !buffers.output.is_empty() {
            writer.write_all(&buffers.output)?;
            buffers.output.clear();
        }
        Ok(())
    }

    /// Add the requests that were answered.
    pub fn answered(&mut self, answers: &mut Answers) {
        loop {
            let Some(slot) = self.woken.lock().expect("one thread uses it").pop() else { return };
            if let Some(answer) = self.read(slot) {
                answers.push((slot, answer));
            }
        }
    }

    /// Read what has arrived for a slot; return what is wrong with its answer if that is complete.
    fn read(&mut self, slot: usize) -> Option<Option<String>> {
        let mut context = Context::from_waker(&self.wakers[slot]);
        loop {
            match &mut self.streams[slot] {
                Stream::None => return None,
                Stream::Waiting(response) => match Pin::new(response).poll(&mut context) {
                    Poll::Pending => return None,
                    Poll::Ready(Err(error)) => return self.finish(slot, Some(error.to_string())),
                    Poll::Ready(Ok(response)) => {
                        let status = response.status().as_u16();
                        self.streams[slot] = Stream::Reading(status, response.into_body(), Vec::new());
                    }
                },
                Stream::Reading(status, body, text) => match body.poll_data(&mut context) {
                    Poll::Pending => return None,
                    Poll::Ready(Some(Ok(data))) => {
                        let _ = body.flow_control().release_capacity(data.len());
                        text.extend_from_slice(&data);
                    }
                    Poll::Ready(Some(Err(error))) => return self.finish(slot, Some(error.to_string())),
                    Poll::Ready(None) => {
                        let found = problem(*status, text);
                        return self.finish(slot, found);
                    }
                },
            }
        }
    }

    fn finish(&mut self, slot: usize, problem: Option<String>) -> Option<Option<String>> {
        self.streams[slot] = Stream::None;
        Some(problem)
    }
}
