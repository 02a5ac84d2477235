//! Files that are whole or absent: written or linked in a sibling of their folder, then renamed.
//!
//! The sibling is there because Python asserts a single extension in the folder itself. Names in it are used
//! once, so that two processes at the same case do not write into each other's file.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{Error, Result};

/// Writes `folder`/`name` so that it is whole or absent: in the sibling, synced, renamed. A file that is there
/// is replaced.
pub(super) fn write(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut File, &Path) -> Result<()>,
) -> Result<()> {
    let (partial, mut file) = unused(folder, name, |path| File::create_new(path))?;
    let written = write(&mut file, &partial)
        .and_then(|()| file.sync_all().map_err(Error::io(&partial)))
        .and_then(|()| place(&partial, folder, name));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Makes `folder`/`name` another name of the file `from`. A file that is there is replaced. False where there
/// is no `from`.
pub(super) fn link(from: &Path, folder: &Path, name: &str) -> Result<bool> {
    if !from.is_file() {
        return Ok(false);
    }
    let partial = match unused(folder, name, |path| fs::hard_link(from, path)) {
        Ok((partial, ())) => partial,
        // It went between the two looks.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let placed = place(&partial, folder, name);
    // Renaming one name of a file onto another of its names does nothing, and leaves both.
    let _ = fs::remove_file(&partial);
    placed.map(|()| true)
}

/// The folder in which the files of `folder` are made.
pub fn partial_folder(folder: &Path) -> Result<PathBuf> {
    match folder.file_name() {
        Some(own) => Ok(folder.with_file_name(format!(".{}.partial", own.to_string_lossy()))),
        None => Err(Error::bad_file(folder, "expected a folder with a name")),
    }
}

fn place(partial: &Path, folder: &Path, name: &str) -> Result<()> {
    let whole = folder.join(name);
    fs::rename(partial, &whole).map_err(Error::io(&whole))
}

/// Makes a file under a name that nothing has, in the sibling of `folder`; both folders are made if needed.
fn unused<T>(folder: &Path, name: &str, make: impl Fn(&Path) -> std::io::Result<T>) -> Result<(PathBuf, T)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let sibling = partial_folder(folder)?;
    for made in [folder, &sibling] {
        fs::create_dir_all(made).map_err(Error::io(made))?;
    }
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = sibling.join(format!("{name}.{}.{number}", process::id()));
        match make(&path) {
            Ok(made) => return Ok((path, made)),
            // A process of the same number left it, or another machine's.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(&path)(error)),
        }
    }
}

/// Makes the names in a folder last through a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io(folder))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn put(folder: &Path, content: &str) {
        write(folder, "a", |file, path| {
            file.write_all(content.as_bytes()).map_err(Error::io(path))
        })
        .unwrap();
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs"));
        put(&ours, "old");
        put(&ours, "new");
        assert_eq!(fs::read_to_string(ours.join("a")).unwrap(), "new");
        assert!(write(&ours, "a", |_, path| Err(Error::bad_file(path, "full"))).is_err());
        assert_eq!(fs::read_to_string(ours.join("a")).unwrap(), "new");

        assert!(!link(&ours.join("b"), &theirs, "a").unwrap());
        // Also where the name is another name of the same file already.
        for _ in 0..2 {
            assert!(link(&ours.join("a"), &theirs, "a").unwrap());
            assert_eq!(fs::read_to_string(theirs.join("a")).unwrap(), "new");
        }
        put(&ours, "newer");
        assert_eq!(fs::read_to_string(theirs.join("a")).unwrap(), "new");
        for folder in [&ours, &theirs] {
            let left = fs::read_dir(partial_folder(folder).unwrap()).unwrap().count();
            assert_eq!(left, 0);
        }
    }
}
