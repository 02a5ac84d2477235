//! Sampling and augmentation against nnU-Net's loader and batchgeneratorsv2, given the same parameters.

use ndarray::{Array4, ArrayView4};
use nnunet::train::{
    augment::{
        AugmentationSettings, Drawn, Patch, SegInterpolation, blur::Blur, intensity::Factors,
        low_resolution::LowResolution, mirror::Mirror, noise::Noise, random::SampleKey, spatial::Spatial,
    },
    batch::{BatchSettings, BatchSource, Split},
    loader::{Case, Cases, ClassVoxels, Oversampling, PatchSampler, Window},
};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};
use tests::oracle;

/// What images may differ by: sums and powers are computed in another order.
const TOLERANCE: f32 = 1e-4;

struct Memory {
    data: Array4<f32>,
    seg: Array4<i16>,
}

impl Case for Memory {
    fn data(&self) -> ArrayView4<'_, f32> {
        self.data.view()
    }
    fn seg(&self) -> ArrayView4<'_, i16> {
        self.seg.view()
    }
    fn class_locations(&self) -> &[ClassVoxels] {
        &[]
    }
}

/// A case with structure and noise, and `labels` labels from -1 on in wavy shapes.
fn case(channels: usize, [z, y, x]: [usize; 3], labels: i16) -> Memory {
    let mut state = 12345u32;
    let data = Array4::from_shape_fn((channels, z, y, x), |(c, z, y, x)| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 8) as f32 / (1 << 24) as f32;
        (z as f32 / 3.0 + c as f32).sin() + (y as f32 / 4.0).cos() * (x as f32 / 5.0).sin() * 2.0 + noise
            - 0.3
    });
    let seg = Array4::from_shape_fn((1, z, y, x), |(_, z, y, x)| {
        let wave = (z as f32 / 4.0).sin() + (y as f32 / 5.0).cos() + (x as f32 / 3.0).sin();
        ((wave + 3.0) / 6.0 * f32::from(labels)) as i16 - 1
    });
    Memory { data, seg }
}

struct Sample {
    name: String,
    settings: AugmentationSettings,
    drawn: Drawn,
    train: bool,
    case: Memory,
    start: [i64; 3],
    size: [usize; 3],
}

impl Sample {
    fn window(&self) -> Window<'_> {
        Window::new(&self.name, &self.case, self.start, self.size).unwrap()
    }

    fn write(&self, folder: &Path) -> Value {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        fs::write(
            folder.join(format!("{}.in.data", self.name)),
            bytes(self.case.data.as_slice().unwrap()),
        )
        .unwrap();
        let seg: Vec<u8> = self.case.seg.iter().flat_map(|v| v.to_le_bytes()).collect();
        fs::write(folder.join(format!("{}.in.seg", self.name)), seg).unwrap();
        let channels = self.case.data.dim().0;
        if let Some(noise) = &self.drawn.noise {
            let voxels = self.settings.patch_size.iter().product::<usize>();
            let mut patch = Patch {
                data: vec![0.0; voxels * channels],
                seg: vec![0; voxels],
                channels,
                size: self.settings.patch_size,
            };
            noise.apply(&mut patch);
            fs::write(folder.join(format!("{}.noise", self.name)), bytes(&patch.data)).unwrap();
        }
        let s = &self.settings;
        json!({
            "name": self.name,
            "channels": channels,
            "shape": [self.case.data.dim().1, self.case.data.dim().2, self.case.data.dim().3],
            "start": self.start,
            "size": self.size,
            "train": self.train,
            "drawn": self.drawn,
            "settings": {
                "patch_size": s.patch_size,
                "is_2d": s.is_2d,
                "rotation": s.rotation,
                "dummy_2d": s.dummy_2d,
                "nearest": s.seg_interpolation == SegInterpolation::Nearest,
                "mirror_axes": s.mirror_axes,
                "use_mask_for_norm": s.use_mask_for_norm,
                "regions": s.regions,
                "ignore_label": s.ignore_label,
                "scales": s.deep_supervision_scales,
            },
        })
    }
}

/// The samples: every transform alone, then all kinds together as drawn.
fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    let strides = |axes: usize| vec![vec![1; axes], vec![2; axes], vec![2; axes], vec![2; axes]];
    let base = |patch: &[usize]| {
        AugmentationSettings::new(patch)
            .unwrap()
            .with_deep_supervision(&strides(patch.len()))
    };
    let volume = || base(&[24, 32, 20]);
    let plane = || base(&[48, 40]);
    let thin = || base(&[8, 40, 36]);
    let mut add = |name: &str, settings: AugmentationSettings, drawn: Drawn, labels: i16| {
        let size = settings.initial_patch_size();
        let shape = if settings.is_2d { [5, 70, 66] } else { [40, 60, 44] };
        // The box reaches past the case on some sides.
        let start = if settings.is_2d { [2, -3, 4] } else { [-2, 5, -6] };
        let case = case(2, shape, labels);
        samples.push(Sample {
            name: name.into(),
            settings,
            drawn,
            train: true,
            case,
            start,
            size,
        });
    };
    let some = |spatial| Drawn {
        spatial: Some(spatial),
        ..Drawn::NOTHING
    };
    add("nothing", volume(), Drawn::NOTHING, 5);
    add("nothing_2d", plane(), Drawn::NOTHING, 5);
    for labels in [1, 2, 3, 12] {
        add(
            &format!("rotated_{labels}"),
            volume(),
            some(Spatial::new([0.3, -0.2, 0.45], 1.0)),
            labels,
        );
        add(
            &format!("both_{labels}"),
            volume(),
            some(Spatial::new([-0.5, 0.5, 0.5], 1.39)),
            labels,
        );
    }
    add("shrunk", volume(), some(Spatial::new([0.0; 3], 1.4)), 5);
    add("grown", volume(), some(Spatial::new([0.0; 3], 0.75)), 5);
    add("turned_2d", plane(), some(Spatial::in_plane(2.3, 1.0)), 5);
    add("both_2d", plane(), some(Spatial::in_plane(-0.7, 1.37)), 4);
    add("turned_thin", thin(), some(Spatial::in_plane(-1.1, 1.2)), 5);
    let nearest = AugmentationSettings {
        seg_interpolation: SegInterpolation::Nearest,
        ..volume()
    };
    add("nearest", nearest, some(Spatial::new([0.3, -0.2, 0.45], 1.1)), 6);
    add(
        "noise",
        volume(),
        Drawn {
            noise: Some(Noise {
                sigma: 0.07,
                seed: [3; 32],
            }),
            ..Drawn::NOTHING
        },
        5,
    );
    let blur = Blur {
        sigmas: vec![None, Some([0.52, 0.7, 0.97])],
    };
    add(
        "blur",
        volume(),
        Drawn {
            blur: Some(blur),
            ..Drawn::NOTHING
        },
        5,
    );
    let blur = Blur {
        sigmas: vec![Some([0.0, 0.95, 0.6]), Some([0.0, 0.55, 0.99])],
    };
    add(
        "blur_2d",
        plane(),
        Drawn {
            blur: Some(blur),
            ..Drawn::NOTHING
        },
        5,
    );
    let two = || Some(Factors(vec![0.8, 1.2]));
    add(
        "brightness",
        volume(),
        Drawn {
            brightness: two(),
            ..Drawn::NOTHING
        },
        5,
    );
    add(
        "contrast",
        volume(),
        Drawn {
            contrast: two(),
            ..Drawn::NOTHING
        },
        5,
    );
    add(
        "gamma",
        volume(),
        Drawn {
            gamma: two(),
            ..Drawn::NOTHING
        },
        5,
    );
    add(
        "gamma_inverted",
        volume(),
        Drawn {
            gamma_inverted: Some(Factors(vec![1.47, 0.71])),
            ..Drawn::NOTHING
        },
        5,
    );
    let low = |scales| Drawn {
        low_resolution: Some(LowResolution { scales }),
        ..Drawn::NOTHING
    };
    add(
        "low_resolution",
        volume(),
        low(vec![Some([0.53; 3]), Some([0.87; 3])]),
        5,
    );
    add(
        "low_resolution_thin",
        thin(),
        low(vec![None, Some([1.0, 0.61, 0.61])]),
        5,
    );
    add(
        "low_resolution_2d",
        plane(),
        low(vec![Some([1.0, 0.5, 0.5]), None]),
        5,
    );
    add(
        "mirror",
        volume(),
        Drawn {
            mirror: Mirror([true, false, true]),
            ..Drawn::NOTHING
        },
        5,
    );
    add(
        "mirror_2d",
        plane(),
        Drawn {
            mirror: Mirror([false, true, false]),
            ..Drawn::NOTHING
        },
        5,
    );
    let masked = AugmentationSettings {
        use_mask_for_norm: vec![false, true],
        ..volume()
    };
    add(
        "masked",
        masked.clone(),
        some(Spatial::new([0.3, -0.2, 0.45], 1.3)),
        5,
    );
    let regions = AugmentationSettings {
        regions: Some(vec![vec![1, 2, 3], vec![2, 3], vec![3]]),
        ..volume()
    };
    add("regions", regions.clone(), Drawn::NOTHING, 6);
    add(
        "regions_ignore",
        AugmentationSettings {
            ignore_label: Some(4),
            ..regions
        },
        Drawn::NOTHING,
        6,
    );
    for number in 0..24 {
        let settings = [volume(), plane(), thin(), masked.clone()][number % 4].clone();
        let key = SampleKey {
            purpose: "parity",
            seed: 1,
            site: "a",
            epoch: 0,
            iteration: 0,
            sample: number as u64,
        };
        let mut random = key.generator();
        // Draws until a sample has several transforms at once.
        let drawn = loop {
            let drawn = Drawn::draw(&settings, 2, &mut random);
            let has = serde_json::to_value(&drawn).unwrap();
            let count = has.as_object().unwrap().values().filter(|v| !v.is_null()).count();
            if count > 3 && (number % 8 < 4) == drawn.spatial.is_some() {
                break drawn;
            }
        };
        add(&format!("drawn_{number}"), settings, drawn, 5);
    }
    let validation = AugmentationSettings {
        random: false,
        ..masked
    };
    add("validation", validation, Drawn::NOTHING, 5);
    samples.last_mut().unwrap().train = false;
    samples
}

#[test]
fn samples_are_batchgeneratorsv2s() {
    let folder = tempfile::tempdir().unwrap();
    let samples = samples();
    let matrices: Vec<([f64; 3], f64)> = vec![
        ([0.3, -0.2, 0.5], 1.0),
        ([0.0, 0.0, 0.0], 0.7),
        ([-0.5, 0.1, 3.0], 1.4),
    ];
    let patch_sizes: Vec<Vec<usize>> = vec![
        vec![40, 56, 40],
        vec![128, 128, 128],
        vec![96, 160, 160],
        vec![20, 320, 256],
        vec![56, 192, 160],
        vec![14, 256, 256],
        vec![48, 48, 144],
        vec![56, 40],
        vec![512, 512],
        vec![320, 192],
        vec![40, 64],
    ];
    let mut bounds = Vec::new();
    for n in 0..40usize {
        let initial = [73 + n % 3, 80, 64 + n % 2];
        let shape = [20 + n * 37 % 90, 30 + n * 53 % 110, 25 + n * 29 % 80];
        let voxel = [n % shape[0], shape[1] - 1, n * 7 % shape[2]];
        bounds.push((initial, [40, 56, 40], shape, voxel));
        bounds.push(([1, 65, 65], [1, 56, 40], shape, voxel));
    }
    let requests = json!({
        "samples": samples.iter().map(|s| s.write(folder.path())).collect::<Vec<_>>(),
        "matrices": matrices.iter().map(|(a, s)| json!({"angles": a, "scale": s})).collect::<Vec<_>>(),
        "patch_sizes": patch_sizes,
        "bounds": bounds
            .iter()
            .map(|(i, f, s, v)| json!({"initial": i, "final": f, "shape": s, "voxel": v}))
            .collect::<Vec<_>>(),
    });
    fs::write(folder.path().join("requests.json"), requests.to_string()).unwrap();
    oracle::run("augment.py", &[folder.path()]).unwrap();
    let answers: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("answers.json")).unwrap()).unwrap();

    for (n, (angles, scale)) in matrices.iter().enumerate() {
        let ours = json!(Spatial::new(*angles, *scale).matrix);
        compare_matrix(&ours, &answers["matrices"][n], 3);
        let plane = Spatial::in_plane(angles[2], *scale).matrix;
        let ours = json!([[plane[1][1], plane[1][2]], [plane[2][1], plane[2][2]]]);
        compare_matrix(&ours, &answers["in_plane"][n], 2);
    }
    for (n, patch) in patch_sizes.iter().enumerate() {
        let (ours, theirs) = (
            AugmentationSettings::new(patch).unwrap(),
            &answers["configurations"][n],
        );
        let initial = ours.initial_patch_size();
        assert_eq!(json!(initial[3 - patch.len()..]), theirs["initial"], "{patch:?}");
        assert_eq!(json!(ours.mirror_axes), theirs["mirror_axes"]);
        assert_eq!(json!(ours.dummy_2d), theirs["dummy_2d"]);
        assert_eq!(json!(ours.rotation), theirs["rotation"]);
    }
    for (n, (initial, last, shape, voxel)) in bounds.iter().enumerate() {
        let sampler = PatchSampler {
            initial_patch_size: *initial,
            final_patch_size: *last,
            annotated: None,
        };
        let ours: Vec<[i64; 2]> = sampler.bounds(*shape).iter().map(|(a, b)| [*a, *b]).collect();
        assert_eq!(
            json!(ours),
            answers["bounds"][n]["ranges"],
            "{initial:?} in {shape:?}"
        );
        let key = SampleKey {
            purpose: "parity",
            seed: 1,
            site: "a",
            epoch: 0,
            iteration: 0,
            sample: n as u64,
        };
        let only = [ClassVoxels {
            labels: vec![1],
            voxels: vec![voxel.map(|v| v as u32)],
        }];
        let forced = sampler.draw(*shape, true, &only, &mut key.generator());
        assert_eq!(json!(forced), answers["bounds"][n]["forced"]);
    }

    let mut worst = 0f32;
    let mut failures = Vec::new();
    for sample in &samples {
        let ours = sample.drawn.apply(&sample.settings, &sample.window());
        let read =
            |suffix: String| fs::read(folder.path().join(format!("{}.{suffix}", sample.name))).unwrap();
        let theirs: Vec<f32> = read("data".into())
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        assert_eq!(ours.data.len(), theirs.len(), "{}", sample.name);
        let difference = ours
            .data
            .iter()
            .zip(&theirs)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        worst = worst.max(difference);
        // `is_nan` cannot hide: the fold above skips it, so it is looked for.
        if difference > TOLERANCE || ours.data.iter().any(|v| v.is_nan()) {
            failures.push(format!("{}: images differ by {difference}", sample.name));
        }
        for (scale, target) in ours.targets.iter().enumerate() {
            let theirs: Vec<i16> = read(format!("target{scale}"))
                .as_chunks()
                .0
                .iter()
                .map(|b| i16::from_le_bytes(*b))
                .collect();
            assert_eq!(target.len(), theirs.len(), "{} target {scale}", sample.name);
            let unlike = target.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            if unlike > 0 {
                failures.push(format!(
                    "{}: {unlike} of {} voxels of target {scale}",
                    sample.name,
                    target.len()
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!(
        "{} samples: images within {worst:e}, all targets equal",
        samples.len()
    );
}

fn compare_matrix(ours: &Value, theirs: &Value, size: usize) {
    for (i, j) in (0..size).flat_map(|i| (0..size).map(move |j| (i, j))) {
        let (a, b) = (ours[i][j].as_f64().unwrap(), theirs[i][j].as_f64().unwrap());
        assert!((a - b).abs() < 1e-7, "{ours} {theirs}");
    }
}

struct One(Vec<String>, Arc<Memory>);

impl Cases for One {
    fn identifiers(&self) -> &[String] {
        &self.0
    }
    fn open(&self, _: usize) -> nnunet::Result<Arc<dyn Case>> {
        Ok(self.1.clone())
    }
}

/// CPU seconds of this process, so that other work on the machine does not count.
fn cpu_seconds() -> f64 {
    // SAFETY: the call fills the struct that it is given.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Prints the CPU time of a default batch of 2 x 128^3 here and in nnU-Net's loader:
/// `cargo test --release -p tests --test parity augment_speed -- --ignored --nocapture`.
#[test]
#[ignore = "measures; takes a minute alone"]
fn augment_speed() {
    let patch = [128, 128, 128];
    let mut memory = case(1, [160, 192, 176], 4);
    memory.seg = Array4::from_shape_fn((1, 160, 192, 176), |(_, z, y, x)| {
        let wave = (z as f32 / 9.0).sin() + (y as f32 / 11.0).cos() + (x as f32 / 8.0).sin();
        wave.clamp(-1.0, 2.0) as i16
    });
    let strides: Vec<Vec<usize>> = [vec![vec![1; 3]], vec![vec![2; 3]; 5]].concat();
    let settings = BatchSettings {
        batch_size: 2,
        oversampling: Oversampling::LastOfBatch(0.33),
        annotated_labels: None,
        augmentation: AugmentationSettings::new(&patch)
            .unwrap()
            .with_deep_supervision(&strides),
        seed: 1,
        site: "a".into(),
        threads: 1,
        prefetch: 1,
    };
    let cases = Arc::new(One(vec!["a".into()], Arc::new(memory)));
    let source = BatchSource::new(settings, cases.clone(), cases).unwrap();
    let count = 60;
    let start = cpu_seconds();
    for batch in source.stream(Split::Train, 0, 0..count).unwrap() {
        assert_eq!(batch.unwrap().data_shape, [2, 1, 128, 128, 128]);
    }
    let ours = (cpu_seconds() - start) / count as f64;
    let printed = oracle::run("augment_speed.py", &["25", "2", "128", "128", "128"]).unwrap();
    let theirs: f64 = printed.trim().lines().last().unwrap().parse().unwrap();
    println!(
        "a batch: {ours:.4} s here, {theirs:.4} s in Python, ratio {:.1}",
        theirs / ours
    );
}
