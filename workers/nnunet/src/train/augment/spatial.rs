//! Rotation and scaling (batchgeneratorsv2 `SpatialTransform`, as nnU-Net configures it: no elastic deformation,
//! no random crop). Voxels are sampled straight from the mapped case, for the final patch alone.
//!
//! Coordinates are computed in f32 in torch's order of operations, so that labels come out the same.

use super::{
    Augmentation, AugmentationSettings, SegInterpolation,
    patch::Patch,
    random::{chance, uniform},
    sampling::{Reach, Row, Source},
};
use crate::{train::loader::Window, wide::wide};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A rotation and scaling about the patch's centre.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spatial {
    /// Maps (z, y, x) offsets from the centre of the final patch to offsets in the initial patch.
    pub matrix: [[f32; 3]; 3],
    /// Only y and x are mixed: 2D and dummy 2D.
    pub planar: bool,
}

impl Spatial {
    /// Rotation with probability 0.2, its angles independent per axis; scale with probability 0.2, uniform in
    /// 0.7..1.4 and the same for all axes. Heavy: rotation with probability 0.4, then about each axis with 0.5;
    /// scale uniform in 0.7..1.43, another for each axis. None where neither is drawn.
    pub fn draw(settings: &AugmentationSettings, random: &mut ChaCha8Rng) -> Option<Self> {
        let planar = settings.is_2d || settings.dummy_2d;
        let heavy = settings.augmentation == Augmentation::Heavy;
        let rotate = chance(random, if heavy { 0.4 } else { 0.2 });
        let rescale = chance(random, 0.2);
        if !rotate && !rescale {
            return None;
        }
        let mut angle = || {
            if rotate && (!heavy || chance(random, 0.5)) {
                uniform(random, -settings.rotation, settings.rotation)
            } else {
                0.0
            }
        };
        let angles = if planar {
            [0.0, 0.0, angle()]
        } else {
            [angle(), angle(), angle()]
        };
        let scales = match (rescale, heavy) {
            (false, _) => [1.0; 3],
            (true, false) => [uniform(random, 0.7, 1.4); 3],
            (true, true) => std::array::from_fn(|_| uniform(random, 0.7, 1.43)),
        };
        Some(if planar {
            Spatial::in_plane(angles[2], [scales[1], scales[2]])
        } else {
            Spatial::new(angles, scales)
        })
    }

    /// `create_affine_matrix_3d`: Rz Ry Rx S. Larger scales make objects smaller.
    pub fn new(angles: [f64; 3], scales: [f64; 3]) -> Self {
        let [(sx, cx), (sy, cy), (sz, cz)] = angles.map(f64::sin_cos);
        let rx = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
        let ry = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
        let rz = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
        let rotation = product(product(rz, ry), rx);
        Spatial {
            matrix: rotation.map(|row| std::array::from_fn(|d| (row[d] * scales[d]) as f32)),
            planar: false,
        }
    }

    /// `create_affine_matrix_2d`: R S within slices, for scales along y and x.
    pub fn in_plane(angle: f64, [sy, sx]: [f64; 2]) -> Self {
        let (s, c) = angle.sin_cos();
        Spatial {
            matrix: [
                [1.0, 0.0, 0.0],
                [0.0, (c * sy) as f32, (-s * sx) as f32],
                [0.0, (s * sy) as f32, (c * sx) as f32],
            ],
            planar: true,
        }
    }

    /// Samples the final patch from `window`, the initial patch.
    /// Outside of it the image is 0 and the segmentation -1, a label like any other.
    pub fn apply(&self, window: &Window, settings: &AugmentationSettings) -> Patch {
        let size = settings.patch_size;
        let voxels: usize = size.iter().product();
        let mut patch = Patch {
            data: vec![0.0; voxels * window.channels],
            seg: vec![-1; voxels],
            channels: window.channels,
            size,
        };
        let source = Source::new(window);
        let padded = self.may_reach_outside(window.size, size);
        let mut row = Row::new(size[2]);
        let volume: usize = window.shape.iter().product();
        for z in 0..size[0] {
            for y in 0..size[1] {
                self.coordinates(&mut row, window, size, z, y);
                let reach = source.locate(&mut row, self.planar);
                if reach == Reach::Outside {
                    continue;
                }
                let at = (z * size[1] + y) * size[2];
                for c in 0..window.channels {
                    let from = &window.data[c * volume..(c + 1) * volume];
                    let to = &mut patch.data[c * voxels + at..][..size[2]];
                    if settings.nearest_image {
                        source.nearest(&row, from, to, 0.0);
                    } else {
                        source.image(&row, from, to, self.planar, reach);
                    }
                }
                let to = &mut patch.seg[at..][..size[2]];
                match settings.seg_interpolation {
                    SegInterpolation::Linear => {
                        source.labels(&row, window.seg, to, self.planar, padded, reach)
                    }
                    SegInterpolation::Nearest => source.nearest(&row, window.seg, to, -1),
                }
            }
        }
        patch
    }

    /// Where the voxels of one row lie in the initial patch.
    fn coordinates(&self, row: &mut Row, window: &Window, size: [usize; 3], z: usize, y: usize) {
        let centred = |i: usize, d: usize| i as f32 - (size[d] as f32 - 1.0) / 2.0;
        for d in 0..3 {
            let m = self.matrix[d];
            if self.planar && d == 0 {
                // Slice z of the patch is slice z of the window, which are equally thick.
                row.position[0].fill(z as f32);
                continue;
            }
            let start = if self.planar {
                m[1] * centred(y, 1)
            } else {
                m[0] * centred(z, 0) + m[1] * centred(y, 1)
            };
            positions(
                &mut row.position[d],
                start,
                m[2],
                centred(0, 2),
                window.size[d] as f32,
            );
        }
    }

    /// Whether a sample may draw on voxels outside of the initial patch: `_may_reach_outside`.
    fn may_reach_outside(&self, initial: [usize; 3], size: [usize; 3]) -> bool {
        let axes = if self.planar { 1..3 } else { 0..3 };
        let bound = axes
            .clone()
            .map(|d| 1.0 - 1.0 / initial[d] as f64)
            .fold(f64::INFINITY, f64::min);
        axes.clone().any(|d| {
            // The map is linear and odd, so the largest coordinate is at a corner.
            let reach: f32 = axes
                .clone()
                .map(|k| self.matrix[d][k].abs() * ((size[k] as f32 - 1.0) / 2.0))
                .sum();
            f64::from(reach / (initial[d] as f32 / 2.0)) > bound
        })
    }
}

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

wide! {
    /// Grid coordinate, normalised to -1..1 and back as grid_sample does (align_corners false).
    fn positions(out: &mut [f32], start: f32, step: f32, first: f32, size: f32) {
        let half = size / 2.0;
        for (x, out) in out.iter_mut().enumerate() {
            let grid = start + step * (first + x as i32 as f32);
            *out = ((grid / half + 1.0) * size - 1.0) / 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 3] = [9, 10, 11];

    fn volume() -> (Vec<f32>, Vec<i16>) {
        let count = SHAPE.iter().product::<usize>();
        (
            (0..count).map(|i| (i * 7 % 31) as f32).collect(),
            (0..count).map(|i| (i * 5 % 4) as i16).collect(),
        )
    }

    #[test]
    fn no_rotation_is_the_centre_crop_padded() {
        let (data, seg) = volume();
        let window = Window {
            data: &data,
            seg: &seg,
            channels: 1,
            shape: SHAPE,
            start: [-2, 1, 3],
            size: [8, 12, 10],
        };
        let size = [6, 8, 4];
        let centre = window.centre(size);
        let (mut expected, mut labels) = (vec![0.0; 6 * 8 * 4], vec![0; 6 * 8 * 4]);
        centre.read_data(&mut expected);
        centre.read_seg(&mut labels);
        for (seg_interpolation, nearest_image) in [
            (SegInterpolation::Linear, false),
            (SegInterpolation::Nearest, false),
            (SegInterpolation::Nearest, true),
        ] {
            let settings = AugmentationSettings {
                seg_interpolation,
                nearest_image,
                ..AugmentationSettings::new(&size).unwrap()
            };
            let patch = Spatial::new([0.0; 3], [1.0; 3]).apply(&window, &settings);
            assert_eq!(patch.seg, labels);
            assert!(
                patch
                    .data
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| (a - b).abs() < 1e-4)
            );
        }
    }

    #[test]
    fn a_quarter_turn_moves_the_rows() {
        let (data, seg) = volume();
        let window = Window {
            data: &data,
            seg: &seg,
            channels: 1,
            shape: SHAPE,
            start: [4, 2, 2],
            size: [1, 6, 6],
        };
        let settings = AugmentationSettings::new(&[6, 6]).unwrap();
        let turned = Spatial::in_plane(std::f64::consts::FRAC_PI_2, [1.0; 2]).apply(&window, &settings);
        let mut labels = vec![0; 36];
        window.read_seg(&mut labels);
        for y in 0..6 {
            for x in 0..6 {
                // (y, x) about the centre goes to (-x, y).
                assert_eq!(turned.seg[y * 6 + x], labels[(5 - x) * 6 + y]);
            }
        }
    }
}
