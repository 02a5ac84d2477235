//! nnU-Net's validation at the end of a training, of a shard of the site's validation cases: whole cases, sliding
//! window, mirroring (nnUNetTrainer.perform_actual_validation). What leaves the site are counts.

use nnunet::{
    evaluate::{PostProcessed, Scores, ToScore, score_cases},
    predict::{ModelSettings, Outcome, Predictor, Settings},
    train::TrainerVariant,
};
use pipeline::{exit::Kind, worker::TaskContext};
use schemas::{
    job::TrainingPayload,
    task::{Failure, Task, TaskInput, TaskOutput, Weights},
};

use super::{Watch, device_of, failure, shard, unknown_input};
use crate::{
    job_folder::VALIDATION,
    phases::{average::fetch_average, initial, preprocess::cases_of, send_json},
    site::Site,
};

pub fn run(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    payload: &TrainingPayload,
) -> Result<TaskOutput, Failure> {
    let TaskInput::Validate {
        pooled,
        plans_digest,
        weights: Weights::Average { artifact },
    } = &task.input
    else {
        return Err(unknown_input(task));
    };
    let dataset = site.dataset(task)?;
    let planned = initial::planned(site, task, context, pooled, &dataset)?;
    planned.must_be(plans_digest)?;
    let weights = fetch_average(context, &planned, artifact)?.weights;
    let split = site.split(&dataset, payload.fold_id)?;
    let stored = cases_of(site, task, context, &dataset, &planned, &split)?;
    nnunet::device::set_threads(site.settings.threads);
    let trainer = TrainerVariant::by_name(&payload.trainer_name).map_err(failure::of_error)?;
    let model = ModelSettings {
        mirror_axes: trainer.mirroring.axes(planned.layout()?.dimensions()),
        configuration_name: payload.model_configuration.as_str().to_owned(),
        trainer_name: payload.trainer_name.clone(),
        plans: planned.plans,
        dataset_json: planned.dataset_json,
    };
    let settings = Settings {
        bfloat16: task.job.message.federation.bfloat16,
        ..Settings::default()
    };
    let device = device_of(site, task)?;
    let predictor = Predictor::of_weights(model, payload.fold_id, &weights, device, settings)
        .map_err(failure::of_error)?;

    let cases = &split.val[shard(task, split.val.len())];
    // One average, one folder: a resumed job may have another.
    let folder = site.job(task).join(VALIDATION).join(&artifact.digest);
    let ending = dataset.dataset_json.file_ending();
    let outcomes = predictor
        .predict_stored(&stored, cases, &folder, ending, &Watch(context))
        .map_err(failure::of_error)?;
    let ordinal = |identifier: &str| {
        let place = dataset
            .cases
            .iter()
            .position(|case| case.identifier == identifier);
        place.unwrap_or_default()
    };
    let mut to_score = Vec::with_capacity(outcomes.len());
    for made in outcomes {
        let ordinal = ordinal(&made.identifier);
        // A mean over the other cases would not be of the fold.
        if let Outcome::Failed(error) = made.outcome {
            return Err(failure::of_error(error).at_case(ordinal as u32));
        }
        to_score.push(ToScore {
            ordinal: ordinal as u32,
            case: &dataset.cases[ordinal],
            segmentation: made.output,
        });
    }
    let model = predictor.dataset_json();
    let scored = score_cases(
        &to_score,
        &dataset,
        model,
        PostProcessed::Counted,
        &Watch(context),
    )
    .map_err(failure::of_error)?;
    let mut scores = Scores {
        labels: model.foreground(),
        cases: Vec::with_capacity(scored.len()),
    };
    for (to_score, scored) in to_score.iter().zip(scored) {
        let case = scored.map_err(|error| failure::of_error(error).at_case(to_score.ordinal))?;
        scores.cases.push(case);
    }
    Ok(TaskOutput::Validated {
        scores: send_json(context, Kind::Scores, &scores)?,
    })
}
