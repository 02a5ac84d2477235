//! From raw scans to the cases that the network sees (nnunetv2/preprocessing).
//!
//! - [`crop`]: to the nonzero region
//! - `normalise`: intensities
//! - [`resample`]: to the configuration's spacing
//! - [`class_locations`]: voxels of each class for the loader
//! - [`preprocess_case`]: these in nnU-Net's order, for one case
//! - [`store`]: the preprocessed case as files that are mapped into memory
//! - [`Preprocessing`]: many cases, each made once
//! - [`CaseCache`]: cases that several folders share

mod cache;
mod case;
pub mod class_locations;
pub mod crop;
mod dataset;
mod normalise;
pub(crate) mod npz;
mod pickle;
pub mod resample;
pub mod store;
mod whole;

pub use cache::CaseCache;
pub use case::{CaseProperties, PreprocessedCase, preprocess_case};
pub use class_locations::{ClassKey, ClassLocations};
pub use dataset::{CaseOutcome, Done, Preprocessing, REMEDY, estimated_bytes, preprocess_dataset};
pub use store::{MappedCase, StoredCases};
pub use whole::partial_folder;
