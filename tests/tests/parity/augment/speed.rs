//! How long a batch takes, measured beside nnU-Net's loader.

use super::samples::{Only, case};
use ndarray::Array4;
use nnunet::train::{
    augment::{Augmentation, AugmentationSettings},
    batch::{BatchSettings, BatchSource, Split},
    loader::Oversampling,
};
use tests::oracle;

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

/// Prints the CPU time of batches here and in nnU-Net's loader:
/// `cargo test --release --workspace --test parity augment_speed -- --ignored --nocapture`.
#[test]
#[ignore = "measures; takes minutes alone"]
fn augment_speed() {
    for (augmentation, trainer) in [
        (Augmentation::Default, "nnUNetTrainer"),
        (Augmentation::Heavy, "nnUNetTrainerDA5"),
    ] {
        for (patch, batch_size) in [(&[128, 128, 128][..], 2), (&[512, 512], 12)] {
            compare(augmentation, trainer, patch, batch_size);
        }
    }
}

fn compare(augmentation: Augmentation, trainer: &str, patch: &[usize], batch_size: usize) {
    let shape = if patch.len() == 2 {
        [6, 640, 600]
    } else {
        [160, 192, 176]
    };
    let mut memory = case(1, shape, 4);
    memory.seg = Array4::from_shape_fn((1, shape[0], shape[1], shape[2]), |(_, z, y, x)| {
        let wave = (z as f32 / 9.0).sin() + (y as f32 / 11.0).cos() + (x as f32 / 8.0).sin();
        wave.clamp(-1.0, 2.0) as i16
    });
    let axes = patch.len();
    let strides: Vec<Vec<usize>> = [vec![vec![1; axes]], vec![vec![2; axes]; 5]].concat();
    let settings = BatchSettings {
        batch_size,
        oversampling: Oversampling::LastOfBatch(0.33),
        annotated_labels: None,
        augmentation: AugmentationSettings {
            augmentation,
            ..AugmentationSettings::new(patch)
                .unwrap()
                .with_deep_supervision(&strides)
        },
        seed: 1,
        site: "a".into(),
        threads: 1,
        prefetch: 1,
    };
    let cases = Only::new(memory);
    let source = BatchSource::new(settings, cases.clone(), cases).unwrap();
    let count = 100;
    let start = cpu_seconds();
    for batch in source.stream(Split::Train, 0, 0..count).unwrap() {
        assert_eq!(batch.unwrap().data_shape[0], batch_size);
    }
    let ours = (cpu_seconds() - start) / count as f64;
    let [batches, batch_size] = [50, batch_size].map(|n| n.to_string());
    let mut arguments = vec![trainer.to_owned(), batches, batch_size];
    arguments.extend(shape.iter().chain(patch).map(ToString::to_string));
    let printed = oracle::run("augment_speed.py", &arguments).unwrap();
    let theirs: f64 = printed.trim().lines().last().unwrap().parse().unwrap();
    println!(
        "{trainer} {patch:?}: a batch takes {ours:.4} s here, {theirs:.4} s in Python, ratio {:.1}",
        theirs / ours
    );
}
