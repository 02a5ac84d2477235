//! ITK's anatomical orientations: which way an image's axes run, and turning it without resampling.
//! (itkDICOMOrientation.cxx, itkDICOMOrientImageFilter.hxx)

use ndarray::{Array3, Array4, ArrayView3, Axis};

use super::geometry::ItkSpace;

/// Where each of an image's axes runs to: the patient's axis (0 is left, 1 posterior, 2 superior), and whether
/// it runs the other way.
pub(super) type Orientation = [(usize, bool); 3];

/// Right, anterior, superior.
pub(super) const RAS: Orientation = [(0, true), (1, true), (2, false)];

/// The letters of the patient's axes: towards them, and away.
const LETTERS: [[char; 2]; 3] = [['L', 'R'], ['P', 'A'], ['S', 'I']];

/// The letters of an orientation, such as `LPS`.
pub(super) fn name(orientation: Orientation) -> String {
    orientation
        .iter()
        .map(|&(patient, away)| LETTERS[patient][usize::from(away)])
        .collect()
}

/// The orientation of such a name.
pub(super) fn by_name(name: &str) -> Result<Orientation, String> {
    let letters: Vec<(usize, bool)> = name
        .chars()
        .filter_map(|letter| {
            let patient = LETTERS.iter().position(|pair| pair.contains(&letter))?;
            Some((patient, LETTERS[patient][1] == letter))
        })
        .collect();
    match letters[..] {
        [a, b, c] if name.len() == 3 && a.0 != b.0 && a.0 != c.0 && b.0 != c.0 => Ok([a, b, c]),
        _ => Err(format!("{name:?} is no orientation such as LPS")),
    }
}

/// The orientation of direction cosines (three by three, row by row): the largest first, each axis once.
pub(super) fn of(direction: &[f64]) -> Result<Orientation, String> {
    let mut orientation = [(0, false); 3];
    let (mut rows, mut columns) = ([true; 3], [true; 3]);
    for _ in 0..3 {
        let mut largest: Option<(usize, usize)> = None;
        for row in (0..3).filter(|&row| rows[row]) {
            for column in (0..3).filter(|&column| columns[column]) {
                let size = direction[3 * row + column].abs();
                // Of equals, the last.
                if largest.is_none_or(|(r, c)| size >= direction[3 * r + c].abs()) {
                    largest = Some((row, column));
                }
            }
        }
        let Some((row, column)) = largest.filter(|(r, c)| direction[3 * r + c] != 0.0) else {
            return Err("its axes run along none of the patient's".into());
        };
        orientation[column] = (row, direction[3 * row + column] < 0.0);
        (rows[row], columns[column]) = (false, false);
    }
    Ok(orientation)
}

/// Which axis of the image goes where, and whether it is turned around.
fn steps(from: Orientation, to: Orientation) -> [(usize, bool); 3] {
    to.map(|(patient, away)| {
        // Orientations name each patient axis once.
        let axis = from.iter().position(|own| own.0 == patient).unwrap_or_default();
        (axis, from[axis].1 != away)
    })
}

/// Turns an image (c, z, y, x) from one orientation to another: permutes its axes, then turns some around.
pub(super) fn reorient(
    data: Array4<f32>,
    space: ItkSpace,
    from: Orientation,
    to: Orientation,
) -> (Array4<f32>, ItkSpace) {
    let steps = steps(from, to);
    let mut permuted = space.clone();
    for (new, &(old, _)) in steps.iter().enumerate() {
        permuted.spacing[new] = space.spacing[old];
        permuted.set_axis(new, &space.axis(old).collect::<Vec<_>>());
    }
    // Array axes run z, y, x behind the channel; ITK's x, y, z.
    let array_axis = |itk: usize| 3 - itk;
    let mut view = data.view().permuted_axes([
        0,
        array_axis(steps[2].0),
        array_axis(steps[1].0),
        array_axis(steps[0].0),
    ]);
    for (axis, &(_, turned)) in steps.iter().enumerate() {
        if turned {
            view.invert_axis(Axis(array_axis(axis)));
            let last = view.shape()[array_axis(axis)] as f64 - 1.0;
            let cosines: Vec<f64> = permuted.axis(axis).collect();
            for (row, cosine) in cosines.iter().enumerate() {
                permuted.origin[row] += cosine * permuted.spacing[axis] * last;
            }
            permuted.set_axis(axis, &cosines.iter().map(|cosine| -cosine).collect::<Vec<_>>());
        }
    }
    (view.as_standard_layout().into_owned(), permuted)
}

/// As [`reorient`], of a segmentation (z, y, x).
pub(super) fn reorient_labels(
    labels: ArrayView3<u16>,
    space: ItkSpace,
    from: Orientation,
    to: Orientation,
) -> (Array3<u16>, ItkSpace) {
    // Label values are exact in f32.
    let as_data = labels.mapv(f32::from).insert_axis(Axis(0));
    let (data, space) = reorient(as_data, space, from, to);
    (data.index_axis_move(Axis(0), 0).mapv(|label| label as u16), space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for orientation in ["LPS", "RAS", "SLA", "PIR"] {
            assert_eq!(name(by_name(orientation).unwrap()), orientation);
        }
        for wrong in ["", "LP", "LPSS", "LRS", "XYZ", "lps", "LP\u{e9}S"] {
            assert!(by_name(wrong).unwrap_err().contains("orientation"), "{wrong}");
        }
        assert_eq!(by_name("RAS").unwrap(), RAS);
    }

    #[test]
    fn there_and_back_is_the_same_image() {
        let space = ItkSpace {
            spacing: vec![1.0, 2.0, 3.0],
            origin: vec![4.0, 5.0, 6.0],
            direction: vec![0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        };
        let data = Array4::from_shape_fn((2, 3, 4, 5), |(c, z, y, x)| {
            (c * 1000 + z * 100 + y * 10 + x) as f32
        });
        let from = of(&space.direction).unwrap();
        assert_eq!(name(from), "ASL");
        let (turned, ras) = reorient(data.clone(), space.clone(), from, RAS);
        assert_eq!(of(&ras.direction).unwrap(), RAS);
        assert_eq!(turned.dim(), (2, 4, 5, 3));
        assert_eq!(reorient(turned, ras, RAS, from), (data, space));
    }
}
