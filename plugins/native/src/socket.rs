//! The sockets of connections, which belong to asyncio's transports. The only module with `unsafe`.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::event::epoll;
use rustix::io::{Errno, Result};
use rustix::net::{recv, send, RecvFlags, SendFlags};

/// A socket that a transport keeps open, or another file that Python keeps open.
#[derive(Clone, Copy)]
pub struct Socket(RawFd);

impl Socket {
    /// Take the number of an open socket. Its transport closes it only after `Poller::remove`: see `Poller::add`.
    pub fn new(number: RawFd) -> Option<Self> {
        (number >= 0).then_some(Socket(number))
    }

    #[allow(unsafe_code)]
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: The number is not -1. The socket is open: asyncio's transport calls `connection_lost` before it closes
        // it, which removes this object (`kes_native.connection`). An audit log drops its `Appender` before it closes
        // its file. If it were closed, the calls below, and those of `Appender`, would fail or reach another file of this
        // process; they touch no memory but their own arguments.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }

    /// Receive what is there. 0: the client sends no more. None: nothing is there.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        nothing_is_no_error(recv(self.descriptor(), buffer, RecvFlags::DONTWAIT).map(|(size, _)| size))
    }

    /// Send as much as the socket takes now, and return how much that was.
    pub fn send(&self, data: &[u8]) -> Result<usize> {
        let sent = send(self.descriptor(), data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        nothing_is_no_error(sent).map(|size| size.unwrap_or(0))
    }

    /// Let `epoll` report data and the end of the connection, as `token`.
    pub fn watch(&self, epoll: BorrowedFd<'_>, token: u64) -> Result<()> {
        epoll::add(epoll, self.descriptor(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)
    }

    pub fn unwatch(&self, epoll: BorrowedFd<'_>) -> Result<()> {
        epoll::delete(epoll, self.descriptor())
    }
}

fn nothing_is_no_error<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}
