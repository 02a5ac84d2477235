//! nnU-Net's documents, with nnU-Net's keys verbatim.

mod dataset_json;
mod document_error;
mod fingerprint;
mod plans;
pub mod python_json;

pub use dataset_json::{Case, DatasetJson, Label};
pub use document_error::DocumentError;
pub use fingerprint::Fingerprint;
pub use plans::{
    Architecture, ArchitectureArguments, Configuration, Difference, IntensityProperties, NetworkKind, Plans,
    PlansError,
};
