//! From an error to a named failure that may leave the site: a code and a sentence without names or paths.

use std::path::Path;

use schemas::task::Failure;

/// A failure that trying again will not mend.
pub fn lasting(code: &str, message: impl Into<String>) -> Failure {
    Failure { code: code.into(), message: message.into(), case: None, retryable: false }
}

/// A failure that may pass.
pub fn passing(code: &str, message: impl Into<String>) -> Failure {
    Failure { code: code.into(), message: message.into(), case: None, retryable: true }
}

/// A message that should not have come.
pub fn bug(message: impl Into<String>) -> Failure {
    lasting("bad-task", message)
}

/// A file that could not be read or written; its path goes to the site's log only.
pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    tracing::error!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull => lasting("disk-full", format!("{what}: the disk is full")),
        kind => passing("io", format!("{what}: {kind}")),
    }
}

/// An error of the algorithm; names and paths go to the site's log only.
pub fn of_error(error: nnunet::Error) -> Failure {
    use nnunet::Error;
    tracing::error!("{error}");
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            lasting("disk-full", "the disk is full")
        }
        Error::Io { source, .. } => passing("io", format!("a file: {}", source.kind())),
        Error::BadFile { reason, .. } => lasting("bad-file", reason),
        Error::BadCase { reason, .. } => lasting("bad-case", reason),
        Error::Invalid { what, reason } => lasting("invalid", format!("{what}: {reason}")),
        Error::Torch(message) if message.contains("out of memory") => {
            passing("out-of-memory", "the device has too little free memory for the plan's batch")
        }
        Error::Torch(message) => passing("libtorch", message.lines().next().unwrap_or_default()),
        Error::Stopped => passing("stopped", "the work was asked to stop"),
        other => lasting("failed", other.to_string()),
    }
}

/// [`of_error`] with the ordinal of the case, where the error names one of `identifiers`.
pub fn of_case_error<'a>(error: nnunet::Error, identifiers: impl IntoIterator<Item = &'a str>) -> Failure {
    let case = match &error {
        nnunet::Error::BadCase { case, .. } => {
            identifiers.into_iter().position(|identifier| identifier == case).map(|ordinal| ordinal as u32)
        }
        _ => None,
    };
    Failure { case, ..of_error(error) }
}
