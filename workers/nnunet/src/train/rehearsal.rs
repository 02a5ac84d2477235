//! How long an iteration takes, on noise: known before a case is preprocessed.

use std::sync::Arc;

use ndarray::{Array4, ArrayView4};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemas::survey::Pace;

use super::{
    MomentumState, Trainer, TrainerSettings,
    loader::{Case, Cases, ClassVoxels},
};
use crate::{Error, Result, network::StateDict, progress::Observer};

/// Iterations that are measured, behind as many that are not.
const ITERATIONS: usize = 2;

/// One case as large as a patch, of noise, with every label somewhere.
struct Noise {
    data: Array4<f32>,
    seg: Array4<i16>,
    classes: Vec<ClassVoxels>,
}

struct One(Vec<String>, Arc<Noise>);

impl Case for Noise {
    fn data(&self) -> ArrayView4<'_, f32> {
        self.data.view()
    }
    fn seg(&self) -> ArrayView4<'_, i16> {
        self.seg.view()
    }
    fn class_locations(&self) -> &[ClassVoxels] {
        &self.classes
    }
}

impl Cases for One {
    fn identifiers(&self) -> &[String] {
        &self.0
    }
    fn open(&self, _: usize) -> Result<Arc<dyn Case>> {
        Ok(self.1.clone())
    }
}

impl Noise {
    fn new(settings: &TrainerSettings) -> Result<Self> {
        let configuration = settings
            .plans
            .configuration(&settings.configuration)
            .map_err(|error| Error::invalid("plans", error))?;
        let mut size = [1; 3];
        let patch = &configuration.patch_size;
        for (axis, &voxels) in size.iter_mut().rev().zip(patch.iter().rev()) {
            *axis = voxels;
        }
        let [z, y, x] = size;
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        let labels = settings.dataset_json.foreground_labels();
        let channels = settings.dataset_json.channels();
        let data = Array4::from_shape_simple_fn((channels, z, y, x), || random.random_range(-1.0..1.0));
        let mut seg = Array4::zeros((1, z, y, x));
        let voxels = seg.len();
        let mut classes = Vec::new();
        for (place, label) in labels.iter().enumerate() {
            let voxel = voxels * (place + 1) / (labels.len() + 2);
            let [at_z, at_y, at_x] = [voxel / (y * x), voxel / x % y, voxel % x];
            seg[[0, at_z, at_y, at_x]] = *label as i16;
            classes.push(ClassVoxels {
                labels: vec![i32::from(*label)],
                voxels: vec![[at_z, at_y, at_x].map(|axis| axis as u32)],
            });
        }
        Ok(Self { data, seg, classes })
    }
}

/// Measures iterations of a training from `weights` by a clock in seconds. The settings' numbers of iterations do not
/// matter.
///
/// # Errors
/// As of [`Trainer::new`] and [`Trainer::train_epoch`]; memory that runs out may end the process.
pub fn pace(
    settings: TrainerSettings,
    weights: &StateDict,
    clock: &dyn Fn() -> f64,
    observer: &dyn Observer,
) -> Result<Pace> {
    let cases = Arc::new(One(vec!["noise".to_owned()], Arc::new(Noise::new(&settings)?)));
    let settings = TrainerSettings {
        iterations_per_epoch: ITERATIONS,
        val_iterations_per_epoch: ITERATIONS,
        ..settings
    };
    let mut trainer = Trainer::new(settings, cases.clone(), cases, weights, &MomentumState::default())?;
    // The first iterations make room and choose algorithms.
    trainer.train_epoch(0, clock, observer)?;
    let begun = clock();
    trainer.train_epoch(1, clock, observer)?;
    let trained = clock();
    trainer.validate(1, observer)?;
    let each = |seconds: f64| seconds / ITERATIONS as f64;
    Ok(Pace {
        training: each(trained - begun),
        validation: each(clock() - trained),
    })
}
