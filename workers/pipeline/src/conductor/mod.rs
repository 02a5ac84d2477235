//! Results in, next releases and tasks out.
//!
//! [`next()`] is a pure function of a job's [`Record`]: its events in stream order and the set of its results,
//! in whatever order they came. What it asks for is create-only, so that conductors may race and crash.
//! [`Conductor`] reads the streams into records and does what it says. It holds nothing durable.

mod record;
mod run;

pub use record::{Record, ShardState, Step};
pub use run::{Check, Conductor};
