//! `predict-from-modelfolder`: nnUNetv2_predict_from_modelfolder.

use std::path::PathBuf;

use clap::Args;

use super::predict::PredictFlags;

/// The command's flags.
#[derive(Debug, Args)]
pub struct PredictFromModelfolder {
    #[command(flatten)]
    flags: PredictFlags,
    /// The model's folder, Trainer__Plans__Configuration, with its fold_X folders
    #[arg(short = 'm', value_name = "FOLDER", required = true)]
    model: PathBuf,
}

impl PredictFromModelfolder {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        self.flags.predict(&self.model, 0, 1)
    }
}
