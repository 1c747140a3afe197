//! What the HTTP protocols need of Python: calls for requests, and how an answer comes back.

use std::cell::Cell;

use bytes::Bytes;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

/// Names and values of headers, names in lower case.
pub type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// A whole response.
pub enum Answer {
    /// Status 200 with a body in JSON, the most frequent one.
    Json(Bytes),
    Other(u16, Headers, Bytes),
}

/// A request, with its whole body or the first part of it.
pub struct Request<'a> {
    pub stream: u32,
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub headers: &'a Headers,
    pub body: &'a [u8],
    pub ended: bool,
}

/// The Python side of a connection (`kes_native.connection.NativeConnection`), while Python calls this module.
pub struct App<'a, 'py> {
    py: Python<'py>,
    handler: &'a Py<PyAny>,
    /// The requests that may still be passed on before other connections have their turn.
    left: Cell<usize>,
    calm: &'a Cell<bool>,
    answered: &'a Cell<bool>,
}

impl<'a, 'py> App<'a, 'py> {
    /// Begin a turn of a connection. `calm` becomes false if a request is running then, and `answered` true if one was
    /// answered the shortest way.
    pub fn new(
        py: Python<'py>,
        handler: &'a Py<PyAny>,
        rules: &Rules,
        calm: &'a Cell<bool>,
        answered: &'a Cell<bool>,
    ) -> Self {
        App { py, handler, left: Cell::new(rules.max_per_turn), calm, answered }
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
            self.answered.set(true);
            return Ok((true, Some(Answer::Json(Bytes::copy_from_slice(body.as_bytes())))));
        }
        if let Ok(answer) = answer.cast::<PyTuple>() {
            self.count();
            self.answered.set(true);
            return Ok((true, Some(read_answer(answer)?)));
        }
        let is_taken = answer.is_none();
        if is_taken {
            self.count();
            self.calm.set(false);
        }
        Ok((is_taken, None))
    }

    /// Pass a request on; return its answer if there is one at once.
    pub fn request(&self, request: &Request<'_>) -> PyResult<Option<Answer>> {
        let py = self.py;
        self.count();
        self.calm.set(false);
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

/// The limits and rules that the core sets (`kes_native.runtime`).
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub struct Rules {
    /// Beginnings of the paths of requests that are passed on with their whole body, if it is small.
    pub whole: Vec<Vec<u8>>,
    pub small_body: usize,
    pub max_head: usize,
    pub max_read_ahead: usize,
    pub max_unread_body: usize,
    pub max_discarded: usize,
    pub max_streams: u32,
    pub max_pending_resets: usize,
    /// The requests that are passed on before other connections have their turn.
    pub max_per_turn: usize,
}

impl Rules {
    /// Whether a request is passed on with its whole body.
    pub fn is_whole(&self, target: &[u8]) -> bool {
        self.whole.iter().any(|beginning| target.starts_with(beginning))
    }
}
