//! Segmentations drawn over their scans, at sites that allow it: a picture shows slices of the scan.

use std::path::{Path, PathBuf};

use nnunet::{
    dataset::{RawCase, RawDataset},
    evaluate::{Counts, ScoredCase},
    figures::{Overlay, write_overlay},
};

/// Draws up to `most` of the segmented cases into `folder`: those with the lowest Dice where there are scores, else
/// the first ones. By ordinal: the picture's file. A case that cannot be drawn is told in the log.
pub fn draw(
    cases: &[RawCase],
    scores: &[ScoredCase],
    most: usize,
    dataset: &RawDataset,
    segmentation: impl Fn(&RawCase) -> PathBuf,
    folder: &Path,
) -> std::io::Result<Vec<(u32, PathBuf)>> {
    std::fs::create_dir_all(folder)?;
    let there = |&ordinal: &usize| segmentation(&cases[ordinal]).is_file();
    let mut chosen: Vec<usize> = (0..cases.len()).filter(there).collect();
    let dice = |ordinal: &usize| {
        let scored = scores.iter().find(|scored| scored.case as usize == *ordinal);
        scored.map_or(f64::INFINITY, |scored| mean_dice(&scored.counts))
    };
    chosen.sort_by(|a, b| dice(a).total_cmp(&dice(b)));
    chosen.truncate(most);
    let mut drawn = Vec::new();
    for ordinal in chosen {
        let case = &cases[ordinal];
        let file = folder.join(format!("{}.png", case.identifier));
        match draw_case(case, dataset, &segmentation(case), &file) {
            Ok(()) => drawn.push((ordinal as u32, file)),
            Err(error) => tracing::warn!("no picture of case {ordinal}: {error}"),
        }
    }
    Ok(drawn)
}

/// The mean over classes that appear; the last place for a case without any.
fn mean_dice(counts: &[Counts]) -> f64 {
    let known: Vec<f64> = counts
        .iter()
        .map(Counts::dice)
        .filter(|dice| !dice.is_nan())
        .collect();
    match known.len() {
        0 => f64::INFINITY,
        count => known.iter().sum::<f64>() / count as f64,
    }
}

fn draw_case(case: &RawCase, dataset: &RawDataset, segmentation: &Path, file: &Path) -> nnunet::Result<()> {
    let image = dataset.reader.read_images(&case.images)?;
    let segmentation = dataset.reader.read_segmentation(segmentation)?;
    let reference = match &case.label {
        Some(_) => Some(dataset.read_reference(case)?),
        None => None,
    };
    write_overlay(&Overlay::of(&image, &segmentation, reference.as_ref()), file)
}
