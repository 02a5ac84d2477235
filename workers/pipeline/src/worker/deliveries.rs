//! Deliveries without progress: what tells a crash loop from bad luck.
//!
//! The server counts deliveries of a task. A small file in the site's folder holds how far the work ever
//! got, and which delivery last got further or was drained; the difference is what counts.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
};

use schemas::task::TaskKey;
use serde::{Deserialize, Serialize};

use crate::subjects;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The last delivery that made progress, or was drained.
    excused: u64,
    /// How far the work ever got, by what is counted.
    reached: BTreeMap<String, u64>,
}

/// The deliveries of one task, as this site remembers them.
#[derive(Debug)]
pub(super) struct Deliveries {
    path: PathBuf,
    delivery: u64,
    record: Mutex<Record>,
}

impl Deliveries {
    /// Reads what earlier deliveries left. An unreadable file is as none: a crash loop is then found later.
    pub(super) fn open(folder: &Path, key: &TaskKey, delivery: u64) -> Self {
        // A subject can be longer than a file name may be.
        let path = folder.join(format!(
            "{}.json",
            schemas::sha256(subjects::tail(key).as_bytes())
        ));
        let record = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            path,
            delivery,
            record: Mutex::new(record),
        }
    }

    /// Deliveries since the last that made progress, without this one.
    pub(super) fn fruitless(&self) -> u64 {
        let excused = self.record.lock().map_or(0, |record| record.excused);
        (self.delivery - 1).saturating_sub(excused)
    }

    /// Notes that the work got as far as `done`, if it never did before.
    pub(super) fn advanced(&self, what: &str, done: u64) {
        let Ok(mut record) = self.record.lock() else {
            return;
        };
        if done == 0 || record.reached.get(what).is_some_and(|&reached| reached >= done) {
            return;
        }
        record.reached.insert(what.to_owned(), done);
        record.excused = self.delivery;
        self.store(&record);
    }

    /// Notes that this delivery was ended by the worker's own end, which is nobody's fault.
    pub(super) fn drained(&self) {
        if let Ok(mut record) = self.record.lock() {
            record.excused = self.delivery;
            self.store(&record);
        }
    }

    /// Forgets the task.
    pub(super) fn close(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn store(&self, record: &Record) {
        let write = || -> std::io::Result<()> {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.persist(&self.path).map_err(|error| error.error)?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }
}
