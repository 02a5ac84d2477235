//! One slot for heavy work, shared by all workers that name the same file: an OS lock, which a crash frees.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use crate::Error;

/// Between two looks at a slot that is taken.
const PAUSE: Duration = Duration::from_millis(50);

/// One slot for heavy work, as for an accelerator, or for the processor of a machine with three sites.
#[derive(Clone, Debug)]
pub struct Gate {
    path: PathBuf,
}

/// The slot, held; freed when dropped.
#[derive(Debug)]
pub struct Slot {
    _file: File,
}

impl Gate {
    /// The slot that the lock on this file stands for. The file is made where it is missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the slot. Blocks the thread, and looks at `stopped` between tries.
    ///
    /// # Errors
    /// [`Error::Stopped`], or the file cannot be made or locked.
    pub fn enter(&self, stopped: &dyn Fn() -> bool) -> Result<Slot, Error> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(Error::file(&self.path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Slot { _file: file }),
                Err(TryLockError::WouldBlock) if stopped() => return Err(Error::Stopped),
                Err(TryLockError::WouldBlock) => sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(Error::file(&self.path)(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let gate = Gate::new(folder.path().join("slot"));
        let slot = gate.enter(&|| false).unwrap();
        assert!(matches!(gate.enter(&|| true), Err(Error::Stopped)));
        drop(slot);
        gate.enter(&|| true).unwrap();
    }
}
