//! A look at a site's training cases before a training: sums over all of them, and what is odd beside other sites'.

mod oddities;

use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::Axis;
use rayon::prelude::*;
use schemas::survey::{ClassSurvey, DataSurvey, Intensity};

use crate::{
    Error, Result,
    dataset::{RawCase, RawDataset},
    progress::Observer,
};

pub use oddities::oddities;

/// What one label has in one case, or in all.
#[derive(Clone, Default)]
struct Class {
    cases: u32,
    voxels: u64,
    volume: f64,
    /// Sums of intensities, by channel.
    sums: Vec<f64>,
}

struct Case {
    spacing: [f64; 3],
    shape: [f64; 3],
    classes: Vec<Class>,
    /// Sums of intensities and of their squares over all classes, by channel.
    squares: Vec<f64>,
}

/// Surveys all training cases. The sums are taken case after case: the same on any number of threads.
///
/// # Errors
/// A case that cannot be read, or has no segmentation: the error names it. [`Error::Stopped`].
pub fn survey(dataset: &RawDataset, observer: &dyn Observer) -> Result<DataSurvey> {
    let labels = dataset.dataset_json.foreground_labels();
    let done = AtomicUsize::new(0);
    let cases: Vec<Case> = dataset
        .cases
        .par_iter()
        .map(|case| {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let surveyed = of_case(dataset, case, &labels)?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            observer.advanced("cases surveyed", done, dataset.cases.len());
            Ok(surveyed)
        })
        .collect::<Result<_>>()?;
    Ok(together(&cases, &labels, dataset.dataset_json.channels()))
}

/// Each label before anything was counted.
fn no_classes(labels: &[u16], channels: usize) -> Vec<Class> {
    let class = Class {
        sums: vec![0.0; channels],
        ..Class::default()
    };
    vec![class; labels.len()]
}

fn of_case(dataset: &RawDataset, case: &RawCase, labels: &[u16]) -> Result<Case> {
    let (image, segmentation) = dataset.read(case)?;
    let segmentation =
        segmentation.ok_or_else(|| Error::bad_case(&case.identifier, "it has no segmentation"))?;
    let channels = image.data.len_of(Axis(0));
    let voxel: f64 = image.spacing.iter().product();
    let mut classes = no_classes(labels, channels);
    let mut squares = vec![0.0; channels];
    for (channel, values) in image.data.axis_iter(Axis(0)).enumerate() {
        for (&label, &value) in segmentation.labels.iter().zip(values) {
            let place = u16::try_from(label)
                .ok()
                .and_then(|label| labels.binary_search(&label).ok());
            let Some(class) = place.map(|place| &mut classes[place]) else {
                continue;
            };
            class.voxels += u64::from(channel == 0);
            class.sums[channel] += f64::from(value);
            squares[channel] += f64::from(value) * f64::from(value);
        }
    }
    for class in &mut classes {
        class.cases = u32::from(class.voxels > 0);
        class.volume = class.voxels as f64 * voxel;
    }
    let (z, y, x) = segmentation.labels.dim();
    Ok(Case {
        spacing: image.spacing,
        shape: [z, y, x].map(|voxels| voxels as f64),
        classes,
        squares,
    })
}

fn together(cases: &[Case], labels: &[u16], channels: usize) -> DataSurvey {
    let axis = |of: fn(&Case) -> [f64; 3], axis: usize| median(cases.iter().map(|case| of(case)[axis]));
    let each = |of: fn(&Case) -> [f64; 3]| [axis(of, 0), axis(of, 1), axis(of, 2)];
    let mut classes = no_classes(labels, channels);
    let mut squares = vec![0.0; channels];
    for case in cases {
        for (all, own) in classes.iter_mut().zip(&case.classes) {
            all.cases += own.cases;
            all.voxels += own.voxels;
            all.volume += own.volume;
            all.sums
                .iter_mut()
                .zip(&own.sums)
                .for_each(|(all, own)| *all += own);
        }
        squares
            .iter_mut()
            .zip(&case.squares)
            .for_each(|(all, own)| *all += own);
    }
    let voxels: u64 = classes.iter().map(|class| class.voxels).sum();
    let intensity = |channel: usize| {
        let count = voxels as f64;
        let mean = classes.iter().map(|class| class.sums[channel]).sum::<f64>() / count;
        let deviation = (squares[channel] / count - mean * mean).max(0.0).sqrt();
        (voxels > 0).then_some(Intensity { mean, deviation })
    };
    DataSurvey {
        cases: cases.len() as u32,
        spacing: each(|case| case.spacing),
        shape: each(|case| case.shape),
        channels: (0..channels).map(intensity).collect(),
        classes: labels
            .iter()
            .zip(&classes)
            .map(|(&label, class)| ClassSurvey {
                label,
                cases: class.cases,
                volume: class.volume / f64::from(class.cases.max(1)),
                means: match class.voxels {
                    0 => Vec::new(),
                    voxels => class.sums.iter().map(|sum| sum / voxels as f64).collect(),
                },
            })
            .collect(),
    }
}

/// The median, of two middle ones the mean; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}
