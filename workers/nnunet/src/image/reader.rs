//! nnU-Net's readers, chosen as nnU-Net chooses them. (nnunetv2/imageio/reader_writer_registry.py)

use std::path::{Path, PathBuf};

use ndarray::{Array3, ArrayView3, Axis};
use schemas::nnunet::DatasetJson;
use serde::{Deserialize, Serialize};

use super::{
    Geometry, Image, Segmentation, files,
    geometry::{ItkSpace, all_close},
    grid::Grid,
    natural, nibabel, orientation, simple_itk,
    tiff3d::{self, Kind},
};
use crate::{Error, Result};

/// Which library's eyes a data set is read with: nnU-Net's classes, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reader {
    /// PNG, BMP and 2D TIFF, as scikit-image reads and writes them.
    #[serde(rename = "NaturalImage2DIO")]
    NaturalImage2D,
    /// NIfTI, NRRD, MetaImage and GIPL, as SimpleITK reads and writes them.
    #[serde(rename = "SimpleITKIO")]
    SimpleItk,
    /// As above, with the axes turned to right, anterior, superior.
    #[serde(rename = "SimpleITKIOWithReorient")]
    SimpleItkReoriented,
    /// TIFF volumes, as tifffile reads and writes them.
    #[serde(rename = "Tiff3DIO")]
    Tiff3D,
    /// NIfTI, as nibabel reads and writes it.
    #[serde(rename = "NibabelIO")]
    Nibabel,
    /// As above, with the axes turned to right, anterior, superior.
    #[serde(rename = "NibabelIOWithReorient")]
    NibabelReoriented,
}

/// The readers that are tried for an ending, in nnU-Net's order, and their endings.
const BY_ENDING: [(Reader, &[&str]); 5] = [
    (Reader::NaturalImage2D, &[".png", ".bmp", ".tif"]),
    (Reader::SimpleItk, &[".nii.gz", ".nrrd", ".mha", ".gipl"]),
    (Reader::Tiff3D, &[".tif", ".tiff"]),
    (Reader::Nibabel, &[".nii", ".nii.gz"]),
    (Reader::NibabelReoriented, &[".nii", ".nii.gz"]),
];

impl Reader {
    /// All of them.
    pub const ALL: [Reader; 6] = [
        Reader::NaturalImage2D,
        Reader::SimpleItk,
        Reader::SimpleItkReoriented,
        Reader::Tiff3D,
        Reader::Nibabel,
        Reader::NibabelReoriented,
    ];

    /// The name of nnU-Net's class, as it stands in plans under `image_reader_writer`.
    pub fn name(self) -> &'static str {
        match self {
            Reader::NaturalImage2D => "NaturalImage2DIO",
            Reader::SimpleItk => "SimpleITKIO",
            Reader::SimpleItkReoriented => "SimpleITKIOWithReorient",
            Reader::Tiff3D => "Tiff3DIO",
            Reader::Nibabel => "NibabelIO",
            Reader::NibabelReoriented => "NibabelIOWithReorient",
        }
    }

    /// The reader of that name.
    ///
    /// # Errors
    /// No class of nnU-Net's.
    pub fn by_name(name: &str) -> Result<Reader> {
        Reader::ALL
            .into_iter()
            .find(|reader| reader.name() == name)
            .ok_or_else(|| {
                let names = Reader::ALL.map(Reader::name).join(", ");
                Error::invalid(
                    "image reader",
                    format!("{name} is not a reader; these are: {names}"),
                )
            })
    }

    /// The reader that nnU-Net takes for a data set: the one `dataset.json` asks for, or the first that
    /// supports the file ending and can read `example`. Like nnU-Net, it passes over a name it never heard of.
    ///
    /// # Errors
    /// No reader for the ending, or none that can read the example: the error says why.
    pub fn for_dataset(dataset: &DatasetJson, example: &Path) -> Result<Reader> {
        if let Some(name) = dataset.overwrite_image_reader_writer()
            && let Ok(reader) = Reader::by_name(name)
        {
            return Ok(reader);
        }
        Reader::for_ending(dataset.file_ending(), example)
    }

    /// The first reader that supports the ending and can read `example`.
    ///
    /// # Errors
    /// As of [`Reader::for_dataset`].
    pub fn for_ending(ending: &str, example: &Path) -> Result<Reader> {
        let lower = ending.to_lowercase();
        let mut reasons = Vec::new();
        for (reader, endings) in BY_ENDING {
            if !endings.contains(&lower.as_str()) {
                continue;
            }
            match reader.read_images(&[example.to_owned()]) {
                Ok(_) => return Ok(reader),
                Err(Error::BadFile { reason, .. }) => reasons.push(format!("{}: {reason}", reader.name())),
                Err(error) => return Err(error),
            }
        }
        if reasons.is_empty() {
            let mut known: Vec<&str> = BY_ENDING
                .iter()
                .flat_map(|(_, endings)| *endings)
                .copied()
                .collect();
            known.sort_unstable();
            known.dedup();
            let known = known.join(", ");
            let why = match lower.as_str() {
                ".jpg" | ".jpeg" => "; JPEG would lose labels",
                ".mhd" | ".nhdr" => {
                    "; overwrite_image_reader_writer may ask for SimpleITKIO, which reads them"
                }
                _ => "",
            };
            let reason =
                format!("no reader of nnU-Net's takes files ending in {ending}{why}; it takes {known}");
            return Err(Error::invalid("dataset.json file_ending", reason));
        }
        Err(Error::bad_file(example, reasons.join("; ")))
    }

    /// Reads a case: one file per channel (or per image of three or four colours), or one file that holds all
    /// of them as its fourth dimension.
    ///
    /// # Errors
    /// A file that cannot be read; channels of unlike shape or spacing.
    pub fn read_images(self, files: &[PathBuf]) -> Result<Image> {
        let Some((first_file, others)) = files.split_first() else {
            return Err(Error::invalid("images", "a case needs at least one file"));
        };
        let first = self.read_grid(first_file, Kind::Image)?;
        let mut data = first.data;
        if !others.is_empty() {
            let (channels, z, y, x) = data.dim();
            data.reserve(Axis(0), channels * others.len())
                .map_err(|error| Error::bad_file(first_file, error))?;
            for file in others {
                let next = self.read_grid(file, Kind::Image)?;
                if next.data.shape() != [channels, z, y, x] {
                    let (found, expected) = (next.data.shape().to_vec(), [channels, z, y, x]);
                    let reason = format!("its shape is {found:?}, but the first channel's {expected:?}");
                    return Err(Error::bad_file(file, reason));
                }
                if !all_close(&first.spacing, &next.spacing) {
                    let reason = format!(
                        "its spacing is {:?}, but the first channel's {:?}",
                        next.spacing, first.spacing
                    );
                    return Err(Error::bad_file(file, reason));
                }
                data.append(Axis(0), next.data.view())
                    .map_err(|error| Error::bad_file(file, error))?;
            }
        }
        Ok(Image {
            data,
            spacing: first.spacing,
            geometry: first.geometry,
        })
    }

    /// Reads a segmentation.
    ///
    /// # Errors
    /// A file that cannot be read, holds several channels, or a value that is not a label.
    pub fn read_segmentation(self, file: &Path) -> Result<Segmentation> {
        let grid = self.read_grid(file, Kind::Segmentation)?;
        let (channels, z, y, x) = grid.data.dim();
        if channels != 1 {
            return Err(Error::bad_file(
                file,
                format!("a segmentation has one channel, found {channels}"),
            ));
        }
        let mut stray = None;
        let labels = grid.data.iter().map(|&value| {
            let label = value as i16;
            if f32::from(label) != value {
                stray = Some(value);
            }
            label
        });
        let labels = Array3::from_shape_vec((z, y, x), labels.collect())
            .map_err(|error| Error::bad_file(file, error))?;
        match stray {
            Some(value) => Err(Error::bad_file(
                file,
                format!("{value} is not a label: expected small integers"),
            )),
            None => Ok(Segmentation {
                labels,
                spacing: grid.spacing,
                geometry: grid.geometry,
            }),
        }
    }

    fn read_grid(self, file: &Path, kind: Kind) -> Result<Grid> {
        match self {
            Reader::NaturalImage2D => natural::read_grid(file),
            Reader::SimpleItk => simple_itk::read_grid(file, false),
            Reader::SimpleItkReoriented => simple_itk::read_grid(file, true),
            Reader::Tiff3D => tiff3d::read_grid(file, kind),
            Reader::Nibabel => nibabel::read_grid(file, false),
            Reader::NibabelReoriented => nibabel::read_grid(file, true),
        }
    }

    /// The file that an image needs beside itself: its voxels or its spacing. None where it needs none.
    pub fn companion_of_image(self, file: &Path) -> Option<PathBuf> {
        self.companion(file, Kind::Image)
    }

    /// As [`Reader::companion_of_image`], of a segmentation.
    pub fn companion_of_segmentation(self, file: &Path) -> Option<PathBuf> {
        self.companion(file, Kind::Segmentation)
    }

    fn companion(self, file: &Path, kind: Kind) -> Option<PathBuf> {
        match self {
            Reader::SimpleItk | Reader::SimpleItkReoriented => simple_itk::companion(file),
            Reader::Tiff3D => tiff3d::spacing_file(file, kind),
            Reader::NaturalImage2D | Reader::Nibabel | Reader::NibabelReoriented => None,
        }
    }

    /// Writes label values (z, y, x) where `geometry` says: as u8 where all are under 255, else as u16. The
    /// file's ending says the format; .mhd, .nhdr and volumes of TIFF get a second file beside them. Files appear
    /// whole. The same labels and geometry give the same bytes.
    ///
    /// # Errors
    /// The file cannot be written, or a geometry of another reader or of a 4D image.
    pub fn write_segmentation(self, labels: ArrayView3<u16>, geometry: &Geometry, file: &Path) -> Result<()> {
        let content = match (self, geometry) {
            (
                Reader::SimpleItk,
                Geometry::SimpleItk {
                    spacing,
                    origin,
                    direction,
                },
            ) => simple_itk::write(labels, &itk_space(spacing, origin, direction), file)?,
            (
                Reader::SimpleItkReoriented,
                Geometry::SimpleItkReoriented {
                    spacing,
                    origin,
                    direction,
                    original_orientation,
                },
            ) => {
                let bad = |reason: String| Error::bad_file(file, reason);
                // nnU-Net would wrap them around.
                if labels.iter().any(|&label| label > 255) {
                    return Err(bad("SimpleITKIOWithReorient writes labels up to 255".into()));
                }
                if direction.len() != 9 || spacing.len() != 3 || origin.len() != 3 {
                    return Err(bad("the geometry of a reoriented image has 3 axes".into()));
                }
                let from = orientation::of(direction).map_err(bad)?;
                let to = orientation::by_name(original_orientation).map_err(bad)?;
                let space = itk_space(spacing, origin, direction);
                let (labels, space) = orientation::reorient_labels(labels, space, from, to);
                simple_itk::write(labels.view(), &space, file)?
            }
            (Reader::Nibabel, Geometry::Nibabel { original_affine }) => {
                nibabel::write(labels, original_affine, file)?
            }
            (
                Reader::NibabelReoriented,
                Geometry::NibabelReoriented {
                    original_affine,
                    reoriented_affine,
                },
            ) => nibabel::write_reoriented(labels, original_affine, reoriented_affine, file)?,
            (Reader::NaturalImage2D, Geometry::SpacingOnly { .. }) => natural::write(labels, file)?,
            (Reader::Tiff3D, Geometry::SpacingOnly { spacing }) => tiff3d::write(labels, *spacing, file)?,
            _ => {
                let reason = format!("{} cannot write the geometry of another reader", self.name());
                return Err(Error::bad_file(file, reason));
            }
        };
        files::write_whole(&content)
    }
}

fn itk_space(spacing: &[f64], origin: &[f64], direction: &[f64]) -> ItkSpace {
    ItkSpace {
        spacing: spacing.to_vec(),
        origin: origin.to_vec(),
        direction: direction.to_vec(),
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
