//! Appends audit records to a file: the most frequent case of `kes_core.audit.file`, which does all others.

use std::ffi::CString;
use std::mem;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use rustix::fs::{flock, fstat, ftruncate, makedev, statx, AtFlags, FlockOperation, StatxFlags, CWD};
use rustix::io::{write, Result};

use crate::descriptor::Descriptor;

/// More than most lines take.
const LINE: usize = 512;

/// The most memory that stays allocated for the next lines.
const MAX_KEPT: usize = 64 * 1024;

/// Appends to one file. It never changes, so that every thread may use it, as Python does at the end of the process.
#[pyclass(frozen)]
pub struct Appender {
    file: Descriptor,
    path: CString,
    device: u64,
    inode: u64,
    /// Memory for lines. To allocate some of this size takes longer than to fill it.
    lines: Mutex<Vec<u8>>,
}

#[pymethods]
impl Appender {
    /// `file` is the number of an open file with `O_APPEND`, which was at `path`. It stays open as long as this is used.
    #[new]
    fn new(file: i32, path: Vec<u8>, device: u64, inode: u64) -> PyResult<Self> {
        let file = Descriptor::new(file).ok_or_else(|| PyValueError::new_err("the file is closed"))?;
        Ok(Appender { file, path: CString::new(path)?, device, inode, lines: Mutex::default() })
    }

    /// Append a line for each request, all or none; return whether they were appended.
    ///
    /// `start` begins each line, and `ended` has the `Ended` of `kes_core.audit.event`.
    fn append(&self, py: Python<'_>, start: &str, ended: &Bound<'_, PyList>) -> PyResult<bool> {
        let mut data = mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        data.reserve(ended.len() * LINE);
        for item in ended.iter() {
            let (request, code, seconds, reason): (Bound<'_, PyString>, u16, f64, Bound<'_, PyString>) =
                item.extract()?;
            add_line(&mut data, [start, request.to_str()?, reason.to_str()?], code, seconds);
        }
        let is_done = py.detach(|| self.write_locked(&data)).unwrap_or(false);
        if data.capacity() <= MAX_KEPT {
            data.clear();
            *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = data;
        }
        Ok(is_done)
    }
}

fn add_line(data: &mut Vec<u8>, [start, request, reason]: [&str; 3], code: u16, seconds: f64) {
    data.extend_from_slice(start.as_bytes());
    data.extend_from_slice(request.as_bytes());
    data.extend_from_slice(b",\"response\":{\"code\":");
    add_number(data, u64::from(code));
    data.extend_from_slice(b",\"time\":");
    add_number(data, (seconds * 1e9) as u64);
    data.extend_from_slice(reason.as_bytes());
    data.extend_from_slice(b"}}\n");
}

fn add_number(data: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    data.extend_from_slice(&digits[first..]);
}

impl Appender {
    /// Append all of `data` under the lock of the file, or nothing; return false if Python has to do it.
    fn write_locked(&self, data: &[u8]) -> Result<bool> {
        flock(self.file.borrow(), FlockOperation::LockExclusive)?;
        let done = self.write(data);
        let _ = flock(self.file.borrow(), FlockOperation::Unlock);
        done
    }

    fn write(&self, data: &[u8]) -> Result<bool> {
        let file = self.file.borrow();
        // After a look at a file's times, the next write has to change them exactly, which takes long: ask for no times.
        let found = statx(CWD, self.path.as_c_str(), AtFlags::empty(), StatxFlags::INO)?;
        // No other file can have the inode of one that is open.
        if (makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino) != (self.device, self.inode) {
            return Ok(false);
        }
        let written = write(file, data)?;
        if written < data.len() {
            // The disk is full. Python tries again, and says why it can't.
            ftruncate(file, fstat(file)?.st_size as u64 - written as u64)?;
        }
        Ok(written == data.len())
    }
}
