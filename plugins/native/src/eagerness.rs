//! Whether to look for data again and again instead of sleeping until there is some.
//!
//! To wake a process that sleeps takes the system five microseconds, and several times as much in a virtual machine: as
//! much as all the rest of a request. So if the next request is likely to come before that, it is cheaper not to sleep.

use std::time::Duration;

/// How long to look at most.
pub const LONGEST: Duration = Duration::from_micros(50);
/// The most short waits until the next try.
const MAX_NEEDED: u32 = 64;

/// Learns from the latest waits. If looking is in vain more often than not, it becomes rare: one try for 64 short waits.
pub struct Eagerness {
    /// The number of short waits since the last long one.
    short: u32,
    /// How many of them are needed.
    needed: u32,
}

impl Default for Eagerness {
    fn default() -> Self {
        Eagerness { short: 0, needed: 1 }
    }
}

impl Eagerness {
    /// Whether to look instead of sleeping.
    pub fn is_eager(&self) -> bool {
        self.short >= self.needed
    }

    /// Record how long the process has slept.
    pub fn slept(&mut self, time: Duration) {
        self.short = if time < LONGEST { self.short.saturating_add(1) } else { 0 };
    }

    /// Record whether something has come while the process looked.
    pub fn looked(&mut self, found: bool) {
        if found {
            self.needed = (self.needed / 2).max(1);
        } else {
            self.short = 0;
            self.needed = (self.needed * 2).min(MAX_NEEDED);
        }
    }
}
