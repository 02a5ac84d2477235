//! Raw data sets: nnU-Net's `DatasetXYZ_name` folders.

mod descriptors;
mod input;
mod inventory;
mod mapping;
mod raw;
mod raw_case;
mod verify;

pub use descriptors::{Descriptors, pooled_dataset_json};
pub use input::input_cases;
pub use inventory::{CaseDigest, Inventory};
pub use mapping::{Here, MappedChannel, MappedLabel, Mapping};
pub use raw::{RawDataset, check_numbers};
pub use raw_case::{RawCase, cases_to_predict};
pub use verify::{Problem, Severity, verify_dataset_integrity};
