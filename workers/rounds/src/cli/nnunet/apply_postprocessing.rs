//! `apply-postprocessing`: nnUNetv2_apply_postprocessing.

use std::path::PathBuf;

use clap::Args;
use nnunet::{
    evaluate::files_ending_in,
    postprocess::{apply_to_files, read_steps},
};

use super::{folders, progress::Progress, threads};

/// The command's flags.
#[derive(Debug, Args)]
pub struct ApplyPostprocessing {
    /// Folder of segmentations
    #[arg(short = 'i', value_name = "FOLDER", required = true)]
    input: PathBuf,
    /// Folder for what becomes of them; made if missing
    #[arg(short = 'o', value_name = "FOLDER", required = true)]
    output: PathBuf,
    /// The postprocessing.pkl to follow, Python's or ours
    #[arg(long = "pp_pkl_file", value_name = "FILE", required = true)]
    steps: PathBuf,
    /// Threads; nnU-Net's default of 8, or as many as there are cores
    #[arg(long = "np", value_name = "N")]
    threads: Option<usize>,
    /// The plans; the default is plans.json in the input folder
    #[arg(long = "plans_json", value_name = "FILE")]
    plans: Option<PathBuf>,
    /// The data set's dataset.json; the default is the one in the input folder
    #[arg(long = "dataset_json", value_name = "FILE")]
    dataset_json: Option<PathBuf>,
}

impl ApplyPostprocessing {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let steps = read_steps(&self.steps)?;
        let (dataset, reader) =
            folders::documents_of_predictions(&self.input, self.plans, self.dataset_json)?;
        let names: Vec<String> = files_ending_in(&self.input, dataset.file_ending())?
            .into_iter()
            .collect();
        let threads = self.threads.map_or_else(threads::default_threads, Ok)?;
        let progress = Progress::new(false, false);
        let outcomes = threads::with(threads, || {
            Ok(apply_to_files(
                &self.input,
                &names,
                &self.output,
                &steps,
                reader,
                &progress,
            )?)
        })?;
        folders::none_failed(&outcomes)?;
        println!(
            "{} cases post-processed in {} steps; they are in {}",
            names.len(),
            steps.len(),
            self.output.display()
        );
        Ok(())
    }
}
