//! nnU-Net's default augmentation (`nnUNetTrainer.get_training_transforms` on batchgeneratorsv2 0.3.6).
//!
//! Every transform is split in two: a struct of parameters drawn from the sample's generator, and a pure
//! function that applies them. All parameters of a sample are drawn before anything is computed, so that only
//! the voxels that are needed are read and computed.

pub mod random;
pub mod settings;

pub use settings::{AugmentationSettings, SegInterpolation};
