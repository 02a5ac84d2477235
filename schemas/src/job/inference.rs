//! The inference payload.

use std::path::{Component, Path};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Device, FoldId, lax};
use crate::Invalid;

/// `"mode": "inference"`: segment each data set's scans at its site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InferencePayload {
    /// `"inference"`.
    pub mode: InferenceMode,
    /// A model folder inside a models root that the site allows, or `job:<id>` for the result of an earlier job.
    pub checkpoint_path: String,
    /// The weights fold_<id>. If the input is the data set's imagesTr and this an int, only that fold's
    /// validation cases are segmented.
    pub fold_id: FoldId,
    /// Where to predict; null: each site's best.
    #[serde(default = "cuda")]
    pub device: Option<Device>,
    /// Data set id to a folder inside the data set's folder.
    #[serde(default)]
    pub apheris_dataset_subdirs: IndexMap<String, String>,
    /// Which of the fold's checkpoints.
    #[serde(default, deserialize_with = "lax::name")]
    pub checkpoint_name: CheckpointName,
}

/// The one value of an inference payload's `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InferenceMode {
    /// `"inference"`.
    Inference,
}

/// A checkpoint's file name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointName {
    /// The last weights.
    #[default]
    #[serde(rename = "checkpoint_final.pth")]
    Final,
    /// The best weights by validation.
    #[serde(rename = "checkpoint_best.pth")]
    Best,
}

impl CheckpointName {
    /// The file's name.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckpointName::Final => "checkpoint_final.pth",
            CheckpointName::Best => "checkpoint_best.pth",
        }
    }
}

fn cuda() -> Option<Device> {
    Some(Device::Cuda)
}

impl InferencePayload {
    pub(super) fn check(&self, datasets: &[String]) -> Result<(), Invalid> {
        for (dataset, folder) in &self.apheris_dataset_subdirs {
            let path = format!("payload.apheris_dataset_subdirs.{dataset}");
            if !datasets.contains(dataset) {
                let known = datasets.join(", ");
                return Err(Invalid::new(
                    path,
                    format!("not a data set of this job: expected one of {known}"),
                ));
            }
            let inside = Path::new(folder)
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if folder.is_empty() || !inside || folder.contains('\0') {
                let reason = format!("{folder:?}: expected a relative folder that stays inside the data set");
                return Err(Invalid::new(path, reason));
            }
        }
        Ok(())
    }
}
