//! Reads and writes the sockets of all connections that have done their handshake, in one callback of asyncio's loop.
//!
//! One epoll instance watches all sockets. The loop watches its descriptor, or waits here itself
//! (`kes_native.selector`). Each turn reads what has arrived, lets the server answer, and sends the answers. The
//! transports of asyncio keep the sockets: they send what a socket does not take at once, and close them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;
use rustix::event::{epoll, Timespec};
use rustix::io::Errno;

use crate::descriptor::Descriptor;
use crate::eagerness::{Eagerness, LONGEST};
use crate::Connection;

/// The connections that one turn serves at most: then the loop has its turn.
const MAX_EVENTS: usize = 256;
/// The bytes that it reads from each at most.
const MAX_READ: usize = 32 * 1024;
/// The longest time to wait at once: the system takes no more than 24 days.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Names the descriptor of the loop's own selector.
const LOOP: u64 = u64::MAX;

struct Client {
    socket: Descriptor,
    connection: Py<Connection>,
    /// Its `kes_native.connection.NativeConnection`.
    handler: Py<PyAny>,
    is_watched: bool,
}

/// Only `wait` waits.
#[pyclass(frozen, unsendable)]
pub struct Poller {
    epoll: OwnedFd,
    clients: RefCell<HashMap<u64, Client>>,
    next: Cell<u64>,
    buffer: RefCell<Vec<u8>>,
    settle: Py<PyAny>,
    eagerness: RefCell<Eagerness>,
    /// The audit records that the last turn wrote.
    records: Cell<usize>,
}

fn os_error(error: Errno) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), error.to_string()))
}

/// Wait for data, at most for `limit`, and list the connections that have some.
fn poll(epoll: BorrowedFd<'_>, limit: Option<Duration>, tokens: &mut Vec<u64>) -> rustix::io::Result<()> {
    let mut events = [MaybeUninit::uninit(); MAX_EVENTS];
    tokens.clear();
    let limit = limit.and_then(|limit| Timespec::try_from(limit.min(MAX_WAIT)).ok());
    let (found, _) = epoll::wait(epoll, &mut events, limit.as_ref())?;
    tokens.extend(found.iter().map(|event| event.data.u64()));
    Ok(())
}

/// Wait as `poll` does, but without sleeping if data is likely to come at once.
fn poll_eagerly(
    epoll: BorrowedFd<'_>,
    limit: Option<Duration>,
    eagerness: &mut Eagerness,
    tokens: &mut Vec<u64>,
) -> rustix::io::Result<()> {
    let begin = Instant::now();
    // If turns serve several connections, to wake the process costs less for each request.
    let was_small = tokens.len() == 1;
    if was_small && eagerness.is_eager() && limit.is_none_or(|limit| limit > LONGEST) {
        while begin.elapsed() < LONGEST {
            poll(epoll, Some(Duration::ZERO), tokens)?;
            if !tokens.is_empty() {
                eagerness.looked(true);
                return Ok(());
            }
        }
        eagerness.looked(false);
        return poll(epoll, limit.map(|limit| limit.saturating_sub(LONGEST)), tokens);
    }
    poll(epoll, limit, tokens)?;
    eagerness.slept(if tokens.is_empty() { Duration::MAX } else { begin.elapsed() });
    Ok(())
}

#[pymethods]
impl Poller {
    /// `settle` is called after the requests of a turn were served, and before any of their answers is sent. It
    /// returns how many audit records it wrote.
    #[new]
    fn new(settle: Py<PyAny>) -> PyResult<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(os_error)?;
        let buffer = RefCell::new(vec![0; MAX_READ]);
        Ok(Poller {
            epoll,
            clients: RefCell::default(),
            next: Cell::new(0),
            buffer,
            settle,
            eagerness: RefCell::default(),
            records: Cell::default(),
        })
    }

    /// The descriptor for the event loop, which is readable when `turn` has something to do.
    fn fileno(&self) -> i32 {
        self.epoll.as_raw_fd()
    }

    /// Serve a connection from now on; return its token. `remove` it before its socket is closed.
    fn add(&self, socket: i32, connection: Py<Connection>, handler: Py<PyAny>) -> PyResult<u64> {
        let socket = Descriptor::new(socket).ok_or_else(|| PyValueError::new_err("the socket is closed"))?;
        let token = self.next.get();
        self.next.set(token + 1);
        socket.watch(self.epoll.as_fd(), token).map_err(os_error)?;
        self.clients.borrow_mut().insert(token, Client { socket, connection, handler, is_watched: true });
        Ok(token)
    }

    /// Read from a connection, or stop reading.
    fn watch(&self, token: u64, wanted: bool) -> PyResult<()> {
        let mut clients = self.clients.borrow_mut();
        let Some(client) = clients.get_mut(&token).filter(|client| client.is_watched != wanted) else { return Ok(()) };
        client.is_watched = wanted;
        let epoll = self.epoll.as_fd();
        let done = if wanted { client.socket.watch(epoll, token) } else { client.socket.unwatch(epoll) };
        done.map_err(os_error)
    }

    /// Forget a connection.
    fn remove(&self, token: u64) {
        let client = self.clients.borrow_mut().remove(&token);
        if let Some(client) = client.filter(|client| client.is_watched) {
            let _ = client.socket.unwatch(self.epoll.as_fd());
        }
    }

    /// Do what the sockets allow.
    fn turn(&self, py: Python<'_>) -> PyResult<()> {
        let mut tokens = Vec::new();
        poll(self.epoll.as_fd(), Some(Duration::ZERO), &mut tokens).map_err(os_error)?;
        self.serve_all(py, &tokens);
        Ok(())
    }

    /// Wait for the loop's own selector too, whose descriptor this is, or no longer.
    fn watch_loop(&self, selector: i32, wanted: bool) -> PyResult<()> {
        let selector = Descriptor::new(selector).ok_or_else(|| PyValueError::new_err("the selector is closed"))?;
        let epoll = self.epoll.as_fd();
        let done = if wanted { selector.watch(epoll, LOOP) } else { selector.unwatch(epoll) };
        done.map_err(os_error)
    }

    /// Serve connections until the loop has something to do itself, or for `timeout` seconds.
    ///
    /// `ready` and `timers` are what the loop has to call. Returns whether its own selector has events.
    fn wait(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        ready: &Bound<'_, PyAny>,
        timers: &Bound<'_, PyList>,
    ) -> PyResult<bool> {
        let limit = timeout.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let first = timers.get_item(0).ok();
        let mut left = limit.filter(|_| deadline.is_some());
        let epoll = self.epoll.as_fd();
        let mut tokens = Vec::new();
        loop {
            let polled = if left.is_some_and(|left| left.is_zero()) {
                poll(epoll, left, &mut tokens)
            } else {
                let mut eagerness = self.eagerness.take();
                let polled = py.detach(|| poll_eagerly(epoll, left, &mut eagerness, &mut tokens));
                self.eagerness.replace(eagerness);
                polled
            };
            match polled {
                Err(Errno::INTR) => py.check_signals()?,
                other => other.map_err(os_error)?,
            }
            let has_events = tokens.contains(&LOOP);
            self.serve_all(py, &tokens);
            if has_events {
                return Ok(true);
            }
            left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // The loop has to call something, or to compute a new timeout.
            let has_work = !ready.is_empty()? || !is_same(first.as_ref(), timers.get_item(0).ok().as_ref());
            if has_work || left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }
}

fn is_same(one: Option<&Bound<'_, PyAny>>, other: Option<&Bound<'_, PyAny>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

impl Poller {
    /// Read from connections, let the server answer, and send the answers.
    fn serve_all(&self, py: Python<'_>, tokens: &[u64]) {
        if tokens.is_empty() {
            return;
        }
        let mut buffer = self.buffer.take();
        buffer.resize(MAX_READ, 0);
        for &token in tokens {
            self.serve(py, token, |client| client.read(py, &mut buffer));
        }
        // An audit record costs less together with others: serve the connections whose requests came meanwhile, too.
        let mut late = Vec::new();
        let has_others = self.clients.borrow().len() > tokens.len();
        if self.records.get() > 1 && has_others && poll(self.epoll.as_fd(), Some(Duration::ZERO), &mut late).is_ok() {
            late.retain(|token| !tokens.contains(token)); // each connection has its turn once
            for &token in &late {
                self.serve(py, token, |client| client.read(py, &mut buffer));
            }
        }
        self.buffer.replace(buffer);
        match self.settle.call0(py).and_then(|records| records.extract(py)) {
            Ok(records) => self.records.set(records),
            Err(error) => error.write_unraisable(py, None),
        }
        for &token in tokens.iter().chain(&late) {
            self.serve(py, token, |client| client.write(py));
        }
    }

    /// Do something for a connection, unless it was removed. An error of one connection does not reach the others.
    fn serve(&self, py: Python<'_>, token: u64, work: impl FnOnce(&Client) -> PyResult<()>) {
        let client = self.clients.borrow().get(&token).map(|client| client.cloned(py));
        let Some(client) = client else { return };
        let done = catch_unwind(AssertUnwindSafe(|| work(&client)))
            .unwrap_or_else(|_| Err(PyRuntimeError::new_err("the native part panicked")));
        if let Err(error) = done {
            let reported = client.handler.bind(py).call_method1(intern!(py, "on_fault"), (error.value(py),));
            if let Err(error) = reported {
                error.write_unraisable(py, None);
                self.remove(token);
            }
        }
    }
}

impl Client {
    fn cloned(&self, py: Python<'_>) -> Client {
        let (connection, handler) = (self.connection.clone_ref(py), self.handler.clone_ref(py));
        Client { socket: self.socket, connection, handler, is_watched: self.is_watched }
    }

    fn tell(&self, py: Python<'_>, what: &Bound<'_, pyo3::types::PyString>) -> PyResult<()> {
        self.handler.bind(py).call_method0(what).map(|_| ())
    }

    /// Read from the socket, and serve the requests that are complete.
    fn read(&self, py: Python<'_>, buffer: &mut [u8]) -> PyResult<()> {
        match self.socket.receive(buffer) {
            Ok(None) => Ok(()),
            Ok(Some(0)) => self.tell(py, intern!(py, "on_eof")),
            Ok(Some(size)) => self.connection.try_borrow_mut(py)?.receive_records(py, &mut buffer[..size]),
            Err(_) => self.tell(py, intern!(py, "abort")),
        }
    }

    /// Send what waits for the client.
    fn write(&self, py: Python<'_>) -> PyResult<()> {
        let mut connection = self.connection.try_borrow_mut(py)?;
        let mut is_lost = false;
        if !connection.has_backlog {
            is_lost = connection.send_to(&self.socket).is_err();
        }
        let has_rest = !connection.tls.output.is_empty();
        let is_calm = connection.is_calm();
        let was_calm = connection.status.calm.replace(is_calm);
        drop(connection);
        if is_lost {
            return self.tell(py, intern!(py, "abort"));
        }
        if has_rest || !is_calm || !was_calm {
            return self.tell(py, intern!(py, "on_changed"));
        }
        Ok(())
    }
}
