//! nnU-Net v2: from raw scans to a trained network and back to segmentations.
//!
//! The crate is pure: no network, no environment, no clock, no global random state.
//! The same input gives the same bytes.

pub mod average;
pub mod checkpoint;
pub mod cross_validation;
pub mod dataset;
pub mod device;
pub mod document;
pub mod ensemble;
pub mod error;
pub mod evaluate;
pub mod figures;
pub mod fingerprint;
pub mod image;
pub mod model_zip;
pub mod network;
pub mod numpy_random;
pub mod plan;
pub mod postprocess;
pub mod predict;
pub mod preprocess;
pub mod privacy;
pub mod progress;
pub mod secure_sum;
pub mod splits;
pub mod survey;
pub mod train;
pub mod update;
mod wide;

pub use error::{Error, Result};

/// The version of the algorithm. It is raised with every change after which the same input gives other bytes:
/// fingerprints, plans, initial weights, draws, updates, averages. A job is worked on by one version only.
pub const ALGORITHM_VERSION: u32 = 1;
