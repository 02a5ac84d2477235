//! How many chunks are under way at once: more while the line answers soon, fewer once it is slow. On a slow line a full
//! window would take longer than one answer may, and all of it would be sent again and again.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// Chunks under way at first.
const FIRST: usize = 4;
/// And at most: 16 MiB.
pub const MOST: usize = 16;
/// Answers that come within this let one more under way.
const SOON: Duration = Duration::from_secs(1);
/// Answers that take longer let one less. Less than half of what one answer may take.
const LATE: Duration = Duration::from_secs(2);

/// The chunks that are under way on one connection, in one direction, of whatever artifacts.
pub struct Flow {
    permits: Semaphore,
    limit: AtomicUsize,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(FIRST),
            limit: AtomicUsize::new(FIRST),
        }
    }
}

impl Flow {
    /// Does one chunk's work once there is room for it.
    pub async fn pass<T>(&self, work: impl Future<Output = T>) -> T {
        // Nobody closes the semaphore.
        let permit = self.permits.acquire().await.ok();
        let began = Instant::now();
        let done = work.await;
        if self.adapt(began.elapsed())
            && let Some(permit) = permit
        {
            permit.forget();
        }
        done
    }

    /// True where this chunk's room is to go.
    fn adapt(&self, took: Duration) -> bool {
        let change = |limit: usize| match took {
            took if took < SOON && limit < MOST => Some(limit + 1),
            took if took > LATE && limit > 1 => Some(limit - 1),
            _ => None,
        };
        match self
            .limit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
        {
            Ok(_) if took < SOON => {
                self.permits.add_permits(1);
                false
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes so many chunks at once: the most that were under way together.
    async fn passed(flow: &Flow, chunks: usize) -> usize {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let chunk = |_| {
            flow.pass(async {
                let count = now.fetch_add(1, Ordering::Relaxed) + 1;
                most.fetch_max(count, Ordering::Relaxed);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::Relaxed);
            })
        };
        futures::future::join_all((0..chunks).map(chunk)).await;
        most.into_inner()
    }

    #[tokio::test]
    async fn a_line_that_answers_soon_fills_and_a_slow_one_empties() {
        let flow = Flow::default();
        assert_eq!(passed(&flow, FIRST).await, FIRST);
        assert_eq!(passed(&flow, 100).await, MOST);
        assert_eq!(flow.permits.available_permits(), MOST);
        let late = |flow: &Flow| {
            if flow.adapt(LATE * 2) {
                flow.permits.forget_permits(1);
            }
        };
        (0..2 * MOST).for_each(|_| late(&flow));
        assert_eq!(flow.permits.available_permits(), 1);
        assert_eq!(passed(&flow, 1).await, 1);
        assert_eq!(passed(&flow, 100).await, MOST);
    }
}
