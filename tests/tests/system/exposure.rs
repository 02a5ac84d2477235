//! What leaves a site: a name is planted wherever one may stand, and is looked for wherever it may have got to. And who
//! decides.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

use pipeline::{client::Watched, exit::APPROVAL};
use schemas::{
    event::Event,
    nnunet::Fingerprint,
    task::{Outcome, TaskOutput},
};
use serde_json::{Value, json};
use tests::{
    federation::{Dataset, Federation, ORCHESTRATOR, heard::Heard},
    process,
    scans::{SMALL, Scans},
};

/// The name that must not leave.
const NAME: &str = "Zebulon";

/// Writes a data set with the name in every place.
fn plant(federation: &Federation) -> PathBuf {
    let folder = federation.folder().join(format!("Dataset051_{NAME}"));
    let scans = Scans {
        file_ending: ".nii",
        ..SMALL
    };
    scans.write(&folder).unwrap();
    let document = folder.join("dataset.json");
    let mut described: Value = serde_json::from_slice(&fs::read(&document).unwrap()).unwrap();
    for key in ["name", "description", "reference", NAME] {
        described[key] = json!(format!("scans of {NAME}"));
    }
    fs::write(&document, described.to_string()).unwrap();
    for inside in ["imagesTr", "labelsTr"] {
        for entry in fs::read_dir(folder.join(inside)).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            let named = path.with_file_name(file.replace("case", NAME));
            fs::write(&named, with_texts(fs::read(&path).unwrap())).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }
    folder
}

/// A NIfTI-1 file with the name in its free-text fields, and in an extension.
fn with_texts(mut file: Vec<u8>) -> Vec<u8> {
    let name = NAME.as_bytes();
    // data_type, db_name, descrip, aux_file, intent_name (nifti1.h).
    for offset in [4, 14, 148, 228, 328] {
        file[offset..offset + name.len()].copy_from_slice(name);
    }
    let mut extension = vec![0; 32];
    extension[..4].copy_from_slice(&32i32.to_le_bytes());
    extension[4..8].copy_from_slice(&6i32.to_le_bytes());
    extension[8..8 + name.len()].copy_from_slice(name);
    file[348] = 1;
    file[108..112].copy_from_slice(&(352.0f32 + 32.0).to_le_bytes());
    file.splice(352..352, extension);
    file
}

fn holds(bytes: &[u8]) -> bool {
    let name = NAME.to_ascii_lowercase();
    let lower = bytes.to_ascii_lowercase();
    lower.windows(name.len()).any(|window| window == name.as_bytes())
}

/// Files below a folder whose path in it, or whose bytes hold the name.
fn files_with_it(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path.clone());
            }
            if holds(inside.as_bytes()) || (path.is_file() && holds(&fs::read(&path).unwrap())) {
                found.push(path);
            }
        }
    }
    found
}

fn training(job: &str) -> Value {
    json!({
        "job_id": job,
        "datasets": ["alpha", "beta"],
        "payload": { "mode": "training", "num_rounds": 1, "dataset_id": 51,
                     "model_configuration": "2d", "device": "cpu" },
        "federation": { "iterations_per_epoch": 1, "val_iterations_per_epoch": 1, "evaluate": true },
    })
}

fn inference(job: &str) -> Value {
    json!({
        "job_id": job,
        "datasets": ["alpha"],
        "payload": { "mode": "inference", "checkpoint_path": "job:trained", "fold_id": "all", "device": "cpu" },
        "federation": { "evaluate": true, "pictures": 1, "shard_cases": 2 },
    })
}

/// Runs `rounds site COMMAND settings MORE`.
fn at_site(federation: &Federation, site: &str, command: &str, more: &[&str]) -> anyhow::Result<String> {
    let settings = federation.settings_file(site);
    let mut arguments = vec!["site", command, settings.to_str().unwrap()];
    arguments.extend(more);
    process::run(&arguments)
}

#[test]
fn a_planted_name_leaves_nowhere() {
    let mut federation = Federation::start().unwrap();
    let heard = federation.listen().unwrap();
    let planted = plant(&federation);
    let inside = format!("Dataset051_{NAME}");
    SMALL.write(&federation.folder().join("Dataset051_Beta")).unwrap();
    for (site, folder) in [("alpha", &*inside), ("beta", "Dataset051_Beta")] {
        let dataset = Dataset {
            id: site,
            folder,
            dataset_id: None,
        };
        let datasets = dataset.settings(&federation);
        federation
            .site_with(
                site,
                "pictures = true\n[policy]\nmin_cases = 5\nleast_count_per_bin = 100",
                &datasets,
            )
            .unwrap();
    }
    let trained = federation.submit(&training("trained")).unwrap();
    federation.finished(&trained).unwrap();
    let model = federation.download(&trained).unwrap().remove(0);
    let fingerprint = fs::read(model.join("dataset_fingerprint.json")).unwrap();
    let fingerprint: Fingerprint = serde_json::from_slice(&fingerprint).unwrap();
    assert!(fingerprint.approximate, "the sites merge bins of few voxels");
    let segmented = federation.submit(&inference("segmented")).unwrap();
    segmented_though_killed(&mut federation, &segmented);
    let zips = federation.download(&segmented).unwrap();
    federation
        .command(&[
            "report",
            &segmented,
            "--output",
            federation
                .folder()
                .join("downloads/report.html")
                .to_str()
                .unwrap(),
        ])
        .unwrap();
    unmasked(&federation, &zips[0]);

    // A case that cannot be read fails alone where it is segmented, and fails the job where it is trained on.
    fs::write(
        planted.join("imagesTr").join(format!("{NAME}_1_0000.nii")),
        "no image",
    )
    .unwrap();
    let some = federation.submit(&inference("some-fail")).unwrap();
    let finished = federation.finished(&some).unwrap();
    assert_eq!(
        (
            finished.segmentations[0].cases,
            finished.segmentations[0].failures.len()
        ),
        (4, 1)
    );
    federation.download(&some).unwrap();
    let codes = |job: &str| match federation.end(job).unwrap() {
        Event::Failed(failed) => failed.failure.code,
        other => panic!("{other:?}\n{}", federation.said()),
    };
    assert_eq!(
        codes(&federation.submit(&training("corrupt")).unwrap()),
        "bad-file"
    );
    // A file that is missing is named with its whole path in the log of its site.
    fs::remove_file(planted.join("labelsTr").join(format!("{NAME}_2.nii"))).unwrap();
    assert_eq!(
        codes(&federation.submit(&training("missing")).unwrap()),
        "bad-case"
    );
    assert!(holds(federation.said_by("alpha").unwrap().as_bytes()));

    nowhere(&federation, &heard);
    audited(&federation);
}

/// Kills the site in its second shard, and waits for the job's end: the cases keep their pseudonyms.
fn segmented_though_killed(federation: &mut Federation, job: &str) {
    let mut left = true;
    let mut watching = federation.watch(job).unwrap();
    loop {
        match watching.next(federation).unwrap() {
            Watched::Event(Event::Finished(_)) => break,
            Watched::Event(event) if event.is_end() => panic!("{event:?}\n{}", federation.said()),
            Watched::Progress(progress) if left && progress.shard == 1 => {
                federation.kill("alpha").unwrap();
                left = false;
            }
            _ => {}
        }
    }
    assert!(!left, "alpha was not killed");
}

/// The name is in no message, and in nothing that the orchestrator has or a user downloaded.
fn nowhere(federation: &Federation, heard: &Heard) {
    let all = heard.all();
    let subjects: BTreeSet<&str> = all
        .iter()
        .filter_map(|(line, _)| line.split(['.', ' ']).nth(1))
        .collect();
    for kind in [
        "artifact",
        "result",
        "progress",
        "heartbeat",
        "site",
        "job",
        "task",
    ] {
        assert!(subjects.contains(kind), "{kind} was not heard: {subjects:?}");
    }
    for (line, payload) in &all {
        let text = String::from_utf8_lossy(payload);
        assert!(!holds(line.as_bytes()) && !holds(payload), "{line}: {text}");
    }
    // Zips are stored, not packed: a name in them would have been heard.
    let member = |payload: &[u8]| payload.windows(19).any(|window| window == b"alpha/case_0004.nii");
    assert!(all.iter().any(|(_, payload)| member(payload)));
    assert!(!files_with_it(&federation.root("alpha")).is_empty());
    assert!(!holds(federation.metrics(ORCHESTRATOR).unwrap().as_bytes()));
    let said = federation.said_by(ORCHESTRATOR).unwrap();
    assert!(!holds(said.as_bytes()), "{said}");
    for folder in [
        federation.archive(),
        federation.root(ORCHESTRATOR),
        federation.folder().join("home"),
        federation.folder().join("downloads"),
    ] {
        let found = files_with_it(&folder);
        assert!(found.is_empty(), "{found:?}");
    }
}

/// The site gives the segmentations their names again; nobody else can.
fn unmasked(federation: &Federation, zip: &Path) {
    let own = federation.settings_file("alpha");
    let named = federation.folder().join("named.zip");
    let unmask = |settings: &Path| {
        let arguments: [&Path; 6] = [
            Path::new("unmask"),
            zip,
            Path::new("--settings"),
            settings,
            Path::new("-o"),
            &named,
        ];
        process::run(&arguments)
    };
    let error = unmask(&federation.settings_file("beta")).unwrap_err().to_string();
    assert!(error.contains("made at another"), "{error}");
    unmask(&own).unwrap();
    let members = |zip: &Path| -> BTreeSet<String> {
        let zip = zip::ZipArchive::new(File::open(zip).unwrap()).unwrap();
        zip.file_names().map(str::to_owned).collect()
    };
    let (masked, named) = (members(zip), members(&named));
    assert_eq!(masked.len(), named.len());
    for case in 0..5 {
        assert!(
            masked.contains(&format!("alpha/case_{case:04}.nii")),
            "{masked:?}"
        );
        assert!(named.contains(&format!("alpha/{NAME}_{case}.nii")), "{named:?}");
    }
}

/// The log has what left, and tells where somebody changed it.
fn audited(federation: &Federation) {
    let shown = at_site(federation, "alpha", "audit", &["--job", "segmented"]).unwrap();
    for part in ["segmentations", "picture", "scores", "references", "unbroken"] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert!(!shown.contains("weights"), "{shown}");
    let file = federation.root("alpha").join("audit/log.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let place = text
        .lines()
        .position(|line| line.contains("\"weights\""))
        .unwrap();
    fs::write(&file, text.replacen("\"weights\"", "\"scores\"", 1)).unwrap();
    let error = at_site(federation, "alpha", "audit", &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("line {}", place + 1)), "{error}");
}

#[test]
fn a_person_and_the_policy_decide() {
    let mut federation = Federation::start().unwrap();
    SMALL
        .write(&federation.folder().join("Dataset052_Alpha"))
        .unwrap();
    let dataset = Dataset {
        id: "alpha",
        folder: "Dataset052_Alpha",
        dataset_id: None,
    };
    let own = "[policy]\napproval = \"required\"\ntrainers = [\"nnUNetTrainer\"]\n";
    let datasets = dataset.settings(&federation);
    federation.site_with("alpha", own, &datasets).unwrap();
    let submit = |federation: &Federation, job: &str, trainer: &str| {
        let mut message = training(job);
        message["datasets"] = json!(["alpha"]);
        message["payload"]["dataset_id"] = json!(52);
        message["payload"]["trainer_name"] = json!(trainer);
        federation.submit(&message).unwrap()
    };
    let site = |command: &str, more: &[&str]| at_site(&federation, "alpha", command, more).unwrap();
    let waits = |job: &str| {
        let mut watching = federation.watch(job).unwrap();
        loop {
            if let Watched::Progress(progress) = watching.next(&federation).unwrap()
                && progress.what == APPROVAL
            {
                return watching;
            }
        }
    };

    let wrong = submit(&federation, "wrong", "nnUNetTrainerBN");
    let Event::Failed(failed) = federation.end(&wrong).unwrap() else {
        panic!("{}", federation.said());
    };
    assert_eq!(failed.failure.code, "policy");
    assert!(failed.failure.message.contains("policy.trainers"), "{failed:?}");

    // Several wait at once.
    for job in ["approved", "refused", "cancelled"] {
        submit(&federation, job, "nnUNetTrainer");
    }
    waits("cancelled");
    let mut watching = waits("approved");
    let listed = site("jobs", &[]);
    assert_eq!(listed.matches("waits for a person").count(), 3, "{listed}");
    let preview = site("preview", &["approved", "--full"]);
    for part in [
        "the policy allows it",
        "it waits for a person",
        "channel_names",
        "parameters",
        "no segmentation leaves",
    ] {
        assert!(preview.contains(part), "{part:?} is not in {preview}");
    }
    site("approve", &["refused", "--refuse", "not covered by the vote"]);
    let Event::Failed(failed) = federation.end("refused").unwrap() else {
        panic!("{}", federation.said());
    };
    assert!(
        failed.failure.message.contains("not covered by the vote"),
        "{failed:?}"
    );
    federation.command(&["cancel", "cancelled"]).unwrap();
    federation
        .until("the cancelled job waits no longer", || {
            Ok(federation.said_by("alpha")?.contains("waits no longer"))
        })
        .unwrap();
    site("approve", &["approved"]);
    loop {
        match watching.next(&federation).unwrap() {
            Watched::Result(result) => {
                let Outcome::Done { output } = &result.outcome else {
                    panic!("{result:?}");
                };
                assert!(matches!(output, TaskOutput::Inventory { .. }), "{output:?}");
                break;
            }
            Watched::Event(event) if event.is_end() => panic!("{event:?}"),
            _ => {}
        }
    }
    federation.command(&["cancel", "approved"]).unwrap();
}
