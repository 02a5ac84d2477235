//! `evaluate-simple`: nnUNetv2_evaluate_simple.

use std::path::PathBuf;

use clap::Args;
use nnunet::evaluate::evaluate_labels;

use super::{evaluate, progress::Progress, threads};

/// The command's flags.
#[derive(Debug, Args)]
pub struct EvaluateSimple {
    /// Folder of reference segmentations
    #[arg(value_name = "gt_folder")]
    references: PathBuf,
    /// Folder of predicted segmentations
    #[arg(value_name = "pred_folder")]
    predictions: PathBuf,
    /// The labels to score
    #[arg(short = 'l', value_name = "LABEL", num_args = 1.., required = true)]
    labels: Vec<u16>,
    /// Voxels where the reference has this label do not count
    #[arg(long = "il", value_name = "LABEL")]
    ignore: Option<u16>,
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

impl EvaluateSimple {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let threads = self.threads.map_or_else(threads::default_threads, Ok)?;
        let progress = Progress::new(false, false);
        let summary = threads::with(threads, || {
            Ok(evaluate_labels(
                &self.references,
                &self.predictions,
                &self.labels,
                self.ignore,
                self.chill,
                &progress,
            )?)
        })?;
        let output = self
            .output
            .unwrap_or_else(|| self.predictions.join("summary.json"));
        evaluate::write(&summary, &output)
    }
}
