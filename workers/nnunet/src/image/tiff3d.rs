//! nnU-Net's Tiff3DIO: TIFF volumes, with their spacing in a JSON file beside them.
//! (nnunetv2/imageio/tif_reader_writer.py)

use std::path::{Path, PathBuf};

use ndarray::{ArrayView3, Axis, Ix3};
use schemas::nnunet::python_json;
use serde::{Deserialize, Serialize};

use super::{Geometry, files::Content, grid::Grid, tiff_series, tiff_write};
use crate::{Error, Result};

/// The file beside an image, without what else it may hold.
#[derive(Serialize, Deserialize)]
struct SpacingFile {
    /// Spacing in mm, (z, y, x).
    spacing: [f64; 3],
}

/// Characters of a channel's `_0000`.
const CHANNEL: usize = 5;

/// What is read: its spacing lies beside the case's name or beside the segmentation's.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// An image, whose name ends in its channel.
    Image,
    /// A segmentation.
    Segmentation,
}

/// Reads a volume. Without a spacing beside it, each voxel is 1 mm.
pub(super) fn read_grid(file: &Path, kind: Kind) -> Result<Grid> {
    check_ending(file)?;
    let content = std::fs::read(file).map_err(Error::io(file))?;
    let bad = |reason: String| Error::bad_file(file, reason);
    let array = tiff_series::read(&content).map_err(bad)?;
    let shape = array.shape().to_vec();
    let array = array.into_dimensionality::<Ix3>().map_err(|_| {
        bad(format!(
            "its shape is {shape:?}, but Tiff3DIO reads only 3D images"
        ))
    })?;
    let spacing = match spacing_file(file, kind) {
        Some(beside) => read_spacing(&beside, kind)?,
        None => [1.0; 3],
    };
    Ok(Grid {
        data: array.insert_axis(Axis(0)).as_standard_layout().into_owned(),
        spacing,
        geometry: Geometry::SpacingOnly { spacing },
    })
}

/// The JSON file that belongs to `file`, where there is one.
pub(super) fn spacing_file(file: &Path, kind: Kind) -> Option<PathBuf> {
    let mut stem = file.file_stem()?.to_string_lossy().into_owned();
    if kind == Kind::Image {
        let channel = stem.char_indices().rev().nth(CHANNEL - 1)?.0;
        stem.truncate(channel);
    }
    let beside = file.with_file_name(stem + ".json");
    beside.is_file().then_some(beside)
}

fn read_spacing(file: &Path, kind: Kind) -> Result<[f64; 3]> {
    let bytes = std::fs::read(file).map_err(Error::io(file))?;
    let read: SpacingFile = schemas::parse(&bytes).map_err(|error| Error::bad_file(file, error))?;
    let spacing = read.spacing;
    if spacing.iter().any(|&s| !s.is_finite() || s <= 0.0) {
        let what = if kind == Kind::Image {
            "image"
        } else {
            "segmentation"
        };
        return Err(Error::bad_file(
            file,
            format!("the spacing of an {what} is {spacing:?}, expected more than 0"),
        ));
    }
    Ok(spacing)
}

fn check_ending(file: &Path) -> Result<()> {
    let extension = file
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    if extension == "tif" || extension == "tiff" {
        return Ok(());
    }
    Err(Error::bad_file(file, "Tiff3DIO reads and writes .tif and .tiff"))
}

/// The files of a segmentation (z, y, x): its spacing and its pages.
pub(super) fn write(labels: ArrayView3<u16>, spacing: [f64; 3], file: &Path) -> Result<Vec<Content>> {
    check_ending(file)?;
    let bad = |reason: String| Error::bad_file(file, reason);
    let (z, y, x) = labels.dim();
    let bytes = tiff_write::bytes(labels, &[z, y, x]).map_err(bad)?;
    let text = python_json::to_string(&SpacingFile { spacing }).map_err(|error| bad(error.to_string()))?;
    Ok(vec![
        (file.with_extension("json"), text.into_bytes()),
        (file.to_owned(), bytes),
    ])
}
