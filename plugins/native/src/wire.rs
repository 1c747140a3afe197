//! What the HTTP protocols and the application exchange.

use bytes::Bytes;

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

/// The limits and rules that the core sets (`kes_native.runtime`).
#[derive(Clone)]
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
