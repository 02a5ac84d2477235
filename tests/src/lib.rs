//! What the whole-system and parity tests share: programs, data, the oracle.

pub mod federation;
pub mod hippocampus;
pub mod parity_table;
pub mod process;
pub mod provisioned;
pub mod proxy;
pub mod scans;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use nnunet::{
    checkpoint::{
        PthFile,
        results::{CHECKPOINT_FINAL, ModelFolder},
    },
    network::Layout,
};
use schemas::job::FoldId;

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The final checkpoint of a trained fold, and its network's layout: one channel, three classes.
pub fn opened(model: &Path, configuration: &str, fold: FoldId) -> anyhow::Result<(PthFile, Layout)> {
    let folder = ModelFolder::open(model)?;
    let planned = folder.plans.configuration(configuration);
    let layout = Layout::new(&planned.map_err(anyhow::Error::msg)?.architecture, 1, 3)?;
    Ok((folder.checkpoint(fold, CHECKPOINT_FINAL)?, layout))
}

/// Says that a test skips, past the test runner's capture: CI fails on a name that tests/skipped.txt lacks.
pub fn skip(test: &str, reason: &str) {
    // Nothing can be done for a closed standard error.
    let _ = std::io::stderr().write_all(format!("\nskipped: {test}: {reason}\n").as_bytes());
}

/// Python nnU-Net 2.8.1, the oracle.
pub mod oracle {
    use super::{Command, PathBuf, repository};

    /// The oracle's interpreter, installed by `just setup-oracle`.
    pub fn python() -> PathBuf {
        repository().join(".tools/oracle/bin/python")
    }

    /// Runs `tests/oracle/<script>` with `args`; returns its standard output.
    /// Fails, never skips, where Python or the script fails.
    pub fn run<S: AsRef<std::ffi::OsStr>>(script: &str, args: &[S]) -> anyhow::Result<String> {
        let output = Command::new(python())
            .arg(repository().join("tests/oracle").join(script))
            .args(args)
            .env("OMP_NUM_THREADS", "2")
            .output()
            .map_err(|e| anyhow::anyhow!("{}: {e}; run `just setup-oracle`", python().display()))?;
        anyhow::ensure!(
            output.status.success(),
            "oracle {script} failed:\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
