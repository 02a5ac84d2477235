//! The network of a configuration.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PlansError;

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
impl Architecture {
    pub(super) fn check(&self, path: &str, dimensions: usize) -> Result<(), PlansError> {
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
pub(super) fn architecture_of_old_plans(old: &Map<String, Value>) -> Result<Value, PlansError> {
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
