//! What a network of the plans consists of: its blocks, and its parameters by nnU-Net's names.
//! dynamic_network_architectures: architectures/unet.py, building_blocks/{simple_conv_blocks,residual,unet_decoder}.py.

use std::collections::HashMap;

use indexmap::IndexMap;
use schemas::nnunet::Architecture;

use super::{
    StateDict, Tensor32,
    arguments::Arguments,
    blocks::{ConvBlock, DecoderStage, Stage},
    nonlinearity::Nonlinearity,
    norm::{Norm, NormKind},
};
use crate::{Error, Result};

/// What a tensor of the network does, which decides its initial value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParameterRole {
    /// The weight of a (transposed) convolution; `fan_in` as PyTorch counts it: `shape[1]` times the kernel's voxels.
    /// For a transposed convolution that is the number of *output* channels times the voxels.
    Convolution {
        /// Inputs that PyTorch assumes for one output.
        fan_in: usize,
    },
    /// The bias of a convolution.
    Bias,
    /// The scale of a norm; `zero` for the last norm of a residual block.
    NormScale {
        /// Starts at 0 instead of 1.
        zero: bool,
    },
    /// The shift of a norm.
    NormShift,
    /// The running mean of a norm: not trained.
    RunningMean,
    /// The running variance of a norm: not trained.
    RunningVariance,
    /// How many batches the running statistics have seen, a whole number: not trained.
    BatchCount,
}

impl ParameterRole {
    /// Whether the optimiser changes it. Running statistics are changed by the forward pass.
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVariance | Self::BatchCount)
    }
}

/// One unique tensor of the state_dict: a parameter, or a running statistic of a norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The first of nnU-Net's state_dict keys that name it.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// What it does.
    pub role: ParameterRole,
}

/// A network of the plans for given channels and heads: PlainConvUNet or ResidualEncoderUNet, 2D or 3D.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub struct Layout {
    pub(super) dimensions: usize,
    pub(super) input_channels: usize,
    pub(super) heads: usize,
    pub(super) norm: Option<Norm>,
    /// The chance of a channel to drop out.
    pub(super) dropout: Option<f64>,
    pub(super) nonlinearity: Option<Nonlinearity>,
    pub(super) nonlinearity_first: bool,
    pub(super) stem: Option<ConvBlock>,
    pub(super) encoder: Vec<Stage>,
    /// Lowest resolution first.
    pub(super) decoder: Vec<DecoderStage>,
    pub(super) strides: Vec<Vec<usize>>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) index: HashMap<String, usize>,
    pub(super) aliases: Vec<(String, usize)>,
}

impl Layout {
    /// The network that `architecture` describes. Anything that this program does not build is an error naming the key.
    pub fn new(architecture: &Architecture, input_channels: usize, heads: usize) -> Result<Self> {
        Arguments::new(architecture)?.build(input_channels, heads)
    }

    /// Unique tensors in nnU-Net's order: that of its optimizer, each norm's running statistics after its parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameters that the optimiser changes, in nnU-Net's optimizer order.
    pub fn trained(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|p| p.role.is_trained())
    }

    /// The parameter of that unique name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.index.get(name).map(|&i| &self.parameters[i])
    }

    /// nnU-Net's complete state_dict key list in its order, each with the name of the unique tensor that it repeats.
    pub fn aliases(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.aliases
            .iter()
            .map(|(key, i)| (key.as_str(), self.parameters[*i].name.as_str()))
    }

    /// Whether what a training pass does to a sample depends on the others of its batch, or leaves something behind.
    pub fn couples_samples(&self) -> bool {
        self.norm
            .is_some_and(|norm| norm.kind == NormKind::Batch || norm.tracked)
    }

    /// 2 or 3.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Number of image channels.
    pub fn input_channels(&self) -> usize {
        self.input_channels
    }

    /// Number of segmentation channels.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Number of deep-supervision outputs: one per decoder stage.
    pub fn outputs(&self) -> usize {
        self.decoder.len()
    }

    /// Stride of the first convolution of each encoder stage.
    pub fn strides(&self) -> &[Vec<usize>] {
        &self.strides
    }

    /// Names of the parameters of the head with the lowest resolution, which has no loss and so no momentum.
    pub fn lowest_head(&self) -> Vec<&str> {
        let head = &self.decoder[0].head;
        [Some(head.weight), head.bias]
            .into_iter()
            .flatten()
            .map(|i| self.parameters[i].name.as_str())
            .collect()
    }

    /// The unique tensors of a complete nnU-Net state_dict. Strict: every key and no other, with the plans' shapes.
    pub fn unique(&self, mut complete: IndexMap<String, Tensor32>) -> Result<StateDict> {
        let mut state = StateDict::new();
        let mut known = std::collections::HashSet::new();
        for (key, _) in &self.aliases {
            if !complete.contains_key(key) {
                return Err(Error::invalid(
                    format!("tensor {key}"),
                    "missing from the state_dict",
                ));
            }
            known.insert(key.as_str());
        }
        if let Some(key) = complete.keys().find(|key| !known.contains(key.as_str())) {
            return Err(Error::invalid(
                format!("tensor {key}"),
                format!(
                    "shape {:?}: not a parameter of the plans' network",
                    complete[key].shape
                ),
            ));
        }
        for parameter in &self.parameters {
            if let Some(tensor) = complete.swap_remove(&parameter.name) {
                state.insert(&parameter.name, tensor)?;
            }
        }
        state.check(self)?;
        Ok(state)
    }
}
