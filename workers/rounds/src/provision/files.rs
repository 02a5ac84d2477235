//! Files that are whole or not there at all, and that only their owner reads where they hold a secret.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use anyhow::Context;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its owner only: seeds, private keys.
    Owner,
    /// Everybody on the machine.
    All,
}

/// Writes a file, in place of one that is there.
pub fn write(file: &Path, text: &str, access: Access) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        // Such a file is its owner's from the start.
        let mut temporary = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
        temporary.write_all(text.as_bytes())?;
        if access == Access::All {
            temporary
                .as_file()
                .set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        temporary.as_file().sync_all()?;
        temporary.persist(file)?;
        Ok(())
    };
    write().with_context(|| format!("{}", file.display()))
}

/// Makes a folder that only its owner enters.
pub fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("{}", folder.display()))
}

/// Reads a text file.
pub fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("{}", file.display()))
}

/// Whether anybody on the machine may read a file.
pub fn is_open(file: &Path) -> anyhow::Result<bool> {
    let data = fs::metadata(file).with_context(|| format!("{}", file.display()))?;
    Ok(data.permissions().mode() & 0o007 != 0)
}

/// Removes a file; that there is none is fine.
pub fn remove(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}", file.display()))
        }
        _ => Ok(()),
    }
}
