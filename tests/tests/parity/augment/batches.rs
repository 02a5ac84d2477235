//! Batches as wholes: the draws differ, so it is figures of many samples that are compared.

use nnunet::train::{
    augment::{Augmentation, AugmentationSettings},
    batch::{BatchSettings, BatchSource, Split},
    loader::{ClassVoxels, Oversampling},
};
use tests::{oracle, parity_table};

use super::samples::{Memory, Only, case};

/// Classes with locations.
const LABELS: [i16; 2] = [1, 2];
const BATCH: usize = 4;
/// Samples here, and in Python, where one takes ten times as long.
const SAMPLES: (usize, usize) = (4_000, 400);
/// What the means of one figure may differ by, in standard errors of their difference: by chance one of a million does.
const ERRORS: f64 = 5.0;

fn locations(memory: &Memory, label: i16) -> ClassVoxels {
    let voxels = memory.seg.indexed_iter().filter(|(_, v)| **v == label);
    ClassVoxels {
        labels: vec![i32::from(label)],
        voxels: voxels
            .map(|((_, z, y, x), _)| [z as u32, y as u32, x as u32])
            .collect(),
    }
}

/// Figures of a sample (z, y, x), in the order of `batches.py`: of the image its mean, standard deviation, least and
/// largest value, third moment, and the mean difference of neighbours along each axis; of the segmentation the share of
/// each label, and of neighbours whose labels differ along each axis.
fn figures(image: &[f32], seg: &[i16], shape: &[usize]) -> Vec<f64> {
    let count = image.len() as f64;
    let mean = image.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let moment = |power: i32| {
        let powers = image.iter().map(|&v| (f64::from(v) - mean).powi(power));
        powers.sum::<f64>() / count
    };
    let deviation = moment(2).sqrt();
    let least = image.iter().copied().fold(f32::INFINITY, f32::min);
    let most = image.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let skewness = moment(3) / deviation.powi(3).max(1e-12);
    let mut found = vec![mean, deviation, f64::from(least), f64::from(most), skewness];
    let mut apart = [Vec::new(), Vec::new()];
    let mut stride = image.len();
    for &length in shape {
        stride /= length;
        let pairs = || (0..image.len()).filter(|i| i / stride % length + 1 < length);
        let pairs_count = pairs().count() as f64;
        let steps = pairs().map(|i| f64::from((image[i + stride] - image[i]).abs()));
        apart[0].push(steps.sum::<f64>() / pairs_count);
        let borders = pairs().filter(|&i| seg[i + stride] != seg[i]).count();
        apart[1].push(borders as f64 / pairs_count);
    }
    let [steps, borders] = apart;
    found.extend(steps);
    found.extend([0, 1, 2].map(|label| seg.iter().filter(|&&v| v == label).count() as f64 / count));
    found.extend(borders);
    found
}

/// The mean of each figure and the variance of that mean.
fn means(samples: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let count = samples.len() as f64;
    let of = |figure: usize| {
        let mean = samples.iter().map(|sample| sample[figure]).sum::<f64>() / count;
        let squares = samples.iter().map(|sample| (sample[figure] - mean).powi(2));
        (mean, squares.sum::<f64>() / count / (count - 1.0))
    };
    (0..samples[0].len()).map(of).collect()
}

#[test]
fn batches_look_like_pythons() {
    let mut memory = case(1, [24, 44, 38], 4);
    memory.locations = LABELS.map(|label| locations(&memory, label)).into();
    let folder = tempfile::tempdir().unwrap();
    memory.write(folder.path(), "case");
    let cases = Only::new(memory);
    for (augmentation, trainer, patches) in [
        (
            Augmentation::Default,
            "nnUNetTrainer",
            &[&[20, 28, 24][..], &[12, 40, 36], &[36, 28]][..],
        ),
        (
            Augmentation::Heavy,
            "nnUNetTrainerDA5",
            &[&[20, 28, 24], &[36, 28]],
        ),
    ] {
        for &patch in patches {
            let mut arguments = vec![folder.path().display().to_string(), trainer.to_owned()];
            arguments.extend(
                [SAMPLES.1 / BATCH, BATCH]
                    .iter()
                    .chain(patch)
                    .map(ToString::to_string),
            );
            let printed = oracle::run("batches.py", &arguments).unwrap();
            let theirs: Vec<Vec<f64>> = serde_json::from_str(printed.lines().last().unwrap()).unwrap();

            let settings = BatchSettings {
                batch_size: BATCH,
                oversampling: Oversampling::LastOfBatch(0.33),
                annotated_labels: None,
                augmentation: AugmentationSettings {
                    augmentation,
                    ..AugmentationSettings::new(patch).unwrap()
                },
                seed: 1,
                site: "a".into(),
                threads: 2,
                prefetch: 2,
            };
            let source = BatchSource::new(settings, cases.clone(), cases.clone()).unwrap();
            let mut ours = Vec::new();
            let voxels: usize = patch.iter().product();
            for batch in source
                .stream(Split::Train, 0, 0..(SAMPLES.0 / BATCH) as u64)
                .unwrap()
            {
                let batch = batch.unwrap();
                let segs = batch.targets[0].values.chunks_exact(voxels);
                let samples = batch.data.chunks_exact(voxels).zip(segs);
                ours.extend(samples.map(|(image, seg)| figures(image, seg, patch)));
            }
            assert_eq!((ours.len(), theirs.len()), SAMPLES);

            let (ours, theirs) = (means(&ours), means(&theirs));
            assert_eq!(ours.len(), theirs.len());
            let mut furthest = 0f64;
            for (number, ((a, a_variance), (b, b_variance))) in ours.iter().zip(&theirs).enumerate() {
                let errors = (a - b).abs() / (a_variance + b_variance).sqrt();
                println!(
                    "{trainer} {patch:?} figure {number}: {a:.4} for {b:.4}, {errors:.1} standard errors"
                );
                furthest = furthest.max(errors);
            }
            assert!(
                furthest < ERRORS,
                "{trainer} {patch:?}: {furthest} standard errors"
            );
            let what = format!("{} figures of {} samples of {patch:?}", ours.len(), SAMPLES.1);
            parity_table::compared("batches", trainer, &what, &format!("{furthest:.1} s.e.")).unwrap();
        }
    }
}
