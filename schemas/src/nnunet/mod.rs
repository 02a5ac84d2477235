//! nnU-Net's documents, with nnU-Net's keys verbatim.

mod plans;

pub use plans::{
    Architecture, ArchitectureArguments, Configuration, Difference, IntensityProperties, NetworkKind, Plans,
    PlansError,
};
