//! One configuration with its inheritance resolved.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Architecture, PlansError};

/// One configuration with its inheritance resolved.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Configuration {
    /// The folder of preprocessed cases.
    pub data_identifier: String,
    /// The preprocessor's class name; `DefaultPreprocessor`.
    #[serde(default = "default_preprocessor")]
    pub preprocessor_name: String,
    /// Patches in a batch.
    pub batch_size: usize,
    /// Voxels of a patch: (y, x) or (z, y, x).
    pub patch_size: Vec<usize>,
    /// Median shape after resampling; may be half a voxel.
    #[serde(default)]
    pub median_image_size_in_voxels: Vec<f64>,
    /// Target spacing in millimetres, transposed: (y, x) or (z, y, x).
    pub spacing: Vec<f64>,
    /// A normalisation class per channel.
    pub normalization_schemes: Vec<String>,
    /// Whether the channel is normalised inside the nonzero mask only.
    pub use_mask_for_norm: Vec<bool>,
    /// The function that resamples images.
    pub resampling_fn_data: String,
    /// The function that resamples segmentations.
    pub resampling_fn_seg: String,
    /// Arguments of `resampling_fn_data`.
    pub resampling_fn_data_kwargs: Map<String, Value>,
    /// Arguments of `resampling_fn_seg`.
    pub resampling_fn_seg_kwargs: Map<String, Value>,
    /// The function that resamples predictions.
    pub resampling_fn_probabilities: String,
    /// Arguments of `resampling_fn_probabilities`.
    pub resampling_fn_probabilities_kwargs: Map<String, Value>,
    /// The network.
    pub architecture: Architecture,
    /// Whether Dice is pooled over the samples of a batch.
    #[serde(default)]
    pub batch_dice: bool,
    /// The stages that take this one's predictions as input.
    #[serde(default, deserialize_with = "one_or_many")]
    pub next_stage: Vec<String>,
    /// The stage whose predictions this one takes as input.
    #[serde(default)]
    pub previous_stage: Option<String>,
}

fn default_preprocessor() -> String {
    "DefaultPreprocessor".into()
}
impl Configuration {
    pub(super) fn check(&self, name: &str) -> Result<(), PlansError> {
        let bad = |key: &str, reason: String| {
            Err(PlansError {
                path: format!("configurations.{name}.{key}"),
                reason,
            })
        };
        let dimensions = self.patch_size.len();
        if !(dimensions == 2 || dimensions == 3) || self.patch_size.contains(&0) {
            return bad(
                "patch_size",
                format!("expected 2 or 3 positive numbers, found {:?}", self.patch_size),
            );
        }
        if self.spacing.len() != dimensions || !self.spacing.iter().all(|s| s.is_finite() && *s > 0.0) {
            return bad(
                "spacing",
                format!("expected {dimensions} positive numbers, found {:?}", self.spacing),
            );
        }
        if self.batch_size == 0 {
            return bad("batch_size", "expected at least 1, found 0".into());
        }
        if self.use_mask_for_norm.len() != self.normalization_schemes.len() {
            return bad(
                "use_mask_for_norm",
                format!(
                    "expected an entry for each of {} normalization_schemes, found {}",
                    self.normalization_schemes.len(),
                    self.use_mask_for_norm.len()
                ),
            );
        }
        self.architecture.check(
            &format!("configurations.{name}.architecture.arch_kwargs"),
            dimensions,
        )
    }
}
/// nnU-Net writes `next_stage` as a name or as a list of names.
fn one_or_many<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(Vec::new()),
        Value::String(name) => Ok(vec![name]),
        list => serde_json::from_value(list).map_err(serde::de::Error::custom),
    }
}
