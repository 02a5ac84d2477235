//! A NIfTI header's geometry, as ITK and as nibabel understand it, and the way back.

use super::{geometry::ItkSpace, nifti::Header};

/// How far from right angles an sform's axes may stand for ITK: the cosine between two of them.
const LARGEST_SHEAR: f64 = 1e-4;
/// What nibabel forgives a quaternion whose parts are longer than 1: three float32 epsilons.
const LONGEST_QUATERNION: f64 = 3.0 * f32::EPSILON as f64;
/// `NIFTI_XFORM_SCANNER_ANAT`.
const SCANNER: i16 = 1;
/// `NIFTI_XFORM_ALIGNED_ANAT`.
const ALIGNED: i16 = 2;
/// Millimetres and seconds, as ITK writes `xyzt_units`.
const MILLIMETRES_AND_SECONDS: u8 = 10;

/// Voxel (x, y, z) to the patient's right, anterior, superior: three rows of four.
pub(super) type Affine = [[f64; 4]; 3];

/// ITK's spacing, origin and direction for an image of 2 to 4 axes.
///
/// Spacing is always pixdim. The sform counts where its code is 1 or there is no qform, the qform otherwise
/// and where the sform is sheared. Patient coordinates turn from right-anterior to left-posterior.
pub(super) fn itk(header: &Header, axes: usize) -> Result<ItkSpace, String> {
    let scale = match header.units & 7 {
        1 => 1e3,
        3 => 1e-3,
        _ => 1.0,
    };
    // The NIfTI library that ITK uses takes 0 and what is not a number as 1.
    let pixdim: Vec<f64> = header.pixdim[1..=axes]
        .iter()
        .map(|&d| {
            if d == 0.0 || !d.is_finite() {
                1.0
            } else {
                f64::from(d)
            }
        })
        .collect();
    let mut spacing: Vec<f64> = pixdim.iter().map(|d| d.abs()).collect();
    spacing.iter_mut().take(3).for_each(|s| *s *= scale);
    let mut space = ItkSpace::identity(axes);
    if let Some(affine) = itk_affine(header)? {
        let in_space = axes.min(3);
        let patient = |row: usize| if row < 2 { -1.0 } else { 1.0 };
        for (row, affine) in affine.iter().enumerate().take(in_space) {
            space.origin[row] = patient(row) * affine[3] * scale;
        }
        for column in 0..in_space {
            let length = (0..in_space)
                .map(|row| affine[row][column].powi(2))
                .sum::<f64>()
                .sqrt();
            if length == 0.0 {
                return Err("the image lies across the plane of its own axes".into());
            }
            // A negative pixdim turns its axis around.
            let turned = pixdim[column].signum() / length;
            for (row, affine) in affine.iter().enumerate().take(in_space) {
                space.direction[row * axes + column] = patient(row) * turned * affine[column];
            }
        }
    }
    Ok(ItkSpace { spacing, ..space })
}

/// The transform that ITK believes; none where the file has none.
fn itk_affine(header: &Header) -> Result<Option<Affine>, String> {
    let (sform, qform) = (header.sform_code > 0, header.qform_code > 0);
    if sform && (header.sform_code == SCANNER || !qform) {
        let affine = header.rows.map(|row| row.map(f64::from));
        if is_orthogonal(&affine) {
            return Ok(Some(affine));
        }
        if !qform {
            return Err("its sform is sheared or flat and it has no qform: ITK needs orthogonal axes".into());
        }
    }
    if !qform {
        return Ok(None);
    }
    let finite = |x: f32| if x.is_finite() { f64::from(x) } else { 0.0 };
    let [mut b, mut c, mut d] = header.quaternion.map(finite);
    let mut a = 1.0 - (b * b + c * c + d * d);
    if a < 1e-7 {
        let length = (b * b + c * c + d * d).sqrt();
        (a, b, c, d) = (0.0, b / length, c / length, d / length);
    } else {
        a = a.sqrt();
    }
    let length = |i: usize| {
        if header.pixdim[i] > 0.0 {
            f64::from(header.pixdim[i])
        } else {
            1.0
        }
    };
    let qfac = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let scales = [length(1), length(2), qfac * length(3)];
    let rotation = rotation([a, b, c, d]);
    // The NIfTI library keeps this matrix in float32.
    Ok(Some(std::array::from_fn(|row| {
        std::array::from_fn(|column| match column {
            3 => finite(header.quaternion_offset[row]),
            _ => f64::from((rotation[row][column] * scales[column]) as f32),
        })
    })))
}

fn is_orthogonal(affine: &Affine) -> bool {
    let column = |i: usize| [affine[0][i], affine[1][i], affine[2][i]];
    let dot = |a: [f64; 3], b: [f64; 3]| (0..3).map(|i| a[i] * b[i]).sum::<f64>();
    let lengths = [0, 1, 2].map(|i| dot(column(i), column(i)).sqrt());
    affine.as_flattened().iter().all(|x| x.is_finite())
        && lengths.iter().all(|&length| length > 0.0)
        && [(0, 1), (0, 2), (1, 2)]
            .iter()
            .all(|&(i, j)| (dot(column(i), column(j)) / (lengths[i] * lengths[j])).abs() <= LARGEST_SHEAR)
}

/// The rotation of a unit quaternion (a, b, c, d), a being the real part.
fn rotation([a, b, c, d]: [f64; 4]) -> [[f64; 3]; 3] {
    [
        [
            a * a + b * b - c * c - d * d,
            2.0 * b * c - 2.0 * a * d,
            2.0 * b * d + 2.0 * a * c,
        ],
        [
            2.0 * b * c + 2.0 * a * d,
            a * a + c * c - b * b - d * d,
            2.0 * c * d - 2.0 * a * b,
        ],
        [
            2.0 * b * d - 2.0 * a * c,
            2.0 * c * d + 2.0 * a * b,
            a * a + d * d - c * c - b * b,
        ],
    ]
}

/// nibabel's spacing (x, y, z) and affine of a 3D image: the sform, else the qform, else centred with x flipped.
pub(super) fn nibabel(header: &Header) -> Result<([f64; 3], Affine), String> {
    let mut zooms = [0.0; 3];
    for (axis, zoom) in zooms.iter_mut().enumerate() {
        let pixdim = f64::from(header.pixdim[axis + 1]);
        if !pixdim.is_finite() {
            return Err(format!("pixdim[{}] is {pixdim}", axis + 1));
        }
        *zoom = if pixdim == 0.0 { 1.0 } else { pixdim.abs() };
    }
    let known = |code: i16| (1..=5).contains(&code);
    let rows: Affine = if known(header.sform_code) {
        header.rows.map(|row| row.map(f64::from))
    } else if known(header.qform_code) {
        let [b, c, d] = header.quaternion.map(f64::from);
        let real = 1.0 - (b * b + c * c + d * d);
        if real < -LONGEST_QUATERNION {
            return Err(format!("its quaternion ({b}, {c}, {d}) is longer than 1"));
        }
        // nibabel scales by the length, which is 1 but for rounding.
        let a = real.max(0.0).sqrt();
        let length = (a * a + b * b + c * c + d * d).sqrt();
        let rotation = rotation([a, b, c, d].map(|part| part / length));
        let qfac = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
        let scales = [zooms[0], zooms[1], qfac * zooms[2]];
        std::array::from_fn(|row| {
            std::array::from_fn(|column| match column {
                3 => f64::from(header.quaternion_offset[row]),
                _ => rotation[row][column] * scales[column],
            })
        })
    } else {
        let flipped = [-zooms[0], zooms[1], zooms[2]];
        let mut rows = [[0.0; 4]; 3];
        for axis in 0..3 {
            rows[axis][axis] = flipped[axis];
            rows[axis][3] = -flipped[axis] * (header.dims[axis] as f64 - 1.0) / 2.0;
        }
        rows
    };
    Ok((zooms, rows))
}

/// Writes a geometry of 2 or 3 axes into a header as ITK does: qform and sform with code 1.
pub(super) fn write_itk(space: &ItkSpace, header: &mut Header) {
    let axes = space.axes();
    let mut rotation = [[0.0; 3]; 3];
    rotation[2][2] = 1.0;
    for (row, cosines) in space.direction.chunks(axes).enumerate() {
        let patient = if row < 2 { -1.0 } else { 1.0 };
        for (column, cosine) in cosines.iter().enumerate() {
            rotation[row][column] = patient * cosine;
            header.rows[row][column] = (rotation[row][column] * space.spacing[column]) as f32;
        }
        header.rows[row][3] = (patient * space.origin[row]) as f32;
        header.quaternion_offset[row] = header.rows[row][3];
        header.pixdim[row + 1] = space.spacing[row] as f32;
    }
    if axes == 2 {
        header.rows[2][2] = 1.0;
    }
    let (qfac, quaternion) = quaternion(rotation);
    header.pixdim[0] = qfac as f32;
    header.quaternion = quaternion.map(|part| part as f32);
    (header.qform_code, header.sform_code) = (SCANNER, SCANNER);
    header.units = MILLIMETRES_AND_SECONDS;
}

/// Writes an affine into a header as nibabel does: only the sform, with code 2.
pub(super) fn write_nibabel(affine: &Affine, header: &mut Header) {
    for (axis, row) in affine.iter().enumerate() {
        header.rows[axis] = row.map(|x| x as f32);
        header.pixdim[axis + 1] = voxel_size(affine, axis) as f32;
    }
    header.sform_code = ALIGNED;
}

/// The length of an axis of a voxel in mm.
pub(super) fn voxel_size(affine: &Affine, axis: usize) -> f64 {
    (0..3).map(|row| affine[row][axis].powi(2)).sum::<f64>().sqrt()
}

/// qfac and (b, c, d) of the quaternion that turns as `r` does, after its third column is flipped where `r`
/// mirrors. Of the four equivalent formulas, the one that divides by the largest part.
fn quaternion(mut r: [[f64; 3]; 3]) -> (f64, [f64; 3]) {
    let minor = |i: usize, j: usize| r[1][i] * r[2][j] - r[1][j] * r[2][i];
    let determinant = r[0][0] * minor(1, 2) - r[0][1] * minor(0, 2) + r[0][2] * minor(0, 1);
    let qfac = if determinant < 0.0 { -1.0 } else { 1.0 };
    for row in &mut r {
        row[2] *= qfac;
    }
    let squared = |signs: [f64; 3]| (1.0 + (0..3).map(|i| signs[i] * r[i][i]).sum::<f64>()).max(0.0);
    let parts = [
        squared([1.0, 1.0, 1.0]),
        squared([1.0, -1.0, -1.0]),
        squared([-1.0, 1.0, -1.0]),
        squared([-1.0, -1.0, 1.0]),
    ];
    let differences = [r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]];
    let sums = [r[2][1] + r[1][2], r[0][2] + r[2][0], r[1][0] + r[0][1]];
    let [b, c, d] = differences;
    let [cd, bd, bc] = sums;
    // As the NIfTI library: the real part where it is large enough, else the largest of the others.
    let (a, vector) = if parts[0] > 0.5 {
        let s = 0.5 / parts[0].sqrt();
        (1.0, [b * s, c * s, d * s])
    } else if parts[1] > 1.0 {
        let s = 0.5 / parts[1].sqrt();
        (b * s, [0.5 * parts[1].sqrt(), bc * s, bd * s])
    } else if parts[2] > 1.0 {
        let s = 0.5 / parts[2].sqrt();
        (c * s, [bc * s, 0.5 * parts[2].sqrt(), cd * s])
    } else {
        let s = 0.5 / parts[3].sqrt();
        (d * s, [bd * s, cd * s, 0.5 * parts[3].sqrt()])
    };
    (qfac, if a < 0.0 { vector.map(|part| -part) } else { vector })
}

#[cfg(test)]
mod tests {
    use super::super::voxels::VoxelType;
    use super::*;

    fn turned() -> Header {
        let mut header = Header::new(&[3, 4, 5], VoxelType::F32);
        header.pixdim = [1.0, 0.7, 0.8, 2.5, 1.0, 1.0, 1.0, 1.0];
        header.quaternion = [0.1, 0.2, 0.3];
        header.quaternion_offset = [-5.0, -6.0, -7.0];
        header.rows = [[0.0, 0.9, 0.0, 1.0], [1.1, 0.0, 0.0, 2.0], [0.0, 0.0, 3.0, 3.0]];
        header
    }

    // Golden values: SimpleITK 2.5.
    #[test]
    fn the_code_decides_which_transform_itk_believes() {
        for qform_code in 0..5 {
            for sform_code in 0..5 {
                let header = Header {
                    qform_code,
                    sform_code,
                    ..turned()
                };
                let ItkSpace { spacing, origin, .. } = itk(&header, 3).unwrap();
                assert_eq!(spacing, [0.7f32, 0.8, 2.5].map(f64::from));
                let expected = match (qform_code, sform_code) {
                    (0, 0) => [0.0, 0.0, 0.0],
                    (_, 1) | (0, _) => [-1.0, -2.0, 3.0],
                    _ => [5.0, 6.0, -7.0],
                };
                assert_eq!(origin, expected, "qform {qform_code} sform {sform_code}");
            }
        }
    }

    #[test]
    fn a_sheared_sform_needs_a_qform() {
        let mut header = turned();
        header.sform_code = 1;
        header.rows = [
            [0.7, 0.2, 0.0, 10.0],
            [0.0, 0.8, 0.0, 20.0],
            [0.0, 0.0, 2.5, 30.0],
        ];
        assert!(itk(&header, 3).unwrap_err().contains("sheared"));
        header.qform_code = 1;
        let ItkSpace {
            origin, direction, ..
        } = itk(&header, 3).unwrap();
        assert_eq!(origin, [5.0, 6.0, -7.0]);
        let expected = [
            -0.74, 0.51642, -0.43094, -0.59642, -0.8, 0.06547, -0.31094, 0.30547, 0.9,
        ];
        assert!(
            direction.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5),
            "{direction:?}"
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        for qfac in [1.0, -1.0] {
            for quaternion in [
                [0.1, 0.2, 0.3],
                [1.0, 0.0, 0.0],
                [0.0, 1.0, 0.0],
                [0.0, 0.0, 1.0],
                [0.6, 0.0, 0.8],
            ] {
                let mut header = Header {
                    qform_code: 1,
                    quaternion,
                    ..turned()
                };
                header.pixdim[0] = qfac;
                let geometry = itk(&header, 3).unwrap();
                let mut written = Header::new(&[3, 4, 5], VoxelType::U8);
                write_itk(&geometry, &mut written);
                for sform_code in [0, 1] {
                    written.sform_code = sform_code;
                    let read = itk(&written, 3).unwrap();
                    let (a, b) = (&geometry.direction, &read.direction);
                    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?}\n{b:?}");
                }
            }
        }
    }
}
