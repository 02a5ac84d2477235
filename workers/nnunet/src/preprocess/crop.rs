//! Cropping to the nonzero region. (nnunetv2/preprocessing/cropping/cropping.py)

use ndarray::{Array3, ArrayView3, ArrayView4, ArrayViewMut3, Axis, Zip, s};

/// A half-open box of voxels, [lower, upper) per axis (z, y, x).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundingBox {
    /// The first voxel.
    pub lower: [usize; 3],
    /// One past the last voxel.
    pub upper: [usize; 3],
}

impl BoundingBox {
    /// The number of voxels per axis.
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.upper[axis] - self.lower[axis])
    }

    /// The part of a volume (z, y, x) inside the box.
    pub fn cut<'a, T>(&self, volume: ArrayView3<'a, T>) -> ArrayView3<'a, T> {
        let ([z, y, x], [z2, y2, x2]) = (self.lower, self.upper);
        volume.slice_move(s![z..z2, y..y2, x..x2])
    }
}

/// Where any channel of `data` (c, z, y, x) is not zero, with the holes filled.
pub fn nonzero_mask(data: ArrayView4<f32>) -> Array3<bool> {
    let (_, z, y, x) = data.dim();
    let mut mask = Array3::from_elem((z, y, x), false);
    for channel in data.axis_iter(Axis(0)) {
        Zip::from(&mut mask)
            .and(&channel)
            .for_each(|mask, &value| *mask |= value != 0.0);
    }
    if let Some(flat) = mask.as_slice_mut() {
        fill_holes(flat, [z, y, x]);
    }
    mask
}

/// scipy's `binary_fill_holes`: sets what cannot be reached from outside the volume through shared faces.
///
/// As in scipy everything beyond the border counts as outside, so a volume of one slice has no holes.
/// The mask is flat, x fastest.
fn fill_holes(mask: &mut [bool], [depth, height, width]: [usize; 3]) {
    if mask.is_empty() {
        return;
    }
    let (row, slice) = (width, width * height);
    let mut reached = vec![false; mask.len()];
    let mut open = Vec::new();
    {
        let mut enter = |z: usize, y: usize, x: usize| {
            let index = z * slice + y * row + x;
            if !mask[index] && !reached[index] {
                reached[index] = true;
                open.push(index);
            }
        };
        for z in 0..depth {
            for y in 0..height {
                let inner = z > 0 && z + 1 < depth && y > 0 && y + 1 < height;
                if inner {
                    enter(z, y, 0);
                    enter(z, y, width - 1);
                } else {
                    (0..width).for_each(|x| enter(z, y, x));
                }
            }
        }
    }
    while let Some(index) = open.pop() {
        let (z, y, x) = (index / slice, index % slice / row, index % row);
        let mut enter = |there: bool, neighbour: usize| {
            if there && !mask[neighbour] && !reached[neighbour] {
                reached[neighbour] = true;
                open.push(neighbour);
            }
        };
        enter(x > 0, index.wrapping_sub(1));
        enter(x + 1 < width, index + 1);
        enter(y > 0, index.wrapping_sub(row));
        enter(y + 1 < height, index + row);
        enter(z > 0, index.wrapping_sub(slice));
        enter(z + 1 < depth, index + slice);
    }
    mask.iter_mut()
        .zip(reached)
        .for_each(|(mask, reached)| *mask = !reached);
}

/// The smallest box that holds the mask; everything where the mask is empty.
pub fn bounding_box(mask: ArrayView3<bool>) -> BoundingBox {
    let (z, y, x) = mask.dim();
    let mut found = BoundingBox {
        lower: [z, y, x],
        upper: [0; 3],
    };
    for (z, plane) in mask.outer_iter().enumerate() {
        for (y, line) in plane.outer_iter().enumerate() {
            let Some(first) = line.iter().position(|&set| set) else {
                continue;
            };
            let last = line.iter().rposition(|&set| set).unwrap_or(first);
            for (axis, (first, last)) in [(z, z), (y, y), (first, last)].into_iter().enumerate() {
                found.lower[axis] = found.lower[axis].min(first);
                found.upper[axis] = found.upper[axis].max(last + 1);
            }
        }
    }
    if found.upper == [0; 3] {
        BoundingBox {
            lower: [0; 3],
            upper: [z, y, x],
        }
    } else {
        found
    }
}

/// nnU-Net's `crop_to_nonzero`: the box, and the mask (z, y, x) cropped to it.
///
/// The caller cuts the box out of image and segmentation, and calls [`mark_outside`].
pub fn crop_to_nonzero(data: ArrayView4<f32>) -> (BoundingBox, Array3<bool>) {
    let mask = nonzero_mask(data);
    let found = bounding_box(mask.view());
    let cropped = if found.shape() == *mask.shape() {
        mask
    } else {
        found.cut(mask.view()).to_owned()
    };
    (found, cropped)
}

/// Labels of 0 outside the mask become -1. Both are cropped, (z, y, x).
pub fn mark_outside(labels: ArrayViewMut3<i16>, mask: ArrayView3<bool>) {
    Zip::from(labels).and(mask).for_each(|label, &inside| {
        if *label == 0 && !inside {
            *label = -1;
        }
    });
}

#[cfg(test)]
mod tests {
    use ndarray::{Array4, array};

    use super::*;

    #[test]
    fn holes_are_filled_through_faces_only() {
        let mut data = Array4::<f32>::zeros((2, 5, 5, 6));
        data.slice_mut(s![0, 1..4, 1..4, 1..4]).fill(1.0);
        data[[0, 2, 2, 2]] = 0.0; // a hole
        data[[0, 1, 1, 1]] = 0.0; // a corner, open to the outside
        data[[1, 4, 1, 2]] = -2.0; // another channel widens the box
        let (found, mask) = crop_to_nonzero(data.view());
        assert_eq!(
            found,
            BoundingBox {
                lower: [1, 1, 1],
                upper: [5, 4, 4]
            }
        );
        assert!(mask[[1, 1, 1]] && !mask[[0, 0, 0]] && mask[[3, 0, 1]] && !mask[[3, 1, 1]]);
        // A diagonal gap is closed for a flood through faces.
        assert_eq!(mask.iter().filter(|&&set| set).count(), 27 - 1 + 1);
    }

    #[test]
    fn a_single_slice_has_no_holes() {
        let mut data = Array4::<f32>::ones((1, 1, 5, 5));
        data[[0, 0, 2, 2]] = 0.0;
        assert!(!nonzero_mask(data.view())[[0, 2, 2]]);
    }

    #[test]
    fn nothing_crops_to_everything() {
        let (found, mask) = crop_to_nonzero(Array4::zeros((1, 2, 3, 4)).view());
        assert_eq!(found.shape(), [2, 3, 4]);
        assert!(mask.iter().all(|&set| !set));
    }

    #[test]
    fn only_background_outside_is_marked() {
        let mut labels = array![[[0i16, 1, 0]]];
        mark_outside(labels.view_mut(), array![[[false, false, true]]].view());
        assert_eq!(labels, array![[[-1, 1, 0]]]);
    }
}
