//! Instance norm and leaky ReLU on the processor, in place and in one go: what inference does in their stead. In
//! bfloat16 too, whose values are widened for it.
//!
//! libtorch's instance norm copies an image that lies channels-last, as convolutions on the processor leave it, into
//! another order and back. For hippocampus 3d_fullres that is a quarter of a forward pass.

use std::thread;

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::wide::wide;

/// Voxels whose moments are taken in float32, before they are joined in float64.
const BLOCK: usize = 256;

/// What an image's values are.
pub(super) trait Element: Copy + Send + Sync {
    fn widen(self) -> f32;
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Scale and shift of the norm, its epsilon, and the slope below 0 of the nonlinearity behind it (1 for none).
pub(super) struct NormAndSlope<'a> {
    pub scale_and_shift: Option<(&'a Tensor, &'a Tensor)>,
    pub eps: f64,
    pub slope: f32,
}

impl NormAndSlope<'_> {
    /// Changes `x` (b, c, ...), whose channels are normalised for each sample on its own, on so many threads. The same
    /// bytes for any number of them. False where `x` is none that this is for: then nothing was done.
    pub fn apply(&self, x: &Tensor, threads: usize) -> bool {
        let size = x.size();
        let plain = x.device() == Device::Cpu && !x.requires_grad() && x.numel() > 0;
        let [_, channels, grid @ ..] = &size[..] else {
            return false;
        };
        if !plain || !is_channels_last(&size, &x.stride()) {
            return false;
        }
        let channels = *channels as usize;
        let voxels = grid.iter().product::<i64>() as usize;
        let (mut scale, mut shift) = (vec![1f32; channels], vec![0f32; channels]);
        if let Some((a, b)) = self.scale_and_shift {
            let fits = |t: &Tensor| t.kind() == Kind::Float && t.numel() == channels;
            if !fits(a) || !fits(b) {
                return false;
            }
            let copied = a
                .f_copy_data(&mut scale, channels)
                .and_then(|()| b.f_copy_data(&mut shift, channels));
            if copied.is_err() {
                return false;
            }
        }
        // SAFETY: of that kind, and nobody else looks at what a convolution has just made.
        unsafe {
            match x.kind() {
                Kind::Float => self.normalise_all(values::<f32>(x), voxels, &scale, &shift, threads),
                Kind::BFloat16 => self.normalise_all(values::<bf16>(x), voxels, &scale, &shift, threads),
                _ => return false,
            }
        }
        true
    }

    /// Samples of so many voxels, each with its channels.
    fn normalise_all<T: Element>(
        &self,
        all: &mut [T],
        voxels: usize,
        scale: &[f32],
        shift: &[f32],
        threads: usize,
    ) {
        for sample in all.chunks_exact_mut(voxels * scale.len()) {
            self.normalise(sample, scale, shift, threads);
        }
    }

    /// One sample: voxels, each with its channels.
    fn normalise<T: Element>(&self, sample: &mut [T], scale: &[f32], shift: &[f32], threads: usize) {
        let channels = scale.len();
        let moments = moments(sample, channels, threads);
        let mean: Vec<f32> = moments.mean.iter().map(|&mean| mean as f32).collect();
        let factor: Vec<f32> = moments
            .squares
            .iter()
            .zip(scale)
            .map(|(squares, scale)| (1.0 / (squares / moments.voxels + self.eps).sqrt()) as f32 * scale)
            .collect();
        let slope = self.slope;
        in_parts(sample, channels, threads, |_, part| {
            apply(part, &mean, &factor, shift, slope)
        });
    }
}

wide! {
    /// Normalises voxels in place.
    fn apply[T: Element](part: &mut [T], mean: &[f32], factor: &[f32], shift: &[f32], slope: f32) {
        for voxel in part.chunks_exact_mut(mean.len()) {
            let places = mean.iter().zip(factor).zip(shift);
            for (v, ((mean, factor), shift)) in voxel.iter_mut().zip(places) {
                let normal = (v.widen() - mean) * factor + shift;
                *v = T::narrow(if normal < 0.0 { normal * slope } else { normal });
            }
        }
    }
}

/// The values of a dense tensor in main memory.
///
/// # Safety
/// They are of kind `T`, and nobody else looks at them.
#[expect(clippy::mut_from_ref, reason = "a tensor's values are not borrowed with it")]
pub(super) unsafe fn values<T>(x: &Tensor) -> &mut [T] {
    // SAFETY: so many values lie there, side by side.
    unsafe { std::slice::from_raw_parts_mut(x.data_ptr().cast::<T>(), x.numel()) }
}

/// Whether the channels of a voxel lie side by side, and nothing lies between voxels.
fn is_channels_last(size: &[i64], stride: &[i64]) -> bool {
    let mut expected = size[1];
    for axis in (2..size.len()).rev() {
        if size[axis] > 1 && stride[axis] != expected {
            return false;
        }
        expected *= size[axis];
    }
    (stride[1] == 1 || size[1] == 1) && (size[0] == 1 || stride[0] == expected)
}

/// Of voxels: how many, each channel's mean, and its sum of squared distances from that mean.
struct Moments {
    voxels: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// Those of the voxels of both (Chan, Golub and LeVeque 1979).
    fn join(&mut self, other: &Self) {
        let all = self.voxels + other.voxels;
        let mine = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), (other_mean, other_squares)) in mine.zip(other.mean.iter().zip(&other.squares))
        {
            let apart = other_mean - *mean;
            *mean += apart * other.voxels / all;
            *squares += other_squares + apart * apart * self.voxels * other.voxels / all;
        }
        self.voxels = all;
    }
}

/// The moments of a sample, which is read once. Blocks are joined in their order, whoever looked at them.
fn moments<T: Element>(sample: &mut [T], channels: usize, threads: usize) -> Moments {
    let parts = in_parts(sample, channels, threads, |_, part| {
        part.chunks(BLOCK * channels)
            .map(|block| block_moments(block, channels))
            .collect::<Vec<_>>()
    });
    let mut all = Moments {
        voxels: 0.0,
        mean: vec![0.0; channels],
        squares: vec![0.0; channels],
    };
    for block in parts.iter().flatten() {
        all.join(block);
    }
    all
}

/// The moments of a block, which the processor's cache holds while it is gone over twice.
fn block_moments<T: Element>(block: &[T], channels: usize) -> Moments {
    let voxels = (block.len() / channels) as f32;
    let mut mean = vec![0f32; channels];
    add(block, &mut mean);
    for sum in &mut mean {
        *sum /= voxels;
    }
    let mut squares = vec![0f32; channels];
    add_squares(block, &mean, &mut squares);
    Moments {
        voxels: f64::from(voxels),
        mean: mean.into_iter().map(f64::from).collect(),
        squares: squares.into_iter().map(f64::from).collect(),
    }
}

wide! {
    /// Adds up each channel's values.
    fn add[T: Element](block: &[T], sums: &mut [f32]) {
        for voxel in block.chunks_exact(sums.len()) {
            for (sum, v) in sums.iter_mut().zip(voxel) {
                *sum += v.widen();
            }
        }
    }
}

wide! {
    /// Adds up each channel's squared distances from its mean.
    fn add_squares[T: Element](block: &[T], mean: &[f32], sums: &mut [f32]) {
        for voxel in block.chunks_exact(sums.len()) {
            for ((sum, v), mean) in sums.iter_mut().zip(voxel).zip(mean) {
                let apart = v.widen() - mean;
                *sum += apart * apart;
            }
        }
    }
}

/// Does `work` on parts of whole blocks, one a thread, of which it is told the first voxel. What it made, in order.
pub(super) fn in_parts<T: Element, M: Send>(
    sample: &mut [T],
    channels: usize,
    threads: usize,
    work: impl Fn(usize, &mut [T]) -> M + Copy + Send + Sync,
) -> Vec<M> {
    let blocks = sample.len().div_ceil(BLOCK * channels);
    let part = blocks.div_ceil(threads.max(1)).max(1) * BLOCK * channels;
    if part >= sample.len() {
        return vec![work(0, sample)];
    }
    thread::scope(|scope| {
        let parts: Vec<_> = sample
            .chunks_mut(part)
            .enumerate()
            .map(|(number, own)| scope.spawn(move || work(number * part / channels, own)))
            .collect();
        let join = |part: thread::ScopedJoinHandle<'_, M>| match part.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        parts.into_iter().map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a few magnitudes, away from zero so that a careless variance shows.
    fn image(channels_last: bool) -> Tensor {
        let values: Vec<f32> = (0..2 * 5 * 7 * 11 * 13)
            .map(|i| 30.0 + ((i * 7919) % 1013) as f32 / 1013.0 * (1 + i % 5) as f32)
            .collect();
        let x = Tensor::from_slice(&values);
        match channels_last {
            true => x.reshape([2, 7, 11, 13, 5]).permute([0, 4, 1, 2, 3]),
            false => x.reshape([2, 5, 7, 11, 13]),
        }
    }

    #[test]
    fn equals_libtorch_on_any_number_of_threads() {
        let scale = Tensor::from_slice(&[1.0f32, 0.5, -2.0, 1.5, 3.0]);
        let shift = Tensor::from_slice(&[0.0f32, 0.1, 0.2, -0.3, 0.0]);
        let expected = image(true)
            .instance_norm(
                Some(&scale),
                Some(&shift),
                None::<&Tensor>,
                None::<&Tensor>,
                true,
                0.1,
                1e-5,
                true,
            )
            .leaky_relu();
        let norm = NormAndSlope {
            scale_and_shift: Some((&scale, &shift)),
            eps: 1e-5,
            slope: 0.01,
        };
        let made = |threads| {
            let x = image(true);
            assert!(norm.apply(&x, threads));
            x
        };
        let one = made(1);
        let difference = (&one - &expected).abs().max().double_value(&[]);
        assert!(difference < 2e-5, "{difference}");
        for threads in [2, 3, 16] {
            assert!(made(threads) == one, "{threads} threads");
        }
    }

    #[test]
    fn bfloat16_is_rounded_once() {
        let norm = NormAndSlope {
            scale_and_shift: None,
            eps: 1e-5,
            slope: 0.01,
        };
        let x = image(true).to_kind(Kind::BFloat16);
        let exact = x.to_kind(Kind::Float);
        assert!(norm.apply(&exact, 1));
        for threads in [1, 3] {
            let x = x.copy();
            assert!(norm.apply(&x, threads));
            assert!(x == exact.to_kind(Kind::BFloat16), "{threads} threads");
        }
    }

    #[test]
    fn leaves_alone_what_lies_otherwise() {
        let norm = NormAndSlope {
            scale_and_shift: None,
            eps: 1e-5,
            slope: 0.01,
        };
        let x = image(false);
        assert!(!norm.apply(&x, 1));
        assert!(x == image(false));
        assert!(!norm.apply(&image(true).to_kind(Kind::Half), 1));
        assert!(!norm.apply(&image(true).set_requires_grad(true), 1));
    }
}
