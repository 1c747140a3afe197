//! The least that any server could have as latency here: a thread that returns each message, without TLS and HTTP. It
//! can also work for each message as long as a server would.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;

use crate::plan::{Plan, Times};
use crate::run::print;
use crate::target::Failure;
use crate::Options;

/// The bytes of a message: about as many as those of a request and its answer.
const SIZE: usize = 200;

fn echo(listener: &TcpListener, core: usize, work: Duration) -> Result<(), Failure> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)?; // of this thread
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?; // it never sleeps
    let mut buffer = [0; 64 * SIZE];
    loop {
        match socket.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(()),
            Ok(size) => {
                let end = Instant::now() + work * size.div_ceil(SIZE) as u32;
                while Instant::now() < end {}
                socket.write_all(&buffer[..size])?;
            }
        }
    }
}

/// Send messages at the planned times to a thread on another core, and print how long their return took.
pub fn measure(options: &Options, core: usize) -> Result<(), Failure> {
    let (mut plan, mut times) = (Plan::new(options), Times::new(options));
    send(core, Duration::from_secs_f64(options.work), &mut plan, &mut times)?;
    let rate = ("rate", times.count as f64 / options.duration);
    print(&[times.quantiles(), vec![rate]].concat());
    Ok(())
}

fn send(core: usize, work: Duration, plan: &mut Plan, times: &mut Times) -> Result<(), Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut socket = TcpStream::connect(listener.local_addr()?)?;
    std::thread::spawn(move || echo(&listener, core, work).unwrap_or_else(|error| eprintln!("{error}")));
    socket.set_nodelay(true)?;
    let mut buffer = [0; 64 * SIZE];
    socket.write_all(&buffer[..SIZE])?; // the thread has begun when it returns this
    socket.read_exact(&mut buffer[..SIZE])?;
    socket.set_nonblocking(true)?;
    plan.start(times);
    let (mut sent, mut received) = (VecDeque::new(), 0);
    loop {
        let now = Instant::now();
        times.look(now);
        plan.notice(now, times);
        while let Some(planned) = plan.next(now) {
            socket.write_all(&buffer[..SIZE])?;
            sent.push_back(planned);
        }
        if sent.is_empty() && plan.is_done(now) {
            return Ok(());
        }
        match socket.read(&mut buffer) {
            Ok(0) => return Err("the echo has ended".into()),
            Ok(size) => received += size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        while received >= SIZE {
            received -= SIZE;
            if let Some(planned) = sent.pop_front() {
                times.add(planned);
            }
        }
    }
}
