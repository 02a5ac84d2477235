//! What averaging alone costs: time beside copying memory, and memory in models. Figures are printed, never asserted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nnunet::{
    average::{Contribution, Rule, average},
    checkpoint::safetensors,
    network::{StateDict, Tensor32},
    progress::Unobserved,
};

/// A model of so many bytes.
fn model(bytes: usize) -> StateDict {
    let tensors = 24;
    let values = bytes / 4 / tensors;
    let mut weights = StateDict::new();
    for index in 0..tensors {
        let tensor = Tensor32 {
            shape: vec![values],
            data: vec![0.5; values],
        };
        weights.insert(format!("{index:02}"), tensor).unwrap();
    }
    weights
}

/// Bytes of the process's memory, mapped files among them.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[test]
#[ignore = "a measurement: just overhead"]
fn overhead_of_averaging() {
    let bytes = 120_000_000;
    let folder = tempfile::tempdir().unwrap();
    let source = vec![1u8; 4 * bytes];
    let mut copy = vec![2u8; source.len()];
    let begun = Instant::now();
    copy.copy_from_slice(std::hint::black_box(&source));
    std::hint::black_box(&copy);
    let copied = source.len() as f64 / begun.elapsed().as_secs_f64() / 1e6;
    drop((source, copy));
    println!("\nmemory is copied at {copied:.0} MB/s");
    for sites in [3, 30] {
        let contributions: Vec<Contribution> = (0..sites)
            .map(|site| {
                let weights = folder.path().join(format!("{site}"));
                safetensors::write(&model(bytes), &weights).unwrap();
                Contribution {
                    site: format!("{site:02}"),
                    weights,
                    weight: 1 + site as u64,
                }
            })
            .collect();
        let before = memory();
        let done = AtomicBool::new(false);
        let (seconds, most) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(memory());
                    std::thread::sleep(Duration::from_millis(5));
                }
                most
            });
            let begun = Instant::now();
            let output = folder.path().join("average");
            average(&contributions, &Rule::Mean, &output, &Unobserved).unwrap();
            let seconds = begun.elapsed().as_secs_f64();
            done.store(true, Ordering::Relaxed);
            (seconds, watching.join().unwrap())
        });
        println!(
            "average of {sites} sites, 120 MB each: {:.0} MB/s read, {:.2} models of memory",
            (sites * bytes) as f64 / seconds / 1e6,
            most.saturating_sub(before) as f64 / bytes as f64,
        );
    }
}
