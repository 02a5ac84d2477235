//! Whether the workers of a process have anything to do.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// What the workers that share it are doing. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    working: usize,
    since: Instant,
}

/// A worker at work; idle again when dropped.
#[derive(Debug)]
pub struct Busy(Activity);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            working: 0,
            since: Instant::now(),
        })))
    }
}

impl Activity {
    /// A worker begins with a task.
    pub fn begin(&self) -> Busy {
        self.change(|working| working + 1);
        Busy(self.clone())
    }

    /// Comes back once no worker has had a task for so long.
    pub async fn idle_for(&self, length: Duration) {
        loop {
            let Some(end) = self.end(Instant::now(), length) else {
                return;
            };
            sleep_until(end).await;
        }
    }

    /// When to look again whether all were idle for so long; none once they were.
    fn end(&self, now: Instant, length: Duration) -> Option<Instant> {
        let state = self.0.lock().ok()?;
        match state.working {
            0 => Some(state.since + length).filter(|end| *end > now),
            _ => Some(now + length),
        }
    }

    fn change(&self, next: impl FnOnce(usize) -> usize) {
        if let Ok(mut state) = self.0.lock() {
            state.working = next(state.working);
            state.since = Instant::now();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|working| working.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_puts_the_end_off() {
        let length = Duration::from_secs(30);
        let activity = Activity::default();
        let now = Instant::now();
        assert!(activity.end(now, length).is_some());
        assert_eq!(activity.end(now + length, length), None);
        let (one, other) = (activity.begin(), activity.begin());
        drop(one);
        assert_eq!(activity.end(now + length, length), Some(now + 2 * length));
        drop(other);
        let idle = Instant::now();
        assert!(activity.end(idle, length).is_some_and(|end| end <= idle + length));
        assert_eq!(activity.end(idle + length, length), None);
    }
}
