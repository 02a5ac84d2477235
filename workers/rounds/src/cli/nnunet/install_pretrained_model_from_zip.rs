//! `install-pretrained-model-from-zip`: nnUNetv2_install_pretrained_model_from_zip.

use std::path::PathBuf;

use clap::Args;
use nnunet::model_zip;

use super::folders;

/// The command's flags.
#[derive(Debug, Args)]
pub struct InstallPretrainedModelFromZip {
    /// The model zip
    #[arg(value_name = "zip")]
    zip: PathBuf,
}

impl InstallPretrainedModelFromZip {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let results = folders::results()?;
        folders::make(&results)?;
        for model in model_zip::install(&self.zip, &results)? {
            println!("{}", results.join(model).display());
        }
        Ok(())
    }
}
