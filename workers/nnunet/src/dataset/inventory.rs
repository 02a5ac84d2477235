//! The frozen list of a site's cases.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{RawCase, RawDataset};
use crate::{Error, Result, image::Reader, progress::Observer};

/// The cases of a data set with the digests of their files: pass 0 of the fingerprint.
/// A job freezes it; a later change of the data is a named failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The cases, in the order of [`RawDataset::cases`].
    pub cases: Vec<CaseDigest>,
}

/// What one case's files held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseDigest {
    /// The identifier. Stays at the site.
    pub identifier: String,
    /// The sha256 over the image files and the segmentation, in order, and the files beside them, in hex.
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
        let done = AtomicUsize::new(0);
        let digested = dataset.cases.par_iter().map(|case| {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let digest = CaseDigest::of(case, dataset.reader)?;
            observer.advanced(
                "cases",
                done.fetch_add(1, Ordering::Relaxed) + 1,
                dataset.cases.len(),
            );
            Ok(digest)
        });
        Ok(Inventory {
            cases: digested.collect::<Result<_>>()?,
        })
    }

    /// Compares the data set's list of cases, without their content, to this inventory.
    ///
    /// # Errors
    /// A case came or went.
    pub fn check_list(&self, dataset: &RawDataset) -> Result<()> {
        let known = |identifier: &str| self.cases.iter().any(|case| case.identifier == identifier);
        if let Some(case) = dataset.cases.iter().find(|case| !known(&case.identifier)) {
            return Err(Error::bad_case(
                &case.identifier,
                "it was added after the job's inventory was taken",
            ));
        }
        for (case, taken) in dataset.cases.iter().zip(&self.cases) {
            if case.identifier != taken.identifier {
                return Err(Error::bad_case(
                    &taken.identifier,
                    "it was removed or moved after the job's inventory was taken",
                ));
            }
        }
        match self.cases.get(dataset.cases.len()) {
            Some(gone) => Err(Error::bad_case(
                &gone.identifier,
                "it was removed after the job's inventory was taken",
            )),
            None => Ok(()),
        }
    }

    /// Compares the content of case `ordinal` to this inventory: reads its files, and returns what they hold.
    ///
    /// # Errors
    /// The files changed, or there is no such case.
    pub fn check_case(&self, dataset: &RawDataset, ordinal: usize) -> Result<&CaseDigest> {
        let (Some(taken), Some(case)) = (self.cases.get(ordinal), dataset.cases.get(ordinal)) else {
            let (frozen, found) = (self.cases.len(), dataset.cases.len());
            let reason = format!("the inventory has {frozen} cases, {} has {found}", dataset.name);
            return Err(Error::bad_case(format!("#{ordinal}"), reason));
        };
        if CaseDigest::of(case, dataset.reader)? != *taken {
            return Err(Error::bad_case(
                &taken.identifier,
                "its files changed after the job's inventory was taken",
            ));
        }
        Ok(taken)
    }

    /// A digest of all cases, to compare inventories by. It does not depend on identifiers.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        self.cases.iter().for_each(|case| hasher.update(&case.digest));
        hex::encode(hasher.finalize())
    }
}

impl CaseDigest {
    /// Reads all files of the case.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(case: &RawCase, reader: Reader) -> Result<CaseDigest> {
        let mut hasher = Sha256::new();
        let mut bytes = 0;
        for path in &case.files_with_companions(reader) {
            let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
            // The length keeps apart what the files' order alone would not.
            let length = file.metadata().map_err(Error::io(path))?.len();
            hasher.update(length.to_le_bytes());
            std::io::copy(&mut file, &mut hasher).map_err(Error::io(path))?;
            bytes += length;
        }
        let digest = hex::encode(hasher.finalize());
        Ok(CaseDigest {
            identifier: case.identifier.clone(),
            digest,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use schemas::nnunet::DatasetJson;

    use super::*;
    use crate::{image::Reader, progress::Unobserved};

    #[test]
    fn changes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let case = |name: &str| {
            let image = folder.path().join(name);
            std::fs::write(&image, name).unwrap();
            RawCase {
                identifier: name.into(),
                images: vec![image],
                label: None,
            }
        };
        let text = r#"{"channel_names": {"0": "a"}, "labels": {"background": 0}, "numTraining": 2, "file_ending": ".nii"}"#;
        let mut dataset = RawDataset {
            folder: folder.path().to_owned(),
            name: "Dataset004_X".into(),
            dataset_json: DatasetJson::parse(text).unwrap(),
            reader: Reader::Nibabel,
            cases: vec![case("a"), case("b")],
            mapped: Default::default(),
        };
        assert_eq!(dataset.id(), Some(4));
        let inventory = Inventory::take(&dataset, &Unobserved).unwrap();
        inventory.check_list(&dataset).unwrap();
        inventory.check_case(&dataset, 1).unwrap();
        std::fs::write(folder.path().join("b"), "c").unwrap();
        assert!(
            inventory
                .check_case(&dataset, 1)
                .unwrap_err()
                .to_string()
                .contains("case b: its files changed")
        );
        assert_ne!(
            Inventory::take(&dataset, &Unobserved).unwrap().digest(),
            inventory.digest()
        );
        dataset.cases.push(case("d"));
        assert!(
            inventory
                .check_list(&dataset)
                .unwrap_err()
                .to_string()
                .contains("case d: it was added")
        );
        dataset.cases.truncate(1);
        assert!(
            inventory
                .check_list(&dataset)
                .unwrap_err()
                .to_string()
                .contains("case b: it was removed")
        );
    }
}
