//! Rotation and scaling (batchgeneratorsv2 `SpatialTransform`, as nnU-Net configures it: no elastic deformation,
//! no random crop). Voxels are sampled straight from the mapped case, for the final patch alone.
//!
//! Coordinates are computed in f32 in torch's order of operations, so that labels come out the same.

use super::{
    AugmentationSettings, SegInterpolation,
    patch::Patch,
    random::{chance, uniform},
    wide::wide,
};
use crate::train::loader::Window;
use half::f16;
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
    /// 0.7..1.4 and the same for all axes. None where neither is drawn.
    pub fn draw(settings: &AugmentationSettings, random: &mut ChaCha8Rng) -> Option<Self> {
        let planar = settings.is_2d || settings.dummy_2d;
        let (rotate, rescale) = (chance(random, 0.2), chance(random, 0.2));
        if !rotate && !rescale {
            return None;
        }
        let mut angle = || {
            if rotate {
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
        let scale = if rescale { uniform(random, 0.7, 1.4) } else { 1.0 };
        Some(if planar {
            Spatial::in_plane(angles[2], scale)
        } else {
            Spatial::new(angles, scale)
        })
    }

    /// `create_affine_matrix_3d`: Rz Ry Rx S. Larger scales make objects smaller.
    pub fn new(angles: [f64; 3], scale: f64) -> Self {
        let [(sx, cx), (sy, cy), (sz, cz)] = angles.map(f64::sin_cos);
        let rx = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
        let ry = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
        let rz = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
        let rotation = product(product(rz, ry), rx);
        Spatial {
            matrix: rotation.map(|row| row.map(|v| (v * scale) as f32)),
            planar: false,
        }
    }

    /// `create_affine_matrix_2d`: R S within slices.
    pub fn in_plane(angle: f64, scale: f64) -> Self {
        let (s, c) = angle.sin_cos();
        let [c, s] = [c * scale, s * scale].map(|v| v as f32);
        Spatial {
            matrix: [[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]],
            planar: true,
        }
    }

    /// Samples a patch of `size` (z, y, x) from `window`, the initial patch.
    /// Outside of it the image is 0 and the segmentation -1, a label like any other.
    pub fn apply(&self, window: &Window, size: [usize; 3], interpolation: SegInterpolation) -> Patch {
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
                    source.image(&row, from, to, self.planar, reach);
                }
                let to = &mut patch.seg[at..][..size[2]];
                match interpolation {
                    SegInterpolation::Linear => {
                        source.labels(&row, window.seg, to, self.planar, padded, reach)
                    }
                    SegInterpolation::Nearest => source.nearest_labels(&row, window.seg, to),
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

/// One row of samples: where they lie and what they are weighted with.
struct Row {
    /// Position per axis in the initial patch.
    position: [Vec<f32>; 3],
    /// Lower neighbour per axis, in case coordinates.
    low: [Vec<i32>; 3],
    /// Weight of the upper neighbour per axis.
    weight: [Vec<f32>; 3],
}

impl Row {
    fn new(length: usize) -> Self {
        Row {
            position: std::array::from_fn(|_| vec![0.0; length]),
            low: std::array::from_fn(|_| vec![0; length]),
            weight: std::array::from_fn(|_| vec![0.0; length]),
        }
    }
}

/// How a row of samples lies to the voxels that exist.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// All neighbours of all samples exist.
    Inside,
    /// Some may not.
    Border,
    /// None exists.
    Outside,
}

/// The voxels that exist: the part of the initial patch that lies in the case.
struct Source {
    /// First and last + 1 per axis, in case coordinates.
    inside: [(i32, i32); 3],
    /// Lower corner of the initial patch in case coordinates.
    start: [i32; 3],
    /// Distance of neighbours along z and y in the case's arrays.
    stride: [usize; 2],
}

wide! {
    fn split(position: &[f32], low: &mut [i32], weight: &mut [f32], start: i32) -> (i32, i32) {
        let (mut least, mut most) = (i32::MAX, i32::MIN);
        for ((p, low), weight) in position.iter().zip(low).zip(weight) {
            let floor = p.floor();
            *weight = p - floor;
            let index = floor as i32 + start;
            *low = index;
            least = if index < least { index } else { least };
            most = if index > most { index } else { most };
        }
        (least, most)
    }
}

impl Source {
    fn new(window: &Window) -> Self {
        Source {
            inside: window.inside().map(|(a, b)| (a as i32, b as i32)),
            start: window.start.map(|s| s as i32),
            stride: [window.shape[1] * window.shape[2], window.shape[2]],
        }
    }

    /// Fills the row's neighbours and weights from its positions.
    fn locate(&self, row: &mut Row, planar: bool) -> Reach {
        let mut reach = Reach::Inside;
        for d in 0..3 {
            let (least, most) = split(
                &row.position[d],
                &mut row.low[d],
                &mut row.weight[d],
                self.start[d],
            );
            let (first, end) = self.inside[d];
            let upper = i32::from(!(planar && d == 0));
            if most + upper < first || least >= end {
                return Reach::Outside;
            }
            if least < first || most + upper >= end {
                reach = Reach::Border;
            }
        }
        reach
    }

    fn index(&self, z: i32, y: i32, x: i32) -> usize {
        z as usize * self.stride[0] + y as usize * self.stride[1] + x as usize
    }

    fn exists(&self, z: i32, y: i32, x: i32) -> bool {
        [z, y, x]
            .iter()
            .zip(&self.inside)
            .all(|(i, (first, end))| i >= first && i < end)
    }

    /// Linear interpolation of one channel along a row.
    fn image(&self, row: &Row, from: &[f32], to: &mut [f32], planar: bool, reach: Reach) {
        let [sz, sy] = self.stride;
        let mix = |a: f32, b: f32, w: f32| a + (b - a) * w;
        let rows = row.low[0].iter().zip(&row.low[1]).zip(&row.low[2]);
        let weights = row.weight[0].iter().zip(&row.weight[1]).zip(&row.weight[2]);
        for ((to, ((&z, &y), &x)), ((&wz, &wy), &wx)) in to.iter_mut().zip(rows).zip(weights) {
            if reach == Reach::Inside {
                let at = self.index(z, y, x);
                let slice = |at: usize| {
                    // `locate` saw that all neighbours of the row's samples exist; the check is one per pair.
                    let (upper, lower) = (&from[at..at + 2], &from[at + sy..at + sy + 2]);
                    mix(mix(upper[0], upper[1], wx), mix(lower[0], lower[1], wx), wy)
                };
                *to = if planar {
                    slice(at)
                } else {
                    mix(slice(at), slice(at + sz), wz)
                };
            } else {
                let tap = |z: i32, y: i32, x: i32| {
                    if self.exists(z, y, x) {
                        from[self.index(z, y, x)]
                    } else {
                        0.0
                    }
                };
                let slice = |z: i32| {
                    mix(
                        mix(tap(z, y, x), tap(z, y, x + 1), wx),
                        mix(tap(z, y + 1, x), tap(z, y + 1, x + 1), wx),
                        wy,
                    )
                };
                *to = if planar {
                    slice(z)
                } else {
                    mix(slice(z), slice(z + 1), wz)
                };
            }
        }
    }

    /// The label with the largest interpolated indicator along a row; ties go to the nearest voxel's label
    /// where it is among them, else to the smallest.
    fn labels(&self, row: &Row, from: &[i16], to: &mut [i16], planar: bool, padded: bool, reach: Reach) {
        let [sz, sy] = self.stride;
        for (i, to) in to.iter_mut().enumerate() {
            let [z, y, x] = std::array::from_fn(|d| row.low[d][i]);
            let mut taps = [-1i16; 8];
            if reach == Reach::Inside {
                let at = self.index(z, y, x);
                for (k, slice) in [at, at + sz]
                    .into_iter()
                    .take(if planar { 1 } else { 2 })
                    .enumerate()
                {
                    let (upper, lower) = (&from[slice..slice + 2], &from[slice + sy..slice + sy + 2]);
                    taps[4 * k..4 * k + 4].copy_from_slice(&[upper[0], upper[1], lower[0], lower[1]]);
                }
            } else {
                for (k, tap) in taps.iter_mut().enumerate().take(if planar { 4 } else { 8 }) {
                    let k = k as i32;
                    let (z, y, x) = (z + (k >> 2), y + ((k >> 1) & 1), x + (k & 1));
                    if self.exists(z, y, x) {
                        *tap = from[self.index(z, y, x)];
                    }
                }
            }
            let taps = &taps[..if planar { 4 } else { 8 }];
            *to = if taps.iter().all(|t| *t == taps[0]) {
                taps[0]
            } else {
                let position: [f32; 3] = std::array::from_fn(|d| row.position[d][i]);
                winner(taps, position, padded)
            };
        }
    }

    /// The label of the nearest voxel along a row; halves go to the even coordinate.
    fn nearest_labels(&self, row: &Row, from: &[i16], to: &mut [i16]) {
        for (i, to) in to.iter_mut().enumerate() {
            let [z, y, x] =
                std::array::from_fn(|d| row.position[d][i].round_ties_even() as i32 + self.start[d]);
            *to = if self.exists(z, y, x) {
                from[self.index(z, y, x)]
            } else {
                -1
            };
        }
    }
}

/// The winner among the labels of neighbouring voxels (x fastest, then y, then z) of a sample at `position`.
/// Scores are 1000 times the summed weights, rounded to f16: that makes near ties into ties.
fn winner(taps: &[i16], position: [f32; 3], padded: bool) -> i16 {
    let weights = weights(taps.len(), position);
    let mut nearest = 0;
    for (d, shift) in [(0, 2), (1, 1), (2, 0)] {
        if taps.len() == 4 && d == 0 {
            continue;
        }
        let upper = position[d].round_ties_even() > position[d].floor();
        nearest |= usize::from(upper) << shift;
    }
    let (mut best, mut label, mut of_nearest) = (f16::NEG_INFINITY, 0, f16::NEG_INFINITY);
    for (k, &candidate) in taps.iter().enumerate() {
        if taps[..k].contains(&candidate) {
            continue;
        }
        let score = score(taps, &weights, candidate, padded);
        if candidate == taps[nearest] {
            of_nearest = score;
        }
        if score > best || (score == best && candidate < label) {
            (best, label) = (score, candidate);
        }
    }
    if of_nearest == best { taps[nearest] } else { label }
}

fn score(taps: &[i16], weights: &[f32; 8], label: i16, padded: bool) -> f16 {
    const SCALE: f32 = 1000.0;
    let of_others = padded && label == -1;
    let mut sum = 0.0f32;
    for (tap, weight) in taps.iter().zip(weights) {
        if of_others && *tap != -1 {
            sum += -SCALE * weight;
        } else if !of_others && *tap == label {
            sum += SCALE * weight;
        }
    }
    f16::from_f32(if of_others { sum + SCALE } else { sum })
}

/// grid_sample's weights of the neighbours, in the order of operations of its CPU code.
fn weights(count: usize, position: [f32; 3]) -> [f32; 8] {
    let pair: [[f32; 2]; 3] = std::array::from_fn(|d| {
        let low = position[d].floor();
        [low + 1.0 - position[d], position[d] - low]
    });
    std::array::from_fn(|k| {
        if k >= count {
            return 0.0;
        }
        let plane = pair[2][k & 1] * pair[1][(k >> 1) & 1];
        if count == 4 {
            plane
        } else {
            plane * pair[0][k >> 2]
        }
    })
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
        for interpolation in [SegInterpolation::Linear, SegInterpolation::Nearest] {
            let patch = Spatial::new([0.0; 3], 1.0).apply(&window, size, interpolation);
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
        let turned = Spatial::in_plane(std::f64::consts::FRAC_PI_2, 1.0).apply(
            &window,
            [1, 6, 6],
            SegInterpolation::Linear,
        );
        let mut labels = vec![0; 36];
        window.read_seg(&mut labels);
        for y in 0..6 {
            for x in 0..6 {
                // (y, x) about the centre goes to (-x, y).
                assert_eq!(turned.seg[y * 6 + x], labels[(5 - x) * 6 + y]);
            }
        }
    }

    #[test]
    fn ties_go_to_the_nearest_voxel_else_to_the_smallest_label() {
        // Halfway between two voxels, the nearest is the one with the even coordinate.
        assert_eq!(winner(&[5, 3, 5, 3], [0.0, 0.0, 2.5], false), 5);
        assert_eq!(winner(&[3, 5, 3, 5], [0.0, 0.0, 3.5], false), 5);
        // At the centre of a cube 1 and 2 have three corners each; the nearest voxel's 3 has lost.
        assert_eq!(winner(&[3, 1, 1, 1, 2, 2, 2, 3], [0.5, 0.5, 0.5], false), 1);
    }
}
