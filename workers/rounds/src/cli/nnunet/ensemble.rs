//! `ensemble`: nnUNetv2_ensemble.

use std::path::PathBuf;

use clap::Args;
use nnunet::ensemble::{Merge, ensemble_cases};
use schemas::nnunet::python_json;

use super::{folders, progress::Progress, threads};

/// The command's flags.
#[derive(Debug, Args)]
pub struct Ensemble {
    /// Folders with predictions of the same cases, made with --save_probabilities. dataset.json and plans.json are
    /// the first one's
    #[arg(short = 'i', value_name = "FOLDER", num_args = 1.., required = true)]
    inputs: Vec<PathBuf>,
    /// Folder for the merged segmentations; made if missing
    #[arg(short = 'o', value_name = "FOLDER", required = true)]
    output: PathBuf,
    /// Threads; nnU-Net's default of 8, or as many as there are cores
    #[arg(long = "np", value_name = "N")]
    threads: Option<usize>,
    /// Write the mean probabilities too
    #[arg(long = "save_npz")]
    save_probabilities: bool,
}

impl Ensemble {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let first = self.inputs.first().cloned().unwrap_or_default();
        let (dataset, reader) = folders::documents_of_predictions(&first, None, None)?;
        let cases = ensemble_cases(&self.inputs)?;
        let merge = Merge {
            dataset: &dataset,
            reader,
            save_probabilities: self.save_probabilities,
        };
        folders::make(&self.output)?;
        let document = python_json::to_string(dataset.document())?;
        folders::write(&self.output.join("dataset.json"), &document)?;
        let threads = self.threads.map_or_else(threads::default_threads, Ok)?;
        let progress = Progress::new(false, false);
        let outcomes = threads::with(threads, || Ok(merge.cases(&cases, &self.output, &progress)?))?;
        folders::none_failed(&outcomes)?;
        println!(
            "{} cases of {} predictions merged; they are in {}",
            cases.len(),
            self.inputs.len(),
            self.output.display()
        );
        Ok(())
    }
}
