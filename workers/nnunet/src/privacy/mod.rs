//! Differential privacy of a site's updates: what a round adds to the weights is cut to a length, and noise is added
//! that hides it. Pure: the noise comes from a seed of the caller's.
//!
//! - `noise`: the cut and the noise (the Gaussian mechanism; Abadi et al. 2016, "Deep Learning with Differential
//!   Privacy", with a site in the place of an example, as McMahan et al. 2018)
//! - `accountant`: what all rounds together give away

mod accountant;
mod noise;

pub use self::{accountant::epsilon, noise::protect};

/// An epsilon above which the guarantee says little: an observer's odds may then change by more than twenty thousand.
pub const MEANINGLESS: f64 = 10.0;
