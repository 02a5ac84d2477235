//! The arguments of a network class, checked: what this program does not build is refused by its key.

use std::ops::RangeInclusive;

use schemas::nnunet::{Architecture, NetworkKind};
use serde_json::{Map, Value};

use super::{dropout, nonlinearity::Nonlinearity, norm::Norm};
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
    pub(super) norm: Option<Norm>,
    /// The chance of a channel to drop out.
    pub(super) dropout: Option<f64>,
    pub(super) nonlinearity: Option<Nonlinearity>,
    /// Whether the nonlinearity comes before the norm.
    pub(super) nonlinearity_first: bool,
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
        let norm = Norm::new(
            kwargs.norm_op.as_deref(),
            &Keywords::new("norm_op_kwargs", &kwargs.norm_op_kwargs),
            dimensions,
        )?;
        if residual && norm.is_none_or(|norm| !norm.affine) {
            // nnU-Net's initialisation sets the scale of each residual block's last norm.
            return Err(invalid(
                "norm_op",
                "no norm with a scale",
                "one with affine: true, without which nnU-Net builds no ResidualEncoderUNet",
            ));
        }
        check_arguments(&kwargs.other, |key, value| match key {
            // nnU-Net overrules it: on in training unless the trainer says otherwise, off at inference.
            "deep_supervision" => value.is_boolean(),
            "nonlin_first" => !residual && value.is_boolean(),
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
            norm,
            dropout: dropout::probability(
                kwargs.dropout_op.as_deref(),
                &Keywords::new("dropout_op_kwargs", &kwargs.dropout_op_kwargs),
                dimensions,
            )?,
            nonlinearity: Nonlinearity::new(
                kwargs.nonlin.as_deref(),
                &Keywords::new("nonlin_kwargs", &kwargs.nonlin_kwargs),
            )?,
            nonlinearity_first: kwargs.other.get("nonlin_first") == Some(&Value::Bool(true)),
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

pub(super) fn invalid(key: &str, found: impl std::fmt::Display, expected: &str) -> Error {
    Error::invalid(
        format!("plans: architecture.arch_kwargs.{key}"),
        format!("found {found}, expected {expected}"),
    )
}

/// The class at the end of a dotted Python path.
pub(super) fn class(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The keyword arguments of a class that the plans name. What is absent has the default given with the question.
pub(super) struct Keywords<'a> {
    key: &'static str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Keywords<'a> {
    fn new(key: &'static str, map: &'a Option<Map<String, Value>>) -> Self {
        Self {
            key,
            map: map.as_ref(),
        }
    }

    /// Fails for null, which Python takes for no arguments only where it was made to.
    pub(super) fn must_be_there(&self) -> Result<()> {
        match self.map {
            Some(_) => Ok(()),
            None => Err(invalid(self.key, "null", "an object")),
        }
    }

    /// Fails for an argument that is none of `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        let mut names = self.map.into_iter().flat_map(Map::keys);
        match names.find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(invalid(self.key, name, &format!("only {}", known.join(", ")))),
            None => Ok(()),
        }
    }

    pub(super) fn number(&self, name: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64> {
        let expected = || match (*range.start(), *range.end()) {
            (f64::MIN, _) => "a number".to_owned(),
            (low, high) if low == high => format!("{low}"),
            (low, high) => format!("a number from {low} to {high}"),
        };
        match self.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| range.contains(number))
                .ok_or_else(|| self.refuse(name, value, &expected())),
        }
    }

    pub(super) fn number_or_null(&self, name: &str, default: f64) -> Result<Option<f64>> {
        match self.get(name) {
            Some(Value::Null) => Ok(None),
            _ => self.number(name, default, 0.0..=1.0).map(Some),
        }
    }

    pub(super) fn boolean(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.refuse(name, value, "true or false")),
        }
    }

    /// One of `choices`, the first of them being the default.
    pub(super) fn choice(&self, name: &str, choices: &[&'static str]) -> Result<&'static str> {
        let Some(value) = self.get(name) else {
            return Ok(choices[0]);
        };
        let found = choices.iter().find(|choice| value == *choice);
        found
            .copied()
            .ok_or_else(|| self.refuse(name, value, &choices.join(" or ")))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.map?.get(name)
    }

    fn refuse(&self, name: &str, value: &Value, expected: &str) -> Error {
        invalid(&format!("{}.{name}", self.key), value, expected)
    }
}

fn check_arguments(kwargs: &Map<String, Value>, fits: impl Fn(&str, &Value) -> bool) -> Result<()> {
    match kwargs.iter().find(|(name, value)| !fits(name, value)) {
        Some((name, value)) => Err(invalid(name, value, "what this program builds")),
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
