//! Streams in, actions out.

use std::sync::Arc;

use schemas::{Invalid, job::JobMessage};
use tokio_util::sync::CancellationToken;

use crate::{Error, connection::Connection, metrics::Metrics};

/// What the binary knows of a message that this crate does not, such as the trainers' names.
/// Gives warnings for the submitter, or the field that is wrong.
pub type Check = Arc<dyn Fn(&JobMessage) -> Result<Vec<String>, Invalid> + Send + Sync>;

/// Reads the streams, and does what [`super::next`] says. Any number of them may run at once.
pub struct Conductor {
    pub(super) connection: Connection,
    pub(super) version: String,
    pub(super) check: Check,
    pub(super) metrics: Metrics,
}

impl Conductor {
    /// A conductor of this program version; [`Conductor::run`] starts it.
    pub fn new(connection: Connection, version: impl Into<String>, check: Check, metrics: Metrics) -> Self {
        Self {
            connection,
            version: version.into(),
            check,
            metrics,
        }
    }

    /// Conducts until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let _ = stop;
        todo!()
    }
}
