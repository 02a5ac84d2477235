//! Resampling and cropping of one volume, on all cores: `cargo bench -p nnunet` for the times of our own code.
//! Beside Python's commands, `just bench` measures whole programs.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::{Array3, Axis};
use nnunet::preprocess::{
    crop::nonzero_mask,
    resample::{Resampling, resampled_shape},
};
use serde_json::{Map, Value, json};

/// A thick-sliced scan: (z, y, x) and spacing in mm.
const SHAPE: [usize; 3] = [40, 160, 160];
const SPACING: [f64; 3] = [5.0, 0.8, 0.8];

/// A bright ball in a zero background.
fn ball() -> Array3<f32> {
    let centre = SHAPE.map(|n| n as f32 / 2.0);
    Array3::from_shape_fn(SHAPE, |(z, y, x)| {
        let squares = [z, y, x].into_iter().zip(centre);
        let radius: f32 = squares.map(|(i, c)| ((i as f32 - c) / c).powi(2)).sum();
        if radius < 0.8 {
            100.0 + (z * 7 + y * 3 + x) as f32 % 50.0
        } else {
            0.0
        }
    })
}

fn function(arguments: Value, of_labels: bool) -> Resampling {
    let arguments: Map<String, Value> = serde_json::from_value(arguments).expect("an object");
    Resampling::from_plans("bench", "resample_data_or_seg_to_shape", &arguments, of_labels)
        .expect("nnU-Net's own")
}

fn resampling(criterion: &mut Criterion) {
    let image = ball();
    let labels = image.mapv(|v| i16::from(v > 0.0) + i16::from(v > 130.0));
    let data = json!({"is_seg": false, "order": 3, "order_z": 0, "force_separate_z": null});
    let isotropic = json!({"is_seg": false, "order": 3, "order_z": 0, "force_separate_z": false});
    let segmentation = json!({"is_seg": true, "order": 1, "order_z": 0, "force_separate_z": null});
    let new = [3.0, 0.7, 0.7];
    let shape = resampled_shape(SHAPE, SPACING, new);
    let mut group = criterion.benchmark_group("resample");
    group.throughput(Throughput::Elements(shape.iter().product::<usize>() as u64));
    group.sample_size(20);
    for (name, arguments) in [
        ("data, separate z", data),
        ("data, order 3 in all axes", isotropic),
    ] {
        let function = function(arguments, false);
        group.bench_function(name, |bencher| {
            bencher.iter(|| function.channel::<f32, f32>(black_box(image.view()), shape, SPACING, new));
        });
    }
    let function = function(segmentation, true);
    group.bench_function("segmentation of three labels", |bencher| {
        bencher.iter(|| function.segmentation(black_box(labels.view()), shape, SPACING, new));
    });
    group.finish();
}

fn cropping(criterion: &mut Criterion) {
    let image = ball();
    let mut group = criterion.benchmark_group("crop");
    group.throughput(Throughput::Elements(image.len() as u64));
    group.bench_function("nonzero mask with its holes filled", |bencher| {
        bencher.iter(|| nonzero_mask(black_box(image.view().insert_axis(Axis(0)))));
    });
    group.finish();
}

criterion_group!(benches, resampling, cropping);
criterion_main!(benches);
