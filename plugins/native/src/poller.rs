//! Reads and writes the sockets of all connections that have done their handshake, in one callback of asyncio's loop.
//!
//! The loop watches one descriptor, that of an epoll instance, instead of all sockets. Each turn reads what has arrived,
//! lets the server answer, and sends the answers. The transports of asyncio keep the sockets: they send what a socket
//! does not take at once, and close them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use rustix::buffer::spare_capacity;
use rustix::event::{epoll, Timespec};
use rustix::io::Errno;

use crate::socket::Socket;
use crate::Connection;

/// The connections that one turn serves at most: then the loop has its turn.
const MAX_EVENTS: usize = 256;
/// The bytes that it reads from each at most.
const MAX_READ: usize = 32 * 1024;

struct Client {
    socket: Socket,
    connection: Py<Connection>,
    /// Its `kes_native.connection.NativeConnection`.
    handler: Py<PyAny>,
    is_watched: bool,
}

/// All methods return at once.
#[pyclass(frozen, unsendable)]
pub struct Poller {
    epoll: OwnedFd,
    clients: RefCell<HashMap<u64, Client>>,
    next: Cell<u64>,
    buffer: RefCell<Vec<u8>>,
    settle: Py<PyAny>,
}

fn os_error(error: Errno) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), error.to_string()))
}

#[pymethods]
impl Poller {
    /// `settle` is called after the requests of a turn were served, and before any of their answers is sent.
    #[new]
    fn new(settle: Py<PyAny>) -> PyResult<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(os_error)?;
        let buffer = RefCell::new(vec![0; MAX_READ]);
        Ok(Poller { epoll, clients: RefCell::default(), next: Cell::new(0), buffer, settle })
    }

    /// The descriptor for the event loop, which is readable when `turn` has something to do.
    fn fileno(&self) -> i32 {
        self.epoll.as_raw_fd()
    }

    /// Serve a connection from now on; return its token. `remove` it before its socket is closed.
    fn add(&self, socket: i32, connection: Py<Connection>, handler: Py<PyAny>) -> PyResult<u64> {
        let socket = Socket::new(socket).ok_or_else(|| PyValueError::new_err("the socket is closed"))?;
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
        let mut events = Vec::with_capacity(MAX_EVENTS);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&at_once)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(os_error(error)),
        }
        let tokens: Vec<u64> = events.iter().map(|event: &epoll::Event| event.data.u64()).collect();
        let mut buffer = self.buffer.take();
        buffer.resize(MAX_READ, 0);
        for &token in &tokens {
            self.serve(py, token, |client| client.read(py, &mut buffer));
        }
        self.buffer.replace(buffer);
        if let Err(error) = self.settle.call0(py) {
            error.write_unraisable(py, None);
        }
        for &token in &tokens {
            self.serve(py, token, |client| client.write(py));
        }
        Ok(())
    }
}

impl Poller {
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
            Ok(Some(size)) => self.connection.try_borrow_mut(py)?.receive(py, &buffer[..size]),
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
        let was_calm = connection.calm.replace(is_calm);
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
