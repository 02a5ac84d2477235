//! A training job and what comes of it: three sites that are unlike in all that may be unlike.

use std::{collections::BTreeMap, fs::File, path::Path};

use nnunet::{dataset::RawDataset, image::Reader};
use schemas::{
    names::Phase,
    task::{Outcome, TaskOutput},
};
use serde_json::json;
use tests::{
    federation::{Dataset, Federation, ORCHESTRATOR},
    scans::{SMALL, Scans},
};

use crate::{continuation, measured, predict_with_python};

/// Site north names its folder for the id that jobs use, east maps its own to it, and west stores .nii.
fn federation() -> Federation {
    let mut federation = Federation::start().unwrap();
    let folder = federation.folder().to_owned();
    SMALL.write(&folder.join("Dataset011_North")).unwrap();
    SMALL
        .images(&folder.join("Dataset011_North/imagesTs"), 2)
        .unwrap();
    let east = Scans { seed: 1, ..SMALL };
    east.write(&folder.join("Dataset512_Brains")).unwrap();
    let west = Scans {
        file_ending: ".nii",
        cases: 6,
        seed: 2,
        ..SMALL
    };
    west.write(&folder.join("Dataset011_WestWing")).unwrap();
    west.images(&folder.join("Dataset011_WestWing/more/scans"), 1)
        .unwrap();
    for (site, dataset) in [
        (
            "north",
            Dataset {
                id: "north-scans",
                folder: "Dataset011_North",
                dataset_id: None,
            },
        ),
        (
            "east",
            Dataset {
                id: "east-scans",
                folder: "Dataset512_Brains",
                dataset_id: Some(11),
            },
        ),
        (
            "west",
            Dataset {
                id: "west-scans",
                folder: "Dataset011_WestWing",
                dataset_id: None,
            },
        ),
    ] {
        federation.site(site, &[dataset]).unwrap();
    }
    federation
}

#[test]
fn three_unlike_sites_train_segment_and_go_on() {
    let federation = federation();
    let job = federation
        .submit(&json!({
            "job_id": "spine",
            "datasets": ["north-scans", "east-scans", "west-scans"],
            "payload": { "mode": "training", "num_rounds": 2, "dataset_id": 11, "fold_id": 0,
                         "model_configuration": "3d_fullres", "device": "cpu" },
            "federation": { "iterations_per_epoch": 4, "val_iterations_per_epoch": 1, "shard_cases": 2 },
        }))
        .unwrap();
    assert_eq!(job, "spine");
    let finished = federation.finished(&job).unwrap();
    // The initial weights, and the average of each round.
    assert_eq!(finished.history.scores.len(), 3);
    assert_eq!(finished.history.epochs.len(), 2);
    all_phases_were_gone_through(&federation);
    what_commands_print(&federation);
    what_is_measured(&federation);

    let model = federation.download(&job).unwrap();
    let [model] = &model[..] else { panic!("{model:?}") };
    let name = "Dataset011_spine/nnUNetTrainer__nnUNetPlans__3d_fullres";
    assert!(model.ends_with(name), "{}", model.display());
    for file in [
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "fold_0/checkpoint_final.pth",
        "fold_0/checkpoint_best.pth",
        "fold_0/progress.png",
    ] {
        assert!(model.join(file).is_file(), "{file}");
    }

    let segmentations = segment(&federation);
    predict_with_python::gives_the_same(
        model,
        &federation.folder().join("Dataset011_North/imagesTs"),
        &segmentations.join("north-scans"),
    );
    continuation::goes_on(&federation, &finished);
}

fn all_phases_were_gone_through(federation: &Federation) {
    let record: serde_json::Value =
        serde_json::from_str(&federation.command(&["show", "spine", "--json"]).unwrap()).unwrap();
    let mut steps = Vec::new();
    for release in record["releases"].as_array().unwrap() {
        let phase: Phase = release["phase"].as_str().unwrap().parse().unwrap();
        if steps.last() != Some(&phase) {
            steps.push(phase);
        }
    }
    use Phase::{Aggregate, Average, Fingerprint, PlanVerify, Preprocess, TrainRound};
    let expected = [
        Fingerprint,
        Aggregate,
        Fingerprint,
        Aggregate,
        Fingerprint,
        Aggregate,
        PlanVerify,
        Preprocess,
        TrainRound,
        Average,
        TrainRound,
        Average,
        TrainRound,
        Average,
    ];
    assert_eq!(steps, expected);
    assert_eq!(record["state"], "finished");

    let results: Vec<schemas::task::TaskResult> = serde_json::from_value(record["results"].clone()).unwrap();
    let mut made = BTreeMap::new();
    for result in results {
        let Outcome::Done { output } = result.outcome else {
            panic!("{result:?}");
        };
        match output {
            TaskOutput::Preprocessed { made: cases, .. } => {
                *made.entry(result.key.site).or_insert(0) += cases
            }
            TaskOutput::Plans {
                training_cases,
                validation_cases,
                ..
            } => {
                let cases = if result.key.site == "west" { 6 } else { 5 };
                assert_eq!(training_cases + validation_cases, cases, "{}", result.key.site);
            }
            _ => {}
        }
    }
    let expected = [("east", 5), ("north", 5), ("west", 6)].map(|(site, cases)| (site.to_owned(), cases));
    assert_eq!(made, BTreeMap::from(expected));
}

fn what_commands_print(federation: &Federation) {
    let show = federation.command(&["show", "spine"]).unwrap();
    for line in [
        "spine finished",
        "site east: east-scans, 5 cases, cpu",
        "train-round round 1 pass 0: 3 of 3 done",
        "after round 1",
    ] {
        assert!(show.contains(line), "{line:?} is not in\n{show}");
    }
    let list = federation.command(&["list"]).unwrap();
    let line = list.lines().find(|line| line.contains("spine")).unwrap();
    assert!(line.contains("finished") && line.contains("training"), "{list}");
    let sites = federation.command(&["sites"]).unwrap();
    for (site, dataset, cases) in [
        ("east", "east-scans", "5"),
        ("north", "north-scans", "5"),
        ("west", "west-scans", "6"),
    ] {
        let line = sites.lines().find(|line| line.starts_with(site)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1..5], [dataset, "11", cases, "cpu"], "{sites}");
    }
}

fn what_is_measured(federation: &Federation) {
    for (process, series) in [
        (
            "east",
            &[
                "rounds_tasks_total{outcome=\"done\",phase=\"train-round\",site=\"east\"} 3",
                "rounds_task_duration_seconds_count{phase=\"preprocess\",site=\"east\"} 3",
                "rounds_nats_connected 1",
            ][..],
        ),
        (
            ORCHESTRATOR,
            &[
                "rounds_tasks_total{outcome=\"done\",phase=\"average\",site=\"orchestrator\"} 3",
                "rounds_round_duration_seconds_count{job=\"spine\"} 2",
                "rounds_round_stage_seconds_count{job=\"spine\",stage=\"average\"} 2",
                "rounds_round_updates_received{job=\"spine\"} 3",
                "rounds_plan_mismatch{job=\"spine\",site=\"north\"} 0",
                "rounds_site_update_norm{job=\"spine\",site=\"north\"}",
                // What west itself counted.
                "rounds_site_train_iterations_total{site=\"west\",worker=",
                "rounds_job_rounds_completed{job=\"spine\"} 2",
                "rounds_job_state{job=\"spine\",state=\"finished\"} 1",
                "rounds_site_train_loss{job=\"spine\",site=\"west\"}",
                "rounds_global_pseudo_dice{class=\"mean\",job=\"spine\"}",
                "rounds_queue_pending_messages{phase=\"train-round\",site=\"north\"} 0",
            ][..],
        ),
    ] {
        for series in series {
            federation.measured(process, series).unwrap();
        }
    }
    measured::as_documented(federation, &["east", ORCHESTRATOR]);
    let said = federation.said_by("east").unwrap();
    let line = said.lines().find(|line| line.contains("train_loss")).unwrap();
    let task = "task{job=\"spine\" phase=\"train-round\" site=\"east\" round=0 pass=0 shard=0}";
    assert!(line.contains(task), "{line}");
}

/// Segments with the trained model at all three sites: the folder of what the zips held.
fn segment(federation: &Federation) -> std::path::PathBuf {
    let job = federation
        .submit(&json!({
            "datasets": ["north-scans", "east-scans", "west-scans"],
            "payload": { "mode": "inference", "checkpoint_path": "job:spine", "fold_id": 0, "device": "cpu",
                         "apheris_dataset_subdirs": { "west-scans": "more/scans" } },
        }))
        .unwrap();
    let finished = federation.finished(&job).unwrap();
    assert_eq!(finished.segmentations.len(), 3);
    let zips = federation.download(&job).unwrap();
    let names: Vec<_> = zips.iter().filter_map(|zip| zip.file_name()).collect();
    let expected = ["east-scans", "north-scans", "west-scans"].map(|id| format!("{job}-{id}.zip"));
    assert_eq!(names, expected.each_ref().map(std::ffi::OsStr::new));

    let folder = federation.folder().join("segmentations");
    // imagesTs where there is one; else imagesTr, of which a fold's model gets its validation cases; else what
    // the job names.
    for (zip, dataset, images, expected) in [
        (&zips[0], "Dataset512_Brains", "imagesTr", None),
        (
            &zips[1],
            "Dataset011_North",
            "imagesTs",
            Some(&["case_0", "case_1"][..]),
        ),
        (
            &zips[2],
            "Dataset011_WestWing",
            "more/scans",
            Some(&["case_0"][..]),
        ),
    ] {
        let dataset = RawDataset::open(&federation.folder().join(dataset)).unwrap();
        let segmented = unpacked(zip, &folder, dataset.dataset_json.file_ending());
        match expected {
            Some(expected) => assert_eq!(segmented.keys().collect::<Vec<_>>(), expected),
            None => assert_eq!(segmented.len(), 1),
        }
        for (case, file) in segmented {
            let ending = dataset.dataset_json.file_ending();
            let scan = dataset.folder.join(images).join(format!("{case}_0000{ending}"));
            lies_where_its_scan_lies(dataset.reader, &folder.join(file), &scan);
        }
    }
    folder
}

/// Unpacks a zip of segmentations: case identifier to its member.
fn unpacked(zip: &Path, folder: &Path, ending: &str) -> BTreeMap<String, String> {
    let mut zip = zip::ZipArchive::new(File::open(zip).unwrap()).unwrap();
    zip.extract(folder).unwrap();
    let names: Vec<String> = zip.file_names().map(str::to_owned).collect();
    let (documents, segmentations): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| name.ends_with(".json"));
    let names = |document: &String| document.split_once('/').unwrap().1.to_owned();
    let documents: Vec<String> = documents.iter().map(names).collect();
    assert_eq!(documents, ["dataset.json", "inference.json", "plans.json"]);
    let case = |name: &String| {
        let (_, file) = name.split_once('/').unwrap();
        file.strip_suffix(ending).unwrap().to_owned()
    };
    segmentations
        .iter()
        .map(|name| (case(name), name.clone()))
        .collect()
}

fn lies_where_its_scan_lies(reader: Reader, file: &Path, scan: &Path) {
    let segmentation = reader.read_segmentation(file).unwrap();
    let image = reader.read_images(&[scan.to_owned()]).unwrap();
    assert_eq!(segmentation.labels.shape(), &image.data.shape()[1..]);
    assert!(
        segmentation.geometry.is_close_to(&image.geometry),
        "{}",
        file.display()
    );
    assert!(segmentation.labels.iter().all(|label| (0..=2).contains(label)));
}
