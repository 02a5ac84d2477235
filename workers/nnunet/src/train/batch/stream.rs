//! Batches made ahead on background threads, a bounded number at a time.

use super::{Batch, Made, Plan};
use crate::{Error, Result};
use std::{
    collections::VecDeque,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

/// The batches of consecutive iterations, in order. Dropping it ends its threads.
pub struct BatchStream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    plan: Plan,
    /// Batches that may be in the making or waiting at a time.
    ahead: u64,
    end: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next sample that nobody makes yet.
    iteration: u64,
    sample: usize,
    /// The iteration of the first of `batches`.
    delivered: u64,
    batches: VecDeque<Pending>,
    stopped: bool,
}

/// A batch some of whose samples are made.
struct Pending {
    samples: Vec<Option<Result<Made>>>,
    missing: usize,
}

impl BatchStream {
    pub(super) fn start(plan: Plan, iterations: Range<u64>, threads: usize, prefetch: usize) -> Self {
        let state = State {
            iteration: iterations.start,
            sample: 0,
            delivered: iterations.start,
            batches: VecDeque::new(),
            stopped: false,
        };
        let shared = Arc::new(Shared {
            plan,
            ahead: prefetch.max(1) as u64,
            end: iterations.end,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let threads = (0..threads.max(1))
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.work())
            })
            .collect();
        BatchStream { shared, threads }
    }
}

impl Shared {
    /// Makes samples in order until all are made or nobody wants more.
    fn work(&self) {
        let batch_size = self.plan.settings.batch_size;
        while let Some((iteration, sample)) = self.take(batch_size) {
            // A panic must not leave the reader waiting for ever.
            let made = catch_unwind(AssertUnwindSafe(|| self.plan.sample(iteration, sample)))
                .unwrap_or_else(|_| Err(Error::invalid("batch", format!("iteration {iteration} panicked"))));
            let mut state = self.lock();
            let place = (iteration - state.delivered) as usize;
            let pending = &mut state.batches[place];
            pending.samples[sample] = Some(made);
            pending.missing -= 1;
            if pending.missing == 0 {
                self.changed.notify_all();
            }
        }
    }

    /// The next sample to make, once there is room for it.
    fn take(&self, batch_size: usize) -> Option<(u64, usize)> {
        let mut state = self.lock();
        while !state.stopped && state.iteration < self.end && state.iteration >= state.delivered + self.ahead
        {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped || state.iteration >= self.end {
            return None;
        }
        let job = (state.iteration, state.sample);
        if state.sample == 0 {
            let samples = (0..batch_size).map(|_| None).collect();
            state.batches.push_back(Pending {
                samples,
                missing: batch_size,
            });
        }
        state.sample += 1;
        if state.sample == batch_size {
            (state.iteration, state.sample) = (state.iteration + 1, 0);
        }
        Some(job)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Iterator for BatchStream {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let shared = &self.shared;
        let mut state = shared.lock();
        if state.delivered >= shared.end {
            return None;
        }
        while state.batches.front().is_none_or(|pending| pending.missing > 0) {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let pending = state.batches.pop_front()?;
        state.delivered += 1;
        shared.changed.notify_all();
        drop(state);
        let samples = pending.samples.into_iter().flatten().collect::<Result<Vec<_>>>();
        Some(samples.and_then(|samples| shared.plan.assemble(samples)))
    }
}

impl Drop for BatchStream {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to say here.
            let _ = thread.join();
        }
    }
}
