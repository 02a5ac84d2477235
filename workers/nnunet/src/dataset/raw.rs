//! The files of a raw data set.

use std::path::{Path, PathBuf};

use schemas::nnunet::DatasetJson;

use crate::{Result, image::Reader};

/// A raw data set: a folder with `dataset.json` and its cases.
#[derive(Clone, Debug)]
pub struct RawDataset {
    /// The folder.
    pub folder: PathBuf,
    /// The folder's name, such as `Dataset004_Hippocampus`.
    pub name: String,
    /// What channels and labels mean.
    pub dataset_json: DatasetJson,
    /// Which reader its files are read with.
    pub reader: Reader,
    /// The training cases, by identifier in code-point order (in the order of `dataset.json` where that
    /// lists them).
    pub cases: Vec<RawCase>,
}

/// The files of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawCase {
    /// The identifier. Stays at the site.
    pub identifier: String,
    /// The image files, one per channel, or a single one that holds all channels.
    pub images: Vec<PathBuf>,
    /// The segmentation; none for a case to predict.
    pub label: Option<PathBuf>,
}

impl RawDataset {
    /// Opens the folder: reads `dataset.json`, lists the training cases, chooses the reader.
    ///
    /// # Errors
    /// A missing folder or document, no cases, a case with too few or too many images, a missing file,
    /// no reader: each names the file or case.
    pub fn open(folder: &Path) -> Result<RawDataset> {
        todo!("{folder:?}")
    }

    /// The number of the data set, the XYZ of `DatasetXYZ_name`.
    pub fn id(&self) -> Option<u32> {
        todo!()
    }

    /// The case of that identifier.
    ///
    /// # Errors
    /// There is none.
    pub fn case(&self, identifier: &str) -> Result<&RawCase> {
        todo!("{identifier}")
    }
}

/// The cases in a folder of images without labels, such as imagesTs, in code-point order.
///
/// # Errors
/// As of [`RawDataset::open`].
pub fn cases_to_predict(folder: &Path, dataset_json: &DatasetJson) -> Result<Vec<RawCase>> {
    todo!("{folder:?} {dataset_json:?}")
}
