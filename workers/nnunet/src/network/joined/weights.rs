//! What the joined convolutions multiply with, and what is added at the image's border.

use tch::{Kind, Tensor};

use super::axis::{Axis, CLASSES};
use crate::{Result, network::tensors::to_tensor32};

/// The share of multiplications that is left of those that the upsampled half takes.
pub fn multiplications_left(axes: &[Axis; 3], below: &[usize], [lower, upper, outputs]: [i64; 3]) -> f64 {
    let product = |of: fn(Axis) -> usize| axes.iter().map(|&axis| of(axis)).product::<usize>() as f64;
    let [lower, upper, outputs] = [lower, upper, outputs].map(|n| n as f64);
    let longer = axes.iter().rev().zip(below.iter().rev());
    let longer: f64 = longer
        .map(|(axis, &n)| (n + axis.more()) as f64 / n as f64)
        .product();
    let joined = outputs * lower * product(Axis::taps) * longer;
    joined / (upper * lower + product(|axis| axis.kernel) * upper * outputs)
}

/// (parities * outputs, lower, taps): each place of the kernel times each of the transposed one's, added up where they
/// meet.
pub fn low_weight(axes: &[Axis; 3], of_up: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (outputs, upper, lower) = (of_up.size()[0], of_up.size()[1], up.size()[0]);
    let flat = |x: &Tensor| -> Result<Tensor> { Ok(x.f_contiguous()?.f_flatten(2, -1)?) };
    // (outputs, kernel places, upper) times (upper, lower, transposed places).
    let (of_up, up) = (
        flat(of_up)?.f_permute([0, 2, 1])?,
        flat(up)?.f_permute([1, 0, 2])?,
    );
    let (kernel, parities) = (of_up.size()[1], up.size()[2]);
    let all = of_up
        .f_reshape([outputs * kernel, upper])?
        .f_matmul(&up.f_reshape([upper, lower * parities])?)?
        .f_reshape([outputs, kernel, lower, parities])?;
    let taps: usize = axes.iter().map(|axis| axis.taps()).product();
    let weight = Tensor::f_zeros(
        [parities, outputs, lower, taps as i64],
        (Kind::Float, all.device()),
    )?;
    let strides = axes.map(|axis| axis.stride);
    for q in places(strides) {
        for d in places(axes.map(|axis| axis.kernel)) {
            let sources: [(usize, usize); 3] = [0, 1, 2].map(|i| axes[i].source(q[i], d[i]));
            let tap = index(sources.map(|(tap, _)| tap), axes.map(Axis::taps));
            let parity = index(sources.map(|(_, parity)| parity), strides);
            let kernel = index(d, axes.map(|axis| axis.kernel));
            let part = all.f_select(3, parity)?.f_select(1, kernel)?;
            _ = weight
                .f_select(0, index(q, strides))?
                .f_select(2, tap)?
                .f_add_(&part)?;
        }
    }
    Ok(weight.f_reshape([parities * outputs, lower, taps as i64])?)
}

/// What the bias of the transposed convolution adds, for every class of a voxel: the convolution pads with zeros behind
/// it.
pub fn border(axes: &[Axis; 3], of_up: &Tensor, bias: Option<&Tensor>) -> Result<Vec<f32>> {
    let outputs = of_up.size()[0] as usize;
    let mut border = vec![0f32; CLASSES.pow(3) * outputs];
    let Some(bias) = bias else {
        return Ok(border);
    };
    let kernels = axes.map(|axis| axis.kernel);
    // (outputs, kernel places).
    let each = of_up
        .f_contiguous()?
        .f_flatten(2, -1)?
        .f_permute([0, 2, 1])?
        .f_matmul(bias)?;
    let each = to_tensor32(&each)?.data;
    let places_of_kernel = kernels.iter().product::<usize>();
    for class in places([CLASSES; 3]) {
        let at = index(class, [CLASSES; 3]) as usize * outputs;
        for d in places(kernels) {
            if !(0..3).all(|i| axes[i].is_inside(class[i], d[i])) {
                continue;
            }
            let place = index(d, kernels) as usize;
            for (output, sum) in border[at..][..outputs].iter_mut().enumerate() {
                *sum += each[output * places_of_kernel + place];
            }
        }
    }
    Ok(border)
}

/// All places of a box, in C order.
fn places(size: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [z, y, x] = size;
    (0..z * y * x).map(move |i| [i / (y * x), i / x % y, i % x])
}

/// The index of a place in a box, in C order.
fn index(at: [usize; 3], size: [usize; 3]) -> i64 {
    ((at[0] * size[1] + at[1]) * size[2] + at[2]) as i64
}
