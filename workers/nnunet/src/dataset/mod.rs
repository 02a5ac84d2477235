//! Raw data sets: nnU-Net's `DatasetXYZ_name` folders.

mod descriptors;
mod input;
mod inventory;
mod mapping;
mod raw;
mod verify;

pub use descriptors::{Descriptors, pooled_dataset_json};
pub use input::input_cases;
pub use inventory::{CaseDigest, Inventory};
pub use mapping::{Here, MappedChannel, MappedLabel, Mapping};
pub use raw::{RawCase, RawDataset, cases_to_predict, check_numbers};
pub use verify::{Problem, Severity, verify_dataset_integrity};
