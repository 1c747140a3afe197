//! A measurement.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::time::{clock_getcpuclockid, ClockId};
use nix::unistd::Pid;

use crate::connection::{Answers, Connection};
use crate::plan::{Plan, Times};
use crate::target::{Failure, Target};
use crate::Options;

const MAX_EVENTS: usize = 256;

struct Run<'a> {
    target: &'a Target,
    epoll: Epoll,
    connections: Vec<Connection>,
    /// The slots on each connection.
    slots: usize,
    new_connection: bool,
    free: Vec<usize>,
    /// For each slot, when its request was planned.
    began: Vec<Instant>,
    sent: u64,
    times: Times,
    failures: u64,
    /// The first of them.
    problem: Option<String>,
}

impl<'a> Run<'a> {
    fn new(options: &Options, target: &'a Target) -> Result<Self, Failure> {
        let is_shared = options.http2 && !options.new_connection;
        let (connections, slots) = if is_shared { (1, options.at_once) } else { (options.at_once, 1) };
        let mut run = Run {
            target,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: Vec::new(),
            slots,
            new_connection: options.new_connection,
            free: (0..options.at_once).rev().collect(),
            began: vec![Instant::now(); options.at_once],
            sent: 0,
            times: Times::new(options),
            failures: 0,
            problem: None,
        };
        for number in 0..connections {
            let connection = Connection::open(target, slots)?;
            connection.watch(&run.epoll, number)?;
            run.connections.push(connection);
        }
        if is_shared {
            run.warm_up(1)?; // until the connection's limits are known
        }
        run.warm_up(options.at_once)?;
        Ok(run)
    }

    /// Send some requests before measuring, which finish the handshakes and fill caches.
    fn warm_up(&mut self, count: usize) -> Result<(), Failure> {
        let new_connection = std::mem::take(&mut self.new_connection);
        self.work(&mut Plan::of_count(count as u64), false)?;
        self.new_connection = new_connection;
        self.times.clear();
        self.problem.take().map_or(Ok(()), |problem| Err(problem.into()))
    }

    fn start(&mut self, slot: usize, began: Instant) -> Result<(), Failure> {
        self.began[slot] = began;
        let number = slot / self.slots;
        if self.new_connection {
            self.open(number)?;
        }
        self.sent += 1;
        if let Err(error) = self.connections[number].send(self.target, slot % self.slots, self.sent) {
            self.lose(number, error)?;
        }
        Ok(())
    }

    fn open(&mut self, number: usize) -> Result<(), Failure> {
        self.connections[number].close();
        self.connections[number] = Connection::open(self.target, self.slots)?;
        Ok(self.connections[number].watch(&self.epoll, number)?)
    }

    /// Count the requests of a connection that has ended, and open another one.
    fn lose(&mut self, number: usize, error: Failure) -> Result<(), Failure> {
        for slot in number * self.slots..(number + 1) * self.slots {
            if !self.free.contains(&slot) {
                self.finish(slot, Some(error.to_string()));
            }
        }
        self.open(number)
    }

    fn finish(&mut self, slot: usize, problem: Option<String>) {
        self.times.add(self.began[slot]);
        self.free.push(slot);
        if let Some(problem) = problem {
            self.problem.get_or_insert(problem);
            self.failures += 1;
        }
    }

    /// Read from a connection.
    fn receive(&mut self, number: usize, answers: &mut Answers) -> Result<(), Failure> {
        let received = self.connections[number].receive(answers);
        for (slot, problem) in answers.drain(..) {
            self.finish(number * self.slots + slot, problem);
        }
        received.or_else(|error| self.lose(number, error))
    }

    /// Send requests until the plan is done. Return for how many seconds there was nothing to do.
    fn work(&mut self, plan: &mut Plan, spins: bool) -> Result<f64, Failure> {
        let (mut answers, mut events) = (Answers::new(), [EpollEvent::empty(); MAX_EVENTS]);
        let (mut idle, mut now) = (0.0, Instant::now());
        loop {
            if spins {
                self.times.look(now);
            }
            plan.notice(now, &mut self.times);
            self.start_all(plan, now)?;
            let is_waiting = self.free.len() < self.began.len();
            if !is_waiting && plan.is_done(now) {
                return Ok(idle);
            }
            let is_blocked = self.flush()?;
            let before = Instant::now();
            let limit = if spins || is_blocked { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            let found = match self.epoll.wait(&mut events, limit) {
                Err(Errno::EINTR) => 0,
                other => other?,
            };
            now = Instant::now();
            if found == 0 || !spins {
                idle += (now - before).as_secs_f64();
            }
            for event in &events[..found] {
                self.receive(event.data() as usize, &mut answers)?;
                now = Instant::now();
                if spins {
                    self.times.look(now);
                }
                plan.notice(now, &mut self.times);
                self.start_all(plan, now)?;
            }
        }
    }

    fn start_all(&mut self, plan: &mut Plan, now: Instant) -> Result<(), Failure> {
        while !self.free.is_empty() {
            let Some(began) = plan.next(now) else { break };
            if let Some(slot) = self.free.pop() {
                self.start(slot, began)?;
            }
        }
        Ok(())
    }

    /// Send what sockets did not take; return whether one takes no more.
    fn flush(&mut self) -> Result<bool, Failure> {
        let mut is_blocked = false;
        for number in 0..self.connections.len() {
            if self.connections[number].is_blocked() {
                let sent = self.connections[number].flush();
                sent.or_else(|error| self.lose(number, error))?;
                is_blocked |= self.connections[number].is_blocked();
            }
        }
        Ok(is_blocked)
    }
}

/// Return the CPU time, user and system, that the server's processes have used so far, in seconds.
fn cpu_time(clocks: &[ClockId]) -> nix::Result<f64> {
    clocks.iter().map(|clock| clock.now().map(|time| Duration::from(time).as_secs_f64())).sum()
}

fn cpu_clocks(pids: &[i32]) -> nix::Result<Vec<ClockId>> {
    pids.iter().map(|&pid| clock_getcpuclockid(Pid::from_raw(pid))).collect()
}

/// Measure, and print the result.
pub fn measure(options: &Options) -> Result<(), Failure> {
    let target = Target::new(options)?;
    let mut run = Run::new(options, &target)?;
    let clocks = cpu_clocks(&options.pids)?;
    let mut plan = Plan::new(options);
    let before = cpu_time(&clocks)?;
    let begin = plan.start(&mut run.times);
    let idle = run.work(&mut plan, options.spin || options.rate > 0.0)?;
    let elapsed = begin.elapsed().as_secs_f64();
    let cpu = cpu_time(&clocks)? - before;
    let number = run.times.count as f64;
    let mut result = run.times.quantiles();
    result.extend([
        ("rate", number / elapsed),
        ("cpu", cpu / number),
        ("failures", run.failures as f64),
        ("load", 1.0 - idle / elapsed),
    ]);
    print(&result);
    if let Some(problem) = &run.problem {
        eprintln!("{problem}");
    }
    Ok(())
}

/// Print numbers as JSON.
pub fn print(result: &[(&str, f64)]) {
    let members: Vec<_> = result.iter().map(|(name, value)| format!("\"{name}\": {value:e}")).collect();
    println!("{{{}}}", members.join(", "));
}
