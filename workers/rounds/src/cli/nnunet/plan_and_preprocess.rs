//! `plan-and-preprocess`: nnUNetv2_plan_and_preprocess.

use clap::Args;

use super::{
    extract_fingerprint::{self, Datasets, EXTRACTOR, Flags, Shown},
    plan::{self, Choices},
    preprocess::{self, Configurations},
};

/// The command's flags.
#[derive(Debug, Args)]
pub struct PlanAndPreprocess {
    #[command(flatten)]
    datasets: Datasets,
    /// The fingerprint extractor; only nnU-Net's own
    #[arg(long = "fpe", value_name = "NAME", default_value = EXTRACTOR)]
    extractor: String,
    /// Threads for the fingerprint; nnU-Net's default of 8, or as many as there are cores
    #[arg(long = "npfp", value_name = "N")]
    fingerprint_threads: Option<usize>,
    /// Stop after planning
    #[arg(long = "no_pp")]
    no_preprocessing: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    configurations: Configurations,
    #[command(flatten)]
    shown: Shown,
}

impl PlanAndPreprocess {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let threads = self.fingerprint_threads.unwrap_or(super::threads::cores().min(8));
        println!("Fingerprint extraction...");
        extract_fingerprint::extract(&self.datasets, &self.extractor, threads, &self.flags, &self.shown)?;
        println!("Experiment planning...");
        let plans_name = plan::plan(&self.datasets, &self.choices)?;
        if self.no_preprocessing {
            return Ok(());
        }
        println!("Preprocessing...");
        preprocess::preprocess(&self.datasets, &plans_name, &self.configurations, &self.shown)
    }
}
