//! nnU-Net's checks of a raw data set.
//! (nnunetv2/experiment_planning/verify_dataset_integrity.py)

use super::RawDataset;
use crate::{Result, progress::Observer};

/// Something wrong with a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether nnU-Net would go on.
    pub severity: Severity,
    /// The case, where it is about one.
    pub case: Option<String>,
    /// What was found and what was expected, with the files.
    pub message: String,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a look, such as an origin that differs between image and segmentation.
    Warning,
    /// The data set cannot be trained on.
    Error,
}

/// All problems of a data set, in the order of its cases.
///
/// # Errors
/// [`crate::Error::Stopped`] only: what is wrong with the data is in the answer.
pub fn verify_dataset_integrity(dataset: &RawDataset, observer: &dyn Observer) -> Result<Vec<Problem>> {
    todo!("{:?} {}", dataset, observer.stop_requested())
}
