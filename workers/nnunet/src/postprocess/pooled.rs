//! Deciding on the post-processing of several sites' predictions by counts alone.
//!
//! A decision depends on those before it. So every site counts what each combination of steps that may come to pass
//! would leave, before anybody has decided.

use ndarray::{Array3, ArrayView3};
use schemas::nnunet::{DatasetJson, Label};

use super::{Determined, KeepLargest, Selection, decide};
use crate::{
    Error, Result,
    evaluate::{Counts, Scores, Summary, count},
};

/// With more regions there are too many combinations of them.
const MOST_REGIONS: usize = 5;

/// The steps that may be taken, as bits.
struct Steps {
    /// Those of bit 0, bit 1, ... Labels do not overlap, so that what one leaves does not depend on the others: they
    /// share a bit, which stands for a label's own step where that label is counted. Regions have a bit each.
    bits: Vec<Vec<KeepLargest>>,
    labels: Vec<Label>,
    regions: bool,
}

impl Steps {
    fn of(dataset: &DatasetJson) -> Self {
        let (labels, regions) = (dataset.foreground(), dataset.has_regions());
        let own = labels
            .iter()
            .map(|label| KeepLargest::of(Selection::One(label.clone())));
        let mut bits = vec![vec![KeepLargest::of_all_foreground(dataset)]];
        match regions {
            true => bits.extend(own.map(|step| vec![step])),
            false => bits.push(own.collect()),
        }
        Self {
            bits,
            labels,
            regions,
        }
    }

    /// How many combinations there are, the empty one included.
    fn combinations(&self) -> usize {
        match self.regions && self.labels.len() > MOST_REGIONS {
            true => 1,
            false => 1 << self.bits.len(),
        }
    }

    /// The combination that tells what `steps` leave of the label at `place`.
    fn combination(&self, steps: &[KeepLargest], place: usize) -> usize {
        let bit = |step: &KeepLargest| match &step.selection {
            Selection::All(_) => 1,
            Selection::One(label) if self.regions => {
                let place = self.labels.iter().position(|other| other == label);
                place.map_or(0, |place| 2 << place)
            }
            Selection::One(label) => usize::from(*label == self.labels[place]) << 1,
        };
        steps.iter().map(bit).fold(0, |all, bit| all | bit)
    }
}

/// Whether counts alone decide on a post-processing: not of many regions.
pub fn can_be_determined_pooled(dataset: &DatasetJson) -> bool {
    Steps::of(dataset).combinations() > 1
}

/// The counts of each label or region as post-processing may leave a segmentation (z, y, x): for
/// [`crate::evaluate::ScoredCase::post_processed`]. Empty where regions have too many combinations.
///
/// # Errors
/// Where the shapes differ.
pub fn alternatives(
    reference: ArrayView3<i16>,
    segmentation: ArrayView3<i16>,
    dataset: &DatasetJson,
) -> Result<Vec<Vec<Counts>>> {
    let steps = Steps::of(dataset);
    let ignore = dataset.ignore_label();
    let counts = |combination: usize| {
        let mut changed: Array3<i16> = segmentation.to_owned();
        for (bit, own) in steps.bits.iter().enumerate() {
            if combination >> bit & 1 == 1 {
                own.iter().for_each(|step| step.apply(&mut changed));
            }
        }
        count(reference, changed.view(), &steps.labels, ignore)
    };
    (1..steps.combinations()).map(counts).collect()
}

/// Decides on the cases of several sites together as [`super::determine`] does.
///
/// # Errors
/// No case, scores that do not fit each other, or that lack [`alternatives`].
pub fn determine_pooled(sites: &[(String, Scores)], dataset: &DatasetJson) -> Result<Determined> {
    let steps = Steps::of(dataset);
    let expected = steps.combinations() - 1;
    if expected == 0 {
        let reason = format!("regions: at most {MOST_REGIONS} can be decided on by counts alone");
        return Err(Error::invalid("post-processing", reason));
    }
    let plain = Scores::summary(sites)?;
    if plain.cases.is_empty() || plain.labels != steps.labels {
        return Err(Error::invalid(
            "post-processing",
            "there are no scores of these labels",
        ));
    }
    let cases: Vec<_> = sites.iter().flat_map(|(_, scores)| &scores.cases).collect();
    if let Some(case) = cases.iter().find(|case| case.post_processed.len() != expected) {
        let found = case.post_processed.len();
        let reason = format!("a case has {found} alternatives, expected {expected}");
        return Err(Error::invalid("post-processing", reason));
    }
    decide(dataset, |taken| {
        let combinations: Vec<usize> = (0..steps.labels.len())
            .map(|place| steps.combination(taken, place))
            .collect();
        let mut summary: Summary = plain.clone();
        for (case, scored) in summary.cases.iter_mut().zip(&cases) {
            for (place, &combination) in combinations.iter().enumerate() {
                if let Some(alternative) = combination.checked_sub(1) {
                    case.counts[place] = scored.post_processed[alternative][place];
                }
            }
        }
        Ok(summary)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::ScoredCase,
        image::{Geometry, Reader},
        postprocess::determine,
        progress::Unobserved,
    };

    /// Cases of two labels in which some second components are wrong and some are right.
    fn maps(case: usize) -> [Array3<i16>; 2] {
        let body = |z: usize, y: usize, x: usize, from: usize| {
            (from..from + 4).contains(&z) && (2..6).contains(&y) && (2..6).contains(&x)
        };
        let reference = Array3::from_shape_fn((24, 8, 8), |(z, y, x)| {
            // A second component of label 2 is right in case 1.
            let second = case == 1 && body(z, y, x, 19);
            i16::from(body(z, y, x, 1)) + 2 * i16::from(body(z, y, x, 5) || second)
        });
        let mut segmentation = reference.clone();
        // Specks of either label, of one more in the last case.
        segmentation[[12, 1, 1]] = 1;
        segmentation[[14, 6, case]] = 1;
        if case != 1 {
            segmentation[[16, 4, 4]] = 2;
        }
        [reference, segmentation]
    }

    fn agrees(labels: &str, some: bool) {
        let text = format!(
            r#"{{"channel_names": {{"0": "CT"}}, "labels": {labels}, "numTraining": 3, "file_ending": ".nii"}}"#
        );
        let dataset = DatasetJson::parse(&text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let geometry = Geometry::Nibabel {
            original_affine: std::array::from_fn(|i| std::array::from_fn(|j| f64::from(u8::from(i == j)))),
        };
        let (mut pairs, mut sites) = (Vec::new(), Vec::new());
        for case in 0..3 {
            let [reference, segmentation] = maps(case);
            let files = ["r", "p"].map(|kind| folder.path().join(format!("{kind}{case}.nii")));
            for (map, file) in [&reference, &segmentation].into_iter().zip(&files) {
                let map = map.mapv(|label| label as u16);
                Reader::Nibabel
                    .write_segmentation(map.view(), &geometry, file)
                    .unwrap();
            }
            pairs.push(files.clone().into());
            let labels = dataset.foreground();
            let scored = ScoredCase {
                case: 0,
                counts: count(reference.view(), segmentation.view(), &labels, None).unwrap(),
                post_processed: alternatives(reference.view(), segmentation.view(), &dataset).unwrap(),
            };
            let scores = Scores {
                labels,
                cases: vec![scored],
            };
            sites.push((format!("site{case}"), scores));
        }
        let expected = determine(&pairs, Reader::Nibabel, &dataset, &Unobserved).unwrap();
        let found = determine_pooled(&sites, &dataset).unwrap();
        assert_eq!(found.steps, expected.steps);
        assert_eq!(found.tried, expected.tried);
        assert_eq!(!found.steps.is_empty(), some, "{:?}", found.tried);
        for (found, expected) in [(&found.before, &expected.before), (&found.after, &expected.after)] {
            let counts = |summary: &Summary| -> Vec<Vec<Counts>> {
                summary.cases.iter().map(|case| case.counts.clone()).collect()
            };
            assert_eq!(counts(found), counts(expected));
        }
    }

    #[test]
    fn counts_decide_as_segmentations_do() {
        agrees(r#"{"background": 0, "a": 1, "b": 2}"#, true);
        agrees(
            r#"{"background": 0, "whole": [1, 2], "b": 2}, "regions_class_order": [1, 2]"#,
            true,
        );
    }
}
