//! Slots for heavy work, shared by all workers that name the same files: OS locks, which a crash frees.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::PathBuf,
    thread::sleep,
    time::Duration,
};

use crate::Error;

/// Between two looks at a slot that is taken.
const PAUSE: Duration = Duration::from_millis(50);

/// Slots for heavy work, as for an accelerator, or for the processor of a machine with three sites.
#[derive(Clone, Debug)]
pub struct Gate {
    paths: Vec<PathBuf>,
}

/// The slot, held; freed when dropped.
#[derive(Debug)]
pub struct Slot {
    _file: File,
}

impl Gate {
    /// The slots that the locks on these files stand for, one each. A file is made where it is missing.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            paths: paths.into_iter().collect(),
        }
    }

    /// Waits for one of the slots. Blocks the thread, and looks at `stopped` between tries.
    ///
    /// # Errors
    /// [`Error::Stopped`], or a file cannot be made or locked.
    pub fn enter(&self, stopped: &dyn Fn() -> bool) -> Result<Slot, Error> {
        let mut files = Vec::new();
        for path in &self.paths {
            let file = OpenOptions::new().create(true).append(true).open(path);
            files.push((path, file.map_err(Error::file(path))?));
        }
        loop {
            for (index, (path, file)) in files.iter().enumerate() {
                match file.try_lock() {
                    Ok(()) => {
                        let (_, file) = files.swap_remove(index);
                        return Ok(Slot { _file: file });
                    }
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => return Err(Error::file(path)(error)),
                }
            }
            if stopped() {
                return Err(Error::Stopped);
            }
            sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_are_slots() {
        let folder = tempfile::tempdir().unwrap();
        let gate = Gate::new(["a", "b"].map(|name| folder.path().join(name)));
        let (one, other) = (gate.enter(&|| false).unwrap(), gate.enter(&|| false).unwrap());
        assert!(matches!(gate.enter(&|| true), Err(Error::Stopped)));
        drop(one);
        let again = gate.enter(&|| true).unwrap();
        assert!(matches!(gate.enter(&|| true), Err(Error::Stopped)));
        drop((other, again));
    }
}
