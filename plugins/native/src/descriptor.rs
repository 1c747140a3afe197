//! Files that Python keeps open, most of them sockets of asyncio's transports. The only module with `unsafe`.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::event::epoll;
use rustix::io::{Errno, Result};
use rustix::net::{recv, send, RecvFlags, SendFlags};

/// The number of a socket that a transport keeps open, or of another file that Python keeps open.
#[derive(Clone, Copy)]
pub struct Descriptor(RawFd);

impl Descriptor {
    /// Take the number of an open file. A transport closes its socket only after `Poller::remove`: see `Poller::add`.
    pub fn new(number: RawFd) -> Option<Self> {
        (number >= 0).then_some(Descriptor(number))
    }

    #[allow(unsafe_code)]
    pub(crate) fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: The number is not -1. The socket is open: asyncio's transport calls `connection_lost` before it closes
        // it, which removes this object (`kes_native.connection`). An audit log drops its `Appender` before it closes
        // its file. If it were closed, the calls below, and those of `Appender`, would fail or reach another file of this
        // process; they touch no memory but their own arguments.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }

    /// Receive what is there. 0: the client sends no more. None: nothing is there.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        nothing_is_no_error(recv(self.borrow(), buffer, RecvFlags::DONTWAIT).map(|(size, _)| size))
    }

    /// Send as much as the socket takes now, and return how much that was.
    pub fn send(&self, data: &[u8]) -> Result<usize> {
        let sent = send(self.borrow(), data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        nothing_is_no_error(sent).map(|size| size.unwrap_or(0))
    }

    /// Let `epoll` report data and the end of the connection, as `token`.
    pub fn watch(&self, epoll: BorrowedFd<'_>, token: u64) -> Result<()> {
        epoll::add(epoll, self.borrow(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)
    }

    pub fn unwatch(&self, epoll: BorrowedFd<'_>) -> Result<()> {
        epoll::delete(epoll, self.borrow())
    }
}

fn nothing_is_no_error<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}
