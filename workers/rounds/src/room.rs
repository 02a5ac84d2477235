//! Room for preprocessed cases: what the cache of a site holds, and what must go before more comes.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::CString,
    fs,
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nnunet::preprocess::{CaseCache, estimated_bytes};
use schemas::{
    nnunet::{Configuration, Plans},
    task::Failure,
};

use crate::{byte_size::ByteSize, job_folder::entries, phases::failure};

/// No file is written or linked for so long: what is older was left by a process that died.
const STALE: Duration = Duration::from_secs(3600);

/// A case in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedCase {
    /// Its key.
    pub key: String,
    /// Its files.
    pub files: Vec<CachedFile>,
    /// When a job last used it.
    pub used: SystemTime,
}

/// A file of a case in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Device and inode: the file itself, whatever its names.
    pub identity: (u64, u64),
    /// Its names: one in the cache, and one in the folder of each job that uses it.
    pub links: u64,
}

impl CachedCase {
    /// The size of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether the folder of some job uses it, where `ended` of its names are of jobs that have ended.
    pub fn in_use(&self, ended: impl Fn(&CachedFile) -> u64) -> bool {
        self.files.iter().any(|file| file.links > 1 + ended(file))
    }

    /// Removes it from the cache. A job that just linked it keeps it.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self) -> io::Result<()> {
        for file in &self.files {
            gone(fs::remove_file(&file.path))?;
        }
        Ok(())
    }
}

/// Lets pass that what is to be removed is not there.
pub fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The cases of a cache, least recently used first.
///
/// # Errors
/// The folder cannot be read.
pub fn cached(cache: &CaseCache) -> io::Result<Vec<CachedCase>> {
    let mut cases: BTreeMap<String, CachedCase> = BTreeMap::new();
    for path in entries(cache.folder())? {
        let Some(key) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let used = metadata.modified()?;
        let case = cases.entry(key.to_owned()).or_insert_with(|| CachedCase {
            key: key.to_owned(),
            files: Vec::new(),
            used,
        });
        case.used = case.used.max(used);
        case.files.push(CachedFile {
            bytes: metadata.len(),
            identity: (metadata.dev(), metadata.ino()),
            links: metadata.nlink(),
            path,
        });
    }
    let mut cases: Vec<CachedCase> = cases.into_values().collect();
    cases.sort_by_key(|case| case.used);
    Ok(cases)
}

/// Notes that the cases `identifiers` in `folder` were used now. What cannot be noted is only forgotten earlier.
pub fn note_use<'a>(folder: &Path, identifiers: impl IntoIterator<Item = &'a str>) {
    let now = SystemTime::now();
    for identifier in identifiers {
        let file = folder.join(format!("{identifier}.npz"));
        if let Err(error) = fs::File::open(&file).and_then(|file| file.set_modified(now)) {
            tracing::debug!("{}: {error}", file.display());
        }
    }
}

/// Removes what processes that died left in a folder of partial files.
pub fn sweep(folder: &Path) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    for path in entries(folder).unwrap_or_default() {
        // A new name changes the time of change, not that of the content.
        let changed = fs::symlink_metadata(&path).map(|metadata| metadata.ctime().max(0) as u64);
        if changed.is_ok_and(|changed| now.as_secs() > changed + STALE.as_secs()) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// About how many bytes the preprocessed cases of a data set take. `shapes` are each case's shape after cropping
/// and its spacing in mm, both (z, y, x).
pub fn estimate(
    shapes: impl IntoIterator<Item = ([usize; 3], [f64; 3])>,
    plans: &Plans,
    configuration: &Configuration,
) -> u64 {
    let cases = shapes.into_iter();
    cases
        .map(|(shape, spacing)| estimated_bytes(shape, spacing, plans, configuration))
        .fold(0, u64::saturating_add)
}

/// The bytes that are free for us on the disk of a folder.
///
/// # Errors
/// What the system says.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a NUL, and statvfs only fills the struct it is given.
    let disk = unsafe {
        let mut disk = std::mem::zeroed::<libc::statvfs>();
        if libc::statvfs(path.as_ptr(), &raw mut disk) != 0 {
            return Err(io::Error::last_os_error());
        }
        disk
    };
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What is to be made room for.
pub struct Wanted<'a> {
    /// The keys of all cases of the job: none of them goes.
    pub keys: &'a [String],
    /// About how many bytes all of them take; none where it is not known.
    pub bytes: Option<u64>,
    /// The bound on the cache.
    pub bound: Option<ByteSize>,
}

/// Makes room in a cache for the cases of a job, by removing those that no job uses, least recently used first:
/// until all fits under the bound and on the disk. `free` says how many bytes are free, `release` takes the
/// names away that ended jobs gave; it is called only where something must go.
///
/// # Errors
/// `disk-short` where the cases do not fit on the disk. A bound that is too small for the cases of live jobs is
/// a warning only.
pub fn make_room(
    cache: &CaseCache,
    wanted: &Wanted<'_>,
    free: &dyn Fn() -> io::Result<u64>,
    release: &dyn Fn(),
) -> Result<(), Failure> {
    let io = |error| failure::io("the cache of preprocessed cases", cache.folder(), &error);
    let look = || Ok::<_, Failure>((cached(cache).map_err(io)?, free().map_err(io)?));
    let keys: HashSet<&str> = wanted.keys.iter().map(String::as_str).collect();
    let (mut cases, mut free) = look()?;
    let there = cases.iter().filter(|case| keys.contains(&*case.key));
    let (found, there) = there.fold((0, 0), |(n, bytes), case| (n + 1, bytes + case.bytes()));
    let needed = match wanted.bytes {
        Some(bytes) if found < keys.len() => bytes.saturating_sub(there),
        _ => 0,
    };
    let over = |cases: &[CachedCase]| {
        let held: u64 = cases.iter().map(CachedCase::bytes).sum();
        wanted
            .bound
            .map_or(0, |bound| (held + needed).saturating_sub(bound.0))
    };
    if over(&cases) == 0 && needed <= free {
        return Ok(());
    }
    release();
    (cases, free) = look()?;
    let (mut excess, mut removed, mut bytes) = (over(&cases).max(needed.saturating_sub(free)), 0, 0);
    for case in cases
        .iter()
        .filter(|case| !keys.contains(&*case.key) && !case.in_use(|_| 0))
    {
        if excess == 0 {
            break;
        }
        case.remove().map_err(io)?;
        excess = excess.saturating_sub(case.bytes());
        (removed, bytes) = (removed + 1, bytes + case.bytes());
    }
    if removed > 0 {
        tracing::info!(
            "removed {removed} preprocessed cases that no job uses, {}",
            ByteSize(bytes)
        );
        (cases, free) = look()?;
    }
    must_fit(needed, free, "the site's folder").map_err(|message| {
        tracing::error!("{}: {message}", cache.folder().display());
        Failure::fatal("disk-short", message)
    })?;
    if let (over @ 1.., Some(bound)) = (over(&cases), wanted.bound) {
        let over = ByteSize(over);
        tracing::warn!("cache_bytes is {bound}: the cases of live jobs take about {over} more, and stay");
    }
    Ok(())
}

/// Whether `needed` bytes fit on a disk with `free` bytes; else what to tell. `role` says which folder it is,
/// without its path.
///
/// # Errors
/// The sentence.
pub fn must_fit(needed: u64, free: u64, role: &str) -> Result<(), String> {
    if needed <= free {
        return Ok(());
    }
    Err(format!(
        "the preprocessed cases need about {} more ({needed} bytes), and the disk of {role} has {} free ({free} bytes)",
        ByteSize(needed),
        ByteSize(free)
    ))
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
