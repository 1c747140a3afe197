//! The `Date` header (RFC 9110, section 6.6.1), formatted once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

thread_local! {
    static LAST: RefCell<(u64, Bytes)> = const { RefCell::new((u64::MAX, Bytes::new())) };
}

/// Return the value of the header.
pub fn now() -> Bytes {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    LAST.with_borrow_mut(|last| {
        if last.0 != second {
            *last = (second, Bytes::from(httpdate::fmt_http_date(now)));
        }
        last.1.clone()
    })
}
