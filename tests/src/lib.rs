//! What the whole-system and parity tests share: where the oracle is, where the real data are.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The hippocampus data beside the repository (`../shared/data/hippocampus`), where present.
/// A test that needs it prints `skipped: <test>: no shared data` and returns.
pub fn shared_data() -> Option<PathBuf> {
    let folder = repository().join("../shared/data/hippocampus");
    folder.is_dir().then_some(folder)
}

/// Python nnU-Net 2.8.1, the oracle.
pub mod oracle {
    use super::*;

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
