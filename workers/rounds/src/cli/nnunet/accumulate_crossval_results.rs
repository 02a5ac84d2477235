//! `accumulate-crossval-results`: nnUNetv2_accumulate_crossval_results.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use nnunet::{
    checkpoint::results::model_folder_name, cross_validation::CrossValidated, evaluate::Summary,
    progress::Observer,
};

use super::{folders, progress::Progress, threads};

/// The command's flags.
#[derive(Debug, Args)]
pub struct AccumulateCrossvalResults {
    /// The data set, by id or by name (DatasetXYZ_name)
    #[arg(value_name = "dataset_name_or_id")]
    dataset: String,
    /// The configuration
    #[arg(short = 'c', value_name = "NAME", required = true)]
    configuration: String,
    /// An empty folder for the predictions; the default is crossval_results_folds_X in the model's folder, made anew
    #[arg(short = 'o', value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// The folds
    #[arg(short = 'f', value_name = "FOLD", num_args = 1.., default_values = ["0", "1", "2", "3", "4"])]
    folds: Vec<u32>,
    /// The plans
    #[arg(short = 'p', value_name = "NAME", default_value = "nnUNetPlans")]
    plans: String,
    /// The trainer
    #[arg(long = "tr", value_name = "NAME", default_value = "nnUNetTrainer")]
    trainer: String,
}

impl AccumulateCrossvalResults {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let folder = folders::results()?
            .join(folders::dataset_name(&self.dataset)?)
            .join(model_folder_name(&self.trainer, &self.plans, &self.configuration));
        let model = CrossValidated::open(&folder, &self.folds)?;
        let merged = self.output.clone().unwrap_or_else(|| model.results_folder());
        if self.output.is_some()
            && std::fs::read_dir(&merged).is_ok_and(|mut entries| entries.next().is_some())
        {
            bail!(
                "-o {}: expected an empty folder, so that nothing in it is lost",
                merged.display()
            );
        }
        let progress = Progress::new(false, false);
        let summary = match model.scores()? {
            Some(sites) => model.accumulate_scores(&merged, &sites)?,
            None => threads::with(threads::default_threads()?, || {
                accumulate(&model, &merged, true, &progress)
            })?,
        };
        println!(
            "{} cases of folds {:?}, mean foreground Dice {:.4}",
            summary.cases.len(),
            self.folds,
            summary.foreground_mean().dice()
        );
        println!("{}", merged.join("summary.json").display());
        Ok(())
    }
}

/// Collects and scores a model's folds against the raw data set's labels, or where that is not here, against their
/// copy among the preprocessed data.
pub fn accumulate(
    model: &CrossValidated,
    merged: &Path,
    overwrite: bool,
    observer: &dyn Observer,
) -> anyhow::Result<Summary> {
    let dataset = &model.plans.dataset_name;
    let raw = folders::raw().map(|raw| raw.join(dataset).join("labelsTr"));
    let references = match raw {
        Ok(labels) if labels.is_dir() => labels,
        _ => folders::preprocessed()?.join(dataset).join("gt_segmentations"),
    };
    Ok(model.accumulate(merged, &references, overwrite, observer)?)
}
