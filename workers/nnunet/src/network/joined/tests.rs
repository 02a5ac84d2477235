use super::*;
use crate::network::blocks::{BareConv, ConvBlock};

/// A decoder stage with a bias or none, and its parameters.
fn stage(stride: &[i64], kernel: &[i64], bias: bool) -> (DecoderStage, Vec<Tensor>) {
    let (lower, upper, skip, outputs) = (6, 5, 3, 4);
    let values = |shape: &[i64], seed: i64| {
        let count: i64 = shape.iter().product();
        let all: Vec<f32> = (0..count)
            .map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 1013.0 - 0.4)
            .collect();
        Tensor::from_slice(&all).reshape(shape)
    };
    let parameters = vec![
        values(&[&[lower, upper], stride].concat(), 1),
        values(&[upper], 2),
        values(&[&[outputs, upper + skip], kernel].concat(), 3),
        values(&[outputs], 4),
    ];
    let bare = |weight, index| BareConv {
        weight,
        bias: Some(index).filter(|_| bias),
        stride: stride.to_vec(),
    };
    let first = ConvBlock {
        weight: 2,
        bias: Some(3).filter(|_| bias),
        dropout: false,
        norm: None,
        stride: vec![1; stride.len()],
        padding: kernel.iter().map(|k| k / 2).collect(),
        activation: true,
    };
    let stage = DecoderStage {
        up: bare(0, 1),
        convs: vec![first],
        head: bare(0, 1),
    };
    (stage, parameters)
}

fn image(size: &[i64]) -> Tensor {
    let count: i64 = size.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i| ((i * 7907) % 997) as f32 / 499.0 - 1.0)
        .collect();
    channels_last(&Tensor::from_slice(&values).reshape(size)).unwrap()
}

/// A transposed convolution, the skip beside it, and a convolution, one after the other.
fn apart(stage: &DecoderStage, parameters: &[Tensor], x: &Tensor, skip: &Tensor) -> Tensor {
    let bias = |bias: Option<usize>| bias.map(|i| &parameters[i]);
    let (weight, stride) = (&parameters[0], &stage.up.stride);
    let (zeros, ones) = (vec![0; stride.len()], vec![1; stride.len()]);
    let up = match stride.len() {
        3 => x.conv_transpose3d(weight, bias(stage.up.bias), stride, &zeros, &zeros, 1, &ones),
        _ => x.conv_transpose2d(weight, bias(stage.up.bias), stride, &zeros, &zeros, 1, &ones),
    };
    let first = &stage.convs[0];
    let both = Tensor::cat(&[&up, skip], 1);
    convolution(&both, &parameters[2], bias(first.bias), &ones, &first.padding).unwrap()
}

#[test]
fn equals_its_parts_on_any_number_of_threads() {
    for (stride, kernel, below) in [
        (&[2, 2, 2][..], &[3, 3, 3][..], &[3, 12, 9][..]),
        (&[1, 2, 2], &[3, 3, 3], &[5, 6, 7]),
        (&[1, 2, 2], &[1, 3, 3], &[1, 9, 4]),
        (&[2, 1, 4], &[3, 3, 1], &[4, 3, 5]),
        (&[2, 2], &[3, 3], &[17, 8]),
        (&[3, 1], &[3, 3], &[6, 1]),
    ] {
        for bias in [true, false] {
            let (stage, parameters) = stage(stride, kernel, bias);
            let above: Vec<i64> = below.iter().zip(stride).map(|(n, s)| n * s).collect();
            let x = image(&[&[2, 6], below].concat());
            let skip = image(&[&[2, 3], &above[..]].concat());
            let joined = |kind| {
                let (axes, first) = axes(&stage, &parameters).unwrap();
                Joined::of(axes, &stage, first, &parameters, kind).unwrap()
            };
            let made = |threads: usize| joined(Kind::Float).apply(&x, &skip, threads).unwrap().unwrap();
            let expected = apart(&stage, &parameters, &x, &skip);
            let one = made(1);
            let difference = (&one - &expected).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{stride:?} {kernel:?} {bias}: {difference}");
            for threads in [2, 5] {
                assert!(made(threads) == one, "{stride:?}: {threads} threads");
            }
            // Inputs and sums are rounded to 8 bits.
            let (x, skip) = (x.to_kind(Kind::BFloat16), skip.to_kind(Kind::BFloat16));
            let rounded = joined(Kind::BFloat16)
                .apply(&x, &skip, 2)
                .unwrap()
                .unwrap()
                .to_kind(Kind::Float);
            let off = (rounded - &expected).abs().max() / expected.abs().max();
            assert!(off.double_value(&[]) < 0.02, "{stride:?}: {off:?}");
        }
    }
}

#[test]
fn joins_what_gains_by_it() {
    let (stage, parameters) = stage(&[2, 2, 2], &[3, 3, 3], true);
    let joined = |below: &[usize]| {
        Joined::new(&stage, &parameters, below, Kind::Float)
            .unwrap()
            .is_some()
    };
    assert!(joined(&[20, 20, 20]));
    // The grid of three along each axis is as much work.
    assert!(!joined(&[2, 2, 2]));
    assert!(!joined(&[0, 20, 20]));
}

#[test]
fn leaves_other_kernels_alone() {
    let (stage, parameters) = stage(&[2, 2, 2], &[5, 3, 3], true);
    assert!(
        Joined::new(&stage, &parameters, &[20, 20, 20], Kind::Float)
            .unwrap()
            .is_none()
    );
}

#[test]
fn leaves_images_that_do_not_fit_to_libtorch() {
    let (stage, parameters) = stage(&[2, 2, 2], &[3, 3, 3], true);
    let (axes, first) = axes(&stage, &parameters).unwrap();
    let joined = Joined::of(axes, &stage, first, &parameters, Kind::Float).unwrap();
    let x = image(&[1, 6, 3, 3, 3]);
    for skip in [[1, 3, 5, 6, 6], [2, 3, 6, 6, 6]] {
        assert!(joined.apply(&x, &image(&skip), 1).unwrap().is_none());
    }
    // One small sample too.
    let skip = image(&[1, 3, 6, 6, 6]);
    let made = joined.apply(&x, &skip, 1).unwrap().unwrap();
    let expected = apart(&stage, &parameters, &x, &skip);
    assert!((made - expected).abs().max().double_value(&[]) < 1e-5);
}
