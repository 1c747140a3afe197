//! Properties of what reads a client's bytes. Each function takes any bytes and panics if a property does not hold.

#![allow(dead_code)] // the sources of kes-native have more than is used here

mod app;
mod conversation;
#[path = "../../src/date.rs"]
mod date;
#[path = "../../src/eagerness.rs"]
pub mod eagerness;
#[path = "../../src/http1.rs"]
mod http1;
#[path = "../../src/http2.rs"]
mod http2;
#[path = "../../src/pipe.rs"]
mod pipe;
#[path = "../../src/tls.rs"]
mod tls;
#[path = "../../src/wire.rs"]
mod wire;

use std::cell::RefCell;

use bytes::BytesMut;

use crate::app::{answer, rules, App, Seen, State};
use crate::conversation::{receive, Conversation, Peers};
use crate::http1::Http1;
use crate::http2::Http2;
use crate::tls::Tls;
use crate::wire::Rules;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// More steps than any input needs: beyond that, a connection has got stuck.
const MAX_STEPS: usize = 100_000;

/// More messages say nothing new.
const MAX_MESSAGES: usize = 16;

/// What a conversation over HTTP/1.1 comes to.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub seen: Vec<Seen>,
    pub output: Vec<u8>,
    pub closed: bool,
}

/// Send `pieces` over HTTP/1.1, and let the application answer each complete request at once.
pub fn talk_http1(pieces: &[&[u8]]) -> Outcome {
    let (rules, state) = (rules(), RefCell::new(State::default()));
    let mut http = Http1::new(rules.clone());
    for piece in pieces {
        let Ok(()) = http.receive(&App::new(&state, &rules), piece);
        settle_http1(&mut http, &rules, &state);
    }
    let output = without_dates(&http.output);
    Outcome { seen: state.into_inner().seen, output, closed: http.closed }
}

/// Do what does not wait for the client.
fn settle_http1(http: &mut Http1, rules: &Rules, state: &RefCell<State>) {
    for _ in 0..MAX_STEPS {
        let mut moved = false;
        if let Some(size) = state.borrow_mut().kept.remove(&1) {
            http.consumed(size);
            moved = size > 0;
        }
        let ready = state.borrow_mut().ready.pop();
        if let Some(stream) = ready {
            state.borrow_mut().running.remove(&stream);
            http.respond(&answer());
            moved = true;
        }
        if !moved && !http.has_more {
            return;
        }
        let Ok(()) = http.advance(&App::new(state, rules));
    }
    panic!("the connection does not get on");
}

/// Return the output with an `x` for each date: a second may begin between two runs.
fn without_dates(output: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = output.split_inclusive(|&byte| byte == b'\n').collect();
    for line in &mut lines {
        if line.starts_with(b"date: ") {
            *line = b"date: x\r\n";
        }
    }
    lines.concat()
}

/// Cut `data` into pieces: its first byte tells how long they are.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let Some((&first, rest)) = data.split_first() else { return Vec::new() };
    rest.chunks(usize::from(first).max(1)).collect()
}

/// HTTP/1.1: no input breaks the server, only clear requests get through, and each means the same in any pieces.
pub fn check_http1(data: &[u8]) {
    let pieces = pieces(data);
    let whole: Vec<u8> = pieces.concat();
    let outcome = talk_http1(&pieces);
    check_requests_http1(&outcome, &whole);
    if whole.len() <= rules().max_read_ahead {
        assert_eq!(talk_http1(&[&whole]), outcome, "the pieces matter");
    }
}

fn check_requests_http1(outcome: &Outcome, input: &[u8]) {
    let bodies: usize = outcome.seen.iter().map(|seen| seen.body.len()).sum();
    assert!(bodies <= input.len(), "a body has more bytes than the client sent");
    for (place, seen) in outcome.seen.iter().enumerate() {
        assert!(!seen.method.is_empty() && seen.method.iter().all(|byte| is_token(*byte)));
        assert!(!seen.target.is_empty() && seen.target.iter().all(u8::is_ascii_graphic));
        for (name, value) in &seen.headers {
            assert!(!name.is_empty() && name.iter().all(|byte| is_token(*byte) && !byte.is_ascii_uppercase()));
            assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
        }
        let values = |wanted: &[u8]| seen.headers.iter().filter(move |(name, _)| name == wanted).count();
        assert!(values(b"host") <= 1);
        assert!(values(b"content-length") == 0 || values(b"transfer-encoding") == 0);
        let is_last = place + 1 == outcome.seen.len();
        assert!(is_last || (seen.ended && !seen.malformed), "a request follows one that has no clear end");
        if let (true, Some(length)) = (seen.ended, declared_length(seen)) {
            assert_eq!(seen.body.len(), length, "a body has another length than declared");
        }
    }
    let answers = outcome.output.windows(9).filter(|part| *part == b"HTTP/1.1 ").count();
    let continues = outcome.output.windows(12).filter(|part| *part == b"HTTP/1.1 100").count();
    assert!(answers - continues <= outcome.seen.len() + 1, "more answers than requests and one refusal");
}

fn declared_length(seen: &Seen) -> Option<usize> {
    let (_, value) = seen.headers.iter().find(|(name, _)| name == b"content-length")?;
    let first = value.split(|&byte| byte == b',').next()?;
    std::str::from_utf8(first.trim_ascii()).ok()?.parse().ok()
}

/// Whether a byte may be in a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Send `pieces` over HTTP/2 after the preface; return what the application has seen.
pub fn talk_http2(pieces: &[&[u8]]) -> Vec<Seen> {
    let (rules, state) = (rules(), RefCell::new(State::default()));
    let mut http = Http2::new(rules.clone());
    for piece in [PREFACE].iter().chain(pieces) {
        if http.is_closed() {
            break;
        }
        http.pipe.0.borrow_mut().input.extend_from_slice(piece);
        let Ok(()) = http.advance(&App::new(&state, &rules));
        settle_http2(&mut http, &rules, &state);
        let running = state.borrow().running.len();
        assert!(running <= rules.max_streams as usize, "more requests at once than allowed");
    }
    http.pipe.0.borrow_mut().eof = true;
    let Ok(()) = http.advance(&App::new(&state, &rules));
    assert!(http.is_closed() || http.has_more);
    state.into_inner().seen
}

fn settle_http2(http: &mut Http2, rules: &Rules, state: &RefCell<State>) {
    for _ in 0..MAX_STEPS {
        let kept = std::mem::take(&mut state.borrow_mut().kept);
        let mut moved = kept.values().any(|size| *size > 0);
        for (stream, size) in kept {
            http.consumed(stream, size);
        }
        let ready = std::mem::take(&mut state.borrow_mut().ready);
        for stream in ready {
            state.borrow_mut().running.remove(&stream);
            http.respond(stream, answer());
            moved = true;
        }
        if !moved && !http.has_more {
            return;
        }
        let Ok(()) = http.advance(&App::new(state, rules));
    }
    panic!("the connection does not get on");
}

/// HTTP/2: no input breaks the server, and only clear requests get through.
pub fn check_http2(data: &[u8]) {
    for seen in talk_http2(&pieces(data)) {
        check_request_http2(&seen);
    }
}

fn check_request_http2(seen: &Seen) {
    assert!(!seen.method.is_empty() && seen.method.iter().all(|byte| is_token(*byte)));
    assert!(!seen.target.iter().any(|byte| byte.is_ascii_control() || b" #".contains(byte)));
    for (name, value) in &seen.headers {
        assert!(!name.is_empty() && name.iter().all(|byte| is_token(*byte) && !byte.is_ascii_uppercase()));
        assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
        assert!(![&b"connection"[..], b"transfer-encoding", b"keep-alive", b"upgrade"].contains(&&name[..]));
    }
}

/// TLS: no input breaks the server, and only what a client has encrypted gets through.
///
/// The first byte says whether the rest comes instead of a client, or says how one talks.
pub fn check_tls(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    PEERS.with(|peers| if kind % 4 == 0 { check_any_tls(peers, rest) } else { check_talk(peers, kind, rest) });
}

thread_local! {
    static PEERS: Peers = Peers::new();
}

/// Send any bytes: nobody gets in with them, and the pieces in which they come do not matter.
fn check_any_tls(peers: &Peers, data: &[u8]) {
    let outcome = |pieces: &[&[u8]]| {
        let (mut server, mut plain) = (Tls::new(peers.server.clone()), BytesMut::new());
        for piece in pieces {
            receive(&mut server, &mut piece.to_vec(), &mut plain);
        }
        assert!(plain.is_empty() && !server.is_established() && server.certificates().is_empty());
        server.failure
    };
    let pieces = pieces(data);
    assert_eq!(outcome(&pieces), outcome(&[&pieces.concat()]), "the pieces matter");
}

/// Let a client talk: in pieces, with messages of some sizes, new keys between them, and perhaps a damaged byte.
fn check_talk(peers: &Peers, kind: u8, data: &[u8]) {
    let [piece, high, low, change, sizes @ ..] = data else { return };
    let place = usize::from(u16::from_be_bytes([*high, *low]));
    let damage = (*change != 0).then_some((place, *change));
    let mut talk = Conversation::new(peers, kind & 4 != 0, usize::from(*piece) * 16 + 1, damage);
    talk.settle();
    let mut said = Vec::new();
    for (number, &size) in sizes.iter().take(MAX_MESSAGES).enumerate() {
        if size % 8 == 0 {
            talk.change_keys();
        }
        let message = vec![number as u8; usize::from(size) * 128];
        said.extend_from_slice(&message);
        talk.say(&message);
        talk.server.send(&message);
        talk.settle();
    }
    talk.close();
    assert!(said.starts_with(&talk.plain), "the server got what the client did not send");
    assert!(said.starts_with(&talk.answers), "the client got what the server did not send");
    if damage.is_none() {
        assert_eq!((talk.server.failure.as_str(), talk.server.ended, talk.is_broken), ("", true, false));
        assert_eq!((talk.plain.len(), talk.answers.len()), (said.len(), said.len()));
        assert_eq!((talk.server.certificates().len(), talk.server.input.len()), (1, 0));
    }
}

/// Return a frame of HTTP/2 (RFC 9113, section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Return a header block that spells each field out (RFC 7541, section 6.2.2).
pub fn header_block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(*text);
        }
    }
    block
}
