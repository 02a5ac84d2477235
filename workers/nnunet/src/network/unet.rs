//! The forward pass on libtorch.

use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::{
    Layout, ParameterRole, StateDict,
    blocks::{BareConv, ConvBlock, ResidualBlock, Stage},
    dropout,
    inference::NormAndSlope,
    joined::Joined,
    nonlinearity::Nonlinearity,
    norm::{BlockNorm, Norm, NormKind},
    tensors::{channels_last, convolution, to_device, to_tensor32},
};
use crate::{Error, Result};

/// How a network runs.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// With running statistics, where there are any, and without dropout.
    Inference,
    /// With the batch's statistics, which also move the running ones, and with dropout.
    Training {
        /// Gives the generator of a layer's number; the channels that drop out come from it.
        draws: &'a dyn Fn(u64) -> ChaCha8Rng,
        /// The place of the input's first sample in its batch: the same channels drop out of a sample, whichever part
        /// of its batch is run at once.
        first_sample: usize,
    },
}

/// PlainConvUNet or ResidualEncoderUNet of the plans, its parameters on one device.
///
/// Input (b, c, z, y, x), or (b, c, y, x) in 2D; every axis must be a multiple of the product of its strides.
pub struct UNet {
    layout: Layout,
    parameters: Vec<Tensor>,
    device: Device,
    /// What the layers compute in: on CUDA float16, as nnU-Net's autocast has it, elsewhere float32. Parameters, their
    /// gradients and the outputs stay in float32, and so do the sums inside a layer.
    kind: Kind,
    /// By decoder stage, where its way up is joined for inference; empty in training.
    joined: Vec<Option<Joined>>,
}

impl UNet {
    /// A network with `weights`, which must be exactly the layout's parameters and finite.
    pub fn new(layout: Layout, weights: &StateDict, device: Device) -> Result<Self> {
        weights.check(&layout)?;
        weights.check_finite()?;
        let parameters = weights
            .iter()
            .zip(layout.parameters())
            .map(|((_, tensor), parameter)| {
                to_device(tensor, device).map(|t| t.set_requires_grad(parameter.role.is_trained()))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            layout,
            parameters,
            device,
            kind: match device {
                Device::Cuda(_) => Kind::Half,
                _ => Kind::Float,
            },
            joined: Vec::new(),
        })
    }

    /// The same network, computing in bfloat16 if `on`.
    pub fn in_bfloat16(mut self, on: bool) -> Self {
        if on {
            self.kind = Kind::BFloat16;
        }
        self
    }

    /// The network for inference alone, of tiles of `patch` voxels: what convolutions multiply with is converted here,
    /// and not in every pass.
    pub fn for_inference(mut self, patch: &[usize]) -> Result<Self> {
        if self.device == Device::Cpu {
            self.joined = self.join(patch)?;
        }
        for (parameter, tensor) in self.layout.parameters().iter().zip(&mut self.parameters) {
            if let ParameterRole::Convolution { .. } | ParameterRole::Bias = parameter.role {
                *tensor = tensor.f_detach()?.f_to_kind(self.kind)?;
            }
        }
        Ok(self)
    }

    /// The ways up that are worth it.
    fn join(&self, patch: &[usize]) -> Result<Vec<Option<Joined>>> {
        let mut size = patch.to_vec();
        let mut sizes = Vec::new();
        for strides in &self.layout.strides {
            size.iter_mut().zip(strides).for_each(|(n, s)| *n /= s);
            sizes.push(size.clone());
        }
        let stages = self.layout.decoder.iter().zip(sizes.iter().rev());
        stages
            .map(|(stage, below)| Joined::new(stage, &self.parameters, below, self.kind))
            .collect()
    }

    /// What the network consists of.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The layout's tensors in its order; those that are trained are leaves that require gradients.
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// The same, to be changed in place without recording gradients.
    pub fn parameters_mut(&mut self) -> &mut [Tensor] {
        &mut self.parameters
    }

    /// Whether each tensor is trained by [`UNet::outputs`] of `wanted` resolutions: unwanted heads are not.
    pub fn used(&self, wanted: usize) -> Vec<bool> {
        let parameters = self.layout.parameters().iter();
        let mut used: Vec<bool> = parameters.map(|p| p.role.is_trained()).collect();
        let unwanted = self.layout.decoder.len().saturating_sub(wanted);
        for stage in &self.layout.decoder[..unwanted] {
            used[stage.head.weight] = false;
            if let Some(bias) = stage.head.bias {
                used[bias] = false;
            }
        }
        used
    }

    /// Replaces all weights. Fails, changing nothing, unless they are exactly the layout's and finite.
    pub fn load(&mut self, weights: &StateDict) -> Result<()> {
        let kind = self.kind;
        *self = Self {
            kind,
            ..Self::new(self.layout.clone(), weights, self.device)?
        };
        Ok(())
    }

    /// The current weights.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut state = StateDict::new();
        for (parameter, tensor) in self.layout.parameters().iter().zip(&self.parameters) {
            state.insert(&parameter.name, to_tensor32(tensor)?)?;
        }
        Ok(state)
    }

    /// Logits at full resolution: (b, heads, z, y, x), or (b, heads, y, x).
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.outputs(input, 1, Mode::Inference)?
            .pop()
            .ok_or_else(|| Error::Torch("the network has no output".into()))
    }

    /// Logits of the `wanted` highest resolutions, full resolution first; at most [`Layout::outputs`].
    /// Heads that are not wanted are not computed, so they get no gradient.
    pub fn outputs(&self, input: &Tensor, wanted: usize, mode: Mode) -> Result<Vec<Tensor>> {
        let mut x = channels_last(input)?.f_to_kind(self.kind)?;
        if let Some(stem) = &self.layout.stem {
            x = self.block(&x, stem, mode)?;
        }
        let mut skips = Vec::with_capacity(self.layout.encoder.len());
        for stage in &self.layout.encoder {
            match stage {
                Stage::Plain(blocks) => {
                    for block in blocks {
                        x = self.block(&x, block, mode)?;
                    }
                }
                Stage::Residual(blocks) => {
                    for block in blocks {
                        x = self.residual(&x, block, mode)?;
                    }
                }
            }
            skips.push(x.shallow_clone());
        }
        skips.pop();
        let mut outputs = Vec::with_capacity(wanted);
        let stages = self.layout.decoder.len();
        for (i, stage) in self.layout.decoder.iter().enumerate() {
            let skip = skips
                .pop()
                .ok_or_else(|| Error::Torch("a decoder stage has no skip".into()))?;
            let mut convs = &stage.convs[..];
            let joined = match (self.joined.get(i), mode) {
                (Some(Some(joined)), Mode::Inference) => joined.apply(&x, &skip, threads())?,
                _ => None,
            };
            x = match (joined, convs.split_first()) {
                (Some(made), Some((first, others))) => {
                    convs = others;
                    self.behind_convolution(made, first, mode)?
                }
                _ => Tensor::f_cat(&[self.bare(&x, &stage.up, true)?, skip], 1)?,
            };
            for block in convs {
                x = self.block(&x, block, mode)?;
            }
            if i + wanted >= stages {
                let head = match mode {
                    Mode::Inference => self.head_by_class(&x, &stage.head)?,
                    Mode::Training { .. } => None,
                };
                outputs.push(match head {
                    Some(head) => head,
                    None => self.bare(&x, &stage.head, false)?.f_to_kind(Kind::Float)?,
                });
            }
        }
        outputs.reverse();
        Ok(outputs)
    }

    fn block(&self, x: &Tensor, block: &ConvBlock, mode: Mode) -> Result<Tensor> {
        let x = self.convolution(x, block.weight, block.bias, &block.stride, &block.padding, false)?;
        self.behind_convolution(x, block, mode)
    }

    /// Dropout, norm and nonlinearity of what a block's convolution made.
    fn behind_convolution(&self, mut x: Tensor, block: &ConvBlock, mode: Mode) -> Result<Tensor> {
        if let (Some(p), Mode::Training { draws, first_sample }) = (self.layout.dropout, mode)
            && block.dropout
        {
            // The weight's place in the network is as good a number for the layer as any.
            x = dropout::apply(&x, p, &mut draws(block.weight as u64), first_sample)?;
        }
        let before_norm = block.activation && self.layout.nonlinearity_first;
        if before_norm {
            x = self.activate(x)?;
        }
        if let (Some(norm), Some(place), Mode::Inference) = (&self.layout.norm, &block.norm, mode)
            && self.norm_in_place(&x, norm, place, block.activation && !before_norm)
        {
            return Ok(x);
        }
        let behind = |x| match block.activation && !before_norm {
            true => self.activate(x),
            false => Ok(x),
        };
        match (&self.layout.norm, &block.norm) {
            (Some(norm), Some(place)) => {
                let training = matches!(mode, Mode::Training { .. });
                norm.apply(&x, place, &self.parameters, training, behind)
            }
            _ => behind(x),
        }
    }

    /// The norm, and the nonlinearity where it is behind it, in place; false where only libtorch can.
    fn norm_in_place(&self, x: &Tensor, norm: &Norm, place: &BlockNorm, activation: bool) -> bool {
        let slope = match self.layout.nonlinearity.filter(|_| activation) {
            None => 1.0,
            Some(Nonlinearity::LeakyRelu { slope }) => slope as f32,
            Some(Nonlinearity::Relu) => 0.0,
            Some(_) => return false,
        };
        if norm.kind != NormKind::Instance || place.running.is_some() {
            return false;
        }
        let own = NormAndSlope {
            scale_and_shift: place
                .affine
                .map(|(a, b)| (&self.parameters[a], &self.parameters[b])),
            eps: norm.eps,
            slope,
        };
        own.apply(x, threads())
    }

    /// The same network for another thread: its tensors are shared.
    pub fn shared(&self) -> Self {
        Self {
            layout: self.layout.clone(),
            parameters: self.parameters.iter().map(Tensor::shallow_clone).collect(),
            device: self.device,
            kind: self.kind,
            joined: self
                .joined
                .iter()
                .map(|stage| stage.as_ref().map(Joined::shared))
                .collect(),
        }
    }

    fn residual(&self, x: &Tensor, block: &ResidualBlock, mode: Mode) -> Result<Tensor> {
        let mut skip = match &block.pool {
            // In float32: on the processor libtorch pools volumes in no smaller kind.
            Some(window) if self.layout.dimensions == 3 => x
                .f_to_kind(Kind::Float)?
                .f_avg_pool3d(window, window, [0, 0, 0], false, true, None)?
                .f_to_kind(self.kind)?,
            Some(window) => x.f_avg_pool2d(window, window, [0, 0], false, true, None)?,
            None => x.shallow_clone(),
        };
        if let Some(projection) = &block.projection {
            skip = self.block(&skip, projection, mode)?;
        }
        let y = self.block(x, &block.first, mode)?;
        let y = self.block(&y, &block.second, mode)?.f_add(&skip)?;
        self.activate(y)
    }

    fn activate(&self, x: Tensor) -> Result<Tensor> {
        match self.layout.nonlinearity {
            Some(nonlinearity) => nonlinearity.apply(x),
            None => Ok(x),
        }
    }

    fn bare(&self, x: &Tensor, conv: &BareConv, transposed: bool) -> Result<Tensor> {
        let padding = vec![0; self.layout.dimensions];
        self.convolution(x, conv.weight, conv.bias, &conv.stride, &padding, transposed)
    }

    /// A segmentation head's output with each class's voxels side by side: a matrix product, where the convolution
    /// would leave each voxel's classes side by side, and whoever goes over one class would go through all of memory.
    /// None where there is nothing to gain, or only the convolution can.
    fn head_by_class(&self, x: &Tensor, head: &BareConv) -> Result<Option<Tensor>> {
        let size = x.size();
        let (weight, bias) = (&self.parameters[head.weight], head.bias);
        let plain = x.device() == Device::Cpu && x.kind() == Kind::Float && !x.requires_grad();
        let (true, Some(bias), true) = (plain, bias, head.stride.iter().all(|&s| s == 1)) else {
            return Ok(None);
        };
        let mut order: Vec<i64> = (1..size.len() as i64 - 1).collect();
        order.push(0);
        let classes = weight.size()[0];
        let (weight, bias) = (
            weight.f_reshape([classes, -1])?,
            self.parameters[bias].f_unsqueeze(1)?,
        );
        let mut shape = size[1..].to_vec();
        shape[0] = classes;
        let of_sample = |sample| -> Result<Tensor> {
            let voxels = x
                .f_select(0, sample)?
                .f_permute(&order)?
                .f_reshape([-1, size[1]])?;
            Ok(bias.f_addmm(&weight, &voxels.f_tr()?)?.f_reshape(&shape)?)
        };
        Ok(Some(match size[0] {
            1 => of_sample(0)?.f_unsqueeze(0)?,
            count => {
                let samples: Vec<Tensor> = (0..count).map(of_sample).collect::<Result<_>>()?;
                Tensor::f_stack(&samples, 0)?
            }
        }))
    }

    fn convolution(
        &self,
        x: &Tensor,
        weight: usize,
        bias: Option<usize>,
        stride: &[i64],
        padding: &[i64],
        transposed: bool,
    ) -> Result<Tensor> {
        let weight = &self.parameters[weight].f_to_kind(self.kind)?;
        let bias = bias
            .map(|i| self.parameters[i].f_to_kind(self.kind))
            .transpose()?;
        if !transposed {
            return convolution(x, weight, bias.as_ref(), stride, padding);
        }
        let one = vec![1; self.layout.dimensions];
        let zero = vec![0; self.layout.dimensions];
        Ok(match self.layout.dimensions {
            3 => x.f_conv_transpose3d(weight, bias.as_ref(), stride, padding, &zero, 1, &one)?,
            _ => x.f_conv_transpose2d(weight, bias.as_ref(), stride, padding, &zero, 1, &one)?,
        })
    }
}

/// Threads that this one may use.
fn threads() -> usize {
    tch::get_num_threads().max(1) as usize
}
