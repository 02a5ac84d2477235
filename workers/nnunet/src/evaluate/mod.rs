//! Scores of segmentations against references, and nnU-Net's summary.json (evaluation/evaluate_predictions.py).

mod scores;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;
use schemas::nnunet::{DatasetJson, Label, python_json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use scores::{PostProcessed, ScoredCase, Scores, ToScore, score_cases};

use crate::{Error, Result, image::Reader, progress::Observer};

/// Voxel counts of one label or region in one case. In JSON `[tp, fp, fn, tn]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 4]", into = "[u64; 4]")]
pub struct Counts {
    /// In both.
    pub tp: u64,
    /// In the prediction only.
    pub fp: u64,
    /// In the reference only.
    pub fn_: u64,
    /// In neither.
    pub tn: u64,
}

impl From<[u64; 4]> for Counts {
    fn from([tp, fp, fn_, tn]: [u64; 4]) -> Self {
        Self { tp, fp, fn_, tn }
    }
}

impl From<Counts> for [u64; 4] {
    fn from(Counts { tp, fp, fn_, tn }: Counts) -> Self {
        [tp, fp, fn_, tn]
    }
}

impl Counts {
    /// The Dice coefficient; NaN where the label occurs in neither.
    pub fn dice(&self) -> f64 {
        (2 * self.tp) as f64 / (2 * self.tp + self.fp + self.fn_) as f64
    }

    /// Intersection over union; NaN where the label occurs in neither.
    pub fn iou(&self) -> f64 {
        self.tp as f64 / (self.tp + self.fp + self.fn_) as f64
    }

    /// In the order of [`METRICS`].
    fn values(&self) -> [f64; METRICS.len()] {
        let Counts { tp, fp, fn_, tn } = *self;
        let count = |n: u64| n as f64;
        [
            self.dice(),
            count(fn_),
            count(fp),
            self.iou(),
            count(tn),
            count(tp),
            count(fp + tp),
            count(fn_ + tp),
        ]
    }
}

/// The metrics of summary.json in its order.
const METRICS: [&str; 8] = ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"];

/// The scores of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseScores {
    /// The reference's file, as it was named.
    pub reference_file: String,
    /// The prediction's file, as it was named.
    pub prediction_file: String,
    /// Counts in the order of [`Summary::labels`].
    pub counts: Vec<Counts>,
}

/// The scores of a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// What was scored: foreground labels, or regions.
    pub labels: Vec<Label>,
    /// The cases in the order of their names.
    pub cases: Vec<CaseScores>,
}

/// Means of [`Counts`] over cases, or over labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Means {
    values: [f64; METRICS.len()],
}

impl Means {
    /// Mean Dice.
    pub fn dice(&self) -> f64 {
        self.values[0]
    }

    /// Mean intersection over union.
    pub fn iou(&self) -> f64 {
        self.values[3]
    }
}

/// Counts the voxels of each of `labels` in two label maps of equal shape. Voxels where the reference has the label
/// `ignore` do not count.
///
/// # Errors
/// Where the shapes differ.
pub fn count(
    reference: ArrayView3<i16>,
    prediction: ArrayView3<i16>,
    labels: &[Label],
    ignore: Option<u16>,
) -> Result<Vec<Counts>> {
    if reference.shape() != prediction.shape() {
        let (r, p) = (reference.shape(), prediction.shape());
        return Err(Error::invalid(
            "prediction",
            format!("has the shape {p:?}, its reference {r:?}"),
        ));
    }
    // One pass counts pairs of values; labels and regions are sums over the table.
    let mut pairs = std::collections::BTreeMap::<(i16, i16), u64>::new();
    let mut run = ((0, 0), 0u64);
    for (&r, &p) in reference.iter().zip(prediction.iter()) {
        if run.0 != (r, p) {
            *pairs.entry(run.0).or_default() += run.1;
            run = ((r, p), 0);
        }
        run.1 += 1;
    }
    *pairs.entry(run.0).or_default() += run.1;
    Ok(labels
        .iter()
        .map(|label| {
            let mut counts = Counts::default();
            for (&(r, p), &n) in &pairs {
                if ignore.is_some_and(|ignore| i64::from(ignore) == i64::from(r)) {
                    continue;
                }
                *match (label.covers(r.into()), label.covers(p.into())) {
                    (true, true) => &mut counts.tp,
                    (false, true) => &mut counts.fp,
                    (true, false) => &mut counts.fn_,
                    (false, false) => &mut counts.tn,
                } += n;
            }
            counts
        })
        .collect())
}

/// Scores every file of `predictions` against the file of the same name in `references`, as
/// `nnUNetv2_evaluate_folder` does. With `partial` (`--chill`) references without a prediction are left out.
///
/// # Errors
/// Where there is no prediction, a counterpart is missing, or a file cannot be read.
pub fn evaluate_folder(
    references: &Path,
    predictions: &Path,
    dataset: &DatasetJson,
    partial: bool,
    observer: &dyn Observer,
) -> Result<Summary> {
    let ending = dataset.file_ending();
    let Some(example) = files_ending_in(references, ending)?.into_iter().next() else {
        return Err(Error::bad_file(references, format!("no file ends in {ending}")));
    };
    let reader = Reader::for_dataset(dataset, &references.join(example))?;
    let pairs = pairs(references, predictions, ending, partial)?;
    let (labels, ignore) = (dataset.foreground(), dataset.ignore_label());
    evaluate_files(&pairs, reader, &labels, ignore, observer)
}

/// As [`evaluate_folder`], of plain `labels`, as `nnUNetv2_evaluate_simple` does: files are read as their ending says.
///
/// # Errors
/// As of [`evaluate_folder`].
pub fn evaluate_labels(
    references: &Path,
    predictions: &Path,
    labels: &[u16],
    ignore: Option<u16>,
    partial: bool,
    observer: &dyn Observer,
) -> Result<Summary> {
    let Some(example) = files_ending_in(references, "")?.into_iter().next() else {
        return Err(Error::bad_file(references, "no file is here"));
    };
    let ending = match (example.ends_with(".nii.gz"), example.rfind('.')) {
        (true, _) => ".nii.gz",
        (false, Some(dot)) => &example[dot..],
        (false, None) => {
            return Err(Error::bad_file(
                references.join(&example),
                "a name without an ending",
            ));
        }
    };
    let reader = Reader::for_ending(ending, &references.join(&example))?;
    let pairs = pairs(references, predictions, ending, partial)?;
    let labels: Vec<Label> = labels.iter().copied().map(Label::Value).collect();
    evaluate_files(&pairs, reader, &labels, ignore, observer)
}

/// Each prediction with the reference of its name, in the order of the names. With `partial` references without a
/// prediction are left out.
///
/// # Errors
/// Where a counterpart is missing, or a folder cannot be read.
pub fn pairs(
    references: &Path,
    predictions: &Path,
    ending: &str,
    partial: bool,
) -> Result<Vec<(PathBuf, PathBuf)>> {
    let names = files_ending_in(predictions, ending)?;
    let reference_names = files_ending_in(references, ending)?;
    if !partial && let Some(missing) = reference_names.difference(&names).next() {
        let reason = "missing, but there is a reference of this name";
        return Err(Error::bad_file(predictions.join(missing), reason));
    }
    if let Some(alone) = names.difference(&reference_names).next() {
        let reason = "missing, but there is a prediction of this name";
        return Err(Error::bad_file(references.join(alone), reason));
    }
    let pair = |name| (references.join(name), predictions.join(name));
    Ok(names.iter().map(pair).collect())
}

/// Scores pairs of (reference, prediction).
///
/// # Errors
/// Where there is no pair, or a file cannot be read.
pub fn evaluate_files(
    pairs: &[(PathBuf, PathBuf)],
    reader: Reader,
    labels: &[Label],
    ignore: Option<u16>,
    observer: &dyn Observer,
) -> Result<Summary> {
    evaluate_changed(pairs, reader, labels, ignore, observer, |_| {})
}

/// As [`evaluate_files`], of what `change` makes of each prediction.
///
/// # Errors
/// As of [`evaluate_files`].
pub fn evaluate_changed(
    pairs: &[(PathBuf, PathBuf)],
    reader: Reader,
    labels: &[Label],
    ignore: Option<u16>,
    observer: &dyn Observer,
    change: impl Fn(&mut Array3<i16>) + Sync,
) -> Result<Summary> {
    if pairs.is_empty() || labels.is_empty() {
        return Err(Error::invalid(
            "evaluation",
            "there is no prediction or no label to score",
        ));
    }
    let done = AtomicUsize::new(0);
    let cases = pairs
        .par_iter()
        .map(|(reference, prediction)| {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let read = |path: &Path| reader.read_segmentation(path).map(|s| s.labels);
            let mut predicted = read(prediction)?;
            change(&mut predicted);
            let counts = count(read(reference)?.view(), predicted.view(), labels, ignore)
                .map_err(|e| Error::bad_file(prediction, e))?;
            observer.advanced(
                "cases evaluated",
                done.fetch_add(1, Ordering::Relaxed) + 1,
                pairs.len(),
            );
            Ok(CaseScores {
                reference_file: reference.to_string_lossy().into_owned(),
                prediction_file: prediction.to_string_lossy().into_owned(),
                counts,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Summary {
        labels: labels.to_vec(),
        cases,
    })
}

/// The names of a folder's files with that ending. What starts with a dot was left by a program that died.
///
/// # Errors
/// The folder cannot be read.
pub fn files_ending_in(folder: &Path, ending: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if let Ok(name) = entry.file_name().into_string()
            && name.ends_with(ending)
            && !name.starts_with('.')
            && entry.path().is_file()
        {
            names.insert(name);
        }
    }
    Ok(names)
}

impl Summary {
    /// The mean over cases of a label's metrics; cases whose metric is NaN are left out.
    pub fn mean(&self, label: usize) -> Means {
        let per_case: Vec<_> = self
            .cases
            .iter()
            .map(|case| case.counts[label].values())
            .collect();
        Means {
            values: std::array::from_fn(|metric| {
                let column: Vec<f64> = per_case.iter().map(|v| v[metric]).collect();
                let known = column.iter().filter(|v| !v.is_nan()).count();
                let zeroed: Vec<f64> = column.iter().map(|v| if v.is_nan() { 0.0 } else { *v }).collect();
                pairwise_sum(&zeroed) / known as f64
            }),
        }
    }

    /// The mean over labels of their means; NaN where one is.
    pub fn foreground_mean(&self) -> Means {
        let means: Vec<Means> = (0..self.labels.len())
            .filter(|&i| self.labels[i] != Label::Value(0))
            .map(|label| self.mean(label))
            .collect();
        Means {
            values: std::array::from_fn(|metric| {
                let column: Vec<f64> = means.iter().map(|m| m.values[metric]).collect();
                pairwise_sum(&column) / column.len() as f64
            }),
        }
    }

    /// `foreground_mean` and `mean` of summary.json.
    pub fn means_json(&self) -> Value {
        let values = |means: Means| {
            let entries = METRICS.iter().zip(means.values);
            let entries = entries.map(|(name, value)| ((*name).to_owned(), python_json::float(value)));
            Value::Object(entries.collect())
        };
        let mut mean: Vec<(String, Value)> = (0..self.labels.len())
            .map(|label| (self.labels[label].to_string(), values(self.mean(label))))
            .collect();
        mean.sort_by(|a, b| a.0.cmp(&b.0));
        let mean: Map<String, Value> = mean.into_iter().collect();
        serde_json::json!({"foreground_mean": values(self.foreground_mean()), "mean": mean})
    }

    /// The text of summary.json: sorted keys, four blanks, `NaN` as Python writes it.
    pub fn to_json(&self) -> String {
        let mut order: Vec<usize> = (0..self.labels.len()).collect();
        order.sort_by_key(|&i| self.labels[i].to_string());
        let floats = |means: Means| {
            METRICS
                .iter()
                .zip(means.values)
                .map(|(k, v)| (*k, repr(v)))
                .collect::<Vec<_>>()
        };

        let mut text = String::from("{\n    \"foreground_mean\": ");
        object(&mut text, 1, &floats(self.foreground_mean()));
        text.push_str(",\n    \"mean\": {");
        for (place, &label) in order.iter().enumerate() {
            _ = write!(text, "{}\n        \"{}\": ", comma(place), self.labels[label]);
            object(&mut text, 2, &floats(self.mean(label)));
        }
        text.push_str("\n    },\n    \"metric_per_case\": [");
        for (place, case) in self.cases.iter().enumerate() {
            _ = write!(text, "{}\n        {{\n            \"metrics\": {{", comma(place));
            for (place, &label) in order.iter().enumerate() {
                _ = write!(
                    text,
                    "{}\n                \"{}\": ",
                    comma(place),
                    self.labels[label]
                );
                // Counts are integers here, the two scores are not.
                let values = METRICS
                    .iter()
                    .zip(case.counts[label].values())
                    .map(|(name, value)| {
                        let score = matches!(*name, "Dice" | "IoU");
                        (*name, if score { repr(value) } else { format!("{value}") })
                    });
                object(&mut text, 4, &values.collect::<Vec<_>>());
            }
            text.push_str("\n            },");
            let (prediction, reference) = (quoted(&case.prediction_file), quoted(&case.reference_file));
            _ = write!(text, "\n            \"prediction_file\": {prediction}");
            _ = write!(text, ",\n            \"reference_file\": {reference}\n        }}");
        }
        text.push_str("\n    ]\n}");
        text
    }

    /// Writes summary.json to `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.to_json()).map_err(Error::io(path))
    }
}

fn comma(place: usize) -> &'static str {
    if place == 0 { "" } else { "," }
}

fn object(text: &mut String, depth: usize, entries: &[(&str, String)]) {
    text.push('{');
    for (place, (key, value)) in entries.iter().enumerate() {
        _ = write!(
            text,
            "{}\n{:width$}\"{key}\": {value}",
            comma(place),
            "",
            width = 4 * (depth + 1)
        );
    }
    _ = write!(text, "\n{:width$}}}", "", width = 4 * depth);
}

fn repr(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else {
        python_json::repr(value)
    }
}

fn quoted(text: &str) -> String {
    python_json::to_string(text).unwrap_or_else(|_| "\"\"".into())
}

/// The sum of numpy's `add.reduce` over contiguous float64, so that means print with the same digits.
fn pairwise_sum(values: &[f64]) -> f64 {
    match values.len() {
        0..8 => values.iter().sum(),
        8..=128 => {
            let (blocks, rest) = values.as_chunks::<8>();
            let mut r = [0.0; 8];
            for block in blocks {
                for (r, v) in r.iter_mut().zip(block) {
                    *r += v;
                }
            }
            let sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
            rest.iter().fold(sum, |sum, v| sum + v)
        }
        n => {
            let half = n / 2 - (n / 2) % 8;
            pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    fn volume(values: &[i16]) -> Array3<i16> {
        Array3::from_shape_vec((1, 2, values.len() / 2), values.to_vec()).unwrap()
    }

    #[test]
    fn counts_follow_labels_regions_and_ignore() {
        let (reference, prediction) = (volume(&[0, 1, 1, 2, 2, 3]), volume(&[1, 1, 0, 2, 1, 2]));
        let labels = [Label::Value(1), Label::Region(vec![1, 2])];
        let all = count(reference.view(), prediction.view(), &labels, None).unwrap();
        assert_eq!(
            all[0],
            Counts {
                tp: 1,
                fp: 2,
                fn_: 1,
                tn: 2
            }
        );
        assert_eq!(
            all[1],
            Counts {
                tp: 3,
                fp: 2,
                fn_: 1,
                tn: 0
            }
        );
        let some = count(reference.view(), prediction.view(), &labels, Some(3)).unwrap();
        assert_eq!(
            some[1],
            Counts {
                tp: 3,
                fp: 1,
                fn_: 1,
                tn: 0
            }
        );
        count(reference.view(), volume(&[0, 0]).view(), &labels, None).unwrap_err();
    }

    #[test]
    fn a_label_that_never_occurs_is_nan_as_python_writes_it() {
        let (reference, prediction) = (volume(&[0, 1, 1, 0]), volume(&[0, 1, 0, 0]));
        let labels = vec![Label::Value(1), Label::Value(2)];
        let counts = count(reference.view(), prediction.view(), &labels, None).unwrap();
        let case = CaseScores {
            reference_file: "r".into(),
            prediction_file: "p \"\u{e9}".into(),
            counts,
        };
        let summary = Summary {
            labels,
            cases: vec![case],
        };
        assert_eq!(summary.mean(0).dice(), 2.0 / 3.0);
        assert!(summary.foreground_mean().dice().is_nan());
        let text = summary.to_json();
        assert!(
            text.starts_with("{\n    \"foreground_mean\": {\n        \"Dice\": NaN,\n        \"FN\": 0.5,")
        );
        assert!(text.contains("\"prediction_file\": \"p \\\"\\u00e9\""), "{text}");
        assert!(text.ends_with("        }\n    ]\n}"));
    }

    #[test]
    fn sums_are_numpys() {
        // np.sum(1 / np.arange(1, 301))
        let values: Vec<f64> = (1..=300).map(|i| 1.0 / f64::from(i)).collect();
        assert_eq!(pairwise_sum(&values), 6.282663880299504);
    }
}
