//! In place of `app.rs` of kes-native: an application that records its requests and answers each complete one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::PyResult;

use crate::wire::{Answer, Headers, Request, Rules};

/// A request that reached the application.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// Its body is complete.
    pub ended: bool,
    /// The rest of its body is malformed.
    pub malformed: bool,
    /// The client has given it up.
    pub reset: bool,
}

#[derive(Default)]
pub struct State {
    pub seen: Vec<Seen>,
    /// The place in `seen` of each request that is running.
    pub running: BTreeMap<u32, usize>,
    /// The streams whose request can be answered.
    pub ready: Vec<u32>,
    /// The bytes of bodies that were kept and not yet taken, by stream.
    pub kept: BTreeMap<u32, usize>,
}

pub struct App<'a, 'py> {
    state: &'a RefCell<State>,
    left: Cell<usize>,
    python: PhantomData<&'py ()>,
}

impl<'a> App<'a, '_> {
    pub fn new(state: &'a RefCell<State>, rules: &Rules) -> Self {
        App { state, left: Cell::new(rules.max_per_turn), python: PhantomData }
    }

    pub fn turn_is_over(&self) -> bool {
        self.left.get() == 0
    }

    /// No request is like one before it.
    pub fn direct(&self, _: u32, _: &[u8], _: &[u8], _: &[u8]) -> PyResult<(bool, Option<Answer>)> {
        Ok((false, None))
    }

    pub fn request(&self, request: &Request<'_>) -> PyResult<Option<Answer>> {
        assert!(!self.turn_is_over() || request.ended || !request.body.is_empty());
        self.left.set(self.left.get().saturating_sub(1));
        let mut state = self.state.borrow_mut();
        let place = state.seen.len();
        let before = state.running.insert(request.stream, place);
        assert!(before.is_none(), "a second request on a stream");
        state.seen.push(Seen {
            method: request.method.to_vec(),
            target: request.target.to_vec(),
            headers: request.headers.clone(),
            body: request.body.to_vec(),
            ended: request.ended,
            ..Seen::default()
        });
        if request.ended && request.target.starts_with(b"/whole") {
            state.running.remove(&request.stream);
            return Ok(Some(answer()));
        }
        state.kept.insert(request.stream, request.body.len());
        if request.ended {
            state.ready.push(request.stream);
        }
        Ok(None)
    }

    fn change(&self, stream: u32, change: impl FnOnce(&mut Seen)) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(place) = state.running.get(&stream).copied() else { return false };
        assert!(!state.seen[place].ended && !state.seen[place].malformed, "something follows the end of a body");
        change(&mut state.seen[place]);
        true
    }

    pub fn data(&self, stream: u32, data: &[u8]) -> PyResult<bool> {
        let kept = self.change(stream, |seen| seen.body.extend_from_slice(data));
        if kept {
            *self.state.borrow_mut().kept.entry(stream).or_default() += data.len();
        }
        Ok(kept)
    }

    pub fn end(&self, stream: u32) -> PyResult<()> {
        if self.change(stream, |seen| seen.ended = true) {
            self.state.borrow_mut().ready.push(stream);
        }
        Ok(())
    }

    pub fn malformed(&self, stream: u32) -> PyResult<()> {
        if self.change(stream, |seen| seen.malformed = true) {
            self.state.borrow_mut().ready.push(stream);
        }
        Ok(())
    }

    pub fn reset(&self, stream: u32) -> PyResult<()> {
        let mut state = self.state.borrow_mut();
        if let Some(place) = state.running.remove(&stream) {
            state.seen[place].reset = true;
        }
        state.ready.retain(|&other| other != stream);
        Ok(())
    }
}

pub fn answer() -> Answer {
    let headers = vec![(b"content-length".to_vec(), b"2".to_vec())];
    Answer::Other(200, headers, Bytes::from_static(b"ok"))
}

/// Rules like those of the server, only smaller, so that short inputs reach the limits.
pub fn rules() -> Arc<Rules> {
    Arc::new(Rules {
        whole: vec![b"/whole".to_vec()],
        small_body: 64,
        max_head: 1024,
        max_read_ahead: 512,
        max_unread_body: 256,
        max_discarded: 512,
        max_streams: 8,
        max_pending_resets: 16,
        max_per_turn: 3,
    })
}
