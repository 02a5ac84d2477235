//! nnU-Net v2: from raw scans to a trained network and back to segmentations.
//!
//! The crate is pure: no network, no environment, no clock, no global random state.
//! The same input gives the same bytes.

pub mod error;
pub mod network;
pub mod progress;
pub mod train;

pub use error::{Error, Result};
