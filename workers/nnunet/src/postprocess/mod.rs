//! Post-processing: removing all but the largest component of what was segmented, where that helps
//! (postprocessing/remove_connected_components.py).

mod components;
mod document;
mod folder;
mod pooled;

use std::{
    fs,
    path::{Path, PathBuf},
};

use ndarray::Array3;
use schemas::nnunet::{DatasetJson, Label};

pub use document::{PICKLE, read_steps, write_documents};
pub use folder::determine_in_folder;
pub use pooled::{alternatives, can_be_determined_pooled, determine_pooled};

use crate::{
    Error, Result,
    evaluate::{Summary, evaluate_changed},
    image::Reader,
    progress::{Observer, on_each},
};

/// What one step looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// One label or region.
    One(Label),
    /// The union of several.
    All(Vec<Label>),
}

/// One step: all but the largest component of a selection becomes background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepLargest {
    /// Whose voxels are looked at.
    pub selection: Selection,
    /// What the others become; 0 where nnU-Net decides.
    pub background: i16,
}

impl KeepLargest {
    fn of(selection: Selection) -> Self {
        Self {
            selection,
            background: 0,
        }
    }

    fn of_all_foreground(dataset: &DatasetJson) -> Self {
        let labels = dataset.foreground_labels().into_iter();
        Self::of(Selection::All(labels.map(Label::Value).collect()))
    }

    /// Changes the label map (z, y, x).
    pub fn apply(&self, labels: &mut Array3<i16>) {
        let selected: Vec<i16> = match &self.selection {
            Selection::One(label) => std::slice::from_ref(label),
            Selection::All(labels) => labels,
        }
        .iter()
        .flat_map(|label| {
            label
                .values()
                .iter()
                .filter_map(|&value| i16::try_from(value).ok())
        })
        .collect();
        components::keep_largest(
            labels.view_mut(),
            |label| selected.contains(&label),
            self.background,
        );
    }
}

impl std::fmt::Display for KeepLargest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.selection {
            Selection::One(label) => write!(f, "{label}"),
            Selection::All(_) => write!(f, "all foreground"),
        }
    }
}

/// What was decided, and on what grounds.
#[derive(Clone, Debug)]
pub struct Determined {
    /// The steps that help, in their order.
    pub steps: Vec<KeepLargest>,
    /// Every step that was tried, with its Dice without and with it.
    pub tried: Vec<(KeepLargest, [f64; 2])>,
    /// The scores without any.
    pub before: Summary,
    /// The scores with the steps. Names the predictions as they were.
    pub after: Summary,
}

/// Decides on pairs of (reference, prediction) as nnU-Net does. First for all foreground at once: it is kept if the
/// mean Dice rises and that of no label or region falls. Then for each label or region on top of what was decided: it
/// is kept if its own Dice rises.
///
/// # Errors
/// Where there is no pair, or a file cannot be read.
pub fn determine(
    pairs: &[(PathBuf, PathBuf)],
    reader: Reader,
    dataset: &DatasetJson,
    observer: &dyn Observer,
) -> Result<Determined> {
    let labels = dataset.foreground();
    decide(dataset, |steps| {
        evaluate_changed(pairs, reader, &labels, dataset.ignore_label(), observer, |seg| {
            steps.iter().for_each(|step| step.apply(seg));
        })
    })
}

/// As [`determine`], by what `score` says of steps.
fn decide(dataset: &DatasetJson, score: impl Fn(&[KeepLargest]) -> Result<Summary>) -> Result<Determined> {
    let labels = dataset.foreground();
    let before = score(&[])?;
    let (mut steps, mut after, mut tried) = (Vec::new(), before.clone(), Vec::new());

    let step = KeepLargest::of_all_foreground(dataset);
    let scores = score(std::slice::from_ref(&step))?;
    let means = [&before, &scores].map(|summary| summary.foreground_mean().dice());
    let falls = |label| scores.mean(label).dice() < before.mean(label).dice();
    tried.push((step.clone(), means));
    if means[1] > means[0] && !(0..labels.len()).any(falls) {
        steps.push(step);
        after = scores;
    }

    if labels.len() > 1 {
        for (place, label) in labels.iter().enumerate() {
            let step = KeepLargest::of(Selection::One(label.clone()));
            let mut more = steps.clone();
            more.push(step.clone());
            let scores = score(&more)?;
            let means = [&after, &scores].map(|summary| summary.mean(place).dice());
            tried.push((step, means));
            if means[1] > means[0] {
                (steps, after) = (more, scores);
            }
        }
    }
    Ok(Determined {
        steps,
        tried,
        before,
        after,
    })
}

/// Applies `steps` to each file `names` of `input` and writes it under its name into `output`. What became of each,
/// in the order of `names`: one that fails does not stop the others.
///
/// # Errors
/// The folder cannot be made, or the observer asked to stop.
pub fn apply_to_files(
    input: &Path,
    names: &[String],
    output: &Path,
    steps: &[KeepLargest],
    reader: Reader,
    observer: &dyn Observer,
) -> Result<Vec<Result<()>>> {
    fs::create_dir_all(output).map_err(Error::io(output))?;
    on_each(names, "cases post-processed", observer, |name| {
        apply_to_file(&input.join(name), &output.join(name), steps, reader)
    })
}

fn apply_to_file(input: &Path, output: &Path, steps: &[KeepLargest], reader: Reader) -> Result<()> {
    let mut segmentation = reader.read_segmentation(input)?;
    steps.iter().for_each(|step| step.apply(&mut segmentation.labels));
    if let Some(negative) = segmentation.labels.iter().find(|&&label| label < 0) {
        return Err(Error::bad_file(input, format!("{negative} is not a label")));
    }
    let labels = segmentation.labels.mapv(|label| label as u16);
    reader.write_segmentation(labels.view(), &segmentation.geometry, output)
}
