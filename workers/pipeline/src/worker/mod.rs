//! One phase of one site: task in, result out.
//!
//! A worker takes one task and drops the pull stream while it works, because a kept stream takes more.
//! The work runs on a thread of its own; heartbeats keep the task and look for its closing.

mod activity;
mod admission;
mod context;
mod deliveries;
mod queue;
mod run;
mod share;

use std::path::PathBuf;

use schemas::{
    names,
    task::{Failure, Task, TaskOutput},
};

use crate::{
    archive::Archive, connection::Connection, gate::Gate, metrics::Metrics, signing::Identity, streams::Pace,
};

pub use activity::Activity;
pub use admission::{Admission, Admit};
pub use context::{Described, TaskContext};
pub use share::{announce, share};

/// What one phase does with one task. The binary implements it.
pub trait Phase: Send + Sync + 'static {
    /// The phase.
    const NAME: names::Phase;

    /// True for work that needs the device for itself: it waits for the worker's [`Gate`].
    fn heavy(&self, _task: &Task) -> bool {
        false
    }

    /// Does the work. Called on a thread of its own; may block. Stops when [`TaskContext::stopped`]
    /// says so, with any error, as [`stopped`].
    ///
    /// # Errors
    /// A failure is a result too. What it says leaves the site: no case names, no paths.
    fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure>;
}

/// The failure of work that was told to stop. It is never published.
pub fn stopped() -> Failure {
    Failure::retryable("stopped", "stopped from outside")
}

/// One worker: one phase of one site, one task at a time.
pub struct Worker<P> {
    pub(crate) connection: Connection,
    pub(crate) phase: std::sync::Arc<P>,
    pub(crate) settings: WorkerSettings,
    pub(crate) metrics: Metrics,
}

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The site, or `orchestrator`.
    pub site: String,
    /// The worker's own name, `<host>-<process id>`.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The version of the program's algorithm: tasks of jobs of another are refused.
    pub algorithm: u32,
    /// A folder that outlives the process, for the count of deliveries without progress.
    pub state: PathBuf,
    /// The slot that heavy work waits for.
    pub gate: Option<Gate>,
    /// Acknowledgement times.
    pub pace: Pace,
    /// What the process's workers are doing.
    pub activity: Activity,
    /// So many deliveries without progress are a crash loop.
    pub deliveries: u32,
    /// Who decides which tasks the site takes on; none: all.
    pub admit: Option<std::sync::Arc<dyn Admit>>,
    /// Where the orchestrator keeps what it makes.
    pub archive: Option<Archive>,
    /// Who the worker is: it signs its results.
    pub identity: Identity,
}

impl WorkerSettings {
    /// Settings with the defaults.
    pub fn new(site: impl Into<String>, version: impl Into<String>, state: impl Into<PathBuf>) -> Self {
        Self {
            site: site.into(),
            name: format!("{}-{}", host(), std::process::id()),
            version: version.into(),
            algorithm: 0,
            state: state.into(),
            gate: None,
            pace: Pace::default(),
            activity: Activity::default(),
            deliveries: 3,
            admit: None,
            archive: None,
            identity: Identity::default(),
        }
    }
}

impl<P: Phase> Worker<P> {
    /// A worker; [`Worker::run`] starts it.
    pub fn new(connection: Connection, phase: P, settings: WorkerSettings, metrics: Metrics) -> Self {
        Self {
            connection,
            phase: std::sync::Arc::new(phase),
            settings,
            metrics,
        }
    }
}

/// The name of this machine, as far as a label may hold it.
pub fn host() -> String {
    label(&std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

/// A machine that nobody has named calls itself "(none)".
fn label(host: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || "_-.".contains(*c);
    match host.chars().filter(kept).collect::<String>() {
        name if name.is_empty() => "host".to_owned(),
        name => name,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_of_any_name_has_a_label() {
        for (host, label) in [
            ("gpu-01.ward_3\n", "gpu-01.ward_3"),
            ("(none)\n", "none"),
            ("", "host"),
        ] {
            assert_eq!(super::label(host), label);
        }
    }
}
