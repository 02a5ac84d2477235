//! Training and segmenting on CUDA, with a device that stands in for one: see tests/device/stand_in.cpp for what that
//! shows and what it does not.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use nnunet::{
    checkpoint::Checkpoint,
    image::Reader,
    network::{Layout, StateDict, initial_weights},
    train::ScalerState,
};
use schemas::job::FoldId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{federation::Federation, process, repository, scans::SMALL};

/// The device's library, made once.
fn stand_in() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("stand_in.so");
        let torch = PathBuf::from(env::var_os("LIBTORCH").expect("LIBTORCH, as `just test` sets it"));
        let made = Command::new(env::var_os("CXX").unwrap_or("c++".into()))
            .args(["-std=c++17", "-O1", "-fPIC", "-shared"])
            .arg(repository().join("tests/device/stand_in.cpp"))
            .arg("-o")
            .arg(&library)
            .arg("-I")
            .arg(torch.join("include"))
            .arg("-L")
            .arg(torch.join("lib"))
            // Behind what needs them: linkers that take libraries as needed leave them out otherwise.
            .args(["-ltorch_cpu", "-lc10"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        (folder, library)
    };
    &MADE.get_or_init(make).1
}

/// nnU-Net's folders with a planned and preprocessed data set.
struct Folders(TempDir);

impl Folders {
    fn new() -> Self {
        let folders = Self(tempfile::tempdir().unwrap());
        let raw = folders.0.path().join("nnUNet_raw/Dataset042_Device");
        SMALL.write(&raw).unwrap();
        folders.must("cpu", "plan-and-preprocess -d 42 -c 3d_fullres --no_pbar", &[]);
        folders
    }

    /// Runs `rounds nnunet ARGUMENTS -device DEVICE`; each device has results of its own.
    fn run(&self, device: &str, arguments: &str, environment: &[(&str, &str)]) -> Output {
        let root = self.0.path();
        let mut command = process::nnunet(root, arguments).unwrap();
        if !arguments.starts_with("plan") {
            command.args(["-device", device]);
        }
        command
            .current_dir(root)
            .env("nnUNet_results", root.join(device))
            .envs(environment.iter().copied());
        if device == "cuda" {
            command.env("LD_PRELOAD", stand_in());
        }
        command.output().unwrap()
    }

    /// The same, to a good end and without a warning of libtorch's.
    fn must(&self, device: &str, arguments: &str, environment: &[(&str, &str)]) {
        let output = self.run(device, arguments, environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{device} {arguments}: {said}");
        assert!(!said.contains("Warning"), "{device} {arguments}: {said}");
    }

    /// Trains one epoch; the checkpoint, and the network's layout.
    fn train(&self, device: &str, iterations: usize, further: &str, report: &Path) -> (Checkpoint, Layout) {
        let train = "train 42 3d_fullres 0 -tr nnUNetTrainer_1epoch --val-iterations-per-epoch 1";
        let arguments = format!("{train} --iterations-per-epoch {iterations}{further}");
        self.must(
            device,
            &arguments,
            &[("STAND_IN_REPORT", report.to_str().unwrap())],
        );
        let (file, layout) = tests::opened(&self.model(device), "3d_fullres", FoldId::Fold(0)).unwrap();
        (file.checkpoint(&layout).unwrap(), layout)
    }

    fn model(&self, device: &str) -> PathBuf {
        let model = "Dataset042_Device/nnUNetTrainer_1epoch__nnUNetPlans__3d_fullres";
        self.0.path().join(device).join(model)
    }
}

/// The length of the difference of two networks' weights.
fn apart(a: &StateDict, b: &StateDict) -> f64 {
    let pairs = a.iter().zip(b.iter());
    let squares = pairs.flat_map(|((_, a), (_, b))| {
        let values = a.data.iter().zip(&b.data);
        values.map(|(a, b)| f64::from(a - b).powi(2)).collect::<Vec<_>>()
    });
    squares.sum::<f64>().sqrt()
}

fn report(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn an_accelerator_trains_and_segments_as_the_processor_does() {
    let folders = Folders::new();
    let file = folders.0.path().join("report.json");
    let (on_processor, layout) = folders.train("cpu", 4, "", &file);
    let (on_device, _) = folders.train("cuda", 4, "", &file);
    let four = report(&file);

    // Half precision, whose errors are small beside the way that the weights have gone.
    let start = initial_weights(&layout, 0).unwrap();
    let way = apart(&on_processor.weights, &start);
    let error = apart(&on_processor.weights, &on_device.weights) / way;
    println!("4 iterations: weights went {way:.3}, on the device by {error:.4} of it elsewhere");
    assert!(error > 0.0 && error < 0.05, "{error}");
    let scaler = ScalerState {
        growth_tracker: 4,
        ..ScalerState::default()
    };
    assert_eq!((on_processor.scaler, on_device.scaler), (None, Some(scaler)));

    // An iteration asks for the gradients' norm and for the loss, and waits for nothing else.
    let (whole, _) = folders.train("cuda", 8, "", &file);
    let eight = report(&file);
    let more = |what: &str| eight[what].as_u64().unwrap() - four[what].as_u64().unwrap();
    assert_eq!(more("answers"), 4 * 2);
    // 6 at the time of writing; an optimiser that goes from tensor to tensor takes 10 more.
    let orders = more("orders") as f64 / 4.0 / layout.parameters().len() as f64;
    println!("{orders:.1} orders of an iteration for each tensor");
    assert!(orders < 8.0, "{orders}");

    // A smaller device sees the batch in parts.
    let (parts, _) = folders.train("cuda", 8, " --micro-batch 1", &file);
    assert!(report(&file)["peak"].as_u64() < eight["peak"].as_u64());
    let error = apart(&whole.weights, &parts.weights) / apart(&whole.weights, &start);
    println!("micro-batches of 1: elsewhere by {error:.4}");
    assert!(error < 0.05, "{error}");

    let output = folders.run("cuda", "train 42 3d_fullres 0", &[("STAND_IN_MEMORY", "1000000")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("CUDA out of memory"),
        "{said}"
    );

    segment(&folders, &file);
}

fn segment(folders: &Folders, file: &Path) {
    let predict = |device: &str, name: &str, environment: &[(&str, &str)]| {
        let (scans, output) = (
            "nnUNet_raw/Dataset042_Device/imagesTr",
            format!("segmented-{name}"),
        );
        let model = folders.model("cpu");
        let arguments = format!(
            "predict-from-modelfolder -i {scans} -o {output} -f 0 -m {} --save_probabilities",
            model.display()
        );
        folders.must(device, &arguments, environment);
        let output = folders.0.path().join(output);
        let case = |n| Reader::SimpleItk.read_segmentation(&output.join(format!("case_{n}.nii.gz")));
        (0..SMALL.cases)
            .map(|n| case(n).unwrap().labels)
            .collect::<Vec<_>>()
    };
    let on_processor = predict("cpu", "cpu", &[]);
    let on_device = predict("cuda", "cuda", &[("STAND_IN_REPORT", file.to_str().unwrap())]);
    for (ours, theirs) in on_device.iter().zip(&on_processor) {
        let differing = ours.iter().zip(theirs).filter(|(a, b)| a != b).count();
        println!("{differing} of {} voxels differ", ours.len());
        assert!(differing * 100 < ours.len(), "{differing}");
        assert!(
            theirs.iter().any(|label| *label > 0),
            "an empty segmentation says nothing"
        );
    }
    // Where the device cannot hold what a scan's tiles add up to, main memory does.
    let less = (report(file)["peak"].as_u64().unwrap() - 1).to_string();
    assert_eq!(predict("cuda", "less", &[("STAND_IN_MEMORY", &less)]), on_device);
}

/// The CUDA build is this build with one library more, which Python's libtorch has.
#[test]
fn a_cuda_build_without_a_device_says_so() {
    let oracle = repository().join(".tools/oracle/lib");
    let python = fs::read_dir(&oracle).unwrap().next().unwrap().unwrap();
    let library = python.path().join("site-packages/torch/lib/libtorch_cuda.so");
    assert!(library.is_file(), "{}: not there", library.display());
    let said = |library: &Path| {
        let output = process::command(&["nnunet", "train", "42", "2d", "0", "-device", "cuda"])
            .unwrap()
            .env("LD_PRELOAD", library)
            .env("CUDA_VISIBLE_DEVICES", "")
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let (with, without) = (said(&library), said(Path::new("")));
    assert!(
        with.contains("libtorch finds no CUDA device on this machine"),
        "{with}"
    );
    assert!(without.contains("this build has the CPU libtorch"), "{without}");
}

#[test]
fn jobs_run_on_the_sites_accelerators() {
    let mut federation = Federation::start().unwrap();
    federation.environment("LD_PRELOAD", stand_in().to_owned());
    let own = |_: &Federation, _: &str| "devices = [\"cuda\", \"cpu\"]".to_owned();
    federation.sites(43, &["alpha", "beta"], &SMALL, own).unwrap();
    let training = json!({
        "job_id": "trained",
        "datasets": ["alpha", "beta"],
        "payload": { "mode": "training", "num_rounds": 2, "dataset_id": 43, "model_configuration": "2d" },
        "federation": { "iterations_per_epoch": 2, "val_iterations_per_epoch": 1 },
    });
    let job = federation.submit(&training).unwrap();
    federation.finished(&job).unwrap();
    let inference = json!({
        "job_id": "segmented",
        "datasets": ["alpha", "beta"],
        "payload": { "mode": "inference", "checkpoint_path": "job:trained", "fold_id": "all", "device": null },
    });
    let job = federation.submit(&inference).unwrap();
    assert_eq!(federation.finished(&job).unwrap().segmentations.len(), 2);
    let said = federation.said();
    assert!(!said.contains("Warning"), "{said}");
}
