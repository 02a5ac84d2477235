//! The weights that a training starts from, in place of fresh ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CheckpointName, Federation, FoldId, Planner, lax};
use crate::Invalid;

/// The checkpoint that a training starts from. All sites must hold the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitialCheckpoint {
    /// A model folder inside a models root that each site allows, or `job:<id>` for the result of an earlier job.
    pub path: String,
    /// The fold of that model; the default is the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold_id: Option<FoldId>,
    /// Which of the fold's checkpoints.
    #[serde(default, deserialize_with = "lax::name")]
    pub checkpoint_name: CheckpointName,
    /// The plans that the training goes by.
    #[serde(deserialize_with = "lax::name")]
    pub plans: InitialPlans,
}

/// The plans of a training that starts from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitialPlans {
    /// The model's own. All its weights are taken, and the labels must be its labels.
    Keep,
    /// Made from the federation's fingerprint. The weights are taken as `nnUNetv2_train -pretrained_weights` takes
    /// them: all but those of the segmentation heads.
    Remake,
}

impl InitialCheckpoint {
    pub(super) fn check(&self, federation: &Federation) -> Result<(), Invalid> {
        if self.plans == InitialPlans::Remake {
            return Ok(());
        }
        for (field, given) in [
            ("planner", federation.planner != Planner::default()),
            ("gpu_memory_target_gb", federation.gpu_memory_target_gb.is_some()),
            (
                "overwrite_target_spacing",
                federation.overwrite_target_spacing.is_some(),
            ),
            ("plans", federation.plans.is_some()),
        ] {
            if given {
                let reason = "given, but initial_checkpoint.plans is \"keep\": nothing is planned";
                return Err(Invalid::new(format!("federation.{field}"), reason));
            }
        }
        Ok(())
    }
}
