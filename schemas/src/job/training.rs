//! The training payload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Device, FoldId, lax};
use crate::Invalid;

/// Which of the plans' configurations is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub enum ModelConfiguration {
    /// Slices.
    #[serde(rename = "2d")]
    TwoD,
    /// Volumes at low resolution.
    #[serde(rename = "3d_lowres")]
    ThreeDLowres,
    /// Volumes at full resolution.
    #[serde(rename = "3d_fullres")]
    ThreeDFullres,
}

impl ModelConfiguration {
    /// nnU-Net's name.
    pub fn as_str(self) -> &'static str {
        match self {
            ModelConfiguration::TwoD => "2d",
            ModelConfiguration::ThreeDLowres => "3d_lowres",
            ModelConfiguration::ThreeDFullres => "3d_fullres",
        }
    }
}

impl<'de> Deserialize<'de> for ModelConfiguration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match &*name {
            "2d" => Ok(Self::TwoD),
            "3d_lowres" => Ok(Self::ThreeDLowres),
            "3d_fullres" => Ok(Self::ThreeDFullres),
            "3d_cascade_fullres" => Err(serde::de::Error::custom(
                "3d_cascade_fullres: cascades cannot be trained; expected 2d, 3d_lowres or 3d_fullres",
            )),
            _ => Err(serde::de::Error::custom(format!(
                "{name:?}: expected 2d, 3d_lowres or 3d_fullres"
            ))),
        }
    }
}

/// `"mode": "training"`: train one network on all sites' cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingPayload {
    /// `"training"`.
    pub mode: TrainingMode,
    /// Rounds to train, at least 1.
    #[serde(deserialize_with = "lax::u32")]
    #[schemars(range(min = 1))]
    pub num_rounds: u32,
    /// The XYZ of DatasetXYZ_name; the folder's at every site, unless the site maps it.
    #[serde(deserialize_with = "lax::u32")]
    pub dataset_id: u32,
    /// The configuration to train.
    pub model_configuration: ModelConfiguration,
    /// Where to train.
    #[serde(default = "cuda")]
    pub device: Device,
    /// The fold whose training cases are trained on, or all cases.
    #[serde(default)]
    pub fold_id: FoldId,
    /// A trainer of nnU-Net's code base.
    #[serde(default = "default_trainer")]
    pub trainer_name: String,
    /// Local epochs in a round, at least 1.
    #[serde(default = "one", deserialize_with = "lax::u32")]
    #[schemars(range(min = 1))]
    pub epochs_per_round: u32,
    /// The first round; above 0 continues an earlier job.
    #[serde(default, deserialize_with = "lax::u32")]
    pub starting_fed_round: u32,
}

/// The one value of a training payload's `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainingMode {
    /// `"training"`.
    Training,
}

fn cuda() -> Device {
    Device::Cuda
}

fn default_trainer() -> String {
    "nnUNetTrainer".to_owned()
}

fn one() -> u32 {
    1
}

impl TrainingPayload {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.num_rounds == 0 {
            return Err(Invalid::new("payload.num_rounds", "0: expected at least 1"));
        }
        if self.epochs_per_round == 0 {
            return Err(Invalid::new("payload.epochs_per_round", "0: expected at least 1"));
        }
        let rounds = u64::from(self.starting_fed_round) + u64::from(self.num_rounds);
        if rounds * u64::from(self.epochs_per_round) > 10_000_000 {
            return Err(Invalid::new(
                "payload.num_rounds",
                format!("{}: expected at most 10,000,000 epochs in all", self.num_rounds),
            ));
        }
        Ok(())
    }
}
