//! The nonlinearity of a network's blocks, as the plans name it.

use super::arguments::{Keywords, class, invalid};
use crate::Result;

/// A nonlinearity of torch.nn that has no parameters of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(super) enum Nonlinearity {
    /// `x`, below 0 times the slope.
    LeakyRelu { slope: f64 },
    /// `max(x, 0)`.
    Relu,
    /// `x`, below 0 `e^x - 1`.
    Elu,
    /// `x` times the normal distribution at `x`, or its approximation by tanh.
    Gelu { tanh: bool },
    /// `x` times the logistic function of `x`.
    Silu,
    /// `x tanh(log(1 + e^x))`.
    Mish,
}

/// torch's default, and nnU-Net's.
const SLOPE: f64 = 0.01;

impl Nonlinearity {
    /// The nonlinearity that `op`, a dotted Python path, names; None for null. `inplace` changes no value.
    pub(super) fn new(op: Option<&str>, keywords: &Keywords) -> Result<Option<Self>> {
        let Some(op) = op else {
            return Ok(None);
        };
        let own = match class(op) {
            "LeakyReLU" => &["inplace", "negative_slope"][..],
            "ELU" => &["inplace", "alpha"],
            "GELU" => &["approximate"],
            _ => &["inplace"],
        };
        keywords.only(own)?;
        keywords.boolean("inplace", false)?;
        Ok(Some(match class(op) {
            "LeakyReLU" => Self::LeakyRelu {
                slope: keywords.number("negative_slope", SLOPE, f64::MIN..=f64::MAX)?,
            },
            "ReLU" => Self::Relu,
            "ELU" => {
                keywords.number("alpha", 1.0, 1.0..=1.0)?;
                Self::Elu
            }
            "GELU" => Self::Gelu {
                tanh: keywords.choice("approximate", &["none", "tanh"])? == "tanh",
            },
            "SiLU" => Self::Silu,
            "Mish" => Self::Mish,
            _ => {
                return Err(invalid(
                    "nonlin",
                    op,
                    "LeakyReLU, ReLU, ELU, GELU, SiLU, Mish or null",
                ));
            }
        }))
    }

    /// The nonlinearity of `x`, in place where the gradient does not need `x`.
    #[cfg(feature = "torch")]
    pub(super) fn apply(self, mut x: tch::Tensor) -> Result<tch::Tensor> {
        Ok(match self {
            // libtorch's default slope is 0.01, and tch passes no other: a PReLU of one fixed slope is the same.
            Self::LeakyRelu { slope } if slope == SLOPE => x.f_leaky_relu_()?,
            Self::LeakyRelu { slope } => {
                let slope = tch::Tensor::f_full([1], slope, (x.kind(), x.device()))?;
                x.f_prelu(&slope)?
            }
            Self::Relu => x.f_relu_()?,
            Self::Elu => x.f_elu_()?,
            Self::Gelu { tanh } => x.f_gelu(if tanh { "tanh" } else { "none" })?,
            Self::Silu => x.f_silu()?,
            Self::Mish => x.f_mish()?,
        })
    }
}
