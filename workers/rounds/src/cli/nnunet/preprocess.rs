//! `preprocess`: nnUNetv2_preprocess.

use std::{collections::HashSet, fs, path::Path};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use nnunet::{
    dataset::RawDataset,
    preprocess::{CaseOutcome, Done, partial_folder, preprocess_dataset},
};
use schemas::nnunet::{Configuration, Plans};

use super::{
    extract_fingerprint::{self, Datasets, FINGERPRINT, Shown},
    folders,
    plan::describe,
    threads,
};
use crate::room;

/// The command's flags.
#[derive(Debug, Args)]
pub struct Preprocess {
    #[command(flatten)]
    datasets: Datasets,
    /// The plans
    #[arg(long = "plans_name", value_name = "NAME", default_value = "nnUNetPlans")]
    plans_name: String,
    #[command(flatten)]
    configurations: Configurations,
    #[command(flatten)]
    shown: Shown,
}

/// Which configurations, and how many threads each gets.
#[derive(Debug, Args)]
pub struct Configurations {
    /// Configurations; those that the plans do not have are left out
    #[arg(short = 'c', value_name = "NAME", num_args = 1.., default_values = ["2d", "3d_fullres", "3d_lowres"])]
    names: Vec<String>,
    /// Threads, one number for all configurations or one for each; nnU-Net's default of 8 (4 for 3d_fullres), or
    /// as many as there are cores
    #[arg(long = "np", value_name = "N", num_args = 1..)]
    threads: Option<Vec<usize>>,
}

impl Configurations {
    /// Each configuration with its threads.
    fn with_threads(&self) -> anyhow::Result<Vec<(&str, usize)>> {
        let names = self.names.iter().map(String::as_str);
        let Some(threads) = &self.threads else {
            let cores = threads::cores();
            let default = |name| if matches!(name, "2d" | "3d_lowres") { 8 } else { 4 };
            return Ok(names.map(|name| (name, cores.min(default(name)))).collect());
        };
        match threads[..] {
            [threads] => Ok(names.map(|name| (name, threads)).collect()),
            _ if threads.len() == self.names.len() => Ok(names.zip(threads.iter().copied()).collect()),
            _ => bail!(
                "-np: expected 1 number, or {} as there are configurations; found {}",
                self.names.len(),
                threads.len()
            ),
        }
    }
}

impl Preprocess {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        preprocess(
            &self.datasets,
            &self.plans_name,
            &self.configurations,
            &self.shown,
        )
    }
}

/// Preprocesses the cases of each data set.
pub fn preprocess(
    datasets: &Datasets,
    plans_name: &str,
    configurations: &Configurations,
    shown: &Shown,
) -> anyhow::Result<()> {
    let configurations = configurations.with_threads()?;
    let (raw, preprocessed) = (folders::raw()?, folders::preprocessed()?);
    for name in datasets.names()? {
        println!("Preprocessing dataset {name}");
        let folder = preprocessed.join(&name);
        let plans = folders::read_plans(&folder.join(format!("{plans_name}.json")))?;
        let dataset = RawDataset::open(&raw.join(&name))?;
        for &(configuration, threads) in &configurations {
            if !plans
                .configuration_names()
                .any(|planned| planned == configuration)
            {
                println!("{configuration}: not in {plans_name}.json of {name}; left out");
                continue;
            }
            let planned = plans.configuration(configuration)?;
            if planned.previous_stage.is_some() {
                bail!("{configuration}: cascades are not supported; their cases are those of 3d_fullres");
            }
            println!("{configuration}: {}", describe(&planned));
            let progress = shown.progress();
            let stored = folder.join(&planned.data_identifier);
            forget_missing(&dataset, &stored)?;
            room::sweep(&partial_folder(&stored)?);
            must_fit(&dataset, &plans, &planned, &folder)?;
            let all: Vec<usize> = (0..dataset.cases.len()).collect();
            let outcomes =
                preprocess_dataset(&dataset, &all, &plans, configuration, &folder, threads, &progress)?;
            report(configuration, outcomes)?;
        }
    }
    Ok(())
}

/// Says what was done; fails where a case did.
fn report(configuration: &str, outcomes: Vec<CaseOutcome>) -> anyhow::Result<()> {
    let (cases, mut written, mut kept) = (outcomes.len(), 0, 0);
    for outcome in outcomes {
        match outcome.result {
            Ok(Done::Written { .. }) => written += 1,
            Ok(Done::Cached) => kept += 1,
            Err(error) => eprintln!("error: {error}"),
        }
    }
    println!("{configuration}: {written} cases preprocessed, {kept} were there already");
    match cases - written - kept {
        0 => Ok(()),
        failed => bail!("{configuration}: {failed} of {cases} cases failed; see above"),
    }
}

/// Compares what the cases that are not there will take with the disk. Without a fingerprint nothing is known.
fn must_fit(
    dataset: &RawDataset,
    plans: &Plans,
    configuration: &Configuration,
    folder: &Path,
) -> anyhow::Result<()> {
    let file = folder.join(FINGERPRINT);
    if !file.is_file() {
        return Ok(());
    }
    let fingerprint = extract_fingerprint::read(&file)?;
    let shapes = fingerprint
        .shapes_after_crop
        .into_iter()
        .zip(fingerprint.spacings);
    let all = room::estimate(shapes, plans, configuration);
    let stored = folder.join(&configuration.data_identifier);
    let (mut there, mut missing) = (0, 0);
    for case in &dataset.cases {
        let size = |ending| fs::metadata(stored.join(format!("{}.{ending}", case.identifier)));
        match (size("npz"), size("pkl")) {
            (Ok(npz), Ok(pkl)) => there += npz.len() + pkl.len(),
            _ => missing += 1,
        }
    }
    let needed = if missing > 0 { all.saturating_sub(there) } else { 0 };
    let free = room::free_bytes(folder).with_context(|| format!("{}", folder.display()))?;
    room::must_fit(needed, free, "nnUNet_preprocessed")
        .map_err(|message| anyhow!("{}: {message}", folder.display()))
}

/// Removes preprocessed cases that the data set no longer has: a training takes what is in the folder.
fn forget_missing(dataset: &RawDataset, folder: &Path) -> anyhow::Result<()> {
    let known: HashSet<&str> = dataset.cases.iter().map(|case| &*case.identifier).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let stale = entry
            .file_name()
            .to_str()
            .and_then(|name| name.rsplit_once('.'))
            .is_some_and(|(identifier, ending)| {
                matches!(ending, "npz" | "pkl") && !known.contains(identifier)
            });
        if stale {
            fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
        }
    }
    Ok(())
}
