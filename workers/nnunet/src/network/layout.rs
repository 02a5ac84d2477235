//! What a network of the plans consists of: its blocks, and its parameters by nnU-Net's names.
//! dynamic_network_architectures: architectures/unet.py, building_blocks/{simple_conv_blocks,residual,unet_decoder}.py.

use std::collections::HashMap;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{StateDict, Tensor32};
use crate::{Error, Result};

/// What a parameter does, which decides its initial value.
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
}

/// One unique parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The first of nnU-Net's state_dict keys that name it.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// What it does.
    pub role: ParameterRole,
}

/// conv, optional instance norm, optional leaky ReLU. Indices are into [`Layout::parameters`].
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(super) struct ConvBlock {
    pub weight: usize,
    pub bias: Option<usize>,
    /// Scale and shift.
    pub norm: (usize, usize),
    pub stride: Vec<i64>,
    pub padding: Vec<i64>,
    pub activation: bool,
}

/// ResNet-D's basic block.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
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
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(super) struct BareConv {
    pub weight: usize,
    pub bias: Option<usize>,
    pub stride: Vec<i64>,
}

#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(super) struct DecoderStage {
    pub up: BareConv,
    pub convs: Vec<ConvBlock>,
    pub head: BareConv,
}

/// A network of the plans for given channels and heads: PlainConvUNet or ResidualEncoderUNet, 2D or 3D.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub struct Layout {
    pub(super) dimensions: usize,
    pub(super) input_channels: usize,
    pub(super) heads: usize,
    pub(super) norm_eps: f64,
    pub(super) stem: Option<ConvBlock>,
    pub(super) encoder: Vec<Stage>,
    /// Lowest resolution first.
    pub(super) decoder: Vec<DecoderStage>,
    pub(super) strides: Vec<Vec<usize>>,
    parameters: Vec<Parameter>,
    index: HashMap<String, usize>,
    aliases: Vec<(String, usize)>,
}

impl Layout {
    /// The network that `architecture` describes: the object under a configuration's `architecture` key, with
    /// `network_class_name` and `arch_kwargs`. Anything that this program does not build is an error naming the key.
    pub fn new(architecture: &Value, input_channels: usize, heads: usize) -> Result<Self> {
        Arguments::new(architecture)?.build(input_channels, heads)
    }

    /// Unique parameters in nnU-Net's optimizer order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameter of that unique name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.index.get(name).map(|&i| &self.parameters[i])
    }

    /// nnU-Net's complete state_dict key list in its order, each with the name of the unique tensor that it repeats.
    pub fn aliases(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(key, i)| (key.as_str(), self.parameters[*i].name.as_str()))
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
        [Some(head.weight), head.bias].into_iter().flatten().map(|i| self.parameters[i].name.as_str()).collect()
    }

    /// The unique tensors of a complete nnU-Net state_dict. Strict: every key and no other, with the plans' shapes.
    pub fn unique(&self, mut complete: IndexMap<String, Tensor32>) -> Result<StateDict> {
        let mut state = StateDict::new();
        let mut known = std::collections::HashSet::new();
        for (key, _) in &self.aliases {
            if !complete.contains_key(key) {
                return Err(Error::invalid(format!("tensor {key}"), "missing from the state_dict"));
            }
            known.insert(key.as_str());
        }
        if let Some(key) = complete.keys().find(|key| !known.contains(key.as_str())) {
            return Err(Error::invalid(
                format!("tensor {key}"),
                format!("shape {:?}: not a parameter of the plans' network", complete[key].shape),
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

/// The architecture's arguments, checked.
struct Arguments {
    residual: bool,
    dimensions: usize,
    features: Vec<usize>,
    kernels: Vec<Vec<usize>>,
    strides: Vec<Vec<usize>>,
    per_stage: Vec<usize>,
    per_decoder_stage: Vec<usize>,
    conv_bias: bool,
    norm_eps: f64,
    stem_channels: Option<usize>,
}

fn invalid(key: &str, reason: impl ToString) -> Error {
    Error::invalid(format!("plans: architecture.{key}"), reason)
}

impl Arguments {
    fn new(architecture: &Value) -> Result<Self> {
        let class = architecture.get("network_class_name").and_then(Value::as_str).unwrap_or_default();
        let residual = match class.rsplit('.').next().unwrap_or_default() {
            "PlainConvUNet" => false,
            "ResidualEncoderUNet" => true,
            _ => {
                return Err(invalid(
                    "network_class_name",
                    format!("{class:?}; PlainConvUNet and ResidualEncoderUNet can be built"),
                ));
            }
        };
        let kwargs = architecture
            .get("arch_kwargs")
            .and_then(Value::as_object)
            .ok_or_else(|| invalid("arch_kwargs", "expected an object"))?;
        let blocks = if residual { "n_blocks_per_stage" } else { "n_conv_per_stage" };
        let known = [
            "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", blocks, "n_conv_per_stage_decoder",
            "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs",
            "deep_supervision",
        ];
        for (key, value) in kwargs {
            let extra = match key.as_str() {
                "nonlin_first" => !residual && value == &Value::Bool(false),
                "stem_channels" => residual,
                "bottleneck_channels" => residual && value.is_null(),
                "block" => residual && value.as_str().is_some_and(|v| v.ends_with("BasicBlockD")),
                _ => known.contains(&key.as_str()),
            };
            if !extra {
                return Err(invalid(&format!("arch_kwargs.{key}"), format!("{value} is not supported")));
            }
        }
        let dimensions = match name(kwargs, "conv_op")? {
            "Conv2d" => 2,
            "Conv3d" => 3,
            other => return Err(invalid("arch_kwargs.conv_op", format!("{other}; expected Conv2d or Conv3d"))),
        };
        match name(kwargs, "norm_op")? {
            norm if norm == format!("InstanceNorm{dimensions}d") => {}
            other => {
                return Err(invalid("arch_kwargs.norm_op", format!("{other}; expected InstanceNorm{dimensions}d")));
            }
        }
        let norm_eps = norm_eps(kwargs.get("norm_op_kwargs"))?;
        if kwargs.get("dropout_op").is_some_and(|v| !v.is_null()) {
            return Err(invalid("arch_kwargs.dropout_op", "dropout is not supported"));
        }
        if name(kwargs, "nonlin")? != "LeakyReLU" {
            return Err(invalid("arch_kwargs.nonlin", "expected torch.nn.LeakyReLU"));
        }
        let slope = kwargs.get("nonlin_kwargs").and_then(|v| v.get("negative_slope"));
        if slope.is_some_and(|v| v.as_f64() != Some(0.01)) {
            return Err(invalid("arch_kwargs.nonlin_kwargs.negative_slope", "expected 0.01"));
        }
        let n_stages = count(kwargs.get("n_stages"), "n_stages")?;
        if n_stages < 2 {
            return Err(invalid("arch_kwargs.n_stages", format!("{n_stages}; a U-Net has 2 or more")));
        }
        Ok(Self {
            residual,
            dimensions,
            features: counts(kwargs, "features_per_stage", n_stages)?,
            kernels: sizes(kwargs, "kernel_sizes", n_stages, dimensions)?,
            strides: sizes(kwargs, "strides", n_stages, dimensions)?,
            per_stage: counts(kwargs, blocks, n_stages)?,
            per_decoder_stage: counts(kwargs, "n_conv_per_stage_decoder", n_stages - 1)?,
            conv_bias: kwargs.get("conv_bias").and_then(Value::as_bool).unwrap_or(false),
            norm_eps,
            stem_channels: match kwargs.get("stem_channels") {
                None | Some(Value::Null) => None,
                some => Some(count(some, "stem_channels")?),
            },
        })
    }

    fn build(self, input_channels: usize, heads: usize) -> Result<Layout> {
        for (what, n) in [("input channels", input_channels), ("segmentation heads", heads)] {
            if n == 0 {
                return Err(Error::invalid("network", format!("0 {what}")));
            }
        }
        let mut builder = Builder { arguments: &self, parameters: Vec::new(), encoder_keys: Vec::new() };
        let mut channels = input_channels;
        let mut stem = None;
        let ones = vec![1; self.dimensions];
        if self.residual {
            let out = self.stem_channels.unwrap_or(self.features[0]);
            stem = Some(builder.conv_block("encoder.stem.convs.0", channels, out, &self.kernels[0], &ones));
            channels = out;
        }
        let mut encoder = Vec::new();
        for s in 0..self.features.len() {
            encoder.push(builder.encoder_stage(s, channels));
            channels = self.features[s];
        }
        let encoder_keys = std::mem::take(&mut builder.encoder_keys);
        let below: Vec<_> = (0..self.features.len() - 1).rev().collect();
        let mut convs = Vec::new();
        for (i, &skip) in below.iter().enumerate() {
            convs.push(builder.conv_stack(
                &format!("decoder.stages.{i}.convs"),
                2 * self.features[skip],
                self.features[skip],
                self.per_decoder_stage[i],
                &self.kernels[skip],
                &ones,
            ));
        }
        let ups: Vec<_> = below.iter().enumerate().map(|(i, &skip)| builder.up(i, skip)).collect();
        let seg: Vec<_> = below.iter().enumerate().map(|(i, &skip)| builder.head(i, self.features[skip], heads)).collect();
        let decoder_keys = builder.encoder_keys;
        let parameters = builder.parameters;
        let decoder = ups
            .into_iter()
            .zip(convs)
            .zip(seg)
            .map(|((up, convs), head)| DecoderStage { up, convs, head })
            .collect();
        let under_decoder = encoder_keys.iter().map(|(key, i)| (format!("decoder.{key}"), *i)).collect::<Vec<_>>();
        let aliases = encoder_keys.into_iter().chain(under_decoder).chain(decoder_keys).collect();
        let index = parameters.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        Ok(Layout {
            dimensions: self.dimensions,
            input_channels,
            heads,
            norm_eps: self.norm_eps,
            stem,
            encoder,
            decoder,
            strides: self.strides,
            parameters,
            index,
            aliases,
        })
    }
}

/// Collects parameters in order, and the state_dict keys that name them.
struct Builder<'a> {
    arguments: &'a Arguments,
    parameters: Vec<Parameter>,
    /// Keys of the current part (encoder, then the rest), with the parameter's index.
    encoder_keys: Vec<(String, usize)>,
}

impl Builder<'_> {
    fn parameter(&mut self, name: String, shape: Vec<usize>, role: ParameterRole) -> usize {
        self.parameters.push(Parameter { name, shape, role });
        self.parameters.len() - 1
    }

    /// Weight and, where wanted, bias of a convolution under `prefix`. `shape[..2]` is PyTorch's.
    fn convolution(&mut self, prefix: &str, shape: Vec<usize>, out: usize, bias: bool) -> (usize, Option<usize>) {
        let fan_in = shape[1..].iter().product();
        let weight = self.parameter(format!("{prefix}.weight"), shape, ParameterRole::Convolution { fan_in });
        let bias = bias.then(|| self.parameter(format!("{prefix}.bias"), vec![out], ParameterRole::Bias));
        (weight, bias)
    }

    fn keys(&mut self, prefix: &str, names: &[&str], indices: &[usize]) {
        self.encoder_keys.extend(names.iter().zip(indices).map(|(name, &i)| (format!("{prefix}.{name}"), i)));
    }

    /// ConvDropoutNormReLU: nnU-Net registers conv and norm by name and again in `all_modules`.
    fn block(
        &mut self,
        prefix: &str,
        (input, output): (usize, usize),
        kernel: &[usize],
        stride: &[usize],
        bias: bool,
        kind: BlockKind,
    ) -> ConvBlock {
        let shape = [output, input].into_iter().chain(kernel.iter().copied()).collect();
        let (weight, bias) = self.convolution(&format!("{prefix}.conv"), shape, output, bias);
        let zero = kind == BlockKind::BeforeAdd;
        let scale =
            self.parameter(format!("{prefix}.norm.weight"), vec![output], ParameterRole::NormScale { zero });
        let shift = self.parameter(format!("{prefix}.norm.bias"), vec![output], ParameterRole::NormShift);
        for (conv, norm) in [("conv", "norm"), ("all_modules.0", "all_modules.1")] {
            self.keys(prefix, &[&format!("{conv}.weight")], &[weight]);
            if let Some(bias) = bias {
                self.keys(prefix, &[&format!("{conv}.bias")], &[bias]);
            }
            self.keys(prefix, &[&format!("{norm}.weight"), &format!("{norm}.bias")], &[scale, shift]);
        }
        ConvBlock {
            weight,
            bias,
            norm: (scale, shift),
            stride: stride.iter().map(|&v| v as i64).collect(),
            padding: kernel.iter().map(|&k| (k as i64 - 1) / 2).collect(),
            activation: kind == BlockKind::Activated,
        }
    }

    fn conv_block(&mut self, prefix: &str, input: usize, output: usize, kernel: &[usize], stride: &[usize]) -> ConvBlock {
        self.block(prefix, (input, output), kernel, stride, self.arguments.conv_bias, BlockKind::Activated)
    }

    fn conv_stack(
        &mut self,
        prefix: &str,
        input: usize,
        output: usize,
        n: usize,
        kernel: &[usize],
        first_stride: &[usize],
    ) -> Vec<ConvBlock> {
        let ones = vec![1; kernel.len()];
        (0..n)
            .map(|j| {
                let (input, stride) = if j == 0 { (input, first_stride) } else { (output, &ones[..]) };
                self.conv_block(&format!("{prefix}.{j}"), input, output, kernel, stride)
            })
            .collect()
    }

    fn encoder_stage(&mut self, s: usize, input: usize) -> Stage {
        let arguments = self.arguments;
        let (output, n) = (arguments.features[s], arguments.per_stage[s]);
        let (kernel, stride) = (&arguments.kernels[s], &arguments.strides[s]);
        if !arguments.residual {
            let prefix = format!("encoder.stages.{s}.0.convs");
            return Stage::Plain(self.conv_stack(&prefix, input, output, n, kernel, stride));
        }
        let ones = vec![1; kernel.len()];
        let blocks = (0..n).map(|b| {
            let (input, stride) = if b == 0 { (input, stride) } else { (output, &ones) };
            self.residual_block(&format!("encoder.stages.{s}.blocks.{b}"), input, output, kernel, stride)
        });
        Stage::Residual(blocks.collect())
    }

    fn residual_block(
        &mut self,
        prefix: &str,
        input: usize,
        output: usize,
        kernel: &[usize],
        stride: &[usize],
    ) -> ResidualBlock {
        let ones = vec![1; kernel.len()];
        let bias = self.arguments.conv_bias;
        let first = self.conv_block(&format!("{prefix}.conv1"), input, output, kernel, stride);
        let second =
            self.block(&format!("{prefix}.conv2"), (output, output), kernel, &ones, bias, BlockKind::BeforeAdd);
        let strided = stride.iter().any(|&v| v != 1);
        let projection = (input != output).then(|| {
            let prefix = format!("{prefix}.skip.{}", usize::from(strided));
            self.block(&prefix, (input, output), &ones, &ones, false, BlockKind::Projection)
        });
        let pool = strided.then(|| stride.iter().map(|&v| v as i64).collect());
        ResidualBlock { first, second, pool, projection }
    }

    /// The transposed convolution from the stage below `skip`: kernel equals stride.
    fn up(&mut self, i: usize, skip: usize) -> BareConv {
        let arguments = self.arguments;
        let stride = &arguments.strides[skip + 1];
        let (input, output) = (arguments.features[skip + 1], arguments.features[skip]);
        let shape = [input, output].into_iter().chain(stride.iter().copied()).collect();
        self.bare(&format!("decoder.transpconvs.{i}"), shape, output, arguments.conv_bias, stride)
    }

    /// The 1x1 convolution to `heads` channels; it always has a bias.
    fn head(&mut self, i: usize, input: usize, heads: usize) -> BareConv {
        let ones = vec![1; self.arguments.dimensions];
        let shape = [heads, input].into_iter().chain(ones.iter().copied()).collect();
        self.bare(&format!("decoder.seg_layers.{i}"), shape, heads, true, &ones)
    }

    fn bare(&mut self, prefix: &str, shape: Vec<usize>, out: usize, bias: bool, stride: &[usize]) -> BareConv {
        let (weight, bias) = self.convolution(prefix, shape, out, bias);
        self.keys(prefix, &["weight"], &[weight]);
        if let Some(bias) = bias {
            self.keys(prefix, &["bias"], &[bias]);
        }
        BareConv { weight, bias, stride: stride.iter().map(|&v| v as i64).collect() }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum BlockKind {
    /// conv, norm, leaky ReLU.
    Activated,
    /// conv, norm; the norm's scale starts at 0.
    BeforeAdd,
    /// conv, norm.
    Projection,
}

/// The class name at the end of a dotted Python path.
fn name<'a>(kwargs: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    let path = kwargs
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| invalid(&format!("arch_kwargs.{key}"), "expected the name of a Python class"))?;
    Ok(path.rsplit('.').next().unwrap_or(path))
}

fn norm_eps(kwargs: Option<&Value>) -> Result<f64> {
    let kwargs = kwargs.and_then(Value::as_object).cloned().unwrap_or_default();
    if kwargs.get("affine") != Some(&Value::Bool(true)) {
        return Err(invalid("arch_kwargs.norm_op_kwargs.affine", "expected true"));
    }
    if kwargs.get("track_running_stats").is_some_and(|v| v != &Value::Bool(false)) {
        return Err(invalid("arch_kwargs.norm_op_kwargs.track_running_stats", "expected false"));
    }
    match kwargs.get("eps") {
        None => Ok(1e-5),
        Some(eps) => eps
            .as_f64()
            .filter(|v| *v > 0.0)
            .ok_or_else(|| invalid("arch_kwargs.norm_op_kwargs.eps", "expected a positive number")),
    }
}

fn count(value: Option<&Value>, key: &str) -> Result<usize> {
    // A bound well above any real network keeps products of sizes far from overflow.
    value
        .and_then(Value::as_u64)
        .filter(|n| (1..=65536).contains(n))
        .map(|n| n as usize)
        .ok_or_else(|| invalid(&format!("arch_kwargs.{key}"), "expected a positive integer"))
}

/// One count for each of `n` stages; a single number stands for all.
fn counts(kwargs: &Map<String, Value>, key: &str, n: usize) -> Result<Vec<usize>> {
    match kwargs.get(key) {
        Some(Value::Array(values)) if values.len() == n => values.iter().map(|v| count(Some(v), key)).collect(),
        Some(Value::Array(values)) => {
            Err(invalid(&format!("arch_kwargs.{key}"), format!("{} entries, expected {n}", values.len())))
        }
        single => Ok(vec![count(single, key)?; n]),
    }
}

/// One size per axis for each of `n` stages; a single number stands for all stages or all axes.
fn sizes(kwargs: &Map<String, Value>, key: &str, n: usize, dimensions: usize) -> Result<Vec<Vec<usize>>> {
    let axes = |value: &Value| match value {
        Value::Array(values) if values.len() == dimensions => values.iter().map(|v| count(Some(v), key)).collect(),
        Value::Array(values) => Err(invalid(
            &format!("arch_kwargs.{key}"),
            format!("{} axes in a stage, expected {dimensions}", values.len()),
        )),
        single => Ok(vec![count(Some(single), key)?; dimensions]),
    };
    match kwargs.get(key) {
        Some(Value::Array(values)) if values.len() == n => values.iter().map(axes).collect(),
        Some(Value::Array(values)) => {
            Err(invalid(&format!("arch_kwargs.{key}"), format!("{} entries, expected {n}", values.len())))
        }
        Some(single) => Ok(vec![axes(single)?; n]),
        None => Err(invalid(&format!("arch_kwargs.{key}"), "missing")),
    }
}
