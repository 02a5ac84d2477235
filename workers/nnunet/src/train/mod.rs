//! Training: sampling, augmentation, and the epochs of a round.

pub mod augment;
pub mod batch;
#[cfg(feature = "torch")]
mod counting;
#[cfg(feature = "torch")]
mod gradient;
pub mod loader;
pub mod loss;
mod nearest;
mod network;
pub mod optimiser;
#[cfg(feature = "torch")]
mod proximal;
#[cfg(feature = "torch")]
mod rehearsal;
pub mod schedule;
#[cfg(feature = "torch")]
pub mod trainer;
pub mod trainer_table;
pub mod validation;

pub use network::network_of;
pub use optimiser::{MomentumState, OptimiserKind, ScalerState};
#[cfg(feature = "torch")]
pub use rehearsal::pace;
pub use schedule::Schedule;
#[cfg(feature = "torch")]
pub use trainer::{EpochLog, StageSeconds, Trainer, TrainerSettings};
pub use trainer_table::{Mirroring, TrainerVariant};
pub use validation::{BestByAverage, ValidationCounts};
