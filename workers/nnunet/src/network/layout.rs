//! What a network of the plans consists of: its blocks, and its parameters by nnU-Net's names.
//! dynamic_network_architectures: architectures/unet.py, building_blocks/{simple_conv_blocks,residual,unet_decoder}.py.

use std::collections::HashMap;

use indexmap::IndexMap;
use schemas::nnunet::{Architecture, NetworkKind};
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
    /// The network that `architecture` describes. Anything that this program does not build is an error naming the key.
    pub fn new(architecture: &Architecture, input_channels: usize, heads: usize) -> Result<Self> {
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
        self.aliases
            .iter()
            .map(|(key, i)| (key.as_str(), self.parameters[*i].name.as_str()))
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

impl Arguments {
    fn new(architecture: &Architecture) -> Result<Self> {
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

    fn build(self, input_channels: usize, heads: usize) -> Result<Layout> {
        for (what, n) in [("input channels", input_channels), ("segmentation heads", heads)] {
            if n == 0 {
                return Err(Error::invalid("network", format!("0 {what}")));
            }
        }
        let mut builder = Builder {
            arguments: &self,
            parameters: Vec::new(),
            keys: Vec::new(),
        };
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
        let encoder_keys = std::mem::take(&mut builder.keys);
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
        let ups: Vec<_> = below
            .iter()
            .enumerate()
            .map(|(i, &skip)| builder.up(i, skip))
            .collect();
        let seg: Vec<_> = below
            .iter()
            .enumerate()
            .map(|(i, &skip)| builder.head(i, self.features[skip], heads))
            .collect();
        let decoder_keys = builder.keys;
        let parameters = builder.parameters;
        let decoder = ups
            .into_iter()
            .zip(convs)
            .zip(seg)
            .map(|((up, convs), head)| DecoderStage { up, convs, head })
            .collect();
        let under_decoder = encoder_keys
            .iter()
            .map(|(key, i)| (format!("decoder.{key}"), *i))
            .collect::<Vec<_>>();
        let aliases = encoder_keys
            .into_iter()
            .chain(under_decoder)
            .chain(decoder_keys)
            .collect();
        let index = parameters
            .iter()
            .enumerate()
            .map(|(i, p)| (p.name.clone(), i))
            .collect();
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
    keys: Vec<(String, usize)>,
}

impl Builder<'_> {
    fn parameter(&mut self, name: String, shape: Vec<usize>, role: ParameterRole) -> usize {
        self.parameters.push(Parameter { name, shape, role });
        self.parameters.len() - 1
    }

    /// Weight and, where wanted, bias of a convolution under `prefix`. `shape[..2]` is PyTorch's.
    fn convolution(
        &mut self,
        prefix: &str,
        shape: Vec<usize>,
        out: usize,
        bias: bool,
    ) -> (usize, Option<usize>) {
        let fan_in = shape[1..].iter().product();
        let weight = self.parameter(
            format!("{prefix}.weight"),
            shape,
            ParameterRole::Convolution { fan_in },
        );
        let bias = bias.then(|| self.parameter(format!("{prefix}.bias"), vec![out], ParameterRole::Bias));
        (weight, bias)
    }

    fn name(&mut self, prefix: &str, names: &[&str], indices: &[usize]) {
        self.keys.extend(
            names
                .iter()
                .zip(indices)
                .map(|(name, &i)| (format!("{prefix}.{name}"), i)),
        );
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
        let shape = [output, input]
            .into_iter()
            .chain(kernel.iter().copied())
            .collect();
        let (weight, bias) = self.convolution(&format!("{prefix}.conv"), shape, output, bias);
        let zero = kind == BlockKind::BeforeAdd;
        let scale = self.parameter(
            format!("{prefix}.norm.weight"),
            vec![output],
            ParameterRole::NormScale { zero },
        );
        let shift = self.parameter(
            format!("{prefix}.norm.bias"),
            vec![output],
            ParameterRole::NormShift,
        );
        for (conv, norm) in [("conv", "norm"), ("all_modules.0", "all_modules.1")] {
            self.name(prefix, &[&format!("{conv}.weight")], &[weight]);
            if let Some(bias) = bias {
                self.name(prefix, &[&format!("{conv}.bias")], &[bias]);
            }
            self.name(
                prefix,
                &[&format!("{norm}.weight"), &format!("{norm}.bias")],
                &[scale, shift],
            );
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

    fn conv_block(
        &mut self,
        prefix: &str,
        input: usize,
        output: usize,
        kernel: &[usize],
        stride: &[usize],
    ) -> ConvBlock {
        self.block(
            prefix,
            (input, output),
            kernel,
            stride,
            self.arguments.conv_bias,
            BlockKind::Activated,
        )
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
                let (input, stride) = if j == 0 {
                    (input, first_stride)
                } else {
                    (output, &ones[..])
                };
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
            self.residual_block(
                &format!("encoder.stages.{s}.blocks.{b}"),
                input,
                output,
                kernel,
                stride,
            )
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
        let second = self.block(
            &format!("{prefix}.conv2"),
            (output, output),
            kernel,
            &ones,
            bias,
            BlockKind::BeforeAdd,
        );
        let strided = stride.iter().any(|&v| v != 1);
        let projection = (input != output).then(|| {
            let prefix = format!("{prefix}.skip.{}", usize::from(strided));
            self.block(
                &prefix,
                (input, output),
                &ones,
                &ones,
                false,
                BlockKind::Projection,
            )
        });
        let pool = strided.then(|| stride.iter().map(|&v| v as i64).collect());
        ResidualBlock {
            first,
            second,
            pool,
            projection,
        }
    }

    /// The transposed convolution from the stage below `skip`: kernel equals stride.
    fn up(&mut self, i: usize, skip: usize) -> BareConv {
        let arguments = self.arguments;
        let stride = &arguments.strides[skip + 1];
        let (input, output) = (arguments.features[skip + 1], arguments.features[skip]);
        let shape = [input, output]
            .into_iter()
            .chain(stride.iter().copied())
            .collect();
        self.bare(
            &format!("decoder.transpconvs.{i}"),
            shape,
            output,
            arguments.conv_bias,
            stride,
        )
    }

    /// The 1x1 convolution to `heads` channels; it always has a bias.
    fn head(&mut self, i: usize, input: usize, heads: usize) -> BareConv {
        let ones = vec![1; self.arguments.dimensions];
        let shape = [heads, input].into_iter().chain(ones.iter().copied()).collect();
        self.bare(&format!("decoder.seg_layers.{i}"), shape, heads, true, &ones)
    }

    fn bare(
        &mut self,
        prefix: &str,
        shape: Vec<usize>,
        out: usize,
        bias: bool,
        stride: &[usize],
    ) -> BareConv {
        let (weight, bias) = self.convolution(prefix, shape, out, bias);
        self.name(prefix, &["weight"], &[weight]);
        if let Some(bias) = bias {
            self.name(prefix, &["bias"], &[bias]);
        }
        BareConv {
            weight,
            bias,
            stride: stride.iter().map(|&v| v as i64).collect(),
        }
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
