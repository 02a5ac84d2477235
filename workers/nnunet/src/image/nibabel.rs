//! nnU-Net's NibabelIO and NibabelIOWithReorient: NIfTI as nibabel reads and writes it.
//! (nnunetv2/imageio/nibabel_reader_writer.py; nibabel/orientations.py)

use std::path::Path;

use ndarray::{ArrayView3, Axis};

use super::{
    Geometry,
    files::Content,
    grid::{Grid, LabelBytes},
    nifti,
    nifti_geometry::{self, Affine, voxel_size},
    simple_itk::nifti_bytes,
    voxels::{Scaling, Voxels},
};
use crate::{Error, Result};

/// The last row of an affine.
const LAST_ROW: [f64; 4] = [0.0, 0.0, 0.0, 1.0];
/// Below this determinant of its unit axes an affine is flat.
const FLAT: f64 = 1e-12;
/// Newton's method doubles the digits at each step, once near.
const STEPS: usize = 60;

/// For each axis of an array: the axis of the space that it follows, and whether backwards.
type Orientation = [(usize, bool); 3];

/// Reads as NibabelIO, or with `reorient` as NibabelIOWithReorient.
pub(super) fn read_grid(file: &Path, reorient: bool) -> Result<Grid> {
    let content = std::fs::read(file).map_err(Error::io(file))?;
    grid(content, reorient).map_err(|reason| Error::bad_file(file, reason))
}

fn grid(content: Vec<u8>, reorient: bool) -> Result<Grid, String> {
    let (header, content) = nifti::read(content)?;
    let &[x, y, z] = header.dims.as_slice() else {
        return Err(format!(
            "{} axes, but NibabelIO reads only 3D images",
            header.dims.len()
        ));
    };
    let (mut zooms, rows) = nifti_geometry::nibabel(&header)?;
    let (slope, intercept) = (f64::from(header.slope), f64::from(header.intercept));
    let scaling = if !slope.is_finite() || slope == 0.0 || (slope == 1.0 && intercept == 0.0) {
        Scaling::Nibabel
    } else if intercept.is_finite() {
        Scaling::NibabelScaled { slope, intercept }
    } else {
        return Err(format!("scl_slope is {slope}, but scl_inter {intercept}"));
    };
    let voxels = Voxels {
        voxel_type: header.voxel_type,
        big_endian: header.big_endian,
        scaling,
        content,
        start: header.offset,
    };
    let mut data = voxels.intensities((1, z, y, x))?;
    drop(voxels);
    let original_affine = with_last_row(rows);
    let geometry = if reorient {
        let orientation = io_orientation(&rows)?;
        let mut reoriented = rows;
        if orientation != [0, 1, 2].map(|axis| (axis, false)) {
            reoriented = reorient_affine(&rows, orientation, [x, y, z]);
            zooms = [0, 1, 2].map(|axis| f64::from(voxel_size(&reoriented, axis) as f32));
            data = turned(data.index_axis(Axis(0), 0), orientation)
                .as_standard_layout()
                .into_owned()
                .insert_axis(Axis(0));
        }
        Geometry::NibabelReoriented {
            original_affine,
            reoriented_affine: with_last_row(reoriented),
        }
    } else {
        Geometry::Nibabel { original_affine }
    };
    Ok(Grid {
        data,
        spacing: [zooms[2], zooms[1], zooms[0]],
        geometry,
    })
}

fn with_last_row(rows: Affine) -> [[f64; 4]; 4] {
    [rows[0], rows[1], rows[2], LAST_ROW]
}

fn rows(affine: &[[f64; 4]; 4]) -> Affine {
    [affine[0], affine[1], affine[2]]
}

/// The file of a segmentation (z, y, x) with this affine.
pub(super) fn write(labels: ArrayView3<u16>, affine: &[[f64; 4]; 4], file: &Path) -> Result<Vec<Content>> {
    write_rows(labels, &rows(affine), file).map_err(|reason| Error::bad_file(file, reason))
}

/// As [`write`], of a reoriented segmentation: turned back to where the file's axes ran.
pub(super) fn write_reoriented(
    labels: ArrayView3<u16>,
    original_affine: &[[f64; 4]; 4],
    reoriented_affine: &[[f64; 4]; 4],
    file: &Path,
) -> Result<Vec<Content>> {
    let write = || {
        let forward = io_orientation(&rows(original_affine))?;
        let mut back = forward;
        for (axis, &(followed, backwards)) in forward.iter().enumerate() {
            back[followed] = (axis, backwards);
        }
        let (z, y, x) = labels.dim();
        let affine = reorient_affine(&rows(reoriented_affine), back, [x, y, z]);
        write_rows(turned(labels, back), &affine, file)
    };
    write().map_err(|reason| Error::bad_file(file, reason))
}

fn write_rows(labels: ArrayView3<u16>, affine: &Affine, file: &Path) -> Result<Vec<Content>, String> {
    let name = file.to_string_lossy().to_lowercase();
    if !name.ends_with(".nii") && !name.ends_with(".nii.gz") {
        return Err("NibabelIO writes .nii and .nii.gz".into());
    }
    let (z, y, x) = labels.dim();
    let dims = [x, y, z];
    if dims.contains(&0) {
        return Err(format!("a segmentation of {dims:?} voxels"));
    }
    let bytes = nifti_bytes(&dims, &LabelBytes::of(labels.iter()), file, |header| {
        nifti_geometry::write_nibabel(affine, header);
    })?;
    Ok(vec![(file.to_owned(), bytes)])
}

/// The axes of the space that the axes of an array come closest to: of the affine without its shears, the
/// clearest axis first. (io_orientation)
fn io_orientation(affine: &Affine) -> Result<Orientation, String> {
    let mut axes = [[0.0; 3]; 3];
    for column in 0..3 {
        let length = voxel_size(affine, column);
        for row in 0..3 {
            axes[row][column] = affine[row][column] / length;
        }
    }
    let mut rotation = nearest_rotation(axes)?;
    let strength = |column: usize| {
        (0..3)
            .map(|row| rotation[row][column].powi(2))
            .fold(0.0, f64::max)
    };
    let strengths = [0, 1, 2].map(strength);
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| strengths[b].total_cmp(&strengths[a]));
    let mut orientation = [(0, false); 3];
    for column in order {
        let mut followed = 0;
        for row in 1..3 {
            if rotation[row][column].abs() > rotation[followed][column].abs() {
                followed = row;
            }
        }
        if rotation[followed][column].abs() <= 1e-8 {
            return Err("an axis of its affine follows no axis of the space".into());
        }
        orientation[column] = (followed, rotation[followed][column] < 0.0);
        rotation[followed] = [0.0; 3];
    }
    Ok(orientation)
}

/// The orthogonal factor of the polar decomposition, by Newton's method.
fn nearest_rotation(mut matrix: [[f64; 3]; 3]) -> Result<[[f64; 3]; 3], String> {
    for step in 0..STEPS {
        let m = matrix;
        let cofactor = |row: usize, column: usize| {
            let (r, c) = ([1, 2, 0], [1, 2, 0]);
            let (r1, r2, c1, c2) = (r[row], r[r[row]], c[column], c[c[column]]);
            m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
        };
        let determinant: f64 = (0..3).map(|column| m[0][column] * cofactor(0, column)).sum();
        if step == 0 && (determinant.is_nan() || determinant.abs() <= FLAT) {
            return Err("the axes of its affine lie in one plane".into());
        }
        let mut change = 0.0f64;
        for row in 0..3 {
            for column in 0..3 {
                matrix[row][column] = (m[row][column] + cofactor(row, column) / determinant) / 2.0;
                change = change.max((matrix[row][column] - m[row][column]).abs());
            }
        }
        if change < 1e-15 {
            break;
        }
    }
    Ok(matrix)
}

/// The affine of an array of this shape (x, y, z) after its axes were turned.
fn reorient_affine(affine: &Affine, orientation: Orientation, shape: [usize; 3]) -> Affine {
    let mut turned = *affine;
    for (axis, &(followed, backwards)) in orientation.iter().enumerate() {
        for row in 0..3 {
            let step = affine[row][axis];
            turned[row][followed] = if backwards { -step } else { step };
            if backwards {
                turned[row][3] += step * (shape[axis] as f64 - 1.0);
            }
        }
    }
    turned
}

/// An array (z, y, x) with its axes turned.
fn turned<T>(array: ArrayView3<T>, orientation: Orientation) -> ArrayView3<T> {
    let mut array = array;
    let mut sources = [0; 3];
    for (axis, &(followed, backwards)) in orientation.iter().enumerate() {
        if backwards {
            array.invert_axis(Axis(2 - axis));
        }
        sources[2 - followed] = 2 - axis;
    }
    array.permuted_axes(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheared_and_mirrored_axes_find_theirs() {
        let oriented = |m: [[f64; 3]; 3]| io_orientation(&m.map(|[a, b, c]| [a, b, c, 7.0]));
        assert_eq!(
            oriented([[0.0, 0.0, -3.0], [-2.0, 0.1, 0.0], [0.2, 1.0, 0.0]]).unwrap(),
            [(1, true), (2, false), (0, true)]
        );
        // Both first axes come closest to the first of the space; the clearer one gets it.
        assert_eq!(
            oriented([[0.8, 0.9, 0.0], [0.6, 0.1, 0.0], [0.0, 0.0, 1.0]]).unwrap(),
            [(1, false), (0, false), (2, false)]
        );
        assert!(oriented([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).is_err());
        assert!(oriented([[0.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).is_err());
        assert!(oriented([[f64::NAN, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).is_err());
    }
}
