//! From an error to a named failure that may leave the site: a code and a sentence without names or paths.

use std::path::Path;

use schemas::task::Failure;

/// A message that should not have come.
pub fn bug(message: impl Into<String>) -> Failure {
    Failure::fatal("bad-task", message)
}

/// A file that could not be read or written; its path goes to the site's log only.
pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    tracing::error!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull => Failure::fatal("disk-full", format!("{what}: the disk is full")),
        std::io::ErrorKind::NotFound => Failure::retryable("missing-file", format!("{what}: it is missing")),
        kind => Failure::retryable("io", format!("{what}: {kind}")),
    }
}

/// An error of the algorithm; names and paths go to the site's log only.
pub fn of_error(error: nnunet::Error) -> Failure {
    use nnunet::Error;
    tracing::error!("{error}");
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Failure::fatal("disk-full", "the disk is full")
        }
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::retryable("missing-file", "a file is missing")
        }
        Error::Io { source, .. } => Failure::retryable("io", format!("a file: {}", source.kind())),
        Error::BadFile { reason, .. } => Failure::fatal("bad-file", reason),
        Error::BadCase { reason, .. } => Failure::fatal("bad-case", reason),
        Error::InCase { source, .. } => of_error(*source),
        Error::Invalid { what, reason } => Failure::fatal("invalid", format!("{what}: {reason}")),
        Error::Torch(message) if message.contains("out of memory") => Failure::retryable(
            "out-of-memory",
            "the device has too little free memory for the plan's batch",
        ),
        Error::Torch(message) => Failure::retryable("libtorch", message.lines().next().unwrap_or_default()),
        Error::NotFinite(what) => Failure::fatal("not-finite", what),
        Error::Stopped => Failure::retryable("stopped", "the work was asked to stop"),
        other => Failure::fatal("failed", other.to_string()),
    }
}

/// [`of_error`] with the ordinal of the case, where the error names one of `identifiers`.
pub fn of_case_error<'a>(error: nnunet::Error, identifiers: impl IntoIterator<Item = &'a str>) -> Failure {
    let case = match &error {
        nnunet::Error::BadCase { case, .. } | nnunet::Error::InCase { case, .. } => identifiers
            .into_iter()
            .position(|identifier| identifier == case)
            .map(|ordinal| ordinal as u32),
        _ => None,
    };
    Failure {
        case,
        ..of_error(error)
    }
}
