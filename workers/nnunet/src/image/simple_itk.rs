//! nnU-Net's SimpleITKIO and SimpleITKIOWithReorient, over the formats that they are used with.
//! (nnunetv2/imageio/simpleitk_reader_writer.py; itkImageFileReader.hxx)

use std::path::{Path, PathBuf};

use ndarray::ArrayView3;

use super::{
    Geometry, files,
    files::Content,
    geometry::ItkSpace,
    gipl,
    grid::{Grid, LabelBytes, THICKNESS_OF_2D},
    meta,
    nifti::{self, Header},
    nifti_geometry, nrrd, orientation,
    voxels::{Scaling, VoxelType, Voxels},
};
use crate::{Error, Result};

/// An image as ITK reads it.
pub(super) struct ItkImage {
    /// Voxels per axis, x first.
    pub dims: Vec<usize>,
    /// Where it lies; as many axes.
    pub space: ItkSpace,
    /// Its voxels, of one component.
    pub voxels: Voxels,
}

/// The formats, which ITK tells apart by a file's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Nifti,
    Nrrd,
    DetachedNrrd,
    Meta,
    DetachedMeta,
    Gipl,
}

impl Format {
    fn of(file: &Path) -> Result<Format> {
        let name = file.to_string_lossy();
        // ITK takes only some of its formats in capitals.
        let lower = name.to_lowercase();
        let formats = [
            (
                lower.ends_with(".nii.gz") || lower.ends_with(".nii"),
                Format::Nifti,
            ),
            (lower.ends_with(".nrrd"), Format::Nrrd),
            (lower.ends_with(".nhdr"), Format::DetachedNrrd),
            (name.ends_with(".mha"), Format::Meta),
            (name.ends_with(".mhd"), Format::DetachedMeta),
            (
                name.ends_with(".gipl") || name.ends_with(".gipl.gz"),
                Format::Gipl,
            ),
        ];
        match formats.iter().find(|(fits, _)| *fits) {
            Some((_, format)) => Ok(*format),
            None => Err(Error::bad_file(
                file,
                "SimpleITKIO reads .nii.gz, .nii, .nrrd, .nhdr, .mha, .mhd and .gipl",
            )),
        }
    }
}

fn read(file: &Path) -> Result<ItkImage> {
    let format = Format::of(file)?;
    let content = std::fs::read(file).map_err(Error::io(file))?;
    let image = match format {
        Format::Nifti => read_nifti(content),
        Format::Nrrd | Format::DetachedNrrd => return nrrd::read(content, file),
        Format::Meta | Format::DetachedMeta => return meta::read(content, file),
        Format::Gipl => gipl::read(content, file.to_string_lossy().ends_with(".gz")),
    };
    image.map_err(|reason| Error::bad_file(file, reason))
}

/// The image that `image` makes of the voxels, given as a file's content and where they begin in it: those of the
/// file at `path` itself, behind its header of `length` bytes, or those of the file that the header names.
pub(super) fn with_voxels(
    path: &Path,
    file: Vec<u8>,
    length: usize,
    named: Option<&str>,
    image: impl FnOnce(Vec<u8>, usize) -> Result<ItkImage, String>,
) -> Result<ItkImage> {
    let bad = |reason: String| Error::bad_file(path, reason);
    let Some(name) = named else {
        return image(file, length).map_err(bad);
    };
    let named = files::beside(path, name).map_err(bad)?;
    let data = std::fs::read(&named).map_err(Error::io(&named))?;
    image(data, 0).map_err(|reason| Error::bad_file(&named, reason))
}

/// A header with its data behind it, or with the file that it names, which goes first.
pub(super) fn header_and_data(
    file: &Path,
    header: String,
    data: Vec<u8>,
    data_file: Option<PathBuf>,
) -> Vec<Content> {
    let mut bytes = header.into_bytes();
    match data_file {
        Some(path) => vec![(path, data), (file.to_owned(), bytes)],
        None => {
            bytes.extend(data);
            vec![(file.to_owned(), bytes)]
        }
    }
}

/// The files that `file` needs beside itself. None where it cannot be read: reading says why.
pub(super) fn companion(file: &Path) -> Option<PathBuf> {
    match Format::of(file).ok()? {
        Format::Nrrd | Format::DetachedNrrd => nrrd::data_file(file),
        Format::Meta | Format::DetachedMeta => meta::data_file(file),
        Format::Nifti | Format::Gipl => None,
    }
}

fn read_nifti(file: Vec<u8>) -> Result<ItkImage, String> {
    let (header, content) = nifti::read(file)?;
    let mut axes = header.dims.len();
    // ITK drops trailing axes of one voxel down to three, of this format only.
    while axes > 3 && header.dims[axes - 1] == 1 {
        axes -= 1;
    }
    let space = nifti_geometry::itk(&header, axes)?;
    // Zero and what is not a number count as no slope, but the intercept still counts.
    let slope = f64::from(header.slope);
    let slope = if slope.is_finite() && slope.abs() >= f64::EPSILON {
        slope
    } else {
        1.0
    };
    let intercept = f64::from(header.intercept);
    let intercept = if intercept.is_finite() { intercept } else { 0.0 };
    let scaled = (slope - 1.0).abs() > f64::EPSILON || intercept.abs() > f64::EPSILON;
    Ok(ItkImage {
        dims: header.dims[..axes].to_vec(),
        space,
        voxels: Voxels {
            voxel_type: header.voxel_type,
            big_endian: header.big_endian,
            scaling: if scaled {
                Scaling::ItkScaled { slope, intercept }
            } else {
                Scaling::Itk
            },
            content,
            start: header.offset,
        },
    })
}

/// Reads as SimpleITKIO, or with `reorient` as SimpleITKIOWithReorient.
pub(super) fn read_grid(file: &Path, reorient: bool) -> Result<Grid> {
    let image = read(file)?;
    grid(image, reorient).map_err(|reason| Error::bad_file(file, reason))
}

fn grid(image: ItkImage, reorient: bool) -> Result<Grid, String> {
    let axes = image.dims.len();
    if !(2..=4).contains(&axes) {
        return Err(format!("{axes} axes, expected 2, 3, or 4 with the channels last"));
    }
    if image.dims.contains(&0) {
        return Err(format!("its shape is {:?}", image.dims));
    }
    let dim = |axis: usize| image.dims.get(axis).copied().unwrap_or(1);
    let mut data = image.voxels.intensities((dim(3), dim(2), dim(1), dim(0)))?;
    drop(image.voxels);
    let mut space = image.space;
    let original = if reorient {
        if axes != 3 {
            return Err(format!("{axes} axes, but SimpleITKIOWithReorient takes 3"));
        }
        let original = orientation::of(&space.direction)?;
        (data, space) = orientation::reorient(data, space, original, orientation::RAS);
        Some(original)
    } else {
        None
    };
    let spacing = match space.spacing[..] {
        [x, y] => [x.max(y) * THICKNESS_OF_2D, y, x],
        [x, y, z, ..] => [z, y, x],
        _ => return Err(format!("{axes} axes")),
    };
    let ItkSpace {
        spacing: itk_spacing,
        origin,
        direction,
    } = space;
    Ok(Grid {
        data,
        spacing,
        geometry: match original {
            None => Geometry::SimpleItk {
                spacing: itk_spacing,
                origin,
                direction,
            },
            Some(original) => Geometry::SimpleItkReoriented {
                spacing: itk_spacing,
                origin,
                direction,
                original_orientation: orientation::name(original),
            },
        },
    })
}

/// The files of a segmentation (z, y, x) in `space`.
pub(super) fn write(labels: ArrayView3<u16>, space: &ItkSpace, file: &Path) -> Result<Vec<Content>> {
    let bad = |reason: String| Error::bad_file(file, reason);
    let (z, y, x) = labels.dim();
    let axes = space.axes();
    if !(2..=3).contains(&axes) || space.origin.len() != axes || space.direction.len() != axes * axes {
        return Err(bad(format!(
            "a segmentation has 2 or 3 axes, its geometry {axes}"
        )));
    }
    if axes == 2 && z != 1 {
        return Err(bad(format!("{z} slices, but the scan is a 2D image")));
    }
    let dims = [x, y, z];
    if dims.contains(&0) {
        return Err(bad(format!("a segmentation of {dims:?} voxels")));
    }
    let values = LabelBytes::of(labels.iter());
    let dims = &dims[..axes];
    let content = match Format::of(file)? {
        Format::Nifti => nifti_bytes(dims, &values, file, |header| {
            nifti_geometry::write_itk(space, header);
        })
        .map(|bytes| vec![(file.to_owned(), bytes)]),
        Format::Nrrd => nrrd::write(dims, space, values, file, false),
        Format::DetachedNrrd => nrrd::write(dims, space, values, file, true),
        Format::Meta => meta::write(dims, space, values, file, false),
        Format::DetachedMeta => meta::write(dims, space, values, file, true),
        Format::Gipl => gipl::write(dims, space, values, file),
    };
    content.map_err(bad)
}

/// A NIfTI-1 file of labels, compressed where its name ends in `.gz`.
pub(super) fn nifti_bytes(
    dims: &[usize],
    values: &LabelBytes,
    file: &Path,
    write_geometry: impl FnOnce(&mut Header),
) -> Result<Vec<u8>, String> {
    if let Some(dim) = dims.iter().find(|&&dim| dim > i16::MAX as usize) {
        return Err(format!("an axis of {dim} voxels does not fit a NIfTI-1 file"));
    }
    let voxel_type = if values.size == 1 {
        VoxelType::U8
    } else {
        VoxelType::U16
    };
    let mut header = Header::new(dims, voxel_type);
    write_geometry(&mut header);
    let mut bytes = header.bytes();
    bytes.extend_from_slice(&values.bytes);
    if file.to_string_lossy().to_lowercase().ends_with(".gz") {
        bytes = super::gzip::deflate(&bytes)?;
    }
    Ok(bytes)
}

/// The path of a data file that lies beside `file`, and its name for the header.
pub(super) fn data_file_of(file: &Path, extension: &str) -> Result<(PathBuf, String), String> {
    let path = file.with_extension(extension);
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    files::beside(file, &name)?;
    Ok((path, name))
}
