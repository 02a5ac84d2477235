//! The resampling functions that plans may name, against nnU-Net's own.

use std::{fs, path::Path};

use half::f16;
use ndarray::{Array3, Array4, Axis};
use nnunet::preprocess::resample::{Resampling, Sample};
use serde_json::{Value, json};
use tests::oracle;

/// What is resampled, and to what.
struct Case {
    shape: [usize; 3],
    new_shape: [usize; 3],
    spacing: [f64; 3],
    new_spacing: [f64; 3],
}

const fn case(shape: [usize; 3], new_shape: [usize; 3], spacing: [f64; 3], new_spacing: [f64; 3]) -> Case {
    Case {
        shape,
        new_shape,
        spacing,
        new_spacing,
    }
}

const ISO: [f64; 3] = [1.0; 3];
const THICK: [f64; 3] = [5.0, 0.8, 0.8];

/// Up and down, on single axes, through and beyond one voxel; thick slices along each axis.
const CASES: [Case; 20] = [
    case([19, 24, 21], [33, 40, 37], ISO, [0.6; 3]),
    case([33, 40, 37], [19, 24, 21], [0.6; 3], ISO),
    case([20, 20, 20], [25, 25, 25], ISO, [0.8; 3]),
    case([38, 19, 38], [40, 20, 40], ISO, [0.95; 3]),
    case([24, 24, 24], [48, 12, 36], ISO, ISO),
    case([30, 20, 25], [30, 31, 25], ISO, ISO),
    case([9, 22, 31], [27, 22, 31], ISO, ISO),
    case([1, 30, 26], [1, 45, 20], ISO, ISO),
    case([1, 14, 15], [4, 21, 10], ISO, ISO),
    case([7, 1, 9], [3, 6, 1], ISO, ISO),
    case([1, 1, 1], [3, 2, 4], ISO, ISO),
    case([12, 13, 14], [1, 1, 1], ISO, [13.0; 3]),
    case([12, 50, 44], [24, 31, 61], THICK, [2.5, 1.3, 0.6]),
    case([24, 31, 61], [12, 50, 44], [2.5, 1.3, 0.6], THICK),
    case([50, 11, 44], [61, 17, 30], [0.8, 5.0, 0.8], [0.7, 3.0, 1.2]),
    case([40, 90, 9], [52, 110, 6], [0.9, 0.9, 6.0], [0.7, 0.75, 9.0]),
    case([6, 100, 90], [6, 131, 115], THICK, [5.0, 0.6, 0.63]),
    case([6, 40, 35], [13, 40, 35], THICK, [2.3, 0.8, 0.8]),
    case([1, 33, 20], [5, 44, 25], [8.0, 1.0, 1.0], ISO),
    case([10, 44, 1], [14, 22, 1], THICK, [3.6, 1.6, 0.8]),
];

/// Noise in 0..1 without a generator.
fn noise(seed: usize, a: usize, b: usize, c: usize) -> f32 {
    let mut h = [seed, a, b, c].into_iter().fold(0x9e37_79b9u32, |h, v| {
        (h ^ v as u32).wrapping_mul(0x85eb_ca6b).rotate_left(13)
    });
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    ((h ^ (h >> 13)) >> 8) as f32 / (1 << 24) as f32
}

/// Waves and noise, as large as normalised intensities.
fn intensities(channels: usize, [z, y, x]: [usize; 3]) -> Array4<f32> {
    Array4::from_shape_fn((channels, z, y, x), |(c, z, y, x)| {
        let waves = (z as f32 * 0.4 + c as f32).sin() + (y as f32 * 0.23).cos() * (x as f32 * 0.31).sin();
        2.0 * waves + 3.0 * noise(c, z, y, x) - 1.5
    })
}

/// Blocks of three or two voxels of labels, and here and there a voxel of its own: many ties. `labels` are drawn from.
fn segmentation(seed: usize, [z, y, x]: [usize; 3], labels: &[i16]) -> Array3<i16> {
    Array3::from_shape_fn((z, y, x), |(z, y, x)| {
        let n = if noise(seed, z, y, x) < 0.1 {
            noise(seed + 1, z, y, x)
        } else {
            noise(seed, z / 3, y / 3, x / 2)
        };
        labels[(n * labels.len() as f32) as usize]
    })
}

/// A function with arguments, and the volumes it is given.
struct Function {
    name: &'static str,
    kwargs: Value,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Data,
    Labels,
    Probabilities,
}

const DEFAULT: &str = "resample_data_or_seg_to_shape";
const TORCH: &str = "resample_torch_fornnunet";

fn functions() -> Vec<Function> {
    use Kind::{Data, Labels, Probabilities};
    let f = |name, kind, kwargs| Function { name, kwargs, kind };
    let both = |is_seg: bool| {
        let torch = |more: Value| {
            let mut kwargs = json!({"is_seg": is_seg});
            let own = kwargs.as_object_mut().unwrap();
            own.extend(more.as_object().unwrap().clone());
            kwargs
        };
        let mut all = vec![
            // What nnU-Net's planners write.
            torch(json!({"force_separate_z": false, "memefficient_seg_resampling": false})),
            torch(
                json!({"force_separate_z": null, "memefficient_seg_resampling": false,
                "separate_z_anisotropy_threshold": 3}),
            ),
            // What they do not.
            torch(json!({})),
            torch(
                json!({"force_separate_z": true, "aniso_axis_mode": "linear", "num_threads": 2, "device": "cpu"}),
            ),
            torch(json!({"separate_z_anisotropy_threshold": 1.2, "mode": "nearest-exact"})),
            torch(json!({"mode": "nearest", "aniso_axis_mode": "nearest"})),
        ];
        if is_seg {
            all.push(torch(json!({"memefficient_seg_resampling": true})));
            all.push(torch(
                json!({"force_separate_z": false, "memefficient_seg_resampling": true}),
            ));
        }
        all
    };
    let mut functions = vec![
        f("no_resampling_hack", Data, json!({})),
        f("no_resampling_hack", Labels, json!({})),
        f("no_resampling_hack", Probabilities, json!({})),
    ];
    for order in [0, 1, 3] {
        let kwargs = json!({"is_seg": false, "order": order, "order_z": 0, "force_separate_z": null});
        functions.push(f(DEFAULT, Data, kwargs.clone()));
        functions.push(f(DEFAULT, Probabilities, kwargs));
    }
    for order in [0, 1] {
        for force in [json!(null), json!(true), json!(false)] {
            let kwargs = json!({"is_seg": true, "order": order, "order_z": 0, "force_separate_z": force});
            functions.push(f(DEFAULT, Labels, kwargs));
        }
    }
    functions.extend(both(false).into_iter().map(|kwargs| f(TORCH, Data, kwargs)));
    functions.extend(
        both(false)
            .into_iter()
            .map(|kwargs| f(TORCH, Probabilities, kwargs)),
    );
    functions.extend(both(true).into_iter().map(|kwargs| f(TORCH, Labels, kwargs)));
    functions
}

/// Labels of each case: with what lies outside of the mask, and once beyond eight bits.
fn labels_of(case: usize) -> Array3<i16> {
    let labels: &[i16] = if case % 4 == 3 {
        &[-1, 0, 2, 127, 300]
    } else {
        &[-1, 0, 1, 2, 3]
    };
    segmentation(case, CASES[case].shape, labels)
}

fn resample<T: Sample, U: Sample>(
    resampling: &Resampling,
    volume: &Array4<T>,
    case: &Case,
) -> Vec<Array3<U>> {
    volume
        .outer_iter()
        .map(|channel| resampling.channel(channel, case.new_shape, case.spacing, case.new_spacing))
        .collect()
}

fn singles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

#[test]
fn resampled_volumes_are_pythons() {
    let folder = tempfile::tempdir().unwrap();
    let at = |i: usize, ending: &str| folder.path().join(format!("{i}.{ending}"));
    let functions = functions();
    let jobs: Vec<(&Function, usize)> = functions
        .iter()
        .flat_map(|function| (0..CASES.len()).map(move |case| (function, case)))
        .collect();
    let write = |path: &Path, bytes: Vec<u8>| fs::write(path, bytes).unwrap();
    let mut asked = Vec::new();
    for (i, (function, number)) in jobs.iter().enumerate() {
        let case = &CASES[*number];
        let data = || intensities(3, case.shape);
        let (kind, channels) = match function.kind {
            Kind::Data => {
                write(
                    &at(i, "in"),
                    data().iter().flat_map(|v| v.to_le_bytes()).collect(),
                );
                ("f4", 3)
            }
            Kind::Probabilities => {
                let half = data().mapv(f16::from_f32);
                write(&at(i, "in"), half.iter().flat_map(|v| v.to_le_bytes()).collect());
                ("f2", 3)
            }
            Kind::Labels => {
                let labels = labels_of(*number);
                write(
                    &at(i, "in"),
                    labels.iter().flat_map(|v| v.to_le_bytes()).collect(),
                );
                ("i2", 1)
            }
        };
        let [z, y, x] = case.shape;
        asked.push(
            json!({"function": function.name, "kwargs": function.kwargs, "type": kind,
            "shape": [channels, z, y, x], "new_shape": case.new_shape, "spacing": case.spacing,
            "new_spacing": case.new_spacing}),
        );
    }
    write(
        &folder.path().join("jobs.json"),
        Value::from(asked).to_string().into(),
    );
    let found: Vec<(String, [usize; 4])> =
        serde_json::from_str(&oracle::run("resample.py", &[folder.path()]).unwrap()).unwrap();

    let mut largest: Vec<(String, f32)> = Vec::new();
    for (i, (function, number)) in jobs.iter().enumerate() {
        let (case, (kind, shape)) = (&CASES[*number], &found[i]);
        let context = format!(
            "{} {} {:?} to {:?}",
            function.name, function.kwargs, case.shape, case.new_shape
        );
        let theirs = fs::read(at(i, "out")).unwrap();
        let resampling = Resampling::from_plans(
            "resampling_fn",
            function.name,
            function.kwargs.as_object().unwrap(),
            function.kind == Kind::Labels,
        )
        .unwrap();
        if function.kind == Kind::Labels {
            let labels = labels_of(*number);
            let ours = resampling.segmentation(labels.view(), case.new_shape, case.spacing, case.new_spacing);
            assert_eq!(ours.shape(), &shape[1..], "{context}");
            let theirs = theirs.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b));
            let differing = theirs.zip(&ours).filter(|(a, b)| a != *b).count();
            assert_eq!(differing, 0, "{context}: {differing} of {} voxels", ours.len());
            continue;
        }
        let data = intensities(3, case.shape);
        let ours: Vec<Array3<f32>> = match function.kind {
            Kind::Data => resample(&resampling, &data, case),
            _ if resampling.gives_single_precision() => {
                // A volume that has its shape already stays as it is, in half precision.
                assert!(
                    kind == "float32" || case.shape == case.new_shape,
                    "{context}: {kind}"
                );
                resample(&resampling, &data.mapv(f16::from_f32), case)
            }
            _ => {
                assert_eq!(kind, "float16", "{context}");
                let half: Vec<Array3<f16>> = resample(&resampling, &data.mapv(f16::from_f32), case);
                half.into_iter()
                    .map(|channel| channel.mapv(f16::to_f32))
                    .collect()
            }
        };
        let ours = ndarray::stack(Axis(0), &ours.iter().map(|c| c.view()).collect::<Vec<_>>()).unwrap();
        assert_eq!(ours.shape(), shape, "{context}");
        let mut worst = 0.0f32;
        for (a, b) in singles(&theirs).zip(&ours) {
            assert!(a.is_finite() && b.is_finite(), "{context}: {a} {b}");
            worst = worst.max((a - b).abs());
        }
        // Half precision has steps of up to 2^-8 here; the default function's results are rounded to it.
        let rounded = function.kind == Kind::Probabilities && !resampling.gives_single_precision();
        let tolerance = if rounded { 4e-3 } else { 1e-4 };
        assert!(worst <= tolerance, "{context}: {worst}");
        let name = format!("{} of {:?} {}", function.name, function.kind, function.kwargs);
        match largest.last_mut() {
            Some((last, value)) if *last == name => *value = value.max(worst),
            _ => largest.push((name, worst)),
        }
    }
    for (name, worst) in largest {
        println!("{name}: differs by at most {worst}");
    }
}
