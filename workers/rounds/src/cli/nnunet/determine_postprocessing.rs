//! `determine-postprocessing`: nnUNetv2_determine_postprocessing.

use std::path::PathBuf;

use clap::Args;
use nnunet::{
    evaluate::files_ending_in,
    postprocess::{Determined, determine_in_folder},
};

use super::{folders, progress::Progress, threads};

/// The command's flags.
#[derive(Debug, Args)]
pub struct DeterminePostprocessing {
    /// Folder of predicted segmentations. postprocessing.pkl and postprocessing.json are written here
    #[arg(short = 'i', value_name = "FOLDER", required = true)]
    input: PathBuf,
    /// Folder of reference segmentations
    #[arg(long = "ref", value_name = "FOLDER", required = true)]
    references: PathBuf,
    /// The plans; the default is plans.json in the input folder
    #[arg(long = "plans_json", value_name = "FILE")]
    plans: Option<PathBuf>,
    /// The data set's dataset.json; the default is the one in the input folder
    #[arg(long = "dataset_json", value_name = "FILE")]
    dataset_json: Option<PathBuf>,
    /// Threads; nnU-Net's default of 8, or as many as there are cores
    #[arg(long = "np", value_name = "N")]
    threads: Option<usize>,
    /// Do not keep the post-processed segmentations, which are written to FOLDER/postprocessed
    #[arg(long = "remove_postprocessed")]
    remove_postprocessed: bool,
}

impl DeterminePostprocessing {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let (dataset, reader) =
            folders::documents_of_predictions(&self.input, self.plans, self.dataset_json)?;
        let ending = dataset.file_ending();
        let predicted = files_ending_in(&self.input, ending)?;
        if files_ending_in(&self.references, ending)?
            .iter()
            .any(|name| !predicted.contains(name))
        {
            eprintln!(
                "warning: not every reference in {} has a prediction; decide on the whole data set",
                self.references.display()
            );
        }
        let threads = self.threads.map_or_else(threads::default_threads, Ok)?;
        let progress = Progress::new(false, false);
        let determined = threads::with(threads, || {
            Ok(determine_in_folder(
                &self.input,
                &self.references,
                reader,
                &dataset,
                !self.remove_postprocessed,
                &progress,
            )?)
        })?;
        print(&determined);
        Ok(())
    }
}

/// Says what was tried and what it changed.
pub fn print(determined: &Determined) {
    for (step, [before, after]) in &determined.tried {
        let kept = if determined.steps.contains(step) {
            "kept"
        } else {
            "not kept"
        };
        println!("all but the largest component of {step}: Dice {before:.5}, with it {after:.5}: {kept}");
    }
}
