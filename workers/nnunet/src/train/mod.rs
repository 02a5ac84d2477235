//! Training: sampling, augmentation, and the epochs of a round.

pub mod augment;
pub mod batch;
pub mod loader;
