//! Pass 1: what can be summed without knowing the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ExactSum;
use crate::{
    Result,
    dataset::{RawCase, RawDataset},
    progress::Observer,
};

/// What some cases contribute to the fingerprint. Merging is independent of order and of how cases are sharded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// N: the number of cases of all sites, on which the number of samples of a case depends.
    pub cases_in_total: u64,
    /// One entry per case, sorted.
    pub cases: Vec<CaseShape>,
    /// The number of cases without any foreground.
    pub without_foreground: u64,
    /// One entry per channel.
    pub channels: Vec<ChannelScan>,
}

/// The grid of a case. Floats are kept as bits so that they sort and compare exactly; all are positive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseShape {
    /// Voxels (z, y, x) before cropping to nonzero.
    pub before: [u64; 3],
    /// Voxels (z, y, x) after.
    pub after: [u64; 3],
    /// Bits of the spacing (z, y, x) in mm.
    pub spacing_bits: [u64; 3],
}

/// The samples of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelScan {
    /// The number of samples.
    pub count: u64,
    /// The exact sum of the samples.
    pub sum: ExactSum<6>,
    /// The exact sum of their squares.
    pub sum_of_squares: ExactSum<11>,
    /// How many samples have each high half of the ordered float bits.
    pub high: BTreeMap<u16, u64>,
}

/// Scans `cases` of a data set; `cases_in_total` counts the cases of all sites.
///
/// # Errors
/// A case that cannot be read, does not fit its segmentation, or holds NaN; [`crate::Error::Stopped`].
pub fn scan(
    dataset: &RawDataset,
    cases: &[RawCase],
    cases_in_total: u64,
    observer: &dyn Observer,
) -> Result<Scan> {
    todo!(
        "{dataset:?} {cases:?} {cases_in_total} {}",
        observer.stop_requested()
    )
}

impl Scan {
    /// The scan of no cases, to merge others into.
    pub fn empty(channels: usize, cases_in_total: u64) -> Scan {
        todo!("{channels} {cases_in_total}")
    }

    /// Adds another scan of other cases.
    ///
    /// # Errors
    /// The scans differ in their number of channels or of cases in total.
    pub fn merge(&mut self, other: &Scan) -> Result<()> {
        todo!("{other:?}")
    }
}
