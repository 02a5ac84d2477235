//! nnU-Net's numbers of processes, as threads.

use anyhow::Context;

/// nnU-Net's default for most commands: `nnUNet_def_n_proc`, or 8; here never more than the machine has cores.
pub fn default_threads() -> anyhow::Result<usize> {
    match from_environment("nnUNet_def_n_proc")? {
        Some(threads) => Ok(threads),
        None => Ok(cores().min(8)),
    }
}

/// What nnU-Net's own commands are told to use: `nnUNet_def_n_proc`, or 8.
pub fn default_processes() -> anyhow::Result<usize> {
    Ok(from_environment("nnUNet_def_n_proc")?.unwrap_or(8))
}

/// Threads that make training batches: `nnUNet_n_proc_DA`, or up to 12.
pub fn loader_threads() -> anyhow::Result<usize> {
    match from_environment("nnUNet_n_proc_DA")? {
        Some(threads) => Ok(threads),
        None => Ok(cores().min(12)),
    }
}

/// The number of cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Runs `work` with that many threads for its cases and slabs.
pub fn with<T: Send>(threads: usize, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .build()
        .context("cannot start threads")?;
    pool.install(work)
}

fn from_environment(name: &str) -> anyhow::Result<Option<usize>> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let threads = value.to_str().and_then(|text| text.trim().parse().ok());
    threads
        .map(Some)
        .with_context(|| format!("the environment variable {name} is {value:?}: expected a number"))
}
