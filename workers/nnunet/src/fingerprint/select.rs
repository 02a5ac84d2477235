//! Pass 2: which samples stand at the wanted ranks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Scan;
use crate::{
    Result,
    dataset::{RawCase, RawDataset},
    progress::Observer,
};

/// The high halves, per channel, in which the wanted ranks lie: what pass 2 looks into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// N, as in [`Scan::cases_in_total`].
    pub cases_in_total: u64,
    /// Per channel.
    pub high: Vec<BTreeSet<u16>>,
}

/// How many samples of each wanted high half have each low half. Merges like a [`Scan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Per channel: wanted high half to low half to count.
    pub channels: Vec<BTreeMap<u16, BTreeMap<u16, u64>>>,
}

/// Looks into `cases` once more.
///
/// # Errors
/// As of [`scan`](super::scan).
pub fn select(
    dataset: &RawDataset,
    cases: &[RawCase],
    wanted: &Wanted,
    observer: &dyn Observer,
) -> Result<Selection> {
    todo!("{dataset:?} {cases:?} {wanted:?} {}", observer.stop_requested())
}

impl Wanted {
    /// Where the ranks of minimum, maximum, median and the two percentiles lie, once all scans are merged.
    ///
    /// # Errors
    /// A channel without any sample: no case of any site has foreground. Cases are missing or too many.
    pub fn of(scan: &Scan) -> Result<Wanted> {
        todo!("{scan:?}")
    }
}

impl Selection {
    /// The selection of no cases, to merge others into.
    pub fn empty(wanted: &Wanted) -> Selection {
        todo!("{wanted:?}")
    }

    /// Adds another selection of other cases.
    ///
    /// # Errors
    /// The selections looked into different high halves.
    pub fn merge(&mut self, other: &Selection) -> Result<()> {
        todo!("{other:?}")
    }
}
