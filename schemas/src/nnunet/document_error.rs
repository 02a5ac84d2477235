//! What is wrong with a document, and where.

/// A document does not have nnU-Net's form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct DocumentError {
    /// The JSON path of the field, such as `labels.tumour`.
    pub path: String,
    /// What was found and what was expected.
    pub reason: String,
}

impl DocumentError {
    /// The error at `path`.
    pub fn new(path: impl ToString, reason: impl ToString) -> Self {
        Self {
            path: path.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl From<serde_path_to_error::Error<serde_json::Error>> for DocumentError {
    fn from(error: serde_path_to_error::Error<serde_json::Error>) -> Self {
        Self::new(error.path().to_string(), error.into_inner())
    }
}
