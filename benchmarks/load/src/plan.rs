//! When to start requests, and how long they took.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Options;

/// A rate of requests that no server reaches, to have memory enough for the results.
const MANY: f64 = 100_000.0;

/// In seconds.
pub struct Times {
    /// From the begin or the planned time of a request to its answer.
    pub answered: Vec<f64>,
    /// From the planned time of a request to the time when the load generator noticed that it had come.
    pub late: Vec<f64>,
}

impl Times {
    pub fn new(options: &Options) -> Self {
        // No page of their memory is new during the measurement.
        let mut answered = vec![1.0; (options.rate.max(MANY) * (options.duration + 1.0)) as usize];
        let mut late = answered.clone();
        answered.clear();
        late.clear();
        Times { answered, late }
    }

    /// Return what to print of them.
    pub fn quantiles(&mut self) -> Vec<(&'static str, f64)> {
        let (answered, late) = (&mut self.answered, &mut self.late);
        for numbers in [&mut *answered, late] {
            numbers.sort_by(f64::total_cmp);
        }
        let of = |share| quantile(answered, share);
        vec![("p50", of(0.5)), ("p99", of(0.99)), ("p999", of(0.999)), ("late", quantile(late, 0.99))]
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
    pub fn start(&mut self) -> Instant {
        let now = Instant::now();
        self.end = now + (self.end - self.begin);
        self.begin = now;
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

    /// Add the requests whose time has come, and how late this is noticed.
    pub fn notice(&mut self, now: Instant, times: &mut Times) {
        let Some(period) = self.period else { return };
        loop {
            let time = self.begin + Duration::from_secs_f64(period * self.planned as f64);
            if time > now || time >= self.end {
                return;
            }
            times.late.push((now - time).as_secs_f64());
            self.late.push_back(time);
            self.planned += 1;
        }
    }

    pub fn is_done(&self, now: Instant) -> bool {
        self.late.is_empty() && self.count.map_or(now >= self.end, |count| self.planned >= count)
    }
}
