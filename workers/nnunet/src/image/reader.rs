//! nnU-Net's readers, chosen as nnU-Net chooses them.
//! (nnunetv2/imageio/reader_writer_registry.py, simpleitk_reader_writer.py, nibabel_reader_writer.py)

use std::path::{Path, PathBuf};

use ndarray::{Array3, Array4, ArrayView3, Axis};
use schemas::nnunet::DatasetJson;
use serde::{Deserialize, Serialize};

use super::{
    Geometry, Image, Segmentation,
    geometry::all_close,
    nifti::{self, Header, Volume},
    nifti_geometry,
    voxels::{Scaling, VoxelType},
};
use crate::{Error, Result};

/// How much thicker than its larger pixel side nnU-Net takes the one slice of a 2D image to be.
const THICKNESS_OF_2D: f64 = 999.0;
/// Readers of nnU-Net's that Rounds does not have.
const NOT_SUPPORTED: [&str; 4] = [
    "NaturalImage2DIO",
    "Tiff3DIO",
    "NibabelIOWithReorient",
    "SimpleITKIOWithReorient",
];

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
        match name {
            "SimpleITKIO" => Ok(Reader::SimpleItk),
            "NibabelIO" => Ok(Reader::Nibabel),
            name => {
                let reason = if NOT_SUPPORTED.contains(&name) {
                    "is not supported; SimpleITKIO and NibabelIO are"
                } else {
                    "is not a reader; SimpleITKIO and NibabelIO are"
                };
                Err(Error::invalid("image reader", format!("{name} {reason}")))
            }
        }
    }

    /// The reader that nnU-Net takes for a data set: the one `dataset.json` asks for, or the first that
    /// supports the file ending and can read `example`. Like nnU-Net, it passes over a name it never heard of.
    ///
    /// # Errors
    /// A reader that is asked for and not supported, no reader for the ending, or none that can read the
    /// example: the error says why.
    pub fn for_dataset(dataset: &DatasetJson, example: &Path) -> Result<Reader> {
        if let Some(name) = dataset.overwrite_image_reader_writer() {
            match Reader::by_name(name) {
                Ok(reader) => return Ok(reader),
                Err(error) if NOT_SUPPORTED.contains(&name) => return Err(error),
                Err(_) => {}
            }
        }
        let candidates: &[Reader] = match dataset.file_ending().to_lowercase().as_str() {
            ".nii.gz" => &[Reader::SimpleItk, Reader::Nibabel],
            ".nii" => &[Reader::Nibabel],
            ending => {
                let reason = format!("files ending in {ending} are not supported; .nii.gz and .nii are");
                return Err(Error::invalid("dataset.json file_ending", reason));
            }
        };
        let mut reasons = Vec::new();
        for &reader in candidates {
            match reader.read_images(&[example.to_owned()]) {
                Ok(_) => return Ok(reader),
                Err(Error::BadFile { reason, .. }) => reasons.push(format!("{}: {reason}", reader.name())),
                Err(error) => return Err(error),
            }
        }
        Err(Error::bad_file(example, reasons.join("; ")))
    }

    /// Reads a case: one file per channel, or one file that holds all of them as its fourth dimension.
    ///
    /// # Errors
    /// A file that cannot be read; channels of unlike shape or spacing.
    pub fn read_images(self, files: &[PathBuf]) -> Result<Image> {
        let Some((first_file, others)) = files.split_first() else {
            return Err(Error::invalid("images", "a case needs at least one file"));
        };
        let first = Grid::read(self, first_file)?;
        let mut data = first.data;
        if !others.is_empty() {
            let (channels, z, y, x) = data.dim();
            data.reserve(Axis(0), channels * others.len())
                .map_err(|error| Error::bad_file(first_file, error))?;
            for file in others {
                let next = Grid::read(self, file)?;
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
        let grid = Grid::read(self, file)?;
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

    /// Writes label values (z, y, x) where `geometry` says: as u8 where all are under 255, else as u16.
    /// The same labels and geometry give the same bytes.
    ///
    /// # Errors
    /// The file cannot be written, or a geometry of another reader or of a 4D image.
    pub fn write_segmentation(self, labels: ArrayView3<u16>, geometry: &Geometry, file: &Path) -> Result<()> {
        let bad = |reason: String| Error::bad_file(file, reason);
        let (z, y, x) = labels.dim();
        let flat = match (self, geometry) {
            (Reader::SimpleItk, Geometry::SimpleItk { spacing, .. }) => spacing.len() == 2,
            (Reader::Nibabel, Geometry::Nibabel { .. }) => false,
            _ => {
                return Err(bad(format!(
                    "{} cannot write the geometry of another reader",
                    self.name()
                )));
            }
        };
        if flat && z != 1 {
            return Err(bad(format!("{z} slices, but the scan is a 2D image")));
        }
        let dims = if flat { vec![x, y] } else { vec![x, y, z] };
        if let Some(dim) = dims.iter().find(|&&dim| dim == 0 || dim > i16::MAX as usize) {
            return Err(bad(format!(
                "an axis of {dim} voxels does not fit a NIfTI-1 file"
            )));
        }
        let small = labels.iter().all(|&label| label < 255);
        let mut header = Header::new(&dims, if small { VoxelType::U8 } else { VoxelType::U16 });
        nifti_geometry::write(geometry, &mut header).map_err(bad)?;
        let voxels: Vec<u8> = if small {
            labels.iter().map(|&label| label as u8).collect()
        } else {
            labels.iter().flat_map(|&label| label.to_le_bytes()).collect()
        };
        nifti::write(&header, &voxels, file)
    }
}

/// One file's channels.
struct Grid {
    data: Array4<f32>,
    spacing: [f64; 3],
    geometry: Geometry,
}

impl Grid {
    fn read(reader: Reader, file: &Path) -> Result<Grid> {
        let volume = nifti::read(file)?;
        let grid = match reader {
            Reader::SimpleItk => Grid::as_itk(&volume),
            Reader::Nibabel => Grid::as_nibabel(&volume),
        };
        grid.map_err(|reason| Error::bad_file(file, reason))
    }

    fn as_itk(volume: &Volume) -> Result<Grid, String> {
        let header = &volume.header;
        let mut axes = header.dims.len();
        // ITK drops trailing axes of one voxel down to three.
        while axes > 3 && header.dims[axes - 1] == 1 {
            axes -= 1;
        }
        if !(2..=4).contains(&axes) {
            return Err(format!("{axes} axes, expected 2, 3, or 4 with the channels last"));
        }
        let dim = |axis: usize| if axis < axes { header.dims[axis] } else { 1 };
        let shape = (dim(3), dim(2), dim(1), dim(0));
        let geometry = nifti_geometry::itk(header, axes)?;
        let Geometry::SimpleItk { spacing, .. } = &geometry else {
            return Err("not ITK's geometry".into());
        };
        let spacing = match spacing[..] {
            [x, y] => [x.max(y) * THICKNESS_OF_2D, y, x],
            [x, y, z, ..] => [z, y, x],
            _ => return Err(format!("{} spacings", spacing.len())),
        };
        // Zero and what is not a number count as no slope, but the intercept still counts.
        let slope = f64::from(header.slope);
        let slope = if slope.is_finite() && slope.abs() >= f64::EPSILON {
            slope
        } else {
            1.0
        };
        let intercept = f64::from(header.intercept);
        let intercept = if intercept.is_finite() { intercept } else { 0.0 };
        let scaling = if (slope - 1.0).abs() > f64::EPSILON || intercept.abs() > f64::EPSILON {
            Scaling::ItkScaled { slope, intercept }
        } else {
            Scaling::Itk
        };
        Ok(Grid {
            data: intensities(volume, shape, scaling)?,
            spacing,
            geometry,
        })
    }

    fn as_nibabel(volume: &Volume) -> Result<Grid, String> {
        let header = &volume.header;
        let &[x, y, z] = header.dims.as_slice() else {
            return Err(format!(
                "{} axes, but NibabelIO reads only 3D images",
                header.dims.len()
            ));
        };
        let (zooms, geometry) = nifti_geometry::nibabel(header)?;
        let (slope, intercept) = (f64::from(header.slope), f64::from(header.intercept));
        let scaling = if !slope.is_finite() || slope == 0.0 || (slope == 1.0 && intercept == 0.0) {
            Scaling::Nibabel
        } else if intercept.is_finite() {
            Scaling::NibabelScaled { slope, intercept }
        } else {
            return Err(format!("scl_slope is {slope}, but scl_inter {intercept}"));
        };
        let spacing = [zooms[2], zooms[1], zooms[0]];
        Ok(Grid {
            data: intensities(volume, (1, z, y, x), scaling)?,
            spacing,
            geometry,
        })
    }
}

/// The voxels as intensities, (c, z, y, x): the file's own order.
fn intensities(
    volume: &Volume,
    shape: (usize, usize, usize, usize),
    scaling: Scaling,
) -> Result<Array4<f32>, String> {
    let header = &volume.header;
    let mut data = vec![0.0; shape.0 * shape.1 * shape.2 * shape.3];
    header
        .voxel_type
        .decode(volume.bytes(), header.big_endian, scaling, &mut data);
    Array4::from_shape_vec(shape, data).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(ending: &str, reader: &str) -> DatasetJson {
        let text = format!(
            r#"{{"channel_names": {{"0": "MRI"}}, "labels": {{"background": 0}}, "numTraining": 1,
            "file_ending": "{ending}", "overwrite_image_reader_writer": "{reader}"}}"#
        );
        DatasetJson::parse(&text).unwrap()
    }

    fn identity() -> Geometry {
        let direction = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        Geometry::SimpleItk {
            spacing: vec![1.0, 2.0, 3.0],
            origin: vec![4.0, 5.0, 6.0],
            direction,
        }
    }

    #[test]
    fn segmentations_read_back_and_are_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for largest in [254, 255] {
            let labels = Array3::from_shape_fn(
                (2, 3, 4),
                |(z, y, x)| if z + y + x == 6 { largest } else { x as u16 },
            );
            let paths = ["a.b.nii.gz", "c.nii.gz"].map(|name| folder.path().join(name));
            for path in &paths {
                Reader::SimpleItk
                    .write_segmentation(labels.view(), &identity(), path)
                    .unwrap();
            }
            assert_eq!(
                std::fs::read(&paths[0]).unwrap(),
                std::fs::read(&paths[1]).unwrap()
            );
            let read = Reader::SimpleItk.read_segmentation(&paths[0]).unwrap();
            assert_eq!(read.labels.mapv(|label| label as u16), labels);
            assert_eq!((read.spacing, read.geometry), ([3.0, 2.0, 1.0], identity()));
        }
    }

    #[test]
    fn the_reader_is_chosen_as_nnunet_chooses_it() {
        let folder = tempfile::tempdir().unwrap();
        let labels = Array3::zeros((2, 3, 4));
        for ending in [".nii", ".nii.gz"] {
            let path = folder.path().join(format!("a{ending}"));
            Reader::SimpleItk
                .write_segmentation(labels.view(), &identity(), &path)
                .unwrap();
            let chosen = Reader::for_dataset(&dataset(ending, "None"), &path).unwrap();
            assert_eq!(
                chosen,
                if ending == ".nii" {
                    Reader::Nibabel
                } else {
                    Reader::SimpleItk
                }
            );
            assert_eq!(
                Reader::for_dataset(&dataset(ending, "NibabelIO"), &path).unwrap(),
                Reader::Nibabel
            );
            assert_eq!(
                Reader::for_dataset(&dataset(ending, "NoSuchIO"), &path).unwrap(),
                chosen
            );
        }
        let error = Reader::for_dataset(&dataset(".mha", "None"), Path::new("a.mha")).unwrap_err();
        assert!(error.to_string().contains(".mha"), "{error}");
        let error = Reader::for_dataset(&dataset(".tif", "Tiff3DIO"), Path::new("a.tif")).unwrap_err();
        assert!(error.to_string().contains("Tiff3DIO"), "{error}");
    }

    #[test]
    fn a_value_that_is_no_label_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii");
        for value in [0.5f32, f32::NAN, 40000.0] {
            nifti::write(
                &Header::new(&[1, 1, 1], VoxelType::F32),
                &value.to_le_bytes(),
                &path,
            )
            .unwrap();
            let error = Reader::SimpleItk
                .read_segmentation(&path)
                .unwrap_err()
                .to_string();
            assert!(error.contains(&value.to_string()), "{error}");
        }
    }

    #[test]
    fn channels_must_share_their_grid() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [[4, 3, 2], [4, 3, 3]].map(|dims| {
            let path = folder.path().join(format!("{}.nii.gz", dims[2]));
            nifti::write(
                &Header::new(&dims, VoxelType::U8),
                &vec![7; dims.iter().product()],
                &path,
            )
            .unwrap();
            path
        });
        let error = Reader::SimpleItk.read_images(&paths).unwrap_err().to_string();
        assert!(
            error.contains("3.nii.gz") && error.contains("[1, 2, 3, 4]"),
            "{error}"
        );
        let twice = [paths[0].clone(), paths[0].clone()];
        assert_eq!(
            Reader::SimpleItk.read_images(&twice).unwrap().data.dim(),
            (2, 2, 3, 4)
        );
    }
}
