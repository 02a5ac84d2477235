//! How long work tells of its progress and learns that it should stop.

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
