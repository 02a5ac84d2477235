//! From scans to segmentations with a trained model: sliding window, mirroring, folds, export.
//! (nnunetv2/inference/predict_from_raw_data.py, export_prediction.py)

mod export;
mod gaussian;
#[cfg(feature = "torch")]
mod mirroring;
#[cfg(feature = "torch")]
mod model;
#[cfg(feature = "torch")]
mod pass;
mod probabilities;
#[cfg(feature = "torch")]
mod results;
#[cfg(feature = "torch")]
mod run;
#[cfg(feature = "torch")]
mod sliding_window;
mod tiles;

use half::f16;
use ndarray::Array4;

pub use export::Export;
pub use gaussian::importance_map;
#[cfg(feature = "torch")]
pub use model::{ModelSettings, Predictor};
pub use probabilities::write_probabilities;
#[cfg(feature = "torch")]
pub use run::{CaseOutcome, Outcome};
#[cfg(feature = "torch")]
pub use sliding_window::SlidingWindow;
pub use tiles::{mirror_combinations, tile_starts};

/// How to predict. The default is nnU-Net's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The distance of neighbouring tiles as a part of the patch; over 0, at most 1.
    pub tile_step_size: f64,
    /// Whether voxels near a tile's centre weigh more.
    pub use_gaussian: bool,
    /// Whether to average over mirrored inputs, along the axes that the model allows.
    pub use_mirroring: bool,
    /// Whether results are collected on the accelerator.
    pub results_on_device: bool,
    /// Whether probabilities are written beside the segmentations.
    pub save_probabilities: bool,
    /// Whether the network computes in bfloat16: faster where the processor has it, and a little less exact.
    pub bfloat16: bool,
    /// The precision in which tiles are summed up.
    pub precision: Precision,
}

/// The precision in which overlapping tiles are summed up and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// float16, as nnU-Net does on every device. Needed to agree with it voxel by voxel.
    Half,
    /// float32: twice the memory, no rounding at the image's border.
    Single,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tile_step_size: 0.5,
            use_gaussian: true,
            use_mirroring: true,
            results_on_device: true,
            save_probabilities: false,
            bfloat16: false,
            precision: Precision::Half,
        }
    }
}

/// Logits (heads, z, y, x) of a preprocessed scan.
#[derive(Clone, Debug, PartialEq)]
pub enum Logits {
    /// As nnU-Net keeps them.
    Half(Array4<f16>),
    /// In float32.
    Single(Array4<f32>),
}

impl Logits {
    /// (heads, z, y, x).
    pub fn shape(&self) -> &[usize] {
        match self {
            Logits::Half(a) => a.shape(),
            Logits::Single(a) => a.shape(),
        }
    }
}

#[cfg(test)]
mod tests;
