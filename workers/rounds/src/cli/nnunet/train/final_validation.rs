//! The validation at the end of a training: whole cases, sliding window, mirroring, scored against the references
//! (nnUNetTrainer.perform_actual_validation).

use anyhow::ensure;
use nnunet::{
    network::StateDict,
    predict::{ModelSettings, Predictor, Settings},
};

use super::experiment::Experiment;
use crate::{cli::nnunet::progress::Progress, memory::KeepFreed};

/// Predicts the validation cases with `weights`, writes their segmentations and summary.json to `validation`.
pub fn run(experiment: &mut Experiment, weights: &StateDict) -> anyhow::Result<()> {
    let cases = &experiment.split.val;
    ensure!(
        !cases.is_empty(),
        "fold {} has no case to validate on",
        experiment.fold
    );
    for case in cases {
        let ending = experiment.dataset_json.file_ending();
        let file = experiment.references.join(format!("{case}{ending}"));
        ensure!(
            file.is_file(),
            "{}: missing; `rounds nnunet preprocess` copies it",
            file.display()
        );
    }
    experiment
        .log
        .line(format!("Validation: predicting {} cases", cases.len()))?;
    let model = ModelSettings {
        plans: experiment.plans.clone(),
        configuration_name: experiment.configuration_name.clone(),
        dataset_json: experiment.dataset_json.clone(),
        trainer_name: experiment.variant.name.to_owned(),
        mirror_axes: experiment.variant.mirroring.axes(experiment.layout.dimensions()),
    };
    let settings = Settings {
        save_probabilities: experiment.probabilities,
        bfloat16: experiment.bfloat16,
        ..Settings::default()
    };
    let predictor = Predictor::of_weights(model, experiment.fold, weights, experiment.device, settings)?;
    let folder = experiment.results.fold.join("validation");
    let progress = Progress::new(false, false);
    let _kept = KeepFreed::small();
    let summary = predictor.validate(
        &experiment.cases,
        cases,
        &experiment.references,
        &folder,
        &progress,
    )?;

    experiment.log.line("Validation complete")?;
    for (index, label) in summary.labels.iter().enumerate() {
        experiment.log.line(format!(
            "Validation Dice of label {label}: {}",
            summary.mean(index).dice()
        ))?;
    }
    experiment.log.line(format!(
        "Mean Validation Dice: {}",
        summary.foreground_mean().dice()
    ))
}
