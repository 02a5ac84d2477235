//! How long work tells of its progress and learns that it should stop.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::{Error, Result};

/// Watches long work. Called between cases, epochs and iterations, from any thread.
pub trait Observer: Sync {
    /// `done` of `total` units of `what` are finished.
    fn advanced(&self, what: &str, done: usize, total: usize);
    /// True when the work should stop at the next boundary with [`crate::Error::Stopped`].
    fn stop_requested(&self) -> bool {
        false
    }
}

/// Watches nothing and never stops.
pub struct Unobserved;

impl Observer for Unobserved {
    fn advanced(&self, _: &str, _: usize, _: usize) {}
}

/// Does `work` on every item, on all threads. What became of each, in their order: one that fails does not stop the
/// others. `what` names the units for the observer.
///
/// # Errors
/// The observer asked to stop.
pub(crate) fn on_each<T: Sync, R: Send>(
    items: &[T],
    what: &str,
    observer: &dyn Observer,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<Result<R>>> {
    let done = AtomicUsize::new(0);
    let outcomes: Vec<Result<R>> = items
        .par_iter()
        .map(|item| {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let outcome = work(item);
            observer.advanced(what, done.fetch_add(1, Ordering::Relaxed) + 1, items.len());
            outcome
        })
        .collect();
    match outcomes
        .iter()
        .any(|outcome| matches!(outcome, Err(Error::Stopped)))
    {
        true => Err(Error::Stopped),
        false => Ok(outcomes),
    }
}
