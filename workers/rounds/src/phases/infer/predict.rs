//! Segments a shard of the scans. What is there already is not made again.

use nnunet::{
    dataset::RawCase,
    evaluate::{PostProcessed, ToScore, score_cases},
    predict::{CaseOutcome, Outcome, Predictor, Settings},
};
use pipeline::worker::TaskContext;
use schemas::{
    job::InferencePayload,
    task::{Failure, Task, TaskOutput},
};

use super::{Model, Scans, Segmented, Watch, device_of, failure, shard};
use crate::{
    job_folder::SEGMENTATIONS,
    site::{Site, write_whole},
};

pub fn run(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    payload: &InferencePayload,
    model: &Model,
) -> Result<TaskOutput, Failure> {
    let scans = Scans::frozen(site, task)?;
    let cases = scans.cases();
    let device = device_of(site, task)?;
    nnunet::device::set_threads(site.settings.threads);
    let mut predictor = Predictor::open(
        &model.folder,
        &[payload.fold_id],
        payload.checkpoint_name.as_str(),
        device,
        Settings::default(),
    )
    .map_err(failure::of_error)?;
    if let Some(dataset) = &model.dataset {
        predictor = predictor.with_reader(dataset.reader);
    }
    let ordinals = shard(task, cases.len());
    let first = ordinals.start;
    let cases = &cases[ordinals];
    let folder = site.job(task).join(SEGMENTATIONS);
    let outcomes = predictor
        .predict_cases(cases, &folder, Some(&scans.file_ending), false, &Watch(context))
        .map_err(failure::of_error)?;

    let mut segmented = Segmented::default();
    if task.job.message.federation.evaluate {
        score(
            &mut segmented,
            cases,
            first,
            &outcomes,
            model,
            &predictor,
            context,
        )?;
    }
    let total = outcomes.len();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        if let Outcome::Failed(error) = outcome.outcome {
            let failed = failure::of_error(error).at_case((first + index) as u32);
            segmented.failures.push(failed);
        }
    }
    // The zip's summary has them, too.
    site.clean(segmented.failures.iter_mut().chain(&mut segmented.unscored));
    let file = Segmented::file(site, task, task.key.shard);
    let bytes = serde_json::to_vec(&segmented).map_err(|error| failure::bug(error.to_string()))?;
    write_whole(&file, &bytes).map_err(|error| failure::io("what became of the cases", &file, &error))?;
    Ok(TaskOutput::Predicted {
        done: (total - segmented.failures.len()) as u32,
        failures: segmented.failures,
    })
}

/// Scores the segmentations that have a reference.
fn score(
    segmented: &mut Segmented,
    cases: &[RawCase],
    first: usize,
    outcomes: &[CaseOutcome],
    model: &Model,
    predictor: &Predictor,
    context: &TaskContext,
) -> Result<(), Failure> {
    let Some(dataset) = &model.dataset else {
        return Ok(());
    };
    let there = |(index, (case, outcome)): (usize, (_, &CaseOutcome))| {
        let case: &RawCase = case;
        let made = !matches!(outcome.outcome, Outcome::Failed(_));
        (made && case.label.is_some()).then(|| ToScore {
            ordinal: (first + index) as u32,
            case,
            segmentation: outcome.output.clone(),
        })
    };
    let to_score: Vec<ToScore> = cases.iter().zip(outcomes).enumerate().filter_map(there).collect();
    let scored = score_cases(
        &to_score,
        dataset,
        predictor.dataset_json(),
        PostProcessed::No,
        &Watch(context),
    )
    .map_err(failure::of_error)?;
    for (to_score, scored) in to_score.iter().zip(scored) {
        match scored {
            Ok(case) => segmented.scores.push(case),
            Err(error) => {
                let failed = failure::of_error(error).at_case(to_score.ordinal);
                segmented.unscored.push(failed);
            }
        }
    }
    Ok(())
}
