//! The networks that plans describe: their parameters by name and shape, initial weights, and the forward pass.
//!
//! Everything but [`UNet`] works without libtorch.

mod arguments;
mod blocks;
mod builder;
mod dropout;
#[cfg(feature = "torch")]
mod inference;
mod initial_weights;
#[cfg(feature = "torch")]
mod joined;
mod layout;
mod memory;
mod nonlinearity;
mod norm;
mod state_dict;
#[cfg(feature = "torch")]
pub(crate) mod tensors;
#[cfg(feature = "torch")]
mod unet;

pub use initial_weights::initial_weights;
pub use layout::{Layout, Parameter, ParameterRole};
pub use state_dict::{StateDict, Tensor32};
#[cfg(feature = "torch")]
pub use unet::{Mode, UNet};
