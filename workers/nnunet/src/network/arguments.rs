//! The arguments of a network class, checked: what this program does not build is refused by its key.

use schemas::nnunet::{Architecture, NetworkKind};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The architecture's arguments, checked.
pub(super) struct Arguments {
    pub(super) residual: bool,
    pub(super) dimensions: usize,
    pub(super) features: Vec<usize>,
    pub(super) kernels: Vec<Vec<usize>>,
    pub(super) strides: Vec<Vec<usize>>,
    pub(super) per_stage: Vec<usize>,
    pub(super) per_decoder_stage: Vec<usize>,
    pub(super) conv_bias: bool,
    pub(super) norm_eps: f64,
    pub(super) stem_channels: Option<usize>,
}

impl Arguments {
    pub(super) fn new(architecture: &Architecture) -> Result<Self> {
        let residual = match architecture.kind() {
            Some(NetworkKind::PlainConvUNet) => false,
            Some(NetworkKind::ResidualEncoderUNet) => true,
            None => {
                return Err(Error::invalid(
                    "plans: architecture.network_class_name",
                    format!(
                        "{:?}; PlainConvUNet and ResidualEncoderUNet can be built",
                        architecture.network_class_name
                    ),
                ));
            }
        };
        let kwargs = &architecture.arch_kwargs;
        let dimensions = architecture
            .dimensions()
            .ok_or_else(|| invalid("conv_op", &kwargs.conv_op, "Conv2d or Conv3d"))?;
        let expected_norm = format!("InstanceNorm{dimensions}d");
        if class(&kwargs.norm_op) != expected_norm {
            return Err(invalid("norm_op", class(&kwargs.norm_op), &expected_norm));
        }
        if class(&kwargs.nonlin) != "LeakyReLU" {
            return Err(invalid("nonlin", class(&kwargs.nonlin), "LeakyReLU"));
        }
        if let Some(dropout) = &kwargs.dropout_op {
            return Err(invalid("dropout_op", dropout, "null: dropout is not supported"));
        }
        let none = Map::new();
        check_arguments(
            "norm_op_kwargs",
            kwargs.norm_op_kwargs.as_ref().unwrap_or(&none),
            |key, value| match key {
                "eps" => value.as_f64().is_some_and(|v| v > 0.0),
                "affine" => value == &Value::Bool(true),
                "track_running_stats" => value == &Value::Bool(false),
                "momentum" => true,
                _ => false,
            },
        )?;
        let norm = |key| kwargs.norm_op_kwargs.as_ref().and_then(|kwargs| kwargs.get(key));
        if norm("affine").is_none() {
            return Err(invalid("norm_op_kwargs.affine", "missing", "true"));
        }
        check_arguments(
            "nonlin_kwargs",
            kwargs.nonlin_kwargs.as_ref().unwrap_or(&none),
            |key, value| match key {
                "inplace" => true,
                "negative_slope" => value.as_f64() == Some(0.01),
                _ => false,
            },
        )?;
        check_arguments("arch_kwargs", &kwargs.other, |key, value| match key {
            "deep_supervision" => true,
            "nonlin_first" => !residual && value == &Value::Bool(false),
            "stem_channels" => {
                residual && (value.is_null() || value.as_u64().is_some_and(|n| (1..=LARGEST).contains(&n)))
            }
            "bottleneck_channels" => residual && value.is_null(),
            "block" => residual && value.as_str().is_some_and(|v| v.ends_with("BasicBlockD")),
            _ => false,
        })?;
        let n = kwargs.n_stages;
        if n < 2 {
            return Err(invalid("n_stages", n, "2 or more"));
        }
        let (key, per_stage) = if residual {
            ("n_blocks_per_stage", &kwargs.n_blocks_per_stage)
        } else {
            ("n_conv_per_stage", &kwargs.n_conv_per_stage)
        };
        let per_stage = per_stage
            .as_deref()
            .ok_or_else(|| invalid(key, "missing", "a list"))?;
        Ok(Self {
            residual,
            dimensions,
            features: counts("features_per_stage", &kwargs.features_per_stage, n)?,
            kernels: sizes("kernel_sizes", &kwargs.kernel_sizes, n, dimensions)?,
            strides: sizes("strides", &kwargs.strides, n, dimensions)?,
            per_stage: counts(key, per_stage, n)?,
            per_decoder_stage: counts(
                "n_conv_per_stage_decoder",
                &kwargs.n_conv_per_stage_decoder,
                n - 1,
            )?,
            conv_bias: kwargs.conv_bias,
            norm_eps: norm("eps").and_then(Value::as_f64).unwrap_or(1e-5),
            stem_channels: kwargs
                .other
                .get("stem_channels")
                .and_then(Value::as_u64)
                .map(|n| n as usize),
        })
    }
}

/// Well above any real network; keeps products of sizes far from overflow.
const LARGEST: u64 = 65536;

fn invalid(key: &str, found: impl std::fmt::Display, expected: &str) -> Error {
    Error::invalid(
        format!("plans: architecture.arch_kwargs.{key}"),
        format!("found {found}, expected {expected}"),
    )
}

/// The class at the end of a dotted Python path.
fn class(path: &Option<String>) -> &str {
    path.as_deref()
        .and_then(|path| path.rsplit('.').next())
        .unwrap_or("null")
}

fn check_arguments(
    key: &str,
    kwargs: &Map<String, Value>,
    fits: impl Fn(&str, &Value) -> bool,
) -> Result<()> {
    match kwargs.iter().find(|(name, value)| !fits(name, value)) {
        Some((name, value)) => Err(invalid(
            &format!("{key}.{name}"),
            value,
            "what nnU-Net's planners write",
        )),
        None => Ok(()),
    }
}

/// A positive count for each of `n` stages.
fn counts(key: &str, values: &[usize], n: usize) -> Result<Vec<usize>> {
    if values.len() != n || values.iter().any(|&v| v == 0 || v as u64 > LARGEST) {
        return Err(invalid(
            key,
            format!("{values:?}"),
            &format!("{n} positive numbers"),
        ));
    }
    Ok(values.to_vec())
}

/// A positive size per axis for each of `n` stages.
fn sizes(key: &str, values: &[Vec<usize>], n: usize, dimensions: usize) -> Result<Vec<Vec<usize>>> {
    if values.len() != n {
        return Err(invalid(key, format!("{} entries", values.len()), &n.to_string()));
    }
    values.iter().map(|axes| counts(key, axes, dimensions)).collect()
}
