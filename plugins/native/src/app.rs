//! What the HTTP protocols need of Python: calls for requests, and how an answer comes back.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::wire::{Answer, Headers, Request, Rules};

/// The rules of all connections of a runtime.
#[pyclass(frozen, name = "Rules")]
pub struct SharedRules(pub Arc<Rules>);

#[pymethods]
impl SharedRules {
    #[new]
    #[pyo3(signature = (*, whole, small_body, max_head, max_read_ahead, max_unread_body, max_discarded, max_streams,
                        max_pending_resets, max_per_turn))]
    #[allow(clippy::too_many_arguments)] // by name, from Python
    fn new(
        whole: Vec<Vec<u8>>,
        small_body: usize,
        max_head: usize,
        max_read_ahead: usize,
        max_unread_body: usize,
        max_discarded: usize,
        max_streams: u32,
        max_pending_resets: usize,
        max_per_turn: usize,
    ) -> Self {
        SharedRules(Arc::new(Rules {
            whole,
            small_body,
            max_head,
            max_read_ahead,
            max_unread_body,
            max_discarded,
            max_streams,
            max_pending_resets,
            max_per_turn,
        }))
    }
}

/// What Python has to know of a connection.
#[derive(Default)]
pub struct Status {
    /// Whether Python knows that no request is running and that nothing else is to be done.
    pub calm: Cell<bool>,
    /// Whether a request was answered since `take_answered`.
    pub answered: Cell<bool>,
    /// The bytes of incomplete bodies that Python counts as held here.
    pub counted: Cell<usize>,
}

/// The Python side of a connection (`kes_native.connection.NativeConnection`), while Python calls this module.
pub struct App<'a, 'py> {
    py: Python<'py>,
    handler: &'a Py<PyAny>,
    /// The requests that may still be passed on before other connections have their turn.
    left: Cell<usize>,
    status: &'a Status,
}

impl<'a, 'py> App<'a, 'py> {
    /// Begin a turn of a connection. In `status`, `calm` becomes false if a request is running then, and `answered` true
    /// if one was answered the shortest way.
    pub fn new(py: Python<'py>, handler: &'a Py<PyAny>, rules: &Rules, status: &'a Status) -> Self {
        App { py, handler, left: Cell::new(rules.max_per_turn), status }
    }

    /// Count `size` bytes of incomplete bodies as held here; return whether there is memory for them.
    pub fn hold(&self, size: usize) -> PyResult<bool> {
        if size == self.status.counted.get() {
            return Ok(true);
        }
        let held = self.handler.bind(self.py).call_method1(intern!(self.py, "on_held"), (size,))?.extract()?;
        self.status.counted.set(if held { size } else { 0 });
        Ok(held)
    }

    /// Whether later requests have to wait for the connection's next turn: a client may send hundreds in one piece.
    pub fn turn_is_over(&self) -> bool {
        self.left.get() == 0
    }

    fn count(&self) {
        self.left.set(self.left.get().saturating_sub(1));
    }

    /// Try the shortest way for a request with its whole body; return whether it was taken, and its answer if there is
    /// one at once.
    pub fn direct(&self, stream: u32, method: &[u8], target: &[u8], body: &[u8]) -> PyResult<(bool, Option<Answer>)> {
        let py = self.py;
        let method = match method {
            b"PUT" => intern!(py, "PUT"),
            b"POST" => intern!(py, "POST"),
            _ => return Ok((false, None)),
        };
        let arguments = (stream, method, PyBytes::new(py, target), PyBytes::new(py, body));
        let answer = self.handler.bind(py).call_method1(intern!(py, "on_frequent"), arguments)?;
        if let Ok(body) = answer.cast::<PyBytes>() {
            self.count();
            self.status.answered.set(true);
            return Ok((true, Some(Answer::Json(Bytes::copy_from_slice(body.as_bytes())))));
        }
        if let Ok(answer) = answer.cast::<PyTuple>() {
            self.count();
            self.status.answered.set(true);
            return Ok((true, Some(read_answer(answer)?)));
        }
        let is_taken = answer.is_none();
        if is_taken {
            self.count();
            self.status.calm.set(false);
        }
        Ok((is_taken, None))
    }

    /// Pass a request on; return its answer if there is one at once.
    pub fn request(&self, request: &Request<'_>) -> PyResult<Option<Answer>> {
        let py = self.py;
        self.hold(0)?; // Python counts this body now, and the others again at the end of the turn
        self.count();
        self.status.calm.set(false);
        let headers = PyList::empty(py);
        for (name, value) in request.headers {
            headers.append((PyBytes::new(py, name), PyBytes::new(py, value)))?;
        }
        let answer = self.handler.bind(py).call_method1(
            intern!(py, "on_request"),
            (
                request.stream,
                PyBytes::new(py, request.method),
                PyBytes::new(py, request.target),
                headers,
                PyBytes::new(py, request.body),
                request.ended,
            ),
        )?;
        if answer.is_none() {
            return Ok(None);
        }
        Ok(Some(read_answer(answer.cast::<PyTuple>()?)?))
    }

    /// Pass on a part of a body; return whether the request keeps it.
    pub fn data(&self, stream: u32, data: &[u8]) -> PyResult<bool> {
        let data = PyBytes::new(self.py, data);
        let kept = self.handler.bind(self.py).call_method1(intern!(self.py, "on_data"), (stream, data))?;
        kept.extract()
    }

    /// Report that a body is complete.
    pub fn end(&self, stream: u32) -> PyResult<()> {
        self.handler.bind(self.py).call_method1(intern!(self.py, "on_end"), (stream,))?;
        Ok(())
    }

    /// Report that the rest of a body is malformed.
    pub fn malformed(&self, stream: u32) -> PyResult<()> {
        self.handler.bind(self.py).call_method1(intern!(self.py, "on_malformed"), (stream,))?;
        Ok(())
    }

    /// Report that the client has given up a request.
    pub fn reset(&self, stream: u32) -> PyResult<()> {
        self.handler.bind(self.py).call_method1(intern!(self.py, "on_reset"), (stream,))?;
        Ok(())
    }
}

fn read_answer(answer: &Bound<'_, PyTuple>) -> PyResult<Answer> {
    let body = Bytes::copy_from_slice(answer.get_item(2)?.cast::<PyBytes>()?.as_bytes());
    Ok(Answer::Other(answer.get_item(0)?.extract()?, read_headers(&answer.get_item(1)?)?, body))
}

/// Read a list of names and values.
pub fn read_headers(list: &Bound<'_, PyAny>) -> PyResult<Headers> {
    let list = list.cast::<PyList>()?;
    let mut headers = Headers::with_capacity(list.len() + 1);
    for item in list.iter() {
        let item = item.cast_into::<PyTuple>()?;
        let name = item.get_item(0)?.cast::<PyBytes>()?.as_bytes().to_vec();
        let value = item.get_item(1)?.cast::<PyBytes>()?.as_bytes().to_vec();
        headers.push((name, value));
    }
    Ok(headers)
}
