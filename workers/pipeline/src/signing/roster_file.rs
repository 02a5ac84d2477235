//! A roster's file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use schemas::{Invalid, roster::Roster};

use crate::Error;

/// A roster's file, read anew whenever it has changed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RosterFile {
    file: PathBuf,
    last: Arc<Mutex<(Option<SystemTime>, Arc<Roster>)>>,
}

impl RosterFile {
    /// Opens a roster.
    ///
    /// # Errors
    /// The file cannot be read, or is no roster.
    pub fn open(file: &Path) -> Result<Self, Error> {
        let changed = changed(file);
        let roster = Arc::new(read(file)?);
        Ok(Self {
            file: file.to_owned(),
            last: Arc::new(Mutex::new((changed, roster))),
        })
    }

    /// The roster as it stands now; the last good one, with an error in the log, where the file cannot be read.
    pub fn roster(&self) -> Arc<Roster> {
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = changed(&self.file);
        if now != last.0 {
            last.0 = now;
            match read(&self.file) {
                Ok(roster) => last.1 = Arc::new(roster),
                Err(error) => tracing::error!("{error}; going on with the roster as it was"),
            }
        }
        Arc::clone(&last.1)
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|data| data.modified()).ok()
}

fn read(file: &Path) -> Result<Roster, Error> {
    let bytes = fs::read(file).map_err(Error::file(file))?;
    let named =
        |invalid: Invalid| Invalid::new(format!("{}: {}", file.display(), invalid.path), invalid.reason);
    Ok(schemas::parse(&bytes).map_err(named)?)
}
