//! The trained model that a job names, to segment with or to start from.

use super::{CheckpointName, FoldId};
use crate::{Invalid, names};

/// A model that a job names, and which of its checkpoints.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NamedModel<'a> {
    /// Where the message names it.
    pub path_field: &'static str,
    /// Where the message says which fold.
    pub fold_field: &'static str,
    /// A model folder inside a models root, or `job:<id>`.
    pub path: &'a str,
    /// The fold.
    pub fold_id: FoldId,
    /// Which of the fold's checkpoints.
    pub checkpoint_name: CheckpointName,
}

impl<'a> NamedModel<'a> {
    /// The earlier job whose result it is, where it is named `job:<id>`.
    pub fn job(&self) -> Option<&'a str> {
        self.path.strip_prefix("job:")
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        match self.job() {
            Some(job) => names::check_token(self.path_field, job),
            None if self.path.is_empty() => Err(Invalid::new(
                self.path_field,
                "empty: expected a model folder or job:<id>",
            )),
            None => Ok(()),
        }
    }
}
