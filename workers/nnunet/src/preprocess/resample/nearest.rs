//! Order 0: the voxel whose centre is nearest, the later one where two are equally near.

use ndarray::{Array3, ArrayView3, Axis};

use super::coordinate;

/// For each of `outputs` positions along an axis, the nearest of `inputs`.
pub(super) fn indices(inputs: usize, outputs: usize) -> Vec<usize> {
    let last = inputs.saturating_sub(1);
    (0..outputs)
        .map(|k| (coordinate(k, inputs, outputs).clamp(0.0, last as f64) + 0.5).floor() as usize)
        .map(|i| i.min(last))
        .collect()
}

/// Takes the nearest voxels.
pub(super) fn resize<T: Copy + Send + Sync>(volume: ArrayView3<T>, shape: [usize; 3]) -> Array3<T> {
    let mut resized = volume.to_owned();
    for axis in (0..3).filter(|&axis| volume.len_of(Axis(axis)) != shape[axis]) {
        resized = resized.select(Axis(axis), &indices(volume.len_of(Axis(axis)), shape[axis]));
    }
    resized
}
