//! plans.json: what the planner decided for a data set, in nnU-Net's own keys and order.
//!
//! [`Plans`] keeps each configuration as it is written, because configurations may inherit from each other
//! and may carry keys that we do not know. [`Plans::configuration`] resolves and types one of them.

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What is wrong with a plans.json.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plans: {}: {reason}", if path.is_empty() { "document" } else { path })]
pub struct PlansError {
    /// The JSON path, such as `configurations.2d.spacing`; empty for the whole document.
    pub path: String,
    /// What was found and what was expected.
    pub reason: String,
}

/// A plans.json (nnunetv2/utilities/plans_handling/plans_handler.py). Spatial lists are in transposed order
/// (z, y, x after `transpose_forward`), spacings in millimetres.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plans {
    /// The folder name of the data set, such as `Dataset004_Hippocampus`.
    pub dataset_name: String,
    /// The name of the plans, such as `nnUNetPlans`: also the file name without `.json`.
    pub plans_name: String,
    /// Median spacing of the raw cases, transposed.
    #[serde(default)]
    pub original_median_spacing_after_transp: Vec<f64>,
    /// Median shape of the cropped cases, transposed, rounded.
    #[serde(default)]
    pub original_median_shape_after_transp: Vec<serde_json::Number>,
    /// The reader's class name, such as `SimpleITKIO`.
    pub image_reader_writer: String,
    /// Which raw axis becomes axis i.
    pub transpose_forward: [usize; 3],
    /// The inverse of `transpose_forward`.
    pub transpose_backward: [usize; 3],
    /// Configurations as written. Read them through [`Plans::configuration`].
    pub configurations: IndexMap<String, Map<String, Value>>,
    /// The planner's class name, such as `ExperimentPlanner`.
    #[serde(default)]
    pub experiment_planner_used: String,
    /// `LabelManager`.
    #[serde(default)]
    pub label_manager: String,
    /// Intensities of the foreground by channel index ("0", "1", ...).
    #[serde(alias = "foreground_intensity_properties_by_modality")]
    pub foreground_intensity_properties_per_channel: IndexMap<String, IntensityProperties>,
    /// Keys that nnU-Net does not write, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Intensities of one channel over the foreground of the training cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntensityProperties {
    /// Largest intensity.
    pub max: f64,
    /// Mean intensity.
    pub mean: f64,
    /// Median intensity.
    pub median: f64,
    /// Smallest intensity.
    pub min: f64,
    /// The 0.5th percentile.
    pub percentile_00_5: f64,
    /// The 99.5th percentile.
    pub percentile_99_5: f64,
    /// Standard deviation.
    pub std: f64,
}

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

/// The network of a configuration (dynamic_network_architectures).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// The class with its Python module.
    pub network_class_name: String,
    /// The class's arguments.
    pub arch_kwargs: ArchitectureArguments,
    /// Which arguments name Python classes.
    #[serde(rename = "_kw_requires_import", default)]
    pub kw_requires_import: Vec<String>,
}

/// The arguments of PlainConvUNet and ResidualEncoderUNet. Lists have an entry per stage, highest resolution first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchitectureArguments {
    /// Stages, the bottleneck included.
    pub n_stages: usize,
    /// Channels of each stage.
    pub features_per_stage: Vec<usize>,
    /// `torch.nn.modules.conv.Conv2d` or `Conv3d`.
    pub conv_op: String,
    /// Kernel of each stage, per axis.
    pub kernel_sizes: Vec<Vec<usize>>,
    /// Stride into each stage, per axis.
    pub strides: Vec<Vec<usize>>,
    /// Convolutions of each encoder stage (PlainConvUNet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_conv_per_stage: Option<Vec<usize>>,
    /// Residual blocks of each encoder stage (ResidualEncoderUNet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_blocks_per_stage: Option<Vec<usize>>,
    /// Convolutions of each decoder stage; one entry less than there are stages.
    pub n_conv_per_stage_decoder: Vec<usize>,
    /// Whether convolutions have a bias.
    pub conv_bias: bool,
    /// `torch.nn.modules.instancenorm.InstanceNorm2d` or `InstanceNorm3d`.
    pub norm_op: Option<String>,
    /// Its arguments: eps, affine.
    pub norm_op_kwargs: Option<Map<String, Value>>,
    /// No dropout in nnU-Net's own plans.
    pub dropout_op: Option<String>,
    /// Its arguments.
    pub dropout_op_kwargs: Option<Map<String, Value>>,
    /// `torch.nn.LeakyReLU`.
    pub nonlin: Option<String>,
    /// Its arguments: inplace.
    pub nonlin_kwargs: Option<Map<String, Value>>,
    /// Arguments that we do not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The networks that nnU-Net's planners choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// Plain convolutions (`PlainConvUNet`).
    PlainConvUNet,
    /// Residual encoder (`ResidualEncoderUNet`).
    ResidualEncoderUNet,
}

impl Architecture {
    /// Which network this is, by the last part of the class name. None for a class that we do not know.
    pub fn kind(&self) -> Option<NetworkKind> {
        match self.network_class_name.rsplit('.').next() {
            Some("PlainConvUNet") => Some(NetworkKind::PlainConvUNet),
            Some("ResidualEncoderUNet") => Some(NetworkKind::ResidualEncoderUNet),
            _ => None,
        }
    }

    /// Spatial dimensions, 2 or 3, by the convolution. None for a class that we do not know.
    pub fn dimensions(&self) -> Option<usize> {
        match self.arch_kwargs.conv_op.rsplit('.').next() {
            Some("Conv2d") => Some(2),
            Some("Conv3d") => Some(3),
            _ => None,
        }
    }
}

impl Plans {
    /// Reads a plans.json. An error names the JSON path.
    pub fn from_json(text: &[u8]) -> Result<Plans, PlansError> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let plans: Plans = typed(&mut reader, "")?;
        reader.end().map_err(|e| PlansError {
            path: String::new(),
            reason: e.to_string(),
        })?;
        plans.check()?;
        Ok(plans)
    }

    /// Reads plans out of a JSON value. An error names the JSON path.
    pub fn from_value(value: &Value) -> Result<Plans, PlansError> {
        let plans: Plans = typed(value, "")?;
        plans.check()?;
        Ok(plans)
    }

    /// The document as a JSON value, in nnU-Net's order of keys.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// The document as nnU-Net writes it: indented by four, keys in nnU-Net's order.
    pub fn to_json(&self) -> String {
        // A map with string keys cannot fail.
        super::python_json::to_string(self).unwrap_or_default()
    }

    /// The configuration `name` with everything it inherits. Plans of older versions, which carry no
    /// `architecture`, get the one they describe.
    pub fn configuration(&self, name: &str) -> Result<Configuration, PlansError> {
        let mut resolved = self.resolve(name, &mut Vec::new())?;
        if !resolved.contains_key("architecture") {
            let architecture = architecture_of_old_plans(&resolved).map_err(|e| PlansError {
                path: format!("configurations.{name}.{}", e.path),
                reason: e.reason,
            })?;
            resolved.insert("architecture".into(), architecture);
        }
        let configuration: Configuration =
            typed(&Value::Object(resolved), &format!("configurations.{name}."))?;
        configuration.check(name)?;
        Ok(configuration)
    }

    /// The names of the configurations, in order.
    pub fn configuration_names(&self) -> impl Iterator<Item = &str> {
        self.configurations.keys().map(String::as_str)
    }

    fn resolve(&self, name: &str, visited: &mut Vec<String>) -> Result<Map<String, Value>, PlansError> {
        let Some(own) = self.configurations.get(name) else {
            let names: Vec<_> = self.configuration_names().collect();
            return Err(PlansError {
                path: "configurations".into(),
                reason: format!("no configuration '{name}'; there are {}", names.join(", ")),
            });
        };
        if visited.iter().any(|v| v == name) {
            return Err(PlansError {
                path: format!("configurations.{name}.inherits_from"),
                reason: format!("inherits from itself by way of {}", visited.join(" -> ")),
            });
        }
        visited.push(name.to_owned());
        let Some(parent) = own.get("inherits_from") else {
            return Ok(own.clone());
        };
        let Some(parent) = parent.as_str() else {
            return Err(PlansError {
                path: format!("configurations.{name}.inherits_from"),
                reason: format!("expected the name of a configuration, found {parent}"),
            });
        };
        let mut resolved = self.resolve(parent, visited)?;
        for (key, value) in own {
            resolved.insert(key.clone(), value.clone());
        }
        Ok(resolved)
    }

    fn check(&self) -> Result<(), PlansError> {
        for (key, axes) in [
            ("transpose_forward", &self.transpose_forward),
            ("transpose_backward", &self.transpose_backward),
        ] {
            let mut sorted = *axes;
            sorted.sort_unstable();
            if sorted != [0, 1, 2] {
                return Err(PlansError {
                    path: key.into(),
                    reason: format!("expected a permutation of 0, 1, 2, found {axes:?}"),
                });
            }
        }
        if (0..3).any(|i| self.transpose_forward[self.transpose_backward[i]] != i) {
            return Err(PlansError {
                path: "transpose_backward".into(),
                reason: format!(
                    "{:?} does not undo transpose_forward {:?}",
                    self.transpose_backward, self.transpose_forward
                ),
            });
        }
        Ok(())
    }

    /// The sha256, in hexadecimal, of the plans without `dataset_name` and `image_reader_writer`, which are
    /// each site's own. Taken over the canonical form (RFC 8785), so order of keys and spelling of numbers
    /// do not count.
    pub fn digest(&self) -> Result<String, PlansError> {
        let mut value = self.to_value();
        if let Some(object) = value.as_object_mut() {
            for key in SITE_KEYS {
                object.remove(key);
            }
        }
        self.check_finite()?;
        let canonical = serde_json_canonicalizer::to_vec(&value).map_err(|e| PlansError {
            path: String::new(),
            reason: e.to_string(),
        })?;
        Ok(hex::encode(Sha256::digest(canonical)))
    }

    // serde_json turns NaN and infinity into null, so the typed fields are looked at.
    fn check_finite(&self) -> Result<(), PlansError> {
        let bad = |path: String, value: f64| PlansError {
            path,
            reason: format!("expected a finite number, found {value}"),
        };
        for (i, &value) in self.original_median_spacing_after_transp.iter().enumerate() {
            if !value.is_finite() {
                return Err(bad(format!("original_median_spacing_after_transp[{i}]"), value));
            }
        }
        for (channel, p) in &self.foreground_intensity_properties_per_channel {
            for value in [
                p.max,
                p.mean,
                p.median,
                p.min,
                p.percentile_00_5,
                p.percentile_99_5,
                p.std,
            ] {
                if !value.is_finite() {
                    return Err(bad(
                        format!("foreground_intensity_properties_per_channel.{channel}"),
                        value,
                    ));
                }
            }
        }
        Ok(())
    }

    /// The keys in which two plans differ, with both values, leaving out what a site may choose
    /// (`dataset_name`, `image_reader_writer`).
    pub fn differences(&self, other: &Plans) -> Vec<Difference> {
        let mut found = Vec::new();
        let (ours, theirs) = (self.to_value(), other.to_value());
        compare("", Some(&ours), Some(&theirs), &mut found);
        found.retain(|d| !SITE_KEYS.contains(&d.path.as_str()));
        found
    }
}

/// What may differ between the sites of a job.
const SITE_KEYS: [&str; 2] = ["dataset_name", "image_reader_writer"];

/// A key in which two documents differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The JSON path, such as `configurations.2d.batch_size`.
    pub path: String,
    /// The first document's value; None where it has no such key.
    pub left: Option<Value>,
    /// The second document's value; None where it has no such key.
    pub right: Option<Value>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |v: &Option<Value>| v.as_ref().map_or("absent".to_owned(), Value::to_string);
        write!(
            f,
            "{}: {} against {}",
            self.path,
            show(&self.left),
            show(&self.right)
        )
    }
}

fn compare(path: &str, left: Option<&Value>, right: Option<&Value>, found: &mut Vec<Difference>) {
    match (left, right) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                compare(&path, a.get(key), b.get(key), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), Some(a), Some(b), found);
            }
        }
        // 1 and 1.0 are the same number.
        (Some(Value::Number(a)), Some(Value::Number(b))) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        (a, b) => found.push(Difference {
            path: path.to_owned(),
            left: a.cloned(),
            right: b.cloned(),
        }),
    }
}

impl Configuration {
    fn check(&self, name: &str) -> Result<(), PlansError> {
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

impl Architecture {
    fn check(&self, path: &str, dimensions: usize) -> Result<(), PlansError> {
        // Classes that we do not know are refused where a network is built, not where plans are read.
        if self.kind().is_none() {
            return Ok(());
        }
        let a = &self.arch_kwargs;
        let bad = |key: &str, reason: String| {
            Err(PlansError {
                path: format!("{path}.{key}"),
                reason,
            })
        };
        if a.n_stages == 0 {
            return bad("n_stages", "expected at least 1, found 0".into());
        }
        let encoder = a.n_conv_per_stage.as_ref().or(a.n_blocks_per_stage.as_ref());
        let lengths = [
            ("features_per_stage", a.features_per_stage.len(), a.n_stages),
            ("kernel_sizes", a.kernel_sizes.len(), a.n_stages),
            ("strides", a.strides.len(), a.n_stages),
            ("n_conv_per_stage", encoder.map_or(0, Vec::len), a.n_stages),
            (
                "n_conv_per_stage_decoder",
                a.n_conv_per_stage_decoder.len(),
                a.n_stages - 1,
            ),
        ];
        for (key, found, expected) in lengths {
            if found != expected {
                return bad(
                    key,
                    format!(
                        "expected {expected} entries for {} stages, found {found}",
                        a.n_stages
                    ),
                );
            }
        }
        for (key, list) in [("kernel_sizes", &a.kernel_sizes), ("strides", &a.strides)] {
            if let Some(entry) = list.iter().find(|e| e.len() != dimensions || e.contains(&0)) {
                return bad(
                    key,
                    format!("expected {dimensions} positive numbers a stage, found {entry:?}"),
                );
            }
        }
        Ok(())
    }
}

/// Rebuilds `architecture` of plans written before nnU-Net 2.3 (ConfigurationManager.__init__).
fn architecture_of_old_plans(old: &Map<String, Value>) -> Result<Value, PlansError> {
    let get = |key: &str| {
        old.get(key).ok_or_else(|| PlansError {
            path: key.into(),
            reason: "missing; plans without 'architecture' need it".into(),
        })
    };
    let list = |key: &str| {
        get(key)?.as_array().ok_or_else(|| PlansError {
            path: key.into(),
            reason: "expected a list".into(),
        })
    };
    let number = |key: &str| {
        get(key)?.as_u64().ok_or_else(|| PlansError {
            path: key.into(),
            reason: "expected a whole number".into(),
        })
    };
    let (class, blocks) = match get("UNet_class_name")?.as_str() {
        Some("PlainConvUNet") => (
            "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "n_conv_per_stage",
        ),
        Some("ResidualEncoderUNet") => (
            "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet",
            "n_blocks_per_stage",
        ),
        _ => {
            return Err(PlansError {
                path: "UNet_class_name".into(),
                reason: format!(
                    "expected PlainConvUNet or ResidualEncoderUNet, found {}",
                    old["UNet_class_name"]
                ),
            });
        }
    };
    let dimensions = list("patch_size")?.len();
    let stages = list("n_conv_per_stage_encoder")?.len();
    let (base, most) = (
        number("UNet_base_num_features")?,
        number("unet_max_num_features")?,
    );
    let features: Vec<u64> = (0..stages)
        .map(|i| {
            base.saturating_mul(1u64.checked_shl(i as u32).unwrap_or(u64::MAX))
                .min(most)
        })
        .collect();
    let mut arguments = Map::new();
    arguments.insert("n_stages".into(), stages.into());
    arguments.insert("features_per_stage".into(), features.into());
    arguments.insert(
        "conv_op".into(),
        format!("torch.nn.modules.conv.Conv{dimensions}d").into(),
    );
    arguments.insert("kernel_sizes".into(), get("conv_kernel_sizes")?.clone());
    arguments.insert("strides".into(), get("pool_op_kernel_sizes")?.clone());
    arguments.insert(blocks.into(), get("n_conv_per_stage_encoder")?.clone());
    arguments.insert(
        "n_conv_per_stage_decoder".into(),
        get("n_conv_per_stage_decoder")?.clone(),
    );
    arguments.insert("conv_bias".into(), true.into());
    arguments.insert(
        "norm_op".into(),
        format!("torch.nn.modules.instancenorm.InstanceNorm{dimensions}d").into(),
    );
    arguments.insert(
        "norm_op_kwargs".into(),
        serde_json::json!({"eps": 1e-5, "affine": true}),
    );
    arguments.insert("dropout_op".into(), Value::Null);
    arguments.insert("dropout_op_kwargs".into(), Value::Null);
    arguments.insert("nonlin".into(), "torch.nn.LeakyReLU".into());
    arguments.insert("nonlin_kwargs".into(), serde_json::json!({"inplace": true}));
    Ok(serde_json::json!({
        "network_class_name": class,
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }))
}

fn typed<'de, T: Deserialize<'de>, D: Deserializer<'de>>(reader: D, prefix: &str) -> Result<T, PlansError> {
    serde_path_to_error::deserialize(reader).map_err(|e| {
        let path = match e.path().to_string() {
            p if p == "." => prefix.trim_end_matches('.').to_owned(),
            p => format!("{prefix}{p}"),
        };
        PlansError {
            path,
            reason: e.into_inner().to_string(),
        }
    })
}

/// nnU-Net writes `next_stage` as a name or as a list of names.
fn one_or_many<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(reader)? {
        Value::Null => Ok(Vec::new()),
        Value::String(name) => Ok(vec![name]),
        list => serde_json::from_value(list).map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
#[path = "plans_tests.rs"]
mod tests;
