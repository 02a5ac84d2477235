//! The way up of a decoder stage for inference on the processor: a transposed convolution, the skip's image beside what
//! it makes, and a convolution of both. All of it is linear, so a convolution of the lower resolution's image, one of the
//! skip's and their sum are the same, for fewer multiplications and without the image in between: of a stage that
//! halves its channels with strides of 2 and kernels of 3, 16 of 29 for the upsampled half.

mod add;
mod axis;
#[cfg(test)]
mod tests;
mod weights;

use half::bf16;
use tch::{Kind, Tensor};

use self::{
    axis::Axis,
    weights::{border, low_weight, multiplications_left},
};
use super::{
    blocks::{ConvBlock, DecoderStage},
    inference::values,
    tensors::{channels_last, convolution},
};
use crate::Result;

/// Joined where at most so much of the multiplications is left: what is added up takes time too.
const WORTH: f64 = 0.8;

/// The two convolutions of a decoder stage.
pub(super) struct Joined {
    /// Of (z, y, x); in 2D the first is of stride and kernel 1.
    axes: [Axis; 3],
    /// (parities * channels, lower channels, taps...), the parities q in C order.
    low: Tensor,
    low_padding: Vec<i64>,
    /// (channels, skip channels, kernel...).
    skip: Tensor,
    skip_padding: Vec<i64>,
    bias: Option<Tensor>,
    /// What the transposed convolution's bias adds: the channels for each class of a voxel.
    border: Vec<f32>,
}

impl Joined {
    /// Of a stage whose lower image is of the size `below`; None where there is nothing to gain, or only libtorch can.
    /// The convolutions compute in `kind`.
    pub fn new(
        stage: &DecoderStage,
        parameters: &[Tensor],
        below: &[usize],
        kind: Kind,
    ) -> Result<Option<Self>> {
        let Some((axes, first)) = axes(stage, parameters) else {
            return Ok(None);
        };
        let up = parameters[stage.up.weight].size();
        let channels = [up[0], up[1], parameters[first.weight].size()[0]];
        if below.contains(&0) || multiplications_left(&axes, below, channels) > WORTH {
            return Ok(None);
        }
        Self::of(axes, stage, first, parameters, kind).map(Some)
    }

    fn of(
        axes: [Axis; 3],
        stage: &DecoderStage,
        first: &ConvBlock,
        parameters: &[Tensor],
        kind: Kind,
    ) -> Result<Self> {
        let parameter = |i: usize| parameters[i].f_detach();
        let bias = |i: Option<usize>| i.map(parameter).transpose();
        let (up, weight) = (parameter(stage.up.weight)?, parameter(first.weight)?);
        let (all, upper) = (weight.size()[1], up.size()[1]);
        let of_up = weight.f_narrow(1, 0, upper)?;
        let of_skip = weight.f_narrow(1, upper, all - upper)?;

        let own = &axes[3 - first.stride.len()..];
        let low = low_weight(&axes, &of_up, &up)?;
        let mut shape = low.size()[..2].to_vec();
        shape.extend(own.iter().map(|axis| axis.taps() as i64));
        Ok(Self {
            axes,
            low: channels_last(&low.f_reshape(&shape)?.f_to_kind(kind)?)?,
            low_padding: own.iter().map(|axis| (axis.kernel / 2) as i64).collect(),
            skip: channels_last(&of_skip.f_to_kind(kind)?)?,
            skip_padding: first.padding.clone(),
            bias: bias(first.bias)?.map(|bias| bias.f_to_kind(kind)).transpose()?,
            border: border(&axes, &of_up, bias(stage.up.bias)?.as_ref())?,
        })
    }

    /// The same for another thread: its tensors are shared.
    pub fn shared(&self) -> Self {
        Self {
            axes: self.axes,
            low: self.low.shallow_clone(),
            skip: self.skip.shallow_clone(),
            low_padding: self.low_padding.clone(),
            skip_padding: self.skip_padding.clone(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            border: self.border.clone(),
        }
    }

    /// What the convolution makes of the upsampled `x` (b, lower channels, ...) and the `skip` (b, c, ...), on so many
    /// threads. None where the upsampled image is not of the skip's size.
    pub fn apply(&self, x: &Tensor, skip: &Tensor, threads: usize) -> Result<Option<Tensor>> {
        let (below, above) = (x.size(), skip.size());
        let own = self.axes[3 - self.skip_padding.len()..].iter();
        let mut sizes = own.zip(below[2..].iter().zip(&above[2..]));
        if below[0] != above[0] || !sizes.all(|(axis, (below, above))| below * axis.stride as i64 == *above) {
            return Ok(None);
        }
        let ones = vec![1; self.skip_padding.len()];
        // A small image of one sample libtorch convolves by other code, which leaves it in another order.
        let low = channels_last(&convolution(x, &self.low, None, &ones, &self.low_padding)?)?;
        let made = convolution(skip, &self.skip, self.bias.as_ref(), &ones, &self.skip_padding)?;
        let made = channels_last(&made)?;
        let size = made.size();
        // SAFETY: of that kind, and nobody else looks at what the convolutions have just made.
        unsafe {
            match (made.kind(), low.kind()) {
                (Kind::Float, Kind::Float) => {
                    self.add(values::<f32>(&made), values::<f32>(&low), &size, threads)
                }
                (Kind::BFloat16, Kind::BFloat16) => {
                    self.add(values::<bf16>(&made), values::<bf16>(&low), &size, threads)
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(made))
    }
}

/// The axes of a stage's way up, and the convolution behind it; None where they are none that this is for.
fn axes<'a>(stage: &'a DecoderStage, parameters: &[Tensor]) -> Option<([Axis; 3], &'a ConvBlock)> {
    let first = stage.convs.first()?;
    let kernel = &parameters[first.weight].size()[2..];
    if first.stride.iter().any(|&s| s != 1) || kernel.iter().any(|k| ![1, 3].contains(k)) {
        return None;
    }
    let mut axes = [Axis { stride: 1, kernel: 1 }; 3];
    let places = axes
        .iter_mut()
        .rev()
        .zip(stage.up.stride.iter().zip(kernel).rev());
    for (axis, (stride, kernel)) in places {
        *axis = Axis {
            stride: *stride as usize,
            kernel: *kernel as usize,
        };
    }
    Some((axes, first))
}
