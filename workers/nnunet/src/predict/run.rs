//! Many scans: reading, the network and writing overlap, and a case that fails does not stop the others.

use std::{
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use ndarray::ArrayView4;

use super::{Logits, Precision, Predictor, model::Model, write_probabilities};
use crate::{
    Error, Result,
    dataset::RawCase,
    evaluate::{Summary, evaluate_files},
    preprocess::{CaseProperties, MappedCase, PreprocessedCase},
    progress::Observer,
};

/// What became of one case.
#[derive(Debug)]
pub struct CaseOutcome {
    /// The case.
    pub identifier: String,
    /// The segmentation's file.
    pub output: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a case.
#[derive(Debug)]
pub enum Outcome {
    /// Its segmentation was written.
    Written,
    /// Its segmentation was there already.
    Skipped,
    /// It failed; the others went on.
    Failed(Error),
}

/// Logits that the network makes while those of earlier cases are written, in bytes. A case with more has the memory
/// to itself.
const LOGITS_AT_ONCE: u64 = 2 << 30;

/// A case's logits, with the room that they take until they are dropped.
type Predicted<'a> = (usize, Result<(Logits, CaseProperties, Taken<'a>)>);

impl Predictor {
    /// Predicts `cases` and writes `folder/IDENTIFIER` with the data set's file ending, or `file_ending`.
    ///
    /// While the network works on a scan, the next one is read and the last one's segmentation is written. Where
    /// `overwrite` is false (nnU-Net's `--continue_prediction`), a case whose segmentation is there is skipped.
    /// A file appears under its name only when it is complete. Outcomes stand in the order of `cases`.
    ///
    /// # Errors
    /// Only what stops everything: a cascade without its previous stage, the folder cannot be made, or the observer asked to stop ([`Error::Stopped`];
    /// what is written stays).
    pub fn predict_cases(
        &self,
        cases: &[RawCase],
        folder: &Path,
        file_ending: Option<&str>,
        overwrite: bool,
        observer: &dyn Observer,
    ) -> Result<Vec<CaseOutcome>> {
        self.model
            .check_previous_stage(self.model.previous_stage.as_deref())?;
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let ending = file_ending.unwrap_or(self.model.dataset.file_ending());
        let identifiers = cases.iter().map(|case| case.identifier.as_str());
        let model = &self.model;
        let prepare = |case: usize| {
            let previous = model.previous_file(&cases[case].identifier);
            model
                .prepare(&cases[case].images, previous.as_deref())
                .map(|c| Input::Raw(Box::new(c)))
        };
        self.run_missing(
            outcomes(identifiers, folder, ending),
            overwrite,
            &prepare,
            observer,
        )
    }

    /// Predicts the stored cases `identifiers` of the folder `preprocessed` and writes `folder/IDENTIFIER` with
    /// `file_ending`. A case whose segmentation is there is skipped. Outcomes stand in the order of `identifiers`.
    ///
    /// # Errors
    /// As of [`Predictor::predict_cases`].
    pub fn predict_stored(
        &self,
        preprocessed: &Path,
        identifiers: &[String],
        folder: &Path,
        file_ending: &str,
        observer: &dyn Observer,
    ) -> Result<Vec<CaseOutcome>> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let prepare = |case: usize| MappedCase::open(preprocessed, &identifiers[case]).map(Input::Stored);
        let outcomes = outcomes(identifiers.iter().map(String::as_str), folder, file_ending);
        self.run_missing(outcomes, false, &prepare, observer)
    }

    /// nnU-Net's validation after a training: predicts the stored cases `identifiers` of the folder `preprocessed`,
    /// scores them against the files of the same names in `references`, and writes segmentations and summary.json to
    /// `folder` (`fold_X/validation`).
    ///
    /// # Errors
    /// The first case that fails, or the observer asked to stop.
    pub fn validate(
        &self,
        preprocessed: &Path,
        identifiers: &[String],
        references: &Path,
        folder: &Path,
        observer: &dyn Observer,
    ) -> Result<Summary> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let name = |identifier: &String| format!("{identifier}{}", self.model.dataset.file_ending());
        let outputs: Vec<PathBuf> = identifiers.iter().map(|i| folder.join(name(i))).collect();
        let all: Vec<usize> = (0..identifiers.len()).collect();
        let prepare = |case: usize| MappedCase::open(preprocessed, &identifiers[case]).map(Input::Stored);
        for (case, result) in self.run(&all, &outputs, &prepare, observer)? {
            result.map_err(|error| error.in_case(&identifiers[case]))?;
        }
        let pairs: Vec<_> = identifiers
            .iter()
            .map(|i| references.join(name(i)))
            .zip(outputs)
            .collect();
        let dataset = &self.model.dataset;
        let summary = evaluate_files(
            &pairs,
            self.model.reader,
            &dataset.foreground(),
            dataset.ignore_label(),
            observer,
        )?;
        summary.write(&folder.join("summary.json"))?;
        Ok(summary)
    }

    /// Predicts the cases of `outcomes` whose segmentation is not there, or with `overwrite` all of them.
    fn run_missing(
        &self,
        mut outcomes: Vec<CaseOutcome>,
        overwrite: bool,
        prepare: &(dyn Fn(usize) -> Result<Input> + Sync),
        observer: &dyn Observer,
    ) -> Result<Vec<CaseOutcome>> {
        let waiting: Vec<usize> = (0..outcomes.len())
            .filter(|&i| overwrite || !self.model.is_there(&outcomes[i].output))
            .collect();
        let outputs: Vec<PathBuf> = outcomes.iter().map(|o| o.output.clone()).collect();
        for (case, result) in self.run(&waiting, &outputs, prepare, observer)? {
            outcomes[case].outcome = match result {
                Ok(()) => Outcome::Written,
                Err(error) => Outcome::Failed(error.in_case(&outcomes[case].identifier)),
            };
        }
        Ok(outcomes)
    }

    /// Predicts the cases `waiting` (places in `outputs`), in that order. The outcome of each.
    fn run(
        &self,
        waiting: &[usize],
        outputs: &[PathBuf],
        prepare: &(dyn Fn(usize) -> Result<Input> + Sync),
        observer: &dyn Observer,
    ) -> Result<Vec<(usize, Result<()>)>> {
        let room = Room::new(LOGITS_AT_ONCE);
        // One scan waits for the network, in the hand of its thread; segmentations wait as room allows.
        let (prepared_in, prepared) = sync_channel::<(usize, Result<Input>)>(0);
        let (predicted_in, predicted) = sync_channel::<Predicted>(1);
        let model = &self.model;
        let finished = thread::scope(|scope| {
            scope.spawn(move || {
                for &case in waiting {
                    // A closed channel means that nobody waits for more.
                    if observer.stop_requested() || prepared_in.send((case, prepare(case))).is_err() {
                        return;
                    }
                }
            });
            let writer = scope.spawn(|| write(model, predicted, outputs, waiting.len(), observer));
            for (case, input) in prepared {
                if observer.stop_requested() {
                    break;
                }
                let done = input.and_then(|input| {
                    let taken = room.take(model.logits_bytes(input.data().shape()));
                    let logits = self.logits(input.data(), observer)?;
                    Ok((logits, input.into_properties(), taken))
                });
                if matches!(done, Err(Error::Stopped)) || predicted_in.send((case, done)).is_err() {
                    break;
                }
            }
            drop(predicted_in);
            writer.join()
        });
        let finished = finished.map_err(|_| Error::invalid("prediction", "the writing thread died"))?;
        if finished.len() < waiting.len() {
            Err(Error::Stopped)
        } else {
            Ok(finished)
        }
    }
}

/// Outcomes of cases that nothing has happened to yet, with the files that their segmentations go to.
fn outcomes<'a>(
    identifiers: impl Iterator<Item = &'a str>,
    folder: &Path,
    file_ending: &str,
) -> Vec<CaseOutcome> {
    let outcome = |identifier: &str| CaseOutcome {
        identifier: identifier.to_owned(),
        output: folder.join(format!("{identifier}{file_ending}")),
        outcome: Outcome::Skipped,
    };
    identifiers.map(outcome).collect()
}

/// Memory for logits, shared by the cases that are under way.
struct Room {
    most: u64,
    used: Mutex<u64>,
    less: Condvar,
}

/// What a case takes of it, until this is dropped.
struct Taken<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Room {
    fn new(most: u64) -> Self {
        Self {
            most,
            used: Mutex::new(0),
            less: Condvar::new(),
        }
    }

    /// Waits until there is room; a case that is larger than all of it waits until it is alone.
    fn take(&self, bytes: u64) -> Taken<'_> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |used: &mut u64| *used > 0 && used.saturating_add(bytes) > self.most;
        let mut used = self
            .less
            .wait_while(used, full)
            .unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_add(bytes);
        Taken { room: self, bytes }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut used = self.room.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(self.bytes);
        self.room.less.notify_all();
    }
}

impl Model {
    /// What the logits of a preprocessed scan (c, z, y, x) take.
    fn logits_bytes(&self, shape: &[usize]) -> u64 {
        let each = match self.window.settings.precision {
            Precision::Half => 2,
            Precision::Single => 4,
        };
        let voxels: u64 = shape[1..].iter().map(|&n| n as u64).product();
        voxels.saturating_mul(each * self.layout.heads() as u64)
    }

    /// A segmentation's file without its ending.
    fn truncated(&self, output: &Path) -> PathBuf {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let ending = self.dataset.file_ending();
        output.with_file_name(name.strip_suffix(ending).unwrap_or(&name))
    }

    /// Whether a case has all that is wanted of it.
    fn is_there(&self, output: &Path) -> bool {
        let probabilities = || {
            let mut file = self.truncated(output).into_os_string();
            file.push(".npz");
            Path::new(&file).is_file()
        };
        output.is_file() && (!self.window.settings.save_probabilities || probabilities())
    }
}

/// A case for the network.
enum Input {
    Raw(Box<PreprocessedCase>),
    Stored(MappedCase),
}

impl Input {
    fn data(&self) -> ArrayView4<'_, f32> {
        match self {
            Input::Raw(case) => case.data.view(),
            Input::Stored(case) => case.data(),
        }
    }

    fn into_properties(self) -> CaseProperties {
        match self {
            Input::Raw(case) => case.properties,
            Input::Stored(case) => case.properties().clone(),
        }
    }
}

fn write(
    model: &Model,
    predicted: Receiver<Predicted>,
    outputs: &[PathBuf],
    total: usize,
    observer: &dyn Observer,
) -> Vec<(usize, Result<()>)> {
    let mut finished = Vec::new();
    for (case, predicted) in predicted {
        let result = predicted.and_then(|(logits, properties, _taken)| {
            let output = &outputs[case];
            let labels = model.segmentation(&logits, &properties)?;
            if model.window.settings.save_probabilities {
                let probabilities = model.export().probabilities(&logits, &properties)?;
                let truncated = model.truncated(output);
                write_probabilities(probabilities.view(), &properties, &truncated)?;
            }
            drop(logits);
            model
                .reader
                .write_segmentation(labels.view(), &properties.geometry, output)
        });
        finished.push((case, result));
        observer.advanced("cases predicted", finished.len(), total);
    }
    finished
}
