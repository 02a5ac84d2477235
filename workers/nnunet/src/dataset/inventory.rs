//! The frozen list of a site's cases.

use serde::{Deserialize, Serialize};

use super::RawDataset;
use crate::{Result, progress::Observer};

/// The cases of a data set with the digests of their files: pass 0 of the fingerprint.
/// A job freezes it; a later change of the data is a named failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The cases, in the order of [`RawDataset::cases`].
    pub cases: Vec<CaseDigest>,
}

/// What one case's files held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseDigest {
    /// The identifier. Stays at the site.
    pub identifier: String,
    /// The sha256 over the image files and the segmentation, in order, in hex.
    pub digest: String,
    /// The bytes of all its files.
    pub bytes: u64,
}

impl Inventory {
    /// Reads every file of every case.
    ///
    /// # Errors
    /// A file that cannot be read; [`crate::Error::Stopped`].
    pub fn take(dataset: &RawDataset, observer: &dyn Observer) -> Result<Inventory> {
        todo!("{:?} {}", dataset, observer.stop_requested())
    }

    /// Compares the data set's list of cases, without their content, to this inventory.
    ///
    /// # Errors
    /// A case came or went.
    pub fn check_list(&self, dataset: &RawDataset) -> Result<()> {
        todo!("{dataset:?}")
    }

    /// Compares the content of case `ordinal` to this inventory.
    ///
    /// # Errors
    /// The files changed, or there is no such case.
    pub fn check_case(&self, dataset: &RawDataset, ordinal: usize) -> Result<()> {
        todo!("{dataset:?} {ordinal}")
    }

    /// A digest of all cases, to compare inventories by.
    pub fn digest(&self) -> String {
        todo!()
    }
}
