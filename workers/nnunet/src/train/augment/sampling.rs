//! Sampling a row of a patch from a case: the image linearly, the segmentation per label.

use crate::{train::loader::Window, wide::wide};
use half::f16;

/// One row of samples: where they lie and what they are weighted with.
pub(super) struct Row {
    /// Position per axis in the initial patch.
    pub(super) position: [Vec<f32>; 3],
    /// Lower neighbour per axis, in case coordinates.
    low: [Vec<i32>; 3],
    /// Weight of the upper neighbour per axis.
    weight: [Vec<f32>; 3],
}

impl Row {
    pub(super) fn new(length: usize) -> Self {
        Row {
            position: std::array::from_fn(|_| vec![0.0; length]),
            low: std::array::from_fn(|_| vec![0; length]),
            weight: std::array::from_fn(|_| vec![0.0; length]),
        }
    }
}

/// How a row of samples lies to the voxels that exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All neighbours of all samples exist.
    Inside,
    /// Some may not.
    Border,
    /// None exists.
    Outside,
}

/// The voxels that exist: the part of the initial patch that lies in the case.
pub(super) struct Source {
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
    pub(super) fn new(window: &Window) -> Self {
        Source {
            inside: window.inside().map(|(a, b)| (a as i32, b as i32)),
            start: window.start.map(|s| s as i32),
            stride: [window.shape[1] * window.shape[2], window.shape[2]],
        }
    }

    /// Fills the row's neighbours and weights from its positions.
    pub(super) fn locate(&self, row: &mut Row, planar: bool) -> Reach {
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
    pub(super) fn image(&self, row: &Row, from: &[f32], to: &mut [f32], planar: bool, reach: Reach) {
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
    pub(super) fn labels(
        &self,
        row: &Row,
        from: &[i16],
        to: &mut [i16],
        planar: bool,
        padded: bool,
        reach: Reach,
    ) {
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

    /// The nearest voxel along a row; halves go to the even coordinate.
    pub(super) fn nearest<T: Copy>(&self, row: &Row, from: &[T], to: &mut [T], outside: T) {
        for (i, to) in to.iter_mut().enumerate() {
            let [z, y, x] =
                std::array::from_fn(|d| row.position[d][i].round_ties_even() as i32 + self.start[d]);
            *to = if self.exists(z, y, x) {
                from[self.index(z, y, x)]
            } else {
                outside
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

    #[test]
    fn ties_go_to_the_nearest_voxel_else_to_the_smallest_label() {
        // Halfway between two voxels, the nearest is the one with the even coordinate.
        assert_eq!(winner(&[5, 3, 5, 3], [0.0, 0.0, 2.5], false), 5);
        assert_eq!(winner(&[3, 5, 3, 5], [0.0, 0.0, 3.5], false), 5);
        // At the centre of a cube 1 and 2 have three corners each; the nearest voxel's 3 has lost.
        assert_eq!(winner(&[3, 1, 1, 1, 2, 2, 2, 3], [0.5, 0.5, 0.5], false), 1);
    }
}
