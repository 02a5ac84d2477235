//! `evaluate-folder`: nnUNetv2_evaluate_folder.

use std::path::{Path, PathBuf};

use clap::Args;
use nnunet::evaluate::{Summary, evaluate_folder};

use super::{folders, progress::Progress, threads};

/// The command's flags.
#[derive(Debug, Args)]
pub struct Evaluate {
    #[command(flatten)]
    compared: Compared,
    /// The data set's dataset.json
    #[arg(long = "djfile", value_name = "FILE", required = true)]
    dataset_json: PathBuf,
    /// The plans
    #[arg(long = "pfile", value_name = "FILE", required = true)]
    plans: PathBuf,
}

/// What is compared, and where the scores go.
#[derive(Debug, Args)]
pub struct Compared {
    /// Folder of reference segmentations
    #[arg(value_name = "gt_folder")]
    references: PathBuf,
    /// Folder of predicted segmentations
    #[arg(value_name = "pred_folder")]
    predictions: PathBuf,
    /// Where to write the scores; the default is pred_folder/summary.json
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads; nnU-Net's default of 8, or as many as there are cores
    #[arg(long = "np", value_name = "N")]
    threads: Option<usize>,
    /// References without a prediction are left out, not an error
    #[arg(long = "chill")]
    chill: bool,
}

impl Evaluate {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let dataset_json = folders::read_dataset_json(&self.dataset_json)?;
        // The labels are dataset.json's; nnU-Net reads the plans too, so a wrong path is an error here as there.
        folders::read_plans(&self.plans)?;
        self.compared.score(|references, predictions, chill, progress| {
            evaluate_folder(references, predictions, &dataset_json, chill, progress)
        })
    }
}

impl Compared {
    /// Scores with `evaluate`, which gets references, predictions and whether to chill; writes the scores, and prints
    /// what people want of them.
    pub fn score(
        self,
        evaluate: impl FnOnce(&Path, &Path, bool, &Progress) -> nnunet::Result<Summary> + Send,
    ) -> anyhow::Result<()> {
        let threads = self.threads.map_or_else(threads::default_threads, Ok)?;
        let progress = Progress::new(false, false);
        let summary = threads::with(threads, || {
            Ok(evaluate(
                &self.references,
                &self.predictions,
                self.chill,
                &progress,
            )?)
        })?;
        let output = self
            .output
            .unwrap_or_else(|| self.predictions.join("summary.json"));
        summary.write(&output)?;
        for (index, label) in summary.labels.iter().enumerate() {
            println!("label {label}: Dice {:.4}", summary.mean(index).dice());
        }
        println!(
            "{} cases, mean foreground Dice {:.4}",
            summary.cases.len(),
            summary.foreground_mean().dice()
        );
        println!("{}", output.display());
        Ok(())
    }
}
