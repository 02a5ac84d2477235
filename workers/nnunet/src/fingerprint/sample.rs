//! The voxels that nnU-Net samples of one case.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use ndarray::Axis;
use rayon::prelude::*;

use super::scan::CaseShape;
use crate::{
    Error, Result,
    dataset::{RawCase, RawDataset},
    numpy_random::RandomState,
    preprocess::crop,
    progress::Observer,
};

/// The foreground voxels that nnU-Net samples of all cases together.
const SAMPLES: u64 = 100_000_000;
/// nnU-Net's seed, the same for each case.
const SEED: u32 = 1234;

/// How many foreground voxels nnU-Net samples of each case, of `cases_in_total`.
pub(super) fn samples_per_case(cases_in_total: u64) -> u64 {
    SAMPLES / cases_in_total.max(1)
}

/// The samples of one case.
pub(super) struct CaseSamples {
    pub shape: CaseShape,
    /// Per channel: the values of the foreground voxels, and how often each was drawn. Empty without foreground.
    pub channels: Vec<Vec<(f32, u32)>>,
}

/// Reads each case, samples it, and merges what `of_case` makes of the samples.
pub(super) fn over_cases<T: Send>(
    dataset: &RawDataset,
    cases: &[RawCase],
    cases_in_total: u64,
    observer: &dyn Observer,
    of_case: impl Fn(CaseSamples) -> T + Sync,
    empty: impl Fn() -> T + Sync + Send,
    merge: impl Fn(T, T) -> Result<T> + Sync + Send,
) -> Result<T> {
    let done = AtomicUsize::new(0);
    cases
        .par_iter()
        .map(|case| {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let part = of_case(sample(dataset, case, cases_in_total)?);
            observer.advanced("cases", done.fetch_add(1, Ordering::Relaxed) + 1, cases.len());
            Ok(part)
        })
        .try_reduce(empty, merge)
}

/// Reads, crops and samples one case.
fn sample(dataset: &RawDataset, case: &RawCase, cases_in_total: u64) -> Result<CaseSamples> {
    let bad = |reason: &str| Error::bad_case(&case.identifier, reason);
    let (image, segmentation) = dataset.read(case)?;
    let segmentation = segmentation.ok_or_else(|| bad("it has no segmentation"))?;
    let (found, _) = crop::crop_to_nonzero(image.data.view());
    let labels = found.cut(segmentation.labels.view());
    let foreground: Vec<usize> = labels
        .iter()
        .enumerate()
        .filter(|(_, label)| **label > 0)
        .map(|(voxel, _)| voxel)
        .collect();
    let voxels = u32::try_from(foreground.len()).map_err(|_| bad("it has over 2^32 foreground voxels"))?;
    let draws = samples_per_case(cases_in_total);
    // One generator for all channels, one after the other.
    let mut random = RandomState::new(SEED);
    let mut channels = Vec::with_capacity(image.data.len_of(Axis(0)));
    for channel in image.data.axis_iter(Axis(0)) {
        if voxels == 0 {
            channels.push(Vec::new());
            continue;
        }
        let counts = random.choice_counts(voxels, draws);
        let mut values = Vec::with_capacity(foreground.len());
        let mut wanted = foreground.iter().zip(counts).peekable();
        for (voxel, &value) in found.cut(channel).iter().enumerate() {
            match wanted.peek() {
                None => break,
                Some(&(&next, count)) if next == voxel => {
                    // Both zeros are one value to numpy.
                    values.push((value + 0.0, count));
                    wanted.next();
                }
                Some(_) => {}
            }
        }
        if values.iter().any(|(value, _)| value.is_infinite()) {
            let file = case.images.get(channels.len()).or(case.images.first());
            let file = file.map(|file| file.display().to_string()).unwrap_or_default();
            return Err(
                Error::bad_file(file, "its foreground holds infinite values").in_case(&case.identifier)
            );
        }
        values.retain(|&(_, count)| count > 0);
        channels.push(values);
    }
    let (_, z, y, x) = image.data.dim();
    Ok(CaseSamples {
        shape: CaseShape {
            before: [z, y, x].map(|n| n as u64),
            after: found.shape().map(|n| n as u64),
            spacing_bits: image.spacing.map(f64::to_bits),
        },
        channels,
    })
}

/// The bits of a float32, changed so that they sort as the floats do. High half, low half.
pub(super) fn halves(value: f32) -> (u16, u16) {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    ((ordered >> 16) as u16, ordered as u16)
}

/// The float32 of ordered halves.
pub(super) fn value(high: u16, low: u16) -> f32 {
    let ordered = u32::from(high) << 16 | u32::from(low);
    f32::from_bits(if ordered >> 31 == 1 {
        ordered & !(1 << 31)
    } else {
        !ordered
    })
}

/// Adds the counts of `other`. None where one overflows.
pub(super) fn add_counts(counts: &mut BTreeMap<u16, u64>, other: &BTreeMap<u16, u64>) -> Option<()> {
    for (&key, &count) in other {
        let own = counts.entry(key).or_default();
        *own = own.checked_add(count)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_sort_as_floats_do() {
        let sorted = [f32::MIN, -1.5, -1e-45, 0.0, 1e-45, 1.0, 1.0000001, f32::MAX];
        for pair in sorted.windows(2) {
            assert!(halves(pair[0]) < halves(pair[1]), "{pair:?}");
        }
        for number in sorted {
            let (high, low) = halves(number);
            assert_eq!(value(high, low).to_bits(), number.to_bits());
        }
    }
}
