//! How a job is federated. Every field has a default.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Device, InitialCheckpoint, Privacy, SecureAggregation, lax, privacy, robust, secure_aggregation,
};
use crate::{Invalid, names};

/// How a job is federated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Federation {
    /// Name of the federated data set, the `name` of DatasetXYZ_name; the default is the job's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Seeds initial weights and every random draw.
    #[serde(deserialize_with = "lax::u63")]
    pub seed: u64,
    /// nnU-Net's planner (`-pl`).
    #[serde(deserialize_with = "lax::name")]
    pub planner: Planner,
    /// The planner's memory target in GB; the default is the planner's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_target_gb: Option<f64>,
    /// Target spacing of 3d_fullres in mm (z, y, x); the default is the planner's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overwrite_target_spacing: Option<[f64; 3]>,
    /// Name of the plans; the default is the planner's own (`nnUNetPlans`, ...).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plans: Option<String>,
    /// The weights to start from; without it they are drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_checkpoint: Option<InitialCheckpoint>,
    /// Training iterations of an epoch, one value for all sites. For trials: nnU-Net's is 250.
    #[serde(deserialize_with = "lax::u32")]
    #[schemars(range(min = 1))]
    pub iterations_per_epoch: u32,
    /// Validation iterations of a round, one value for all sites. For trials: nnU-Net's is 50.
    #[serde(deserialize_with = "lax::u32")]
    #[schemars(range(min = 1))]
    pub val_iterations_per_epoch: u32,
    /// Whether networks compute in bfloat16; weights, gradients and losses stay in float32.
    pub bfloat16: bool,
    /// Cases in a shard of fingerprint, preprocess and infer.
    #[serde(deserialize_with = "lax::u32")]
    #[schemars(range(min = 1))]
    pub shard_cases: u32,
    /// What a site's weights count in the average.
    #[serde(deserialize_with = "lax::name")]
    pub weighting: Weighting,
    /// What becomes of a site's momentum at the start of a round.
    #[serde(deserialize_with = "lax::name")]
    pub momentum: Momentum,
    /// How sites train and updates are combined.
    #[serde(deserialize_with = "lax::name")]
    pub algorithm: Algorithm,
    /// FedProx's mu: how hard a site's weights are held to those that the round started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fedprox_mu: Option<f64>,
    /// With algorithm `trimmed-mean`, and then needed: values of each coordinate that are cut at each end.
    #[serde(
        deserialize_with = "lax::optional_u32",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1))]
    pub trim: Option<u32>,
    /// How far (L2) an update may lie from where its round started, in medians of all sites' distances. One that lies
    /// farther is scaled down to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_bound: Option<f64>,
    /// Whether the orchestrator learns the sum of the sites' weights alone, and no site's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_aggregation: Option<SecureAggregation>,
    /// Whether what a round adds to a site's weights is cut and gets noise before it leaves the site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// Sites that train-round and infer cannot go on without; the default is all of them.
    #[serde(
        deserialize_with = "lax::optional_u32",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1))]
    pub min_sites: Option<u32>,
    /// How long a pass waits for all of its sites; the default is for ever.
    #[serde(
        deserialize_with = "lax::optional_u32",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1))]
    pub round_deadline_seconds: Option<u32>,
    /// How long a site trains in a round, at most epochs_per_round epochs and at least one iteration; the default is
    /// all of those epochs. What a site counts in the average is then multiplied by the iterations it did.
    #[serde(
        deserialize_with = "lax::optional_u32",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1))]
    pub round_seconds: Option<u32>,
    /// The learning rate's horizon in rounds; the default is starting_fed_round + num_rounds.
    #[serde(
        deserialize_with = "lax::optional_u32",
        skip_serializing_if = "Option::is_none"
    )]
    pub total_rounds: Option<u32>,
    /// Devices of single sites, in place of the payload's.
    pub site_devices: IndexMap<String, Device>,
    /// Whether a training job ends behind plan-verify, with what each site says of its data, memory, disk and pace.
    pub dry_run: bool,
    /// Whether segmentations are scored at the sites: an inference job's where there are references, and a training
    /// job's validation cases, which it then segments with the last average as nnU-Net does at the end of a training.
    /// What leaves a site are counts of voxels, one set a case.
    pub evaluate: bool,
    /// Cases of an inference job that each site draws over their scans, where it allows it: those with the lowest Dice
    /// where they are evaluated, else the first ones.
    #[serde(deserialize_with = "lax::u32")]
    pub pictures: u32,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            name: None,
            seed: 0,
            planner: Planner::default(),
            gpu_memory_target_gb: None,
            overwrite_target_spacing: None,
            plans: None,
            initial_checkpoint: None,
            iterations_per_epoch: 250,
            val_iterations_per_epoch: 50,
            bfloat16: false,
            shard_cases: 32,
            weighting: Weighting::default(),
            momentum: Momentum::default(),
            algorithm: Algorithm::default(),
            fedprox_mu: None,
            trim: None,
            norm_bound: None,
            secure_aggregation: None,
            privacy: None,
            min_sites: None,
            round_deadline_seconds: None,
            round_seconds: None,
            total_rounds: None,
            site_devices: IndexMap::new(),
            dry_run: false,
            evaluate: false,
            pictures: 0,
        }
    }
}

/// nnU-Net's planners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Planner {
    /// The default.
    #[default]
    ExperimentPlanner,
    /// Residual encoder, with the default's memory target.
    ResEncUNetPlanner,
    /// Residual encoder, medium.
    #[serde(rename = "nnUNetPlannerResEncM")]
    ResEncM,
    /// Residual encoder, large.
    #[serde(rename = "nnUNetPlannerResEncL")]
    ResEncL,
    /// Residual encoder, extra large.
    #[serde(rename = "nnUNetPlannerResEncXL")]
    ResEncXL,
    /// The default, resampled with torch.
    #[serde(rename = "nnUNetPlanner_torchres")]
    Torchres,
    /// Residual encoder, large, resampled with torch.
    #[serde(rename = "nnUNetPlannerResEncL_torchres")]
    ResEncLTorchres,
    /// Residual encoder, large, resampled with torch, thick slices on their own.
    #[serde(rename = "nnUNetPlannerResEncL_torchres_sepz")]
    ResEncLTorchresSepz,
    /// Residual encoder, large, not resampled.
    #[serde(rename = "nnUNetPlannerResEncL_noResampling")]
    ResEncLNoResampling,
}

/// What a site's weights count in the average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// Its training cases of the fold.
    #[default]
    Cases,
    /// The iterations it did.
    Iterations,
    /// The same as every other's.
    Equal,
}

/// What becomes of a site's momentum at the start of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Momentum {
    /// It goes on from the site's last averaged update.
    #[default]
    Keep,
    /// It starts from nothing.
    Reset,
    /// It travels with the weights, is averaged as they are, and goes on from the average at every site.
    Average,
}

/// How sites train and updates are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// The weighted mean (McMahan et al. 2017).
    #[default]
    Fedavg,
    /// The weighted mean of sites that each minimise their loss plus mu / 2 times the squared distance to the
    /// weights that the round started from (Li et al. 2020).
    Fedprox,
    /// The median of each coordinate (Yin et al. 2018). A site counts once, whatever its cases.
    Median,
    /// The mean of each coordinate without the `trim` smallest and largest values (Yin et al. 2018). A site counts
    /// once, whatever its cases.
    TrimmedMean,
}

impl Federation {
    /// `sites`: how many take part.
    pub(super) fn check(&self, sites: usize) -> Result<(), Invalid> {
        if let Some(name) = &self.name {
            names::check_token("federation.name", name)?;
        }
        if let Some(plans) = &self.plans {
            names::check_token("federation.plans", plans)?;
            if plans.contains("__") {
                let reason = format!("{plans:?}: must not contain \"__\", at which folder names are split");
                return Err(Invalid::new("federation.plans", reason));
            }
        }
        if let Some(target) = self.gpu_memory_target_gb
            && !(target > 0.0 && target.is_finite())
        {
            let reason = format!("{target}: expected a number of gigabytes above 0");
            return Err(Invalid::new("federation.gpu_memory_target_gb", reason));
        }
        if let Some(spacing) = self.overwrite_target_spacing
            && !spacing.iter().all(|s| *s > 0.0 && s.is_finite())
        {
            let reason = format!("{spacing:?}: expected three numbers of mm above 0");
            return Err(Invalid::new("federation.overwrite_target_spacing", reason));
        }
        for (field, value) in [
            ("iterations_per_epoch", Some(self.iterations_per_epoch)),
            ("val_iterations_per_epoch", Some(self.val_iterations_per_epoch)),
            ("shard_cases", Some(self.shard_cases)),
            ("min_sites", self.min_sites),
            ("round_deadline_seconds", self.round_deadline_seconds),
            ("round_seconds", self.round_seconds),
        ] {
            if value == Some(0) {
                return Err(Invalid::new(
                    format!("federation.{field}"),
                    "0: expected at least 1",
                ));
            }
        }
        if let Some(checkpoint) = &self.initial_checkpoint {
            checkpoint.check(self)?;
        }
        let path = "federation.fedprox_mu";
        match (self.algorithm, self.fedprox_mu) {
            (Algorithm::Fedprox, None) => {
                return Err(Invalid::new(
                    path,
                    "missing: algorithm fedprox needs a number above 0",
                ));
            }
            (Algorithm::Fedprox, Some(mu)) if !(mu > 0.0 && mu.is_finite()) => {
                return Err(Invalid::new(path, format!("{mu}: expected a number above 0")));
            }
            (Algorithm::Fedprox, Some(_)) | (_, None) => {}
            (_, Some(_)) => {
                return Err(Invalid::new(path, "given, but the algorithm is not fedprox"));
            }
        }
        robust::check(self, sites)?;
        secure_aggregation::check(self, sites)?;
        privacy::check(self)?;
        for site in self.site_devices.keys() {
            names::check_site(&format!("federation.site_devices.{site}"), site)?;
        }
        Ok(())
    }
}
