//! What in a site's folder no live job needs. A job that is not known to have ended counts as live.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nnunet::preprocess::CaseCache;
use pipeline::known::Known;

use crate::{
    job_folder::{self, INVENTORY, JobFolder, LASTING, MOMENTUM, PREPROCESSED, PUSHED_ASIDE, entries},
    room::{self, CachedCase, gone},
};

/// What can go.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Parts of the folders of ended jobs.
    pub parts: Vec<Part>,
    /// Jobs that are not known to have ended.
    pub live: Vec<String>,
    /// Preprocessed cases that only ended jobs use, or none.
    pub cases: Vec<CachedCase>,
    /// The number of all cases in the cache.
    pub cases_in_total: usize,
}

/// A file or folder in the folder of an ended job, or the whole folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The job.
    pub job: String,
    /// `momentum`, `segmentations`, ...; empty for the whole folder.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes, without those of preprocessed cases, which the cache holds too.
    pub bytes: u64,
}

impl Garbage {
    /// Finds it. `said` are jobs that somebody said have ended.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn find(root: &Path, cache: &CaseCache, known: &[Known], said: &[String]) -> io::Result<Self> {
        let (ended, live): (Vec<JobFolder>, Vec<JobFolder>) = job_folder::all(root)?
            .into_iter()
            .partition(|folder| said.contains(&folder.job) || has_ended(folder, known));
        // A job that goes on from an ended one needs the momentum of that.
        let running = known.iter().filter(|job| !job.ended).map(|job| &job.accepted);
        let continued: BTreeSet<&str> = live
            .iter()
            .filter_map(|folder| folder.accepted.as_ref())
            .chain(running)
            .filter_map(|job| Some(&*job.continues.as_ref()?.job))
            .collect();
        let mut garbage = Self::default();
        let mut links = BTreeMap::new();
        for folder in &ended {
            for path in goes(folder, continued.contains(&*folder.job))? {
                let name = match path == folder.path {
                    true => String::new(),
                    false => path
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned(),
                };
                garbage.parts.push(Part {
                    job: folder.job.clone(),
                    name,
                    bytes: weigh(&path, &mut links)?,
                    path,
                });
            }
        }
        for path in entries(&job_folder::jobs(root))? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with(PUSHED_ASIDE) {
                garbage.parts.push(Part {
                    job: name,
                    name: String::new(),
                    bytes: weigh(&path, &mut links)?,
                    path,
                });
            }
        }
        let cases = room::cached(cache)?;
        garbage.cases_in_total = cases.len();
        garbage.cases = cases
            .into_iter()
            .filter(|case| !case.in_use(|file| links.get(&file.identity).copied().unwrap_or(0)))
            .collect();
        garbage.live = live.into_iter().map(|folder| folder.job).collect();
        Ok(garbage)
    }

    /// The bytes that its removal frees.
    pub fn bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.bytes);
        parts.chain(self.cases.iter().map(CachedCase::bytes)).sum()
    }

    /// Removes it. A case that a job began to use meanwhile stays.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn remove(&self, cache: &CaseCache) -> io::Result<()> {
        for part in &self.parts {
            remove(&part.path)?;
        }
        let chosen: BTreeSet<&str> = self.cases.iter().map(|case| &*case.key).collect();
        for case in room::cached(cache)? {
            if chosen.contains(&*case.key) && !case.in_use(|_| 0) {
                case.remove()?;
            }
        }
        Ok(())
    }
}

/// Takes away the names that ended jobs gave to preprocessed cases. What cannot be removed stays.
pub fn release(root: &Path, known: &[Known]) {
    let folders = job_folder::all(root).unwrap_or_default();
    for folder in folders.iter().filter(|folder| has_ended(folder, known)) {
        let names = folder.path.join(PREPROCESSED);
        if let Err(error) = remove(&names) {
            tracing::warn!("{}: {error}", names.display());
        }
    }
}

/// Whether a folder's job has ended: that job, and not another one of its name.
fn has_ended(folder: &JobFolder, known: &[Known]) -> bool {
    known
        .iter()
        .any(|job| job.ended && Some(&job.accepted) == folder.accepted.as_ref())
}

/// What of an ended job's folder goes: all, but for what a later job may continue from.
fn goes(folder: &JobFolder, continued: bool) -> io::Result<Vec<PathBuf>> {
    if !folder.path.join(INVENTORY).exists() {
        return Ok(vec![folder.path.clone()]);
    }
    let mut parts = entries(&folder.path)?;
    parts.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        !name.is_some_and(|name| LASTING.contains(&name) || (continued && name == MOMENTUM))
    });
    parts.sort();
    Ok(parts)
}

/// The bytes of the files below `path` that have no other name; counts the names of the others.
fn weigh(path: &Path, links: &mut BTreeMap<(u64, u64), u64>) -> io::Result<u64> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if metadata.is_dir() {
        return entries(path)?
            .iter()
            .try_fold(0, |sum, path| Ok(sum + weigh(path, links)?));
    }
    if metadata.nlink() > 1 {
        *links.entry((metadata.dev(), metadata.ino())).or_default() += 1;
        return Ok(0);
    }
    Ok(metadata.len())
}

fn remove(path: &Path) -> io::Result<()> {
    gone(match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    })
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
