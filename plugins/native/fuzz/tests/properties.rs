//! The properties of the fuzz targets, with inputs that resemble requests.

use std::time::Duration;

use kes_native_fuzz::eagerness::{Eagerness, LONGEST};
use kes_native_fuzz::{check_http1, check_http2, check_tls, frame, header_block, talk_http1, talk_http2};
use proptest::prelude::*;

/// Parts of requests over HTTP/1.1, good and bad.
fn part() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::sample::select(PARTS).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

const PARTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "PUT /whole HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
    "PUT /whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "ffffffffffffffff\r\n",
    "3;x=y\r\nabc\r\n",
    "GET http://a/b?c HTTP/1.1\r\n",
    "PUT /a HTTP/1.0\r\n",
    "HEAD /whole HTTP/1.1\r\n",
    "GET / HTTP/9.9\r\n",
    "Host: a\r\n",
    "Host : a\r\n",
    "Connection: close\r\n",
    "Content-Length: 2\r\n",
    "Content-Length: 2, 2\r\n",
    "Content-Length: +2\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Expect: 100-continue\r\n",
    "X-A: b\r\n",
    " folded\r\n",
    "\r\n",
    "\n",
    "\r",
    "ab",
];

/// Fields of a request over HTTP/2, good and bad, in any order.
fn fields() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let names = prop::sample::select(vec![
        ":method",
        ":scheme",
        ":authority",
        ":path",
        ":status",
        "host",
        "content-length",
        "connection",
        "te",
        "x-a",
        "X-A",
    ]);
    let values = prop_oneof![
        prop::sample::select(vec!["GET", "HEAD", "CONNECT", "https", "a", "a:1", "/", "/whole", "/a?b", "*", "3", ""])
            .prop_map(|value| value.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec((names.prop_map(|name| name.as_bytes().to_vec()), values), 0..8)
}

/// A frame of HTTP/2, most of them on one of a few streams.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop::sample::select(vec![0_u32, 1, 3, 5, 7, 9, 2]);
    prop_oneof![
        4 => (fields(), any::<bool>(), stream.clone()).prop_map(|(fields, ends, stream)| headers(&fields, ends, stream)),
        2 => (stream.clone(), any::<bool>()).prop_map(|(stream, ends)| frame(1, 4 | u8::from(ends), stream, &good(b"/whole"))),
        3 => (prop::collection::vec(any::<u8>(), 0..100), any::<bool>(), stream.clone())
            .prop_map(|(data, ends, stream)| frame(0, u8::from(ends), stream, &data)),
        1 => stream.clone().prop_map(|stream| frame(3, 0, stream, &8_u32.to_be_bytes())),
        1 => (stream.clone(), any::<u32>()).prop_map(|(stream, size)| frame(8, 0, stream, &size.to_be_bytes())),
        1 => (any::<u8>(), any::<u8>(), stream, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload)),
    ]
}

fn headers(fields: &[(Vec<u8>, Vec<u8>)], ends: bool, stream: u32) -> Vec<u8> {
    let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    frame(1, 4 | u8::from(ends), stream, &header_block(&fields))
}

fn good(path: &[u8]) -> Vec<u8> {
    header_block(&[(b":method", b"PUT"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", path)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_over_http1(data in prop::collection::vec(any::<u8>(), 0..200)) {
        check_http1(&data);
    }

    #[test]
    fn parts_of_requests_over_http1(size: u8, parts in prop::collection::vec(part(), 0..12)) {
        check_http1(&[&[size][..], &parts.concat()].concat());
    }

    #[test]
    fn any_bytes_over_http2(data in prop::collection::vec(any::<u8>(), 0..200)) {
        check_http2(&data);
    }

    #[test]
    fn frames_over_http2(size: u8, frames in prop::collection::vec(any_frame(), 0..12)) {
        check_http2(&[&[size][..], &frame(4, 0, 0, b""), &frames.concat()].concat());
    }

    /// A path reaches the application as it was sent, except for what follows a `#`, or the request is refused.
    #[test]
    fn path_over_http2(path in prop::collection::vec(any::<u8>(), 0..40)) {
        let request = frame(1, 5, 1, &good(&path));
        let seen = talk_http2(&[&frame(4, 0, 0, b""), &request]);
        let sent = path.split(|&byte| byte == b'#').next().unwrap_or_default();
        let sent = if sent.is_empty() { b"/" } else { sent };
        assert!(seen.len() <= 1);
        assert!(seen.iter().all(|seen| seen.target == sent));
    }
}

#[test]
fn good_requests_get_through() {
    let outcome = talk_http1(&[
        b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /whole HTTP/1.1\r\nHost: a\r\n\r\n",
    ]);
    let seen: Vec<(&[u8], &[u8])> = outcome.seen.iter().map(|seen| (&seen.target[..], &seen.body[..])).collect();
    assert_eq!(seen, [(&b"/a"[..], &b"{}"[..]), (b"/whole", b"")]);
    let seen = talk_http2(&[&frame(4, 0, 0, b""), &frame(1, 4, 1, &good(b"/whole")), &frame(0, 1, 1, b"{}")]);
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].target[..], &seen[0].body[..], seen[0].ended), (&b"/whole"[..], &b"{}"[..], true));
}

/// A space after the head is the beginning of a body, and no folded line.
#[test]
fn body_that_begins_with_a_space() {
    let head = b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let whole = [&head[..], b" {}"].concat();
    assert_eq!(talk_http1(&[&whole]).seen[0].body, b" {}");
}

/// Many requests in one piece: all are served, although other connections have their turn between them.
#[test]
fn more_requests_than_one_turn_has() {
    let outcome = talk_http1(&[&b"GET /whole HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10)]);
    assert_eq!(outcome.seen.len(), 10);
    let requests: Vec<Vec<u8>> = (0..8).map(|place| frame(1, 5, 2 * place + 1, &good(b"/whole"))).collect();
    assert_eq!(talk_http2(&[&frame(4, 0, 0, b""), &requests.concat()]).len(), 8);
}

/// What a client says first (RFC 8446, section 4.1.2), with a field of extensions that says nothing.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x0301234567890123456789012345678901\x00\x00\x04\x13\x01\xc0\x2b\x01\x00\x00\x00";

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_over_tls(size: u8, hello: bool, data in prop::collection::vec(any::<u8>(), 0..200)) {
        check_tls(&[&[0, size][..], if hello { HELLO } else { b"" }, &data].concat());
    }

    #[test]
    fn records_over_tls(size: u8, records in prop::collection::vec((20u8..24, prop::collection::vec(any::<u8>(), 0..40)), 0..8)) {
        let records = records.iter().map(|(kind, data)| [&[*kind, 3, 3, 0, data.len() as u8][..], data].concat());
        check_tls(&[&[0, size][..], &records.collect::<Vec<_>>().concat()].concat());
    }

    #[test]
    fn clients_over_tls(kind: u8, head: [u8; 3], sizes in prop::collection::vec(any::<u8>(), 0..8)) {
        check_tls(&[&[kind | 1][..], &head, &[0], &sizes].concat());
    }

    #[test]
    fn damaged_clients_over_tls(kind: u8, head: [u8; 4], sizes in prop::collection::vec(any::<u8>(), 0..8)) {
        let high = head[1] % 8; // most damage is in the handshake and the first messages
        check_tls(&[&[kind | 1, head[0], high], &head[2..], &sizes].concat());
    }
}

/// Wait for each of the requests, which come some microseconds after each other. Return the number of waits that slept,
/// that looked and found a request, and that looked in vain.
fn wait_for(gaps: impl IntoIterator<Item = u64>) -> (u64, u64, u64) {
    let (mut eagerness, mut slept, mut found, mut vain) = (Eagerness::default(), 0, 0, 0);
    for gap in gaps.into_iter().map(Duration::from_micros) {
        if !eagerness.is_eager() {
            eagerness.slept(gap);
            slept += 1;
        } else if gap < LONGEST {
            eagerness.looked(true);
            found += 1;
        } else {
            eagerness.looked(false);
            vain += 1;
        }
    }
    (slept, found, vain)
}

#[test]
fn quick_requests_find_the_process_awake_and_slow_ones_asleep() {
    assert_eq!(wait_for([20; 1000]), (1, 999, 0));
    assert_eq!(wait_for([60; 1000]), (1000, 0, 0));
    assert_eq!(wait_for([20, 60].repeat(500)), (999, 0, 1));
}

proptest! {
    #[test]
    fn looking_in_vain_is_rare(gaps in prop::collection::vec(0u64..200, 0..2000)) {
        let (slept, found, vain) = wait_for(gaps);
        prop_assert!(vain <= found + slept / 32 + 7, "{slept} slept, {found} found, {vain} in vain");
    }
}
