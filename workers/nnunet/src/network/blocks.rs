//! The parts of a network. Parameters are indices into `Layout::parameters`.
// Only the forward pass reads most of this.
#![cfg_attr(not(feature = "torch"), allow(dead_code))]

use super::norm::BlockNorm;

/// conv, dropout, norm, nonlinearity: all but the first where there are any. Indices are into `Layout::parameters`.
#[derive(Clone, Debug)]
pub(super) struct ConvBlock {
    pub weight: usize,
    pub bias: Option<usize>,
    pub dropout: bool,
    pub norm: Option<BlockNorm>,
    pub stride: Vec<i64>,
    pub padding: Vec<i64>,
    pub activation: bool,
}

/// ResNet-D's basic block.
#[derive(Clone, Debug)]
pub(super) struct ResidualBlock {
    pub first: ConvBlock,
    pub second: ConvBlock,
    /// Window and stride of the average pooling of the skip, where strided.
    pub pool: Option<Vec<i64>>,
    /// The 1x1 convolution of the skip, where the channels change.
    pub projection: Option<ConvBlock>,
}

#[derive(Clone, Debug)]
pub(super) enum Stage {
    Plain(Vec<ConvBlock>),
    Residual(Vec<ResidualBlock>),
}

/// A convolution without norm: a transposed one or a segmentation head.
#[derive(Clone, Debug)]
pub(super) struct BareConv {
    pub weight: usize,
    pub bias: Option<usize>,
    pub stride: Vec<i64>,
}

#[derive(Clone, Debug)]
pub(super) struct DecoderStage {
    pub up: BareConv,
    pub convs: Vec<ConvBlock>,
    pub head: BareConv,
}
