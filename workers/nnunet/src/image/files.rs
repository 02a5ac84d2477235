//! Image files that are whole or absent, and that name others.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Bytes for a file.
pub(super) type Content = (PathBuf, Vec<u8>);

/// Writes files beside their places, syncs and renames them in their order, so that each is whole or absent and
/// the last, which is the image, is there only when the files are that it needs.
pub(super) fn write_whole(files: &[Content]) -> Result<()> {
    let partial = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".partial-{name}"))
    };
    for (path, bytes) in files {
        let partial = partial(path);
        let mut file = File::create(&partial).map_err(Error::io(&partial))?;
        file.write_all(bytes).map_err(Error::io(&partial))?;
        file.sync_all().map_err(Error::io(&partial))?;
    }
    for (path, _) in files {
        fs::rename(partial(path), path).map_err(Error::io(path))?;
    }
    Ok(())
}

/// The file `name` that the header `header` says holds its voxels: only one in the header's own folder will do,
/// so that no header makes a reader open files elsewhere.
pub(super) fn beside(header: &Path, name: &str) -> Result<PathBuf, String> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    let is_plain = Path::new(plain).file_name().is_some_and(|file| file == plain);
    if !is_plain || plain.contains('\0') {
        return Err(format!(
            "its data file {name:?} is not a plain name in the header's own folder"
        ));
    }
    Ok(header.with_file_name(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stay_in_the_headers_folder() {
        let header = Path::new("images/a.mhd");
        for name in ["a.raw", "./a.raw"] {
            assert_eq!(beside(header, name).unwrap(), Path::new("images/a.raw"));
        }
        for name in [
            "/etc/passwd",
            "../a.raw",
            "b/a.raw",
            "..",
            ".",
            "",
            "a\0.raw",
            "a/",
        ] {
            assert!(beside(header, name).unwrap_err().contains("plain name"), "{name}");
        }
    }

    #[test]
    fn files_appear_whole() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a.raw", "a.mhd"].map(|name| (folder.path().join(name), name.as_bytes().to_vec()));
        write_whole(&files).unwrap();
        write_whole(&files).unwrap();
        assert_eq!(fs::read(folder.path().join("a.mhd")).unwrap(), b"a.mhd");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
