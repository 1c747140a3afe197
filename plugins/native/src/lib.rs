//! TLS and HTTP of the KES server. Python moves the bytes between sockets and this module, on its event loop.

mod app;
mod appender;
mod date;
mod descriptor;
mod eagerness;
mod http1;
mod http2;
mod pipe;
mod poller;
mod tls;
mod verifier;
mod wire;

use std::sync::Arc;

use bytes::BytesMut;
use h2::Reason;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::app::{read_headers, App, SharedRules, Status};
use crate::appender::Appender;
use crate::descriptor::Descriptor;
use crate::http1::Http1;
use crate::http2::Http2;
use crate::poller::Poller;
use crate::tls::Tls;
use crate::verifier::Config;
use crate::wire::{Answer, Rules};

enum Http {
    None,
    One(Box<Http1>),
    Two(Box<Http2>),
}

impl Http {
    /// Pass requests on that wait for their whole body.
    fn pass_on(&mut self, app: &App<'_, '_>) -> PyResult<()> {
        match self {
            Http::One(http) if http.holds() => http.pass_on(app),
            Http::Two(http) if http.holds() => {
                http.pass_on(app)?;
                http.advance(app)
            }
            _ => Ok(()),
        }
    }
}

/// The server's side of a connection. All methods return at once; `take_output` has what is to be sent.
#[pyclass(unsendable)]
struct Connection {
    tls: Tls,
    http: Http,
    rules: Arc<Rules>,
    handler: Py<PyAny>,
    status: Status,
    /// Whether the transport has bytes that wait for the client: others must not overtake them.
    #[pyo3(get, set)]
    has_backlog: bool,
}

impl Connection {
    /// Send what the socket takes at once.
    fn send_to(&mut self, socket: &Descriptor) -> rustix::io::Result<()> {
        if self.tls.output.is_empty() {
            return Ok(());
        }
        let size = socket.send(&self.tls.output)?;
        self.tls.drop_output(size);
        Ok(())
    }

    /// Whether no request is running and nothing else is to be done.
    fn is_calm(&self) -> bool {
        let http_is = match &self.http {
            Http::None => false,
            Http::One(http) => http.is_idle() && !http.has_partial_request() && !http.has_more && !http.closed,
            Http::Two(http) => http.is_idle() && !http.has_more && http.waiting.is_empty() && !http.is_closed(),
        };
        http_is && self.tls.failure.is_empty() && !self.tls.ended && !self.has_backlog
    }

    /// Encrypt what HTTP has to send.
    fn encrypt(&mut self) {
        match &mut self.http {
            Http::None => {}
            Http::One(http) => {
                if !http.output.is_empty() {
                    self.tls.send(&http.output);
                    http.output.clear();
                }
            }
            Http::Two(http) => {
                let output = std::mem::take(&mut http.pipe.0.borrow_mut().output);
                if !output.is_empty() {
                    self.tls.send(&output);
                }
            }
        }
    }

    /// Encrypt what HTTP has to send, and count what it holds. If there is no memory for that, the server refuses it.
    fn finish_turn(&mut self, py: Python<'_>) -> PyResult<()> {
        let held = match &self.http {
            Http::None => 0,
            Http::One(http) => http.held_size(),
            Http::Two(http) => http.held_size,
        };
        let app = App::new(py, &self.handler, &self.rules, &self.status);
        if !app.hold(held)? {
            self.http.pass_on(&app)?;
        }
        self.encrypt();
        Ok(())
    }

    /// Receive encrypted bytes, which are decrypted in their place.
    fn receive_records(&mut self, py: Python<'_>, data: &mut [u8]) -> PyResult<()> {
        let mut plain = BytesMut::new();
        let was_established = self.tls.is_established();
        self.tls.receive(data, &mut plain);
        if !was_established && self.tls.is_established() && self.tls.failure.is_empty() {
            let certificates: Vec<_> = self.tls.certificates().iter().map(|item| PyBytes::new(py, item)).collect();
            self.handler.bind(py).call_method1("on_established", (certificates, self.tls.is_http2()))?;
            self.http = if self.tls.is_http2() {
                Http::Two(Box::new(Http2::new(self.rules.clone())))
            } else {
                Http::One(Box::new(Http1::new(self.rules.clone())))
            };
            self.receive_plain(py, &[])?; // HTTP/2 begins with the server's settings
        }
        if !plain.is_empty() {
            self.receive_plain(py, &plain)?;
        }
        Ok(())
    }

    fn receive_plain(&mut self, py: Python<'_>, plain: &[u8]) -> PyResult<()> {
        let app = App::new(py, &self.handler, &self.rules, &self.status);
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.receive(&app, plain)?,
            Http::Two(http) => {
                http.pipe.0.borrow_mut().input.extend_from_slice(plain);
                http.advance(&app)?;
            }
        }
        self.finish_turn(py)
    }
}

#[pymethods]
impl Connection {
    #[new]
    fn new(config: &Config, handler: Py<PyAny>, rules: &Bound<'_, SharedRules>) -> Self {
        let (tls, http) = (Tls::new(config.0.clone()), Http::None);
        Connection { tls, http, rules: rules.get().0.clone(), handler, status: Status::default(), has_backlog: false }
    }

    /// Receive bytes of the handshake or of requests.
    fn receive(&mut self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        self.receive_records(py, &mut data.to_vec())
    }

    /// Record that the client sends no more data.
    fn receive_end(&mut self, py: Python<'_>) -> PyResult<()> {
        let app = App::new(py, &self.handler, &self.rules, &self.status);
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.receive_end(&app)?,
            Http::Two(http) => {
                http.pipe.0.borrow_mut().eof = true;
                http.advance(&app)?;
            }
        }
        self.finish_turn(py)
    }

    /// Return the bytes for the client, or None.
    fn take_output<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        if self.tls.output.is_empty() {
            return None;
        }
        let output = PyBytes::new(py, &self.tls.output);
        self.tls.drop_output(output.as_bytes().len());
        Some(output)
    }

    /// Return whether a request was answered since the last call.
    fn take_answered(&self) -> bool {
        self.status.answered.take()
    }

    #[getter]
    fn established(&self) -> bool {
        self.tls.is_established()
    }

    #[getter]
    fn failure(&self) -> &str {
        &self.tls.failure
    }

    #[getter]
    fn is_http2(&self) -> bool {
        self.tls.is_http2()
    }

    /// Whether the client has ended its side of the TLS session.
    #[getter]
    fn ended(&self) -> bool {
        self.tls.ended
    }

    /// Whether HTTP has ended the connection: what is to be sent is the last.
    #[getter]
    fn finished(&self) -> bool {
        match &self.http {
            Http::None => false,
            Http::One(http) => http.closed,
            Http::Two(http) => http.is_closed(),
        }
    }

    #[getter]
    fn idle(&self) -> bool {
        match &self.http {
            Http::None => true,
            Http::One(http) => http.is_idle(),
            Http::Two(http) => http.is_idle(),
        }
    }

    #[getter]
    fn has_partial_request(&self) -> bool {
        matches!(&self.http, Http::One(http) if http.has_partial_request())
    }

    /// Whether no more data should be read from the client for now.
    #[getter]
    fn full(&self) -> bool {
        matches!(&self.http, Http::One(http) if http.is_full())
    }

    /// Whether requests wait for their whole body.
    #[getter]
    fn holds(&self) -> bool {
        match &self.http {
            Http::None => false,
            Http::One(http) => http.holds(),
            Http::Two(http) => http.holds(),
        }
    }

    /// Whether requests wait for the next turn, or `take_waiting` returns something: call `advance` then.
    #[getter]
    fn has_more(&self) -> bool {
        match &self.http {
            Http::None => false,
            Http::One(http) => http.has_more,
            Http::Two(http) => http.has_more || !http.waiting.is_empty(),
        }
    }

    /// Return the streams whose answer came at once and waits for the client's window, each of them once.
    fn take_waiting(&mut self) -> Vec<u32> {
        match &mut self.http {
            Http::Two(http) => std::mem::take(&mut http.waiting),
            _ => Vec::new(),
        }
    }

    /// Pass requests on that wait for their whole body.
    fn pass_on(&mut self, py: Python<'_>) -> PyResult<()> {
        self.http.pass_on(&App::new(py, &self.handler, &self.rules, &self.status))?;
        self.finish_turn(py)
    }

    /// Go on after the methods below: send what they wrote, and read the next request.
    fn advance(&mut self, py: Python<'_>) -> PyResult<()> {
        let app = App::new(py, &self.handler, &self.rules, &self.status);
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.advance(&app)?,
            Http::Two(http) => http.advance(&app)?,
        }
        self.finish_turn(py)
    }

    /// Write a whole response.
    fn respond(&mut self, stream: u32, status: u16, headers: &Bound<'_, PyAny>, body: &[u8]) -> PyResult<()> {
        let answer = Answer::Other(status, read_headers(headers)?, body.to_vec().into());
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.respond(&answer),
            Http::Two(http) => http.respond(stream, answer),
        }
        Ok(())
    }

    /// Begin a response that is written in parts.
    fn start_response(&mut self, stream: u32, status: u16, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let headers = read_headers(headers)?;
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.start_response(status, headers),
            Http::Two(http) => http.start_response(stream, status, headers, false),
        }
        Ok(())
    }

    /// Write a part of a response.
    fn send_part(&mut self, stream: u32, data: &[u8], more: bool) {
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.send_part(data, more),
            Http::Two(http) => http.send_part(stream, data, more),
        }
    }

    /// The number of bytes of a response that wait for the client's window.
    fn unsent(&self, stream: u32) -> usize {
        match &self.http {
            Http::Two(http) => http.unsent(stream),
            _ => 0,
        }
    }

    /// Abort a response of which a part was sent. `cancelled`: because the client does not read it.
    fn abort_response(&mut self, stream: u32, cancelled: bool) {
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.closed = true,
            Http::Two(http) => http.abort(stream, if cancelled { Reason::CANCEL } else { Reason::INTERNAL_ERROR }),
        }
    }

    /// Let the client send a body.
    fn request_body(&mut self) {
        if let Http::One(http) = &mut self.http {
            http.send_continue();
        }
    }

    /// Record that the application has read a part of a body.
    fn body_consumed(&mut self, stream: u32, size: usize) {
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.consumed(size),
            Http::Two(http) => http.consumed(stream, size),
        }
    }

    /// Accept no more requests; running ones are finished.
    fn stop(&mut self, py: Python<'_>) -> PyResult<()> {
        match &mut self.http {
            Http::None => {}
            Http::One(http) => http.stopping = true,
            Http::Two(http) => http.stop(),
        }
        self.advance(py)
    }

    /// Say that no more data follows.
    fn close(&mut self) {
        self.encrypt();
        self.tls.close();
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(verifier::is_ed25519_signature, module)?)?;
    module.add_class::<Appender>()?;
    module.add_class::<Config>()?;
    module.add_class::<Poller>()?;
    module.add_class::<SharedRules>()?;
    module.add_class::<Connection>()
}
