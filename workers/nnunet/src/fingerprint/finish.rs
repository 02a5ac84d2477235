//! The fingerprint from what was added up.

use std::collections::BTreeMap;

use schemas::nnunet::{Fingerprint, IntensityProperties};

use super::{
    ChannelScan, Scan, Selection, Wanted,
    exact_sum::mean_and_deviation,
    sample::value,
    scan, select,
    select::{QUANTILES, invalid, ranks_around},
};
use crate::{Result, dataset::RawDataset, progress::Observer};

/// The fingerprint of all cases, from both merged passes. Cases stand sorted by shape and spacing.
///
/// # Errors
/// The selection does not fit the scan: the data changed between the passes.
pub fn finish(scan: &Scan, selection: &Selection) -> Result<Fingerprint> {
    let wanted = Wanted::of(scan)?;
    if selection.channels.len() != wanted.high.len() {
        let (found, expected) = (selection.channels.len(), wanted.high.len());
        return Err(invalid(format!("it has {found} channels, the scan {expected}")));
    }
    let mut channels = indexmap::IndexMap::new();
    for (index, (channel, bins)) in scan.channels.iter().zip(&selection.channels).enumerate() {
        let properties = intensities(channel, bins, scan.without_foreground > 0)?;
        channels.insert(index.to_string(), properties);
    }
    let voxels = |shape: [u64; 3]| shape.iter().map(|&n| n as f64).product::<f64>();
    let sizes = scan
        .cases
        .iter()
        .map(|case| voxels(case.after) / voxels(case.before))
        .collect();
    Ok(Fingerprint {
        approximate: scan.approximate,
        foreground_intensity_properties_per_channel: channels,
        median_relative_size_after_cropping: median(sizes),
        shapes_after_crop: scan
            .cases
            .iter()
            .map(|case| case.after.map(|n| n as usize))
            .collect(),
        spacings: scan
            .cases
            .iter()
            .map(|case| case.spacing_bits.map(f64::from_bits))
            .collect(),
    })
}

/// The fingerprint of one data set alone, by the same path.
///
/// # Errors
/// As of [`scan`](super::scan).
pub fn extract(dataset: &RawDataset, observer: &dyn Observer) -> Result<Fingerprint> {
    let scan = scan(dataset, &dataset.cases, dataset.cases.len() as u64, 1, observer)?;
    let selection = select(dataset, &dataset.cases, &Wanted::of(&scan)?, 1, observer)?;
    finish(&scan, &selection)
}

fn intensities(
    scan: &ChannelScan,
    bins: &BTreeMap<u16, BTreeMap<u16, u64>>,
    in_float64: bool,
) -> Result<IntensityProperties> {
    let at = |rank: u64| at_rank(scan, bins, rank);
    let mut percentiles = [0.0; 3];
    for (percentile, quantile) in percentiles.iter_mut().zip(QUANTILES) {
        let (lower, upper, weight) = ranks_around(scan.count, quantile);
        *percentile = interpolate(at(lower)?, at(upper)?, weight, in_float64);
    }
    let [percentile_00_5, median, percentile_99_5] = percentiles;
    let (mean, std) = mean_and_deviation(scan.count, &scan.sum, &scan.sum_of_squares);
    let (min, max) = (f64::from(at(0)?), f64::from(at(scan.count - 1)?));
    Ok(IntensityProperties {
        max,
        mean,
        median,
        min,
        percentile_00_5,
        percentile_99_5,
        std,
    })
}

/// The sample of that rank, counted from 0.
fn at_rank(scan: &ChannelScan, bins: &BTreeMap<u16, BTreeMap<u16, u64>>, rank: u64) -> Result<f32> {
    let mut below = 0;
    for (&high, &count) in &scan.high {
        if rank >= below + count {
            below += count;
            continue;
        }
        let lows = bins.get(&high);
        let selected = lows.and_then(|lows| lows.values().try_fold(0u64, |sum, &n| sum.checked_add(n)));
        if selected != Some(count) {
            let selected = selected.unwrap_or(0);
            return Err(invalid(format!(
                "it holds {selected} samples where the scan held {count}: the data changed between the passes"
            )));
        }
        for (&low, &count) in lows.into_iter().flatten() {
            if rank < below + count {
                return Ok(value(high, low));
            }
            below += count;
        }
    }
    Err(invalid(format!("it has no sample of rank {rank}")))
}

/// numpy's interpolation (`_lerp` in numpy/lib/_function_base_impl.py), with its rounding.
///
/// The difference is taken in the samples' own type: float32, or float64 where a case without foreground has
/// added its empty list of Python floats.
fn interpolate(lower: f32, upper: f32, weight: f64, in_float64: bool) -> f64 {
    let (a, b) = (f64::from(lower), f64::from(upper));
    let difference = if in_float64 {
        b - a
    } else {
        f64::from(upper - lower)
    };
    if weight >= 0.5 {
        b - difference * (1.0 - weight)
    } else {
        a + difference * weight
    }
}

/// numpy's median of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
