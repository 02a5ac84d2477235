//! Where the classes of a case lie, sampled for the data loader
//! (DefaultPreprocessor._sample_foreground_locations).

use ndarray::ArrayView3;
use schemas::nnunet::{DatasetJson, Label};
use serde::{Deserialize, Serialize};

use crate::numpy_random::RandomState;

/// At least so many voxels of a class are kept, where it has them.
const MIN_SAMPLES: usize = 10_000;
/// At least this part of a class's voxels is kept.
const MIN_COVERAGE: f64 = 0.01;
/// nnU-Net's seed, the same for every case.
const SEED: u32 = 1234;

/// What is sampled: nnU-Net's keys of `class_locations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClassKey {
    /// One label: an int in Python.
    Label(i32),
    /// Several labels, or "all that is annotated", which starts with -1: a tuple in Python.
    Region(Vec<i32>),
}

impl ClassKey {
    /// The labels of the key.
    pub fn labels(&self) -> &[i32] {
        match self {
            ClassKey::Label(label) => std::slice::from_ref(label),
            ClassKey::Region(labels) => labels,
        }
    }

    /// The keys of a data set in nnU-Net's order: regions or foreground labels; with an ignore label also all
    /// annotated voxels.
    pub fn of_dataset(dataset_json: &DatasetJson) -> Vec<ClassKey> {
        let mut keys: Vec<ClassKey> = dataset_json
            .foreground()
            .into_iter()
            .map(|label| match label {
                Label::Value(value) => ClassKey::Label(value.into()),
                Label::Region(values) => ClassKey::Region(values.into_iter().map(i32::from).collect()),
            })
            .collect();
        if dataset_json.ignore_label().is_some() {
            let all = dataset_json.all_labels().into_iter().map(i32::from);
            keys.push(ClassKey::Region(std::iter::once(-1).chain(all).collect()));
        }
        keys
    }
}

/// The sampled voxels of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassLocations {
    /// The class.
    pub key: ClassKey,
    /// Voxels (z, y, x) in the order they were drawn; empty where the case does not have the class.
    pub voxels: Vec<[u32; 3]>,
}

/// Samples voxels of each class without replacement, as nnU-Net does with numpy's `RandomState(1234)`.
pub(super) fn sample(labels: ArrayView3<i16>, keys: Vec<ClassKey>) -> Vec<ClassLocations> {
    // The voxels of each wanted label in C order.
    let mut wanted: Vec<(i32, Vec<[u32; 3]>)> = Vec::new();
    for label in keys.iter().flat_map(|key| key.labels()) {
        if !wanted.iter().any(|(l, _)| l == label) {
            wanted.push((*label, Vec::new()));
        }
    }
    // From label + 32768 to the place in `wanted`.
    let mut places = vec![usize::MAX; 1 << 16];
    for (place, (label, _)) in wanted.iter().enumerate() {
        if let Ok(label) = i16::try_from(*label) {
            places[(i32::from(label) + 32768) as usize] = place;
        }
    }
    for ((z, y, x), &label) in labels.indexed_iter() {
        if let Some((_, voxels)) = wanted.get_mut(places[(i32::from(label) + 32768) as usize]) {
            voxels.push([z as u32, y as u32, x as u32]);
        }
    }
    let mut random = RandomState::new(SEED);
    keys.into_iter()
        .map(|key| {
            let present: Vec<&[[u32; 3]]> = key
                .labels()
                .iter()
                .filter_map(|label| wanted.iter().find(|(l, _)| l == label))
                .map(|(_, voxels)| voxels.as_slice())
                .collect();
            let total: usize = present.iter().map(|voxels| voxels.len()).sum();
            if total == 0 {
                return ClassLocations {
                    key,
                    voxels: Vec::new(),
                };
            }
            let size = MIN_SAMPLES
                .min(total)
                .max((total as f64 * MIN_COVERAGE).ceil() as usize);
            let voxels = random
                .choice_without_replacement(total as u32, size)
                .into_iter()
                .map(|offset| {
                    let mut offset = offset as usize;
                    for voxels in &present {
                        if offset < voxels.len() {
                            return voxels[offset];
                        }
                        offset -= voxels.len();
                    }
                    // Offsets are below the total.
                    [0; 3]
                })
                .collect();
            ClassLocations { key, voxels }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    // Golden values: nnU-Net 2.8.1's _sample_foreground_locations on the same labels.
    #[test]
    fn voxels_are_the_ones_nnunet_draws() {
        let labels = Array3::from_shape_fn((3, 4, 5), |(z, y, x)| ((z * 5 + y * 3 + x * 2) % 4) as i16 - 1);
        let keys = vec![
            ClassKey::Label(1),
            ClassKey::Region(vec![2, 1]),
            ClassKey::Label(7),
            ClassKey::Region(vec![-1, 0]),
        ];
        let found = sample(labels.view(), keys);
        let first = |i: usize| found[i].voxels[..3].to_vec();
        assert_eq!(
            found.iter().map(|c| c.voxels.len()).collect::<Vec<_>>(),
            GOLDEN_COUNTS
        );
        assert_eq!([first(0), first(1), first(3)].concat(), GOLDEN_FIRST);
    }

    const GOLDEN_COUNTS: [usize; 4] = [15, 30, 0, 30];
    const GOLDEN_FIRST: [[u32; 3]; 9] = [
        [2, 2, 1],
        [2, 0, 2],
        [0, 0, 1],
        [1, 2, 2],
        [0, 2, 0],
        [1, 1, 3],
        [0, 2, 1],
        [0, 1, 3],
        [0, 0, 2],
    ];
}
