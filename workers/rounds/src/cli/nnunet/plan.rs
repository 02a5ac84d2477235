//! `plan`: nnUNetv2_plan_experiment.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use clap::Args;
use nnunet::{
    dataset::RawDataset,
    plan::{Options, Planner, keep_custom_configurations, plan_experiment},
    splits::{self, Split},
};
use schemas::nnunet::{Configuration, Plans};

use super::{
    extract_fingerprint::{self, Datasets, FINGERPRINT},
    folders,
};

/// The command's flags.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    datasets: Datasets,
    #[command(flatten)]
    choices: Choices,
}

/// What the planner may be told.
#[derive(Debug, Args)]
pub struct Choices {
    /// The planner: ExperimentPlanner, ResEncUNetPlanner, nnUNetPlannerResEncM, nnUNetPlannerResEncL,
    /// nnUNetPlannerResEncXL, nnUNetPlanner_torchres, nnUNetPlannerResEncL_torchres,
    /// nnUNetPlannerResEncL_torchres_sepz or nnUNetPlannerResEncL_noResampling
    #[arg(long = "pl", value_name = "NAME", default_value = "ExperimentPlanner")]
    planner: String,
    /// GPU memory to plan for, in GB; the default is the planner's own
    #[arg(long = "gpu_memory_target", value_name = "GB")]
    gpu_memory_target: Option<f64>,
    /// The preprocessor; only nnU-Net's own
    #[arg(long = "preprocessor_name", value_name = "NAME", default_value = PREPROCESSOR)]
    preprocessor: String,
    /// Spacing of 3d_fullres in mm, three numbers (z y x)
    #[arg(
        long = "overwrite_target_spacing",
        value_name = "MM",
        num_args = 1..,
        allow_negative_numbers = true
    )]
    target_spacing: Option<Vec<f64>>,
    /// Another name for the plans, such as one that tells these flags
    #[arg(long = "overwrite_plans_name", value_name = "NAME")]
    plans_name: Option<String>,
}

/// The name of nnU-Net's preprocessor.
const PREPROCESSOR: &str = "DefaultPreprocessor";

impl Plan {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        plan(&self.datasets, &self.choices).map(|_| ())
    }
}

impl Choices {
    fn options(&self) -> anyhow::Result<Options> {
        let Some(planner) = Planner::from_class_name(&self.planner) else {
            let names: Vec<&str> = Planner::ALL.iter().map(|planner| planner.class_name()).collect();
            bail!(
                "-pl {}: no such planner; there are {}",
                self.planner,
                names.join(", ")
            );
        };
        if self.preprocessor != PREPROCESSOR {
            bail!(
                "-preprocessor_name {}: only {PREPROCESSOR} is supported",
                self.preprocessor
            );
        }
        let spacing = self.target_spacing.as_ref().map(|spacing| {
            <[f64; 3]>::try_from(&spacing[..]).ok().with_context(|| {
                format!(
                    "-overwrite_target_spacing: expected 3 numbers, found {}",
                    spacing.len()
                )
            })
        });
        Ok(Options {
            planner,
            gpu_memory_target_gb: self.gpu_memory_target,
            plans_name: self.plans_name.clone(),
            overwrite_target_spacing: spacing.transpose()?,
            ..Options::default()
        })
    }
}

/// Plans each data set from its fingerprint; returns the name of the plans.
pub fn plan(datasets: &Datasets, choices: &Choices) -> anyhow::Result<String> {
    let options = choices.options()?;
    let (raw, preprocessed) = (folders::raw()?, folders::preprocessed()?);
    for name in datasets.names()? {
        let (raw, folder) = (raw.join(&name), preprocessed.join(&name));
        let fingerprint = extract_fingerprint::read(&folder.join(FINGERPRINT))?;
        let dataset = RawDataset::open(&raw)?;
        let mut plans = plan_experiment(
            &fingerprint,
            &dataset.dataset_json,
            &options,
            &name,
            dataset.reader.name(),
        )?;
        show(&plans)?;

        let file = folder.join(format!("{}.json", plans.plans_name));
        if file.is_file() {
            keep_custom_configurations(&mut plans, &folders::read_plans(&file)?);
        }
        folders::write(&file, &plans.to_json())?;
        let document = raw.join("dataset.json");
        let text = std::fs::read_to_string(&document).with_context(|| format!("{}", document.display()))?;
        folders::write(&folder.join("dataset.json"), &text)?;
        keep_own_splits(&raw, &folder)?;
        println!("Plans were saved to {}", file.display());
    }
    Ok(options.plans_name())
}

/// A data set may bring its own splits; earlier ones must not differ.
fn keep_own_splits(raw: &Path, preprocessed: &Path) -> anyhow::Result<()> {
    let (own, kept) = (
        raw.join("splits_final.json"),
        preprocessed.join("splits_final.json"),
    );
    if !own.is_file() {
        return Ok(());
    }
    let own_splits = splits::read(&own)?;
    if !kept.is_file() {
        return Ok(splits::write(&own_splits, &kept)?);
    }
    let kept_splits = splits::read(&kept)?;
    for (fold, split) in own_splits.iter().enumerate() {
        ensure!(
            kept_splits
                .get(fold)
                .is_some_and(|kept| sorted(kept) == sorted(split)),
            "{}: fold {fold} is not that of {}; remove the one that is wrong",
            kept.display(),
            own.display()
        );
    }
    Ok(())
}

fn sorted(split: &Split) -> [Vec<&String>; 2] {
    [&split.train, &split.val].map(|cases| {
        let mut cases: Vec<&String> = cases.iter().collect();
        cases.sort();
        cases
    })
}

fn show(plans: &Plans) -> anyhow::Result<()> {
    for name in plans.configuration_names() {
        let configuration = plans.configuration(name)?;
        println!("{name}: {}", describe(&configuration));
    }
    Ok(())
}

/// One line on what a configuration asks for.
pub fn describe(configuration: &Configuration) -> String {
    let Configuration {
        patch_size,
        batch_size,
        spacing,
        median_image_size_in_voxels,
        ..
    } = configuration;
    let stages = configuration.architecture.arch_kwargs.n_stages;
    format!(
        "patch {patch_size:?}, batch {batch_size}, spacing {spacing:?} mm, median case {median_image_size_in_voxels:?} \
         voxels, {} with {stages} stages",
        configuration
            .architecture
            .network_class_name
            .rsplit('.')
            .next()
            .unwrap_or_default(),
    )
}
