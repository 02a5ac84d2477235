//! Raw data sets: nnU-Net's `DatasetXYZ_name` folders.

mod descriptors;
mod inventory;
mod raw;
mod verify;

pub use descriptors::{Descriptors, pooled_dataset_json};
pub use inventory::{CaseDigest, Inventory};
pub use raw::{RawCase, RawDataset, cases_to_predict};
pub use verify::{Problem, Severity, verify_dataset_integrity};
