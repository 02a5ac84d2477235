//! Lists a network's blocks and parameters as nnU-Net's modules register them.

use super::{
    Layout, Parameter, ParameterRole,
    arguments::Arguments,
    blocks::{BareConv, ConvBlock, DecoderStage, ResidualBlock, Stage},
    norm::BlockNorm,
};
use crate::{Error, Result};

impl Arguments {
    /// The network, its parameters in nnU-Net's order and the keys that name them.
    pub(super) fn build(self, input_channels: usize, heads: usize) -> Result<Layout> {
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
            norm: self.norm,
            dropout: self.dropout,
            nonlinearity: self.nonlinearity,
            nonlinearity_first: self.nonlinearity_first,
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

    /// Names a tensor again, by the last part of its own name under `prefix`.
    fn name(&mut self, prefix: &str, index: usize) {
        let name = &self.parameters[index].name;
        let last = name.rsplit('.').next().unwrap_or(name);
        self.keys.push((format!("{prefix}.{last}"), index));
    }

    /// The tensors of a norm, in the order of torch's modules: parameters, then running statistics.
    fn norm(&mut self, prefix: &str, channels: usize, zero: bool) -> Option<BlockNorm> {
        let norm = self.arguments.norm?;
        let mut add =
            |name: &str, shape: Vec<usize>, role| self.parameter(format!("{prefix}.{name}"), shape, role);
        let affine = norm.affine.then(|| {
            let scale = add("weight", vec![channels], ParameterRole::NormScale { zero });
            (scale, add("bias", vec![channels], ParameterRole::NormShift))
        });
        let running = norm.tracked.then(|| {
            [
                add("running_mean", vec![channels], ParameterRole::RunningMean),
                add("running_var", vec![channels], ParameterRole::RunningVariance),
                add("num_batches_tracked", vec![], ParameterRole::BatchCount),
            ]
        });
        Some(BlockNorm { affine, running })
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
        let activation = kind == BlockKind::Activated && self.arguments.nonlinearity.is_some();
        let dropout = kind == BlockKind::Activated && self.arguments.dropout.is_some();
        let before_norm = self.parameters.len();
        let norm = self.norm(&format!("{prefix}.norm"), output, kind == BlockKind::BeforeAdd);
        let of_norm = before_norm..self.parameters.len();
        let place = 1 + usize::from(dropout) + usize::from(activation && self.arguments.nonlinearity_first);
        for (conv, norm) in [
            ("conv", "norm"),
            ("all_modules.0", &format!("all_modules.{place}")),
        ] {
            for index in [Some(weight), bias].into_iter().flatten() {
                self.name(&format!("{prefix}.{conv}"), index);
            }
            for index in of_norm.clone() {
                self.name(&format!("{prefix}.{norm}"), index);
            }
        }
        ConvBlock {
            weight,
            bias,
            dropout,
            norm,
            stride: stride.iter().map(|&v| v as i64).collect(),
            padding: kernel.iter().map(|&k| (k as i64 - 1) / 2).collect(),
            activation,
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
        for index in [Some(weight), bias].into_iter().flatten() {
            self.name(prefix, index);
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
    /// conv, dropout, norm, nonlinearity.
    Activated,
    /// conv, norm; the norm's scale starts at 0.
    BeforeAdd,
    /// conv, norm.
    Projection,
}
