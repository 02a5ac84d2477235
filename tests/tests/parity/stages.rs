//! The data side on whole data sets, from raw files to preprocessed cases, by the programs' own commands: every
//! kind of data set that nnU-Net plans differently, cut out of the MNI template. `just parity` prints the table.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use nnunet::{dataset::RawDataset, splits};
use serde_json::{Value, json};
use tests::{hippocampus, oracle, parity_table, process, repository};

/// What is done with a data set.
struct Job {
    dataset: String,
    planner: &'static str,
    /// The planner's own name of its plans.
    plans: &'static str,
    gpu_memory_target: Option<f64>,
    /// What is preprocessed; none: only planned.
    configurations: &'static [&'static str],
}

/// All four planners for a data set; the first one's configurations are preprocessed.
fn jobs(dataset: &str, gpu_memory_target: Option<f64>, configurations: &'static [&'static str]) -> Vec<Job> {
    [
        ("ExperimentPlanner", "nnUNetPlans"),
        ("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans"),
        ("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans"),
        ("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans"),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (planner, plans))| Job {
        dataset: dataset.to_owned(),
        planner,
        plans,
        gpu_memory_target: gpu_memory_target.filter(|_| index == 0),
        configurations: if index == 0 { configurations } else { &[] },
    })
    .collect()
}

/// A run of `rounds nnunet`: the seconds that the whole command took.
fn rounds(root: &Path, arguments: &[&str]) -> Result<f64> {
    let mut command = process::command(&[&["nnunet"], arguments].concat())?;
    command
        .env("nnUNet_raw", root.join("nnUNet_raw"))
        .env("nnUNet_preprocessed", root.join("ours/nnUNet_preprocessed"))
        .env("nnUNet_results", root.join("ours/nnUNet_results"));
    let start = Instant::now();
    let output = command.output()?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "rounds nnunet {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(seconds)
}

/// The seconds of each stage of a job, in the order of the oracle's rows.
fn run_job(root: &Path, job: &Job, first: bool) -> Result<Vec<Option<f64>>> {
    let id = job.dataset[7..10].trim_start_matches('0');
    let mut seconds = Vec::new();
    if first {
        let extract = ["extract-fingerprint", "-d", id, "-np", "2"];
        let extracted = rounds(root, &extract)?;
        // Where there is a fingerprint, it only checks.
        let verified = rounds(root, &[&extract[..], &["--verify_dataset_integrity"]].concat())?;
        seconds.extend([Some(verified), Some(extracted)]);
    }
    let mut plan = vec!["plan", "-d", id, "-pl", job.planner];
    let target = job.gpu_memory_target.map(|target| target.to_string());
    if let Some(target) = &target {
        plan.extend(["-gpu_memory_target", target]);
    }
    seconds.push(Some(rounds(root, &plan)?));
    for configuration in job.configurations {
        let arguments = [
            "preprocess",
            "-d",
            id,
            "-plans_name",
            job.plans,
            "-c",
            configuration,
            "-np",
            "2",
        ];
        seconds.push(Some(rounds(root, &arguments)?));
    }
    if !job.configurations.is_empty() && split(root, job)?.is_some() {
        seconds.push(None);
    }
    Ok(seconds)
}

/// Our folds of the data set; none where it has too few cases.
fn split(root: &Path, job: &Job) -> Result<Option<Value>> {
    let raw = RawDataset::open(&root.join("nnUNet_raw").join(&job.dataset))?;
    match raw.cases.len() {
        ..splits::FOLDS => Ok(None),
        _ => Ok(Some(serde_json::to_value(splits::generate(&raw.identifiers())?)?)),
    }
}

/// Runs both programs over `root`/nnUNet_raw, and puts what was compared in the table.
fn compare(root: &Path, jobs: &[Job]) -> Result<()> {
    let (mut asked, mut ours) = (Vec::new(), Vec::new());
    for (index, job) in jobs.iter().enumerate() {
        let first = index == 0 || jobs[index - 1].dataset != job.dataset;
        ours.extend(run_job(root, job, first).with_context(|| format!("{} {}", job.dataset, job.planner))?);
        asked.push(json!({
            "dataset": job.dataset, "planner": job.planner, "plans": job.plans,
            "gpu_memory_target": job.gpu_memory_target, "configurations": job.configurations,
            "splits": split(root, job)?,
        }));
    }
    fs::write(root.join("jobs.json"), Value::from(asked).to_string())?;
    let printed = oracle::run("stages.py", &["run".as_ref(), root.as_os_str()])?;
    let rows: Vec<Value> = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
    ensure!(
        rows.len() == ours.len(),
        "{} stages of Python's, {} of ours",
        rows.len(),
        ours.len()
    );
    for (row, ours) in rows.iter().zip(ours) {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        parity_table::add(&parity_table::Row {
            stage: text("stage"),
            dataset: text("dataset"),
            compared: text("compared"),
            difference: text("difference"),
            seconds: ours.zip(row["seconds"].as_f64()),
        })?;
    }
    Ok(())
}

#[test]
fn every_kind_of_data_set_comes_out_as_pythons() -> Result<()> {
    let root = tempfile::tempdir()?;
    let mni = repository().join(".tools/mni");
    oracle::run(
        "stages.py",
        &["make".as_ref(), root.path().as_os_str(), mni.as_os_str()],
    )?;
    let all: Vec<Job> = [
        jobs("Dataset101_Isotropic", None, &["2d", "3d_fullres"]),
        jobs("Dataset102_ThickCT", None, &["2d", "3d_fullres"]),
        jobs("Dataset103_Regions", None, &["2d", "3d_fullres"]),
        jobs("Dataset104_Slices", None, &["2d"]),
        // So small that the patch covers less than a quarter of a head.
        jobs("Dataset105_Large", Some(1.5), &["3d_fullres", "3d_lowres"]),
    ]
    .into_iter()
    .flatten()
    .collect();
    compare(root.path(), &all)
}

/// All 180 cases pooled: `just parity` runs it, the ordinary tests do not.
#[test]
#[ignore = "takes minutes; just parity runs it"]
fn the_pooled_hippocampus_comes_out_as_pythons() -> Result<()> {
    let Some(data) = hippocampus::folder() else {
        tests::skip("the_pooled_hippocampus_comes_out_as_pythons", "no shared data");
        return Ok(());
    };
    let root = tempfile::tempdir()?;
    let name = "Dataset004_Hippocampus";
    let pooled = root.path().join("nnUNet_raw").join(name);
    hippocampus::pool(&hippocampus::sites(&data)?, &pooled)?;
    compare(root.path(), &jobs(name, None, &["2d", "3d_fullres"]))
}
