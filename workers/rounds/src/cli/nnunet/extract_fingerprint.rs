//! `extract-fingerprint`: nnUNetv2_extract_fingerprint.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use nnunet::{
    dataset::{RawDataset, Severity, verify_dataset_integrity},
    fingerprint,
    progress::Observer,
};
use schemas::nnunet::python_json;

use super::{folders, progress::Progress, threads};

/// The file that the fingerprint is written to.
pub const FINGERPRINT: &str = "dataset_fingerprint.json";

/// The command's flags.
#[derive(Debug, Args)]
pub struct ExtractFingerprint {
    #[command(flatten)]
    datasets: Datasets,
    /// The fingerprint extractor; only nnU-Net's own
    #[arg(long = "fpe", value_name = "NAME", default_value = EXTRACTOR)]
    extractor: String,
    /// Threads; nnU-Net's default of 8, or as many as there are cores
    #[arg(long = "np", value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    shown: Shown,
}

/// Which data sets.
#[derive(Debug, Args)]
pub struct Datasets {
    /// Data sets, by id or by name (DatasetXYZ_name)
    #[arg(short = 'd', value_name = "DATASET", num_args = 1.., required = true)]
    ids: Vec<String>,
}

/// What to do with what is there.
#[derive(Debug, Args)]
pub struct Flags {
    /// Check the raw data sets first
    #[arg(long = "verify_dataset_integrity")]
    verify: bool,
    /// Extract again where there is a fingerprint already
    #[arg(long = "clean")]
    clean: bool,
}

/// How much to show.
#[derive(Debug, Args)]
pub struct Shown {
    /// A line for every case
    #[arg(long = "verbose")]
    verbose: bool,
    /// No progress bar
    #[arg(long = "no_pbar")]
    no_bar: bool,
}

/// The name of nnU-Net's extractor.
pub const EXTRACTOR: &str = "DatasetFingerprintExtractor";

impl Datasets {
    /// The folder names, DatasetXYZ_name.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        self.ids.iter().map(|id| folders::dataset_name(id)).collect()
    }
}

impl Shown {
    /// The observer that shows it.
    pub fn progress(&self) -> Progress {
        Progress::new(self.verbose, self.no_bar)
    }
}

impl ExtractFingerprint {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let threads = self.threads.map_or_else(threads::default_threads, Ok)?;
        extract(&self.datasets, &self.extractor, threads, &self.flags, &self.shown)
    }
}

/// Extracts the fingerprint of each data set that has none.
pub fn extract(
    datasets: &Datasets,
    extractor: &str,
    threads: usize,
    flags: &Flags,
    shown: &Shown,
) -> anyhow::Result<()> {
    if extractor != EXTRACTOR {
        bail!("-fpe {extractor}: only {EXTRACTOR} is supported");
    }
    let (raw, preprocessed) = (folders::raw()?, folders::preprocessed()?);
    let progress = shown.progress();
    for name in datasets.names()? {
        println!("{name}");
        let folder = preprocessed.join(&name);
        let file = folder.join(FINGERPRINT);
        let wanted = flags.clean || !file.is_file();
        if !wanted {
            println!("{} is there already; --clean extracts it again", file.display());
            if !flags.verify {
                continue;
            }
        }
        let dataset = RawDataset::open(&raw.join(&name))?;
        threads::with(threads, || {
            if flags.verify {
                verify(&dataset, &progress)?;
            }
            if wanted {
                folders::make(&folder)?;
                let fingerprint = fingerprint::extract(&dataset, &progress)?;
                folders::write(&file, &python_json::to_string(&fingerprint)?)?;
                println!(
                    "{} cases; the fingerprint is in {}",
                    dataset.cases.len(),
                    file.display()
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn verify(dataset: &RawDataset, observer: &dyn Observer) -> anyhow::Result<()> {
    let problems = verify_dataset_integrity(dataset, observer)?;
    for problem in &problems {
        let kind = match problem.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let case = problem
            .case
            .as_ref()
            .map(|case| format!(" case {case}:"))
            .unwrap_or_default();
        eprintln!("{kind}:{case} {}", problem.message);
    }
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .count();
    if errors > 0 {
        bail!("{}: {errors} errors; see above", dataset.folder.display());
    }
    println!("{}: the data set is consistent", dataset.name);
    Ok(())
}

/// Reads a fingerprint that this command or nnU-Net wrote.
pub fn read(file: &Path) -> anyhow::Result<schemas::nnunet::Fingerprint> {
    let text = nnunet::document::read(file).with_context(|| {
        format!(
            "{}: `rounds nnunet extract-fingerprint` writes it",
            file.display()
        )
    })?;
    schemas::parse(text.as_bytes()).with_context(|| format!("{}", file.display()))
}
