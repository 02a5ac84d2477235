//! Batches for the network, made ahead on background threads.

use super::{
    augment::AugmentationSettings,
    loader::{Cases, Oversampling},
};
use crate::Result;
use std::{ops::Range, sync::Arc};

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
pub struct BatchSource {
    settings: Arc<BatchSettings>,
    train: Arc<dyn Cases>,
    validation: Arc<dyn Cases>,
}

/// The batches of consecutive iterations, in order. Dropping it ends its threads.
pub struct BatchStream {
    next: u64,
    end: u64,
    source: BatchSource,
    split: Split,
    epoch: u64,
}

impl BatchSource {
    /// Checks the settings. `train` must hold a case; `validation` may be empty if no such batch is asked for.
    pub fn new(settings: BatchSettings, train: Arc<dyn Cases>, validation: Arc<dyn Cases>) -> Result<Self> {
        Ok(BatchSource {
            settings: Arc::new(settings),
            train,
            validation,
        })
    }

    /// One batch, made now on rayon's threads.
    pub fn batch(&self, split: Split, epoch: u64, iteration: u64) -> Result<Batch> {
        let _ = (split, epoch, iteration, &self.train, &self.validation);
        Err(crate::Error::invalid(
            "batch",
            format!("{} threads: not made yet", self.settings.threads),
        ))
    }

    /// The batches of `iterations` of an epoch, made ahead on `threads` background threads.
    pub fn stream(&self, split: Split, epoch: u64, iterations: Range<u64>) -> Result<BatchStream> {
        let source = BatchSource {
            settings: self.settings.clone(),
            train: self.train.clone(),
            validation: self.validation.clone(),
        };
        Ok(BatchStream {
            next: iterations.start,
            end: iterations.end,
            source,
            split,
            epoch,
        })
    }
}

impl Iterator for BatchStream {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let iteration = self.next;
        self.next += 1;
        (iteration < self.end).then(|| self.source.batch(self.split, self.epoch, iteration))
    }
}
