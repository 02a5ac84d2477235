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

/// The slices `picked` along an axis, in C order.
pub(super) fn select<T: Copy>(volume: ArrayView3<T>, axis: usize, picked: &[usize]) -> Array3<T> {
    let selected = volume.select(Axis(axis), picked);
    if selected.is_standard_layout() {
        selected
    } else {
        selected.as_standard_layout().into_owned()
    }
}

/// Takes the nearest voxels.
pub(super) fn resize<T: Copy>(volume: ArrayView3<T>, shape: [usize; 3]) -> Array3<T> {
    let mut resized = volume.as_standard_layout().into_owned();
    for axis in (0..3).filter(|&axis| volume.len_of(Axis(axis)) != shape[axis]) {
        resized = select(
            resized.view(),
            axis,
            &indices(volume.len_of(Axis(axis)), shape[axis]),
        );
    }
    resized
}
