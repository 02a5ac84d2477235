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

/// The weights of a 3D U-Net of six stages, as nnU-Net plans it for large images: 31 million.
fn model() -> StateDict {
    let features = [32, 64, 128, 256, 320, 320];
    let mut shapes = Vec::new();
    for (stage, &out) in features.iter().enumerate() {
        let below = if stage == 0 { 1 } else { features[stage - 1] };
        shapes.extend([vec![out, below, 3, 3, 3], vec![out, out, 3, 3, 3]]);
    }
    for pair in features.windows(2).rev() {
        let [out, below] = [pair[0], pair[1]];
        shapes.extend([
            vec![below, out, 2, 2, 2],
            vec![out, 2 * out, 3, 3, 3],
            vec![out, out, 3, 3, 3],
        ]);
    }
    let mut weights = StateDict::new();
    for (index, shape) in shapes.into_iter().enumerate() {
        let channels = shape[0];
        for (part, shape) in [("weight", shape), ("bias", vec![channels])] {
            let data = vec![0.5; shape.iter().product()];
            weights
                .insert(format!("{index:02}.{part}"), Tensor32 { shape, data })
                .unwrap();
        }
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
    let model = model();
    let bytes = 4 * model.iter().map(|(_, tensor)| tensor.data.len()).sum::<usize>();
    let folder = tempfile::tempdir().unwrap();
    let source = vec![1u8; 4 * bytes];
    let mut copy = vec![2u8; source.len()];
    let begun = Instant::now();
    copy.copy_from_slice(std::hint::black_box(&source));
    std::hint::black_box(&copy);
    let copied = source.len() as f64 / begun.elapsed().as_secs_f64() / 1e6;
    let begun = Instant::now();
    std::hint::black_box(schemas::sha256(&source[..bytes]));
    let digested = begun.elapsed().as_secs_f64();
    drop((source, copy));
    println!("\nmemory is copied at {copied:.0} MB/s");
    let counts = [3, 30];
    let times = counts.map(|sites| {
        let contributions: Vec<Contribution> = (0..sites)
            .map(|site| {
                let weights = folder.path().join(format!("{site}"));
                safetensors::write(&model, &weights).unwrap();
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
            "average of {sites} sites, {} MB each: {:.0} MB/s read, {:.2} models of memory",
            bytes / 1_000_000,
            (sites * bytes) as f64 / seconds / 1e6,
            most.saturating_sub(before) as f64 / bytes as f64,
        );
        seconds
    });
    // The output is digested and written once, however many sites there are.
    let further = (times[1] - times[0]) / (counts[1] - counts[0]) as f64;
    println!(
        "a further site is averaged at {:.0} MB/s; the output takes {:.0} ms, of which its digest {:.0} ms",
        bytes as f64 / further / 1e6,
        1e3 * (times[0] - counts[0] as f64 * further),
        1e3 * digested,
    );
}
