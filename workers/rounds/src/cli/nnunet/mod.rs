//! `rounds nnunet`: nnU-Net itself at one site, with the positionals, flags, defaults and environment variables of
//! nnU-Net's own console scripts.
//!
//! Each command parses, finds its folders, calls the algorithm, and shows how it goes. Flags of nnU-Net's that
//! cannot be honoured are refused with the reason, never ignored.

mod accumulate_crossval_results;
mod apply_postprocessing;
mod determine_postprocessing;
mod ensemble;
mod evaluate;
mod evaluate_simple;
mod export_model_to_zip;
mod extract_fingerprint;
mod find_best_configuration;
mod flags;
mod folders;
mod install_pretrained_model_from_zip;
mod plan;
mod plan_and_preprocess;
#[cfg(feature = "torch")]
mod predict;
#[cfg(feature = "torch")]
mod predict_from_modelfolder;
mod preprocess;
mod progress;
#[cfg(all(test, feature = "torch"))]
mod tests;
mod threads;
#[cfg(feature = "torch")]
mod train;

use clap::Subcommand;

pub use flags::long_flags;

/// The commands, named after nnU-Net's console scripts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Extract the fingerprint of data sets (nnUNetv2_extract_fingerprint)
    ExtractFingerprint(extract_fingerprint::ExtractFingerprint),
    /// Plan experiments from fingerprints (nnUNetv2_plan_experiment)
    #[command(alias = "plan-experiment")]
    Plan(plan::Plan),
    /// Preprocess the cases of data sets (nnUNetv2_preprocess)
    Preprocess(preprocess::Preprocess),
    /// Fingerprint, plan and preprocess in one go (nnUNetv2_plan_and_preprocess)
    PlanAndPreprocess(plan_and_preprocess::PlanAndPreprocess),
    /// Train one fold of one configuration, then validate it on whole cases (nnUNetv2_train)
    #[cfg(feature = "torch")]
    Train(train::Train),
    /// Segment a folder of scans with a trained model (nnUNetv2_predict)
    #[cfg(feature = "torch")]
    Predict(predict::Predict),
    /// Segment with a model that lies anywhere (nnUNetv2_predict_from_modelfolder)
    #[cfg(feature = "torch")]
    #[command(name = "predict-from-modelfolder")]
    PredictFromModelfolder(predict_from_modelfolder::PredictFromModelfolder),
    /// Score a folder of segmentations against references (nnUNetv2_evaluate_folder)
    #[command(name = "evaluate-folder", visible_alias = "evaluate")]
    Evaluate(evaluate::Evaluate),
    /// Score a folder of segmentations by labels alone (nnUNetv2_evaluate_simple)
    EvaluateSimple(evaluate_simple::EvaluateSimple),
    /// Merge predictions that were made with probabilities (nnUNetv2_ensemble)
    Ensemble(ensemble::Ensemble),
    /// Find out whether removing all but the largest component helps (nnUNetv2_determine_postprocessing)
    DeterminePostprocessing(determine_postprocessing::DeterminePostprocessing),
    /// Post-process a folder of segmentations (nnUNetv2_apply_postprocessing)
    ApplyPostprocessing(apply_postprocessing::ApplyPostprocessing),
    /// Collect and score the validation cases of all folds (nnUNetv2_accumulate_crossval_results)
    AccumulateCrossvalResults(accumulate_crossval_results::AccumulateCrossvalResults),
    /// Find the best model or pair of models by cross-validation (nnUNetv2_find_best_configuration)
    FindBestConfiguration(find_best_configuration::FindBestConfiguration),
    /// Pack a trained model into a zip (nnUNetv2_export_model_to_zip)
    ExportModelToZip(export_model_to_zip::ExportModelToZip),
    /// Unpack a model zip into nnUNet_results (nnUNetv2_install_pretrained_model_from_zip)
    InstallPretrainedModelFromZip(install_pretrained_model_from_zip::InstallPretrainedModelFromZip),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Command::ExtractFingerprint(command) => command.run(),
            Command::Plan(command) => command.run(),
            Command::Preprocess(command) => command.run(),
            Command::PlanAndPreprocess(command) => command.run(),
            #[cfg(feature = "torch")]
            Command::Train(command) => command.run(),
            #[cfg(feature = "torch")]
            Command::Predict(command) => command.run(),
            #[cfg(feature = "torch")]
            Command::PredictFromModelfolder(command) => command.run(),
            Command::Evaluate(command) => command.run(),
            Command::EvaluateSimple(command) => command.run(),
            Command::Ensemble(command) => command.run(),
            Command::DeterminePostprocessing(command) => command.run(),
            Command::ApplyPostprocessing(command) => command.run(),
            Command::AccumulateCrossvalResults(command) => command.run(),
            Command::FindBestConfiguration(command) => command.run(),
            Command::ExportModelToZip(command) => command.run(),
            Command::InstallPretrainedModelFromZip(command) => command.run(),
        }
    }
}
