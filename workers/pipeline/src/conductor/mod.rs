//! Results in, next releases and tasks out.
//!
//! [`next()`] is a pure function of a job's [`Record`]: its events in stream order and the set of its results,
//! in whatever order they came. What it asks for is create-only, so that conductors may race and crash.
//! [`Conductor`] reads the streams into records and does what it says. It holds nothing durable.

mod aggregate;
mod archived;
mod average;
mod barrier;
mod checks;
mod deadline;
mod decide;
mod differ;
mod history;
mod infer;
mod inventory;
mod masking;
mod memory;
mod next;
mod perform;
mod plan_verify;
mod preprocess;
mod purge;
mod record;
mod replay;
mod report;
mod results;
mod resume;
mod run;
mod scan;
mod select;
mod submit;
mod train;
mod validate;

pub use barrier::Waiting;
pub use deadline::Timer;
pub(crate) use decide::sites;
pub use next::{Action, MAX_ATTEMPTS, WINDOW, next};
pub use purge::Purge;
pub use record::{Record, ShardState, Step};
pub(crate) use replay::replay;
pub use run::{Check, Conductor};
