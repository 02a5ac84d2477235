//! Batches for the network, made ahead on background threads.

use super::{
    augment::{
        Augmentation, AugmentationSettings, Drawn, Sample,
        random::{SampleKey, integer},
        target,
    },
    loader::{Cases, Oversampling, PatchSampler, Window},
};
use crate::{Error, Result};
use rayon::prelude::*;
use std::{ops::Range, sync::Arc};

mod stream;

pub use stream::BatchStream;

/// Which cases a batch is drawn from, and whether it is augmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training cases, augmented.
    Train,
    /// Validation cases: the final patch size, nothing random but the position.
    Validation,
}

/// The targets of one resolution: (b, 1, [z,] y, x) labels, or (b, regions [+ ignore], [z,] y, x) maps of 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The values in C order.
    pub values: Vec<i16>,
    /// Their shape.
    pub shape: Vec<usize>,
}

/// One batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The images (b, c, [z,] y, x) in C order.
    pub data: Vec<f32>,
    /// Their shape; 2D configurations have no z.
    pub data_shape: Vec<usize>,
    /// One target per deep supervision scale, full resolution first.
    pub targets: Vec<Target>,
    /// The case of each sample, as an index into the split's identifiers.
    pub cases: Vec<usize>,
}

/// How batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSettings {
    /// Samples of a batch.
    pub batch_size: usize,
    /// Which samples must show foreground.
    pub oversampling: Oversampling,
    /// All labels of the data set without the ignore label, ascending, where it has an ignore label:
    /// the loader then stays on annotated voxels.
    pub annotated_labels: Option<Vec<i32>>,
    /// The augmentation, which also names the patch size.
    pub augmentation: AugmentationSettings,
    /// The seed of the job.
    pub seed: u64,
    /// The site, so that sites draw unlike numbers.
    pub site: String,
    /// Background threads of a stream; at least one is used.
    pub threads: usize,
    /// Batches made ahead, beside the one in use; at least one.
    pub prefetch: usize,
}

/// Makes the batches of a training. The bytes of a batch are a function of the settings, the cases and
/// (split, epoch, iteration); the number of threads has no part in it.
#[derive(Clone)]
pub struct BatchSource {
    settings: Arc<BatchSettings>,
    train: Arc<dyn Cases>,
    validation: Arc<dyn Cases>,
}

impl BatchSource {
    /// Checks the settings. `train` must hold a case; `validation` may be empty if no such batch is asked for.
    pub fn new(settings: BatchSettings, train: Arc<dyn Cases>, validation: Arc<dyn Cases>) -> Result<Self> {
        settings.augmentation.check()?;
        if settings.batch_size == 0 {
            return Err(Error::invalid("batch_size", "is 0, expected at least 1"));
        }
        if train.identifiers().is_empty() {
            return Err(Error::invalid("training cases", "there are none"));
        }
        Ok(BatchSource {
            settings: Arc::new(settings),
            train,
            validation,
        })
    }

    /// One batch, made now on rayon's threads.
    pub fn batch(&self, split: Split, epoch: u64, iteration: u64) -> Result<Batch> {
        let plan = self.plan(split, epoch)?;
        let samples: Vec<_> = (0..self.settings.batch_size)
            .into_par_iter()
            .map(|index| plan.sample(iteration, index))
            .collect::<Result<_>>()?;
        plan.assemble(samples)
    }

    /// The batches of `iterations` of an epoch, made ahead on `threads` background threads.
    pub fn stream(&self, split: Split, epoch: u64, iterations: Range<u64>) -> Result<BatchStream> {
        let plan = self.plan(split, epoch)?;
        Ok(BatchStream::start(
            plan,
            iterations,
            self.settings.threads,
            self.settings.prefetch,
        ))
    }

    /// What all batches of a split and epoch share.
    fn plan(&self, split: Split, epoch: u64) -> Result<Plan> {
        let augmentation = &self.settings.augmentation;
        let (cases, augmentation, purpose) = match split {
            Split::Train => (&self.train, augmentation.clone(), "train-batch"),
            Split::Validation => (
                &self.validation,
                AugmentationSettings {
                    augmentation: Augmentation::None,
                    ..augmentation.clone()
                },
                "validation-batch",
            ),
        };
        if cases.identifiers().is_empty() {
            return Err(Error::invalid("validation cases", "there are none"));
        }
        // The annotated-voxels key of class_locations: -1, then all labels.
        let annotated = self
            .settings
            .annotated_labels
            .as_ref()
            .map(|labels| [&[-1], labels.as_slice()].concat());
        let sampler = PatchSampler {
            initial_patch_size: augmentation.initial_patch_size(),
            final_patch_size: augmentation.patch_size,
            annotated,
        };
        Ok(Plan {
            settings: self.settings.clone(),
            cases: cases.clone(),
            augmentation,
            sampler,
            purpose,
            epoch,
        })
    }
}

/// What all batches of a split and epoch share.
struct Plan {
    settings: Arc<BatchSettings>,
    cases: Arc<dyn Cases>,
    augmentation: AugmentationSettings,
    sampler: PatchSampler,
    purpose: &'static str,
    epoch: u64,
}

/// A sample and the index of its case.
type Made = (usize, Sample);

impl Plan {
    /// Draws and makes sample `index` of a batch.
    fn sample(&self, iteration: u64, index: usize) -> Result<Made> {
        let settings = &self.settings;
        let key = SampleKey {
            purpose: self.purpose,
            seed: settings.seed,
            site: &settings.site,
            epoch: self.epoch,
            iteration,
            sample: index as u64,
        };
        let mut random = key.generator();
        let identifiers = self.cases.identifiers();
        let number = integer(&mut random, 0, identifiers.len() as i64 - 1) as usize;
        let case = self.cases.open(number)?;
        let forced = settings
            .oversampling
            .forced(index, settings.batch_size, &mut random);
        let (channels, z, y, x) = case.data().dim();
        let start = self
            .sampler
            .draw([z, y, x], forced, case.class_locations(), &mut random);
        let drawn = Drawn::draw(&self.augmentation, channels, &mut random);
        let window = Window::new(
            &identifiers[number],
            case.as_ref(),
            start,
            self.sampler.initial_patch_size,
        )?;
        Ok((number, drawn.apply(&self.augmentation, &window)))
    }

    /// Puts samples one after the other.
    fn assemble(&self, samples: Vec<Made>) -> Result<Batch> {
        let voxels: usize = self.augmentation.patch_size.iter().product();
        let length = samples[0].1.data.len();
        if let Some((case, _)) = samples.iter().find(|(_, sample)| sample.data.len() != length) {
            return Err(Error::bad_case(
                &self.cases.identifiers()[*case],
                format!(
                    "another number of channels than {} has",
                    self.cases.identifiers()[samples[0].0]
                ),
            ));
        }
        let shape = |channels: usize, size: &[usize; 3]| {
            let spatial = &size[usize::from(self.augmentation.is_2d)..];
            [&[samples.len(), channels], spatial].concat()
        };
        let targets = target::sizes(&self.augmentation)
            .iter()
            .enumerate()
            .map(|(scale, size)| {
                let values: Vec<i16> = samples
                    .iter()
                    .flat_map(|(_, sample)| &sample.targets[scale])
                    .copied()
                    .collect();
                let channels = values.len() / samples.len() / size.iter().product::<usize>();
                Target {
                    shape: shape(channels, size),
                    values,
                }
            })
            .collect();
        let mut data = Vec::with_capacity(length * samples.len());
        samples
            .iter()
            .for_each(|(_, sample)| data.extend_from_slice(&sample.data));
        Ok(Batch {
            data,
            data_shape: shape(length / voxels, &self.augmentation.patch_size),
            targets,
            cases: samples.iter().map(|(case, _)| *case).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::loader::{Case, ClassVoxels};
    use ndarray::{Array4, ArrayView4};

    struct Memory {
        data: Array4<f32>,
        seg: Array4<i16>,
        locations: Vec<ClassVoxels>,
    }

    impl Case for Memory {
        fn data(&self) -> ArrayView4<'_, f32> {
            self.data.view()
        }
        fn seg(&self) -> ArrayView4<'_, i16> {
            self.seg.view()
        }
        fn class_locations(&self) -> &[ClassVoxels] {
            &self.locations
        }
    }

    struct InMemory(Vec<String>, Vec<Arc<Memory>>);

    impl Cases for InMemory {
        fn identifiers(&self) -> &[String] {
            &self.0
        }
        fn open(&self, index: usize) -> Result<Arc<dyn Case>> {
            match self.1.get(index) {
                Some(case) => Ok(case.clone()),
                None => Err(Error::bad_case(&self.0[index], "cannot be read")),
            }
        }
    }

    fn cases(count: usize, channels: usize) -> Arc<InMemory> {
        let case = |n: usize| {
            let shape = (30 + n, 26, 22 + 2 * n);
            let value = move |(c, z, y, x): (usize, usize, usize, usize)| {
                ((c * 7 + z * 3 + y * 5 + x * 11 + n) % 23) as f32 / 10.0 - 1.0
            };
            let label = |(_, z, y, x): (usize, usize, usize, usize)| match (z / 6 + y / 7 + x / 8) % 4 {
                3 => -1,
                label => label as i16,
            };
            let seg = Array4::from_shape_fn((1, shape.0, shape.1, shape.2), label);
            let voxels = |wanted: i16| {
                seg.indexed_iter()
                    .filter(|(_, label)| **label == wanted)
                    .map(|((_, z, y, x), _)| [z as u32, y as u32, x as u32])
                    .collect()
            };
            let locations = [1, 2]
                .map(|label| ClassVoxels {
                    labels: vec![i32::from(label)],
                    voxels: voxels(label),
                })
                .into();
            let data = Array4::from_shape_fn((channels, shape.0, shape.1, shape.2), value);
            Arc::new(Memory { data, seg, locations })
        };
        Arc::new(InMemory(
            (0..count).map(|n| format!("case_{n}")).collect(),
            (0..count).map(case).collect(),
        ))
    }

    fn settings(patch: &[usize], threads: usize) -> BatchSettings {
        let strides = vec![vec![1; patch.len()], vec![2; patch.len()], vec![2; patch.len()]];
        BatchSettings {
            batch_size: 3,
            oversampling: Oversampling::LastOfBatch(0.33),
            annotated_labels: None,
            augmentation: AugmentationSettings::new(patch)
                .unwrap()
                .with_deep_supervision(&strides),
            seed: 7,
            site: "north".into(),
            threads,
            prefetch: 2,
        }
    }

    fn batches(settings: BatchSettings, split: Split, count: u64) -> Vec<Batch> {
        let source = BatchSource::new(settings, cases(4, 2), cases(2, 2)).unwrap();
        source
            .stream(split, 3, 0..count)
            .unwrap()
            .collect::<Result<_>>()
            .unwrap()
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bytes() {
        for patch in [&[20, 24, 16][..], &[24, 16], &[8, 30, 28]] {
            for split in [Split::Train, Split::Validation] {
                let one = batches(settings(patch, 1), split, 12);
                assert_eq!(one, batches(settings(patch, 4), split, 12));
                let source = BatchSource::new(settings(patch, 1), cases(4, 2), cases(2, 2)).unwrap();
                assert_eq!(one[5], source.batch(split, 3, 5).unwrap());
                assert!(one.windows(2).all(|pair| pair[0].data != pair[1].data));
            }
        }
    }

    #[test]
    fn the_heavy_augmentation_takes_any_patch_and_any_number_of_threads() {
        // Short axes too, at which Python stops.
        for patch in [
            &[20, 20, 16][..],
            &[24, 24],
            &[8, 30, 30],
            &[3, 5, 4],
            &[1, 2, 2],
            &[7, 2],
        ] {
            let heavy = |threads| {
                let mut settings = settings(patch, threads);
                settings.augmentation.augmentation = Augmentation::Heavy;
                settings.augmentation.regions = Some(vec![vec![1, 2], vec![2]]);
                settings.augmentation.ignore_label = Some(3);
                settings.augmentation.deep_supervision_scales = None;
                settings
            };
            let one = batches(heavy(1), Split::Train, 20);
            assert_eq!(one, batches(heavy(4), Split::Train, 20));
            for batch in one {
                assert_eq!(batch.targets[0].shape[1], 3);
                assert!(batch.data.iter().all(|v| v.is_finite()));
            }
        }
    }

    #[test]
    fn sites_seeds_and_epochs_draw_unlike_batches() {
        let base = batches(settings(&[16, 16, 16], 2), Split::Train, 1);
        let south = BatchSettings {
            site: "south".into(),
            ..settings(&[16, 16, 16], 2)
        };
        let seed = BatchSettings {
            seed: 8,
            ..settings(&[16, 16, 16], 2)
        };
        for other in [south, seed] {
            assert_ne!(base, batches(other, Split::Train, 1));
        }
        let source = BatchSource::new(settings(&[16, 16, 16], 2), cases(4, 2), cases(2, 2)).unwrap();
        assert_ne!(base[0], source.batch(Split::Train, 4, 0).unwrap());
    }

    #[test]
    fn shapes_are_the_networks() {
        let batch = &batches(settings(&[20, 24, 16], 2), Split::Train, 1)[0];
        assert_eq!(batch.data_shape, [3, 2, 20, 24, 16]);
        assert_eq!(batch.data.len(), 3 * 2 * 20 * 24 * 16);
        let shapes: Vec<_> = batch.targets.iter().map(|t| t.shape.clone()).collect();
        assert_eq!(shapes, [vec![3, 1, 20, 24, 16], vec![3, 1, 10, 12, 8]]);
        assert!(
            batch
                .targets
                .iter()
                .all(|t| t.values.iter().all(|v| (0..3).contains(v)))
        );

        let mut regions = settings(&[24, 16], 2);
        regions.augmentation.regions = Some(vec![vec![1, 2], vec![2]]);
        regions.augmentation.ignore_label = Some(3);
        let batch = &batches(regions, Split::Validation, 1)[0];
        assert_eq!(batch.data_shape, [3, 2, 24, 16]);
        assert_eq!(batch.targets[1].shape, [3, 3, 12, 8]);
    }

    #[test]
    fn a_stream_can_be_dropped_early_and_errors_come_out() {
        let source = BatchSource::new(settings(&[16, 16, 16], 3), cases(4, 2), cases(0, 2)).unwrap();
        let mut stream = source.stream(Split::Train, 0, 0..1000).unwrap();
        assert!(stream.next().unwrap().is_ok());
        drop(stream);
        assert!(
            source
                .stream(Split::Validation, 0, 0..1)
                .err()
                .unwrap()
                .to_string()
                .contains("validation cases")
        );
        let broken = Arc::new(InMemory(vec!["lost".into()], vec![]));
        let source = BatchSource::new(settings(&[16, 16, 16], 3), broken, cases(0, 1)).unwrap();
        let error = source
            .stream(Split::Train, 0, 0..2)
            .unwrap()
            .next()
            .unwrap()
            .unwrap_err();
        assert!(error.to_string().contains("case lost"), "{error}");
    }
}
