//! nnU-Net's checks of a raw data set.
//! (nnunetv2/experiment_planning/verify_dataset_integrity.py)

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use rayon::prelude::*;

use super::{RawCase, RawDataset, raw::check_numbers};
use crate::{
    Error, Result,
    image::{Geometry, all_close},
    progress::Observer,
};

/// Something wrong with a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether nnU-Net would go on.
    pub severity: Severity,
    /// The case, where it is about one.
    pub case: Option<String>,
    /// What was found and what was expected, with the files.
    pub message: String,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a look, such as an origin that differs between image and segmentation.
    Warning,
    /// The data set cannot be trained on.
    Error,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.case {
            Some(case) => write!(f, "case {case}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// All problems of a data set, in the order of its cases.
///
/// # Errors
/// [`crate::Error::Stopped`] only: what is wrong with the data is in the answer.
pub fn verify_dataset_integrity(dataset: &RawDataset, observer: &dyn Observer) -> Result<Vec<Problem>> {
    let mut problems = document_problems(dataset);
    let done = AtomicUsize::new(0);
    let of_cases = dataset.cases.par_iter().map(|case| {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let problems = case_problems(dataset, case);
        observer.advanced(
            "cases",
            done.fetch_add(1, Ordering::Relaxed) + 1,
            dataset.cases.len(),
        );
        Ok(problems)
    });
    problems.extend(of_cases.collect::<Result<Vec<_>>>()?.into_iter().flatten());
    Ok(problems)
}

fn document_problems(dataset: &RawDataset) -> Vec<Problem> {
    let document = &dataset.dataset_json;
    let error = |message: String| Problem {
        severity: Severity::Error,
        case: None,
        message,
    };
    let mut problems = Vec::new();
    if !document.document().contains_key("channel_names") {
        problems.push(error("dataset.json: channel_names is missing".into()));
    }
    let (found, expected) = (dataset.cases.len() as u64, document.num_training());
    if found != expected {
        problems.push(error(format!(
            "dataset.json: numTraining is {expected}, but there are {found} cases"
        )));
    }
    let labels = dataset.expected_labels();
    let gap = labels
        .iter()
        .zip(labels.iter().skip(1))
        .find(|(label, next)| **label + 1 != **next);
    if let Some((label, next)) = gap {
        problems.push(error(format!(
            "dataset.json: labels must be consecutive integers, but {label} is followed by {next}"
        )));
    }
    problems
}

fn case_problems(dataset: &RawDataset, case: &RawCase) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut found = |severity, message| {
        problems.push(Problem {
            severity,
            case: Some(case.identifier.clone()),
            message,
        });
    };
    let (image, segmentation) = match dataset.read_unchecked(case) {
        Ok((image, Some(segmentation))) => (image, segmentation),
        Ok((_, None)) => {
            found(Severity::Error, "it has no segmentation".into());
            return problems;
        }
        Err(error) => {
            let message = match error {
                Error::BadCase { reason, .. } => reason,
                Error::InCase { source, .. } => source.to_string(),
                other => other.to_string(),
            };
            found(Severity::Error, message);
            return problems;
        }
    };
    let expected = dataset.expected_labels();
    let present: BTreeSet<i16> = segmentation.labels.iter().copied().collect();
    if !present.is_subset(&expected) {
        let message = format!("its segmentation holds the labels {present:?}, expected only {expected:?}");
        found(Severity::Error, message);
    }
    if let Err(error) = check_numbers(&image, &case.images) {
        found(Severity::Error, error.to_string());
    }
    if !all_close(&segmentation.spacing, &image.spacing) {
        let (labels, images) = (segmentation.spacing, image.spacing);
        found(
            Severity::Error,
            format!("its segmentation's spacing is {labels:?}, but its image's {images:?}"),
        );
    } else if !segmentation.geometry.is_close_to(&image.geometry) {
        let (labels, images) = (describe(&segmentation.geometry), describe(&image.geometry));
        found(
            Severity::Warning,
            format!("its segmentation lies at {labels}, but its image at {images}"),
        );
    }
    problems
}

fn describe(geometry: &Geometry) -> String {
    match geometry {
        Geometry::SimpleItk {
            origin, direction, ..
        }
        | Geometry::SimpleItkReoriented {
            origin, direction, ..
        } => format!("origin {origin:?}, direction {direction:?}"),
        Geometry::Nibabel { original_affine } | Geometry::NibabelReoriented { original_affine, .. } => {
            format!("affine {original_affine:?}")
        }
        Geometry::SpacingOnly { spacing } => format!("spacing {spacing:?}"),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use schemas::nnunet::DatasetJson;

    use super::*;
    use crate::{image::Reader, progress::Unobserved};

    #[test]
    fn each_problem_has_its_message() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, largest: u16, width: usize, spacing: f64, origin: f64| {
            let direction = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
            let geometry = Geometry::SimpleItk {
                spacing: vec![spacing, 1.0, 1.0],
                origin: vec![origin, 0.0, 0.0],
                direction,
            };
            let path = folder.path().join(format!("{name}.nii.gz"));
            let volume = Array3::from_elem((2, 3, width), largest);
            Reader::SimpleItk
                .write_segmentation(volume.view(), &geometry, &path)
                .unwrap();
            path
        };
        let image = write("image", 7, 4, 1.0, 0.0);
        let case = |identifier: &str, label| RawCase {
            identifier: identifier.into(),
            images: vec![image.clone()],
            label: Some(label),
        };
        let cases = vec![
            case("good", write("good", 1, 4, 1.0, 0.0)),
            case("label", write("label", 3, 4, 1.0, 0.0)),
            case("shape", write("shape", 1, 5, 1.0, 0.0)),
            case("spacing", write("spacing", 1, 4, 2.0, 0.0)),
            case("origin", write("origin", 1, 4, 1.0, 9.0)),
        ];
        let text = r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "c": 4}, "numTraining": 6,
            "file_ending": ".nii.gz"}"#;
        let dataset = RawDataset {
            folder: folder.path().to_owned(),
            name: "Dataset001_X".into(),
            dataset_json: DatasetJson::parse(text).unwrap(),
            reader: Reader::SimpleItk,
            cases,
            mapped: Default::default(),
        };
        let problems = verify_dataset_integrity(&dataset, &Unobserved).unwrap();
        let expected = [
            ("numTraining is 6, but there are 5", Severity::Error),
            ("1 is followed by 4", Severity::Error),
            (
                "case label: its segmentation holds the labels {3}",
                Severity::Error,
            ),
            ("the segmentation's shape is [2, 3, 5]", Severity::Error),
            (
                "case spacing: its segmentation's spacing is [1.0, 1.0, 2.0]",
                Severity::Error,
            ),
            (
                "case origin: its segmentation lies at origin [9.0",
                Severity::Warning,
            ),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, (message, severity)) in problems.iter().zip(expected) {
            assert!(problem.to_string().contains(message), "{problem}");
            assert_eq!(problem.severity, severity);
        }
    }
}
