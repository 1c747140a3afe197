//! When to start requests, and how long they took.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Options;

/// A rate of requests that no server reaches, to have memory enough for the results.
const MANY: f64 = 100_000.0;

/// If the load generator, which does not sleep, does not look for longer than this, its core was interrupted.
const PAUSE: Duration = Duration::from_micros(100);

/// Requests at a rate do not count for this long after the start: the server has to wake up first.
const SETTLING: Duration = Duration::from_millis(20);

/// How long requests took.
pub struct Times {
    /// The seconds from the begin or the planned time of a request to its answer.
    answered: Vec<f64>,
    /// Requests that were begun or planned before this do not count.
    since: Instant,
    /// How many requests were answered.
    pub count: u64,
    /// How many requests the load generator could not send in time, or whose answers it could not read in time, because
    /// it was interrupted. Their latency is unknown.
    unseen: u64,
    looked: Option<Instant>,
    /// The end of the last interruption.
    blind_until: Instant,
}

impl Times {
    pub fn new(options: &Options) -> Self {
        // No page of their memory is new during the measurement.
        let mut answered = vec![1.0; (options.rate.max(MANY) * (options.duration + 1.0)) as usize];
        answered.clear();
        let now = Instant::now();
        Times { answered, since: now, count: 0, unseen: 0, looked: None, blind_until: now }
    }

    /// Note that the load generator looks for answers now, as it always does if it never sleeps.
    pub fn look(&mut self, now: Instant) {
        if self.looked.replace(now).is_some_and(|last| now - last > PAUSE) {
            self.blind_until = now;
        }
    }

    /// Note that a request was answered which was begun or planned at this time.
    pub fn add(&mut self, began: Instant) {
        self.count += 1;
        if began < self.blind_until {
            self.unseen += 1;
        } else if began >= self.since {
            self.answered.push(began.elapsed().as_secs_f64());
        }
    }

    /// Forget what was noted so far.
    pub fn clear(&mut self) {
        (self.count, self.unseen, self.looked) = (0, 0, None);
        self.answered.clear();
    }

    /// Return what to print of them.
    pub fn quantiles(&mut self) -> Vec<(&'static str, f64)> {
        let unseen = self.unseen as f64 / (self.count as f64).max(1.0);
        self.answered.sort_by(f64::total_cmp);
        let of = |share| quantile(&self.answered, share);
        vec![("p50", of(0.5)), ("p99", of(0.99)), ("p999", of(0.999)), ("unseen", unseen)]
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(0.0)
}

/// Which requests to start when.
pub struct Plan {
    begin: Instant,
    end: Instant,
    /// How many requests to send, if not for a time.
    count: Option<u64>,
    /// The seconds between two requests, if they do not follow answers.
    period: Option<f64>,
    planned: u64,
    /// The planned times of requests that wait until a slot is free.
    late: VecDeque<Instant>,
}

impl Plan {
    pub fn new(options: &Options) -> Self {
        let now = Instant::now();
        Plan {
            begin: now,
            end: now + Duration::from_secs_f64(options.duration),
            count: (options.count > 0).then_some(options.count),
            period: (options.rate > 0.0).then(|| 1.0 / options.rate),
            planned: 0,
            late: VecDeque::new(),
        }
    }

    pub fn of_count(count: u64) -> Self {
        let now = Instant::now();
        Plan { begin: now, end: now, count: Some(count), period: None, planned: 0, late: VecDeque::new() }
    }

    /// Begin now; return the time.
    pub fn start(&mut self, times: &mut Times) -> Instant {
        let now = Instant::now();
        self.end = now + (self.end - self.begin);
        self.begin = now;
        times.since = if self.period.is_some() { now + SETTLING } else { now };
        now
    }

    /// Return the time from which the latency of the next request counts, if it is to be sent now.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.period.is_some() {
            return self.late.pop_front();
        }
        let is_wanted = self.count.map_or(now < self.end, |count| self.planned < count);
        self.planned += u64::from(is_wanted);
        is_wanted.then_some(now)
    }

    /// Add the requests whose time has come. Leave out those whose time came during an interruption: the server would
    /// get all of them at once.
    pub fn notice(&mut self, now: Instant, times: &mut Times) {
        let Some(period) = self.period else { return };
        loop {
            let time = self.begin + Duration::from_secs_f64(period * self.planned as f64);
            if time > now || time >= self.end {
                return;
            }
            self.planned += 1;
            if time < times.blind_until {
                times.unseen += 1;
                continue;
            }
            self.late.push_back(time);
        }
    }

    pub fn is_done(&self, now: Instant) -> bool {
        self.late.is_empty() && self.count.map_or(now >= self.end, |count| self.planned >= count)
    }
}
