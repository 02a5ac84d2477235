//! What can go wrong in the algorithm, by name.

use std::path::{Path, PathBuf};

/// An error of the algorithm. Names the file or case, and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file's content is not what its format promises.
    #[error("{path}: {reason}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// A case cannot be used.
    #[error("case {case}: {reason}")]
    BadCase {
        /// The case identifier. Stays at the site.
        case: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A case's files or stored arrays cannot be used.
    #[error("case {case}: {source}")]
    InCase {
        /// The case identifier. Stays at the site.
        case: String,
        /// What is wrong with which file.
        source: Box<Error>,
    },
    /// A document (dataset.json, plans, fingerprint) or a request does not fit.
    #[error("{what}: {reason}")]
    Invalid {
        /// The document or field.
        what: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A training left the numbers: a loss, a gradient or a weight is infinite or NaN.
    #[error("{0}")]
    NotFinite(String),
    /// A weight is too large to be sent as an integer.
    #[error("{0}")]
    OutOfRange(String),
    /// libtorch reported an error.
    #[error("libtorch: {0}")]
    Torch(String),
    /// The observer asked to stop.
    #[error("stopped on request")]
    Stopped,
}

/// A result of the algorithm.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::BadFile`].
    pub fn bad_file(path: impl AsRef<Path>, reason: impl ToString) -> Error {
        Error::BadFile {
            path: path.as_ref().to_owned(),
            reason: reason.to_string(),
        }
    }

    /// An [`Error::BadCase`].
    pub fn bad_case(case: impl ToString, reason: impl ToString) -> Error {
        Error::BadCase {
            case: case.to_string(),
            reason: reason.to_string(),
        }
    }

    /// The error as one of a case, where it is not that already. A request to stop stays one.
    pub fn in_case(self, case: impl ToString) -> Error {
        match self {
            Error::BadCase { .. } | Error::InCase { .. } | Error::Stopped => self,
            source => Error::InCase {
                case: case.to_string(),
                source: Box::new(source),
            },
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: impl ToString, reason: impl ToString) -> Error {
        Error::Invalid {
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }
}

#[cfg(feature = "torch")]
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Error::Torch(error.to_string())
    }
}
