//! nnU-Net's readers, chosen as nnU-Net chooses them.
//! (nnunetv2/imageio/reader_writer_registry.py, simpleitk_reader_writer.py, nibabel_reader_writer.py)

use std::path::{Path, PathBuf};

use ndarray::ArrayView3;
use schemas::nnunet::DatasetJson;
use serde::{Deserialize, Serialize};

use super::{Geometry, Image, Segmentation};
use crate::Result;

/// Which library's eyes a data set is read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reader {
    /// As SimpleITK reads and writes: nnU-Net's SimpleITKIO.
    #[serde(rename = "SimpleITKIO")]
    SimpleItk,
    /// As nibabel reads and writes: nnU-Net's NibabelIO.
    #[serde(rename = "NibabelIO")]
    Nibabel,
}

impl Reader {
    /// The name of nnU-Net's class, as it stands in plans under `image_reader_writer`.
    pub fn name(self) -> &'static str {
        match self {
            Reader::SimpleItk => "SimpleITKIO",
            Reader::Nibabel => "NibabelIO",
        }
    }

    /// The reader of that name.
    ///
    /// # Errors
    /// A class of nnU-Net's that Rounds does not have, or no class of nnU-Net's.
    pub fn by_name(name: &str) -> Result<Reader> {
        todo!("{name}")
    }

    /// The reader that nnU-Net takes for a data set: the one `dataset.json` asks for, or the first that
    /// supports the file ending and can read `example`.
    ///
    /// # Errors
    /// No reader supports the ending, or none can read the example: the error names both.
    pub fn for_dataset(dataset: &DatasetJson, example: &Path) -> Result<Reader> {
        todo!("{dataset:?} {example:?}")
    }

    /// Reads a case: one file per channel, or one file that holds all of them as its fourth dimension.
    ///
    /// # Errors
    /// A file that cannot be read; channels of unlike shape or spacing.
    pub fn read_images(self, files: &[PathBuf]) -> Result<Image> {
        todo!("{files:?}")
    }

    /// Reads a segmentation.
    ///
    /// # Errors
    /// A file that cannot be read, holds several channels, or a value that is not a label.
    pub fn read_segmentation(self, file: &Path) -> Result<Segmentation> {
        todo!("{file:?}")
    }

    /// Writes label values (z, y, x) where `geometry` says: as u8 where all are under 255, else as u16.
    /// The same labels and geometry give the same bytes.
    ///
    /// # Errors
    /// The file cannot be written, or a geometry of another reader or of a 4D image.
    pub fn write_segmentation(self, labels: ArrayView3<u16>, geometry: &Geometry, file: &Path) -> Result<()> {
        todo!("{labels:?} {geometry:?} {file:?}")
    }
}
