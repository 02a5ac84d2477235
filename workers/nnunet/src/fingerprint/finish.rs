//! The fingerprint from what was added up.

use schemas::nnunet::Fingerprint;

use super::{Scan, Selection};
use crate::{Result, dataset::RawDataset, progress::Observer};

/// The fingerprint of all cases, from both merged passes. Cases stand sorted by shape and spacing.
///
/// # Errors
/// The selection does not fit the scan: the data changed between the passes.
pub fn finish(scan: &Scan, selection: &Selection) -> Result<Fingerprint> {
    todo!("{scan:?} {selection:?}")
}

/// The fingerprint of one data set alone, by the same path.
///
/// # Errors
/// As of [`scan`](super::scan).
pub fn extract(dataset: &RawDataset, observer: &dyn Observer) -> Result<Fingerprint> {
    todo!("{dataset:?} {}", observer.stop_requested())
}
