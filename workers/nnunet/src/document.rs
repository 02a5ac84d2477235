//! JSON documents on disk: dataset.json, plans, fingerprints, splits.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::Path,
};

use crate::{Error, Result};

/// No document of a data set of a million cases is larger.
const LARGEST: u64 = 256 << 20;

/// Reads the text of a document.
///
/// # Errors
/// A file that cannot be read, is not text, or is larger than any document.
pub fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length <= LARGEST {
        // A file may grow meanwhile.
        let mut file = file.take(LARGEST + 1);
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
    }
    if length.max(bytes.len() as u64) > LARGEST {
        let limit = LARGEST >> 20;
        return Err(Error::bad_file(
            path,
            format!("{length} bytes, but a document has at most {limit} MiB"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| Error::bad_file(path, format!("not a JSON document: {error}")))
}

/// Writes a document so that it is whole or absent: to a temporary beside it, synced, renamed.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

/// As [`write`], of a document that is no text.
///
/// # Errors
/// A file that cannot be written.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Others may write the same document, or have died doing so: each takes a name that is free.
    let (mut file, partial) = (0u64..)
        .find_map(|number| {
            let partial = path.with_file_name(format!(".{name}.{number}.partial"));
            match File::create_new(&partial) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
                made => Some(
                    made.map(|file| (file, partial.clone()))
                        .map_err(Error::io(&partial)),
                ),
            }
        })
        .unwrap_or_else(|| Err(Error::bad_file(path, "no name is free beside it")))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(Error::io(&partial))?;
    fs::rename(&partial, path).map_err(Error::io(path))
}
