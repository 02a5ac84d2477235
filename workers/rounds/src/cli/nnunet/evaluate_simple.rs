//! `evaluate-simple`: nnUNetv2_evaluate_simple.

use clap::Args;
use nnunet::evaluate::evaluate_labels;

use super::evaluate::Compared;

/// The command's flags.
#[derive(Debug, Args)]
pub struct EvaluateSimple {
    #[command(flatten)]
    compared: Compared,
    /// The labels to score
    #[arg(short = 'l', value_name = "LABEL", num_args = 1.., required = true)]
    labels: Vec<u16>,
    /// Voxels where the reference has this label do not count
    #[arg(long = "il", value_name = "LABEL")]
    ignore: Option<u16>,
}

impl EvaluateSimple {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        self.compared.score(|references, predictions, chill, progress| {
            evaluate_labels(
                references,
                predictions,
                &self.labels,
                self.ignore,
                chill,
                progress,
            )
        })
    }
}
