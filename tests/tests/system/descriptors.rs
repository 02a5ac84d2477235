//! Labels and channels mean the same at all sites, or the job ends before any case is preprocessed.

use ndarray::Axis;
use nnunet::preprocess::MappedCase;
use schemas::{event::Event, names::Phase};
use serde_json::json;
use tests::{
    federation::{Dataset, Federation},
    scans::{SMALL, Scans},
};

#[test]
fn what_is_swapped_at_one_site_is_refused() {
    let mut federation = Federation::start().unwrap();
    let two = Scans {
        channels: &["T1", "T2"],
        ..SMALL
    };
    let swapped_labels = Scans {
        labels: &["core", "shell"],
        ..SMALL
    };
    let swapped_channels = Scans {
        channels: &["T2", "T1"],
        ..SMALL
    };
    for (site, one_channel, two_channels) in [
        ("alpha", SMALL, two),
        ("beta", SMALL, two),
        ("gamma", swapped_labels, swapped_channels),
    ] {
        let folders = [format!("Dataset021_{site}"), format!("Dataset022_{site}")];
        one_channel.write(&federation.folder().join(&folders[0])).unwrap();
        two_channels
            .write(&federation.folder().join(&folders[1]))
            .unwrap();
        let ids = [format!("{site}-labels"), format!("{site}-channels")];
        let datasets = [0, 1].map(|which: usize| Dataset {
            id: &ids[which],
            folder: &folders[which],
            dataset_id: None,
        });
        federation.site(site, &datasets).unwrap();
    }
    for (kind, dataset_id, said) in [
        (
            "labels",
            21,
            [
                "labels",
                r#"{"background":0,"shell":1,"core":2}"#,
                r#"{"background":0,"core":1,"shell":2}"#,
            ],
        ),
        (
            "channels",
            22,
            ["channel_names", r#"["T1","T2"]"#, r#"["T2","T1"]"#],
        ),
    ] {
        let datasets = ["alpha", "beta", "gamma"].map(|site| format!("{site}-{kind}"));
        let job = federation
            .submit(&json!({
                "job_id": kind,
                "datasets": datasets,
                "payload": { "mode": "training", "num_rounds": 1, "dataset_id": dataset_id,
                             "model_configuration": "2d", "device": "cpu" },
            }))
            .unwrap();
        let Event::Failed(failed) = federation.end(&job).unwrap() else {
            panic!("{kind}: {}", federation.command(&["show", &job]).unwrap());
        };
        assert_eq!(failed.phase, Phase::Aggregate);
        assert_eq!(failed.failure.code, "descriptors-differ");
        let message = &failed.failure.message;
        for part in said.into_iter().chain(["gamma has"]) {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
        let show = federation.command(&["show", &job]).unwrap();
        assert!(show.contains(message) && !show.contains("preprocess"), "{show}");
        let error = federation.command(&["watch", &job]).unwrap_err().to_string();
        assert!(error.contains("gamma has"), "{error}");
    }

    // The bare payload of an earlier system, its data sets on the command line.
    let payload = json!({ "mode": "training", "num_rounds": 1, "dataset_id": 21,
                          "model_configuration": "2d", "device": "cpu" });
    let file = federation.folder().join("payload.json");
    std::fs::write(&file, payload.to_string()).unwrap();
    let datasets = "alpha-labels,beta-labels,gamma-labels";
    let submit = ["submit", file.to_str().unwrap(), "--datasets", datasets, "--wait"];
    let error = federation.command(&submit).unwrap_err().to_string();
    assert!(error.contains("gamma has"), "{error}");
}

/// The labels and channels of site alpha, said in the settings of a site that swaps both and has a name of its own.
const MAPS: &str = r#"
labels = [
  { name = "background", value = 0 },
  { name = "shell", value = 1 },
  { name = "core", value = 2, here = "kernel" },
]
channels = [{ name = "T1" }, { name = "T2", here = "second" }]
"#;

#[test]
fn what_a_site_maps_is_as_at_the_others() {
    let mut federation = Federation::start().unwrap();
    let two = Scans {
        channels: &["T1", "T2"],
        ..SMALL
    };
    // The same scans, in other words.
    let swapped = Scans {
        channels: &["second", "T1"],
        labels: &["kernel", "shell"],
        ..SMALL
    };
    for (site, scans, maps) in [("alpha", two, ""), ("beta", swapped, MAPS)] {
        let folder = format!("Dataset023_{site}");
        scans.write(&federation.folder().join(&folder)).unwrap();
        let dataset = Dataset {
            id: site,
            folder: &folder,
            dataset_id: None,
        };
        let settings = dataset.settings(&federation) + maps;
        federation.site_with(site, "", &settings).unwrap();
    }
    let message = json!({
        "job_id": "mapped",
        "datasets": ["alpha", "beta"],
        "payload": { "mode": "training", "num_rounds": 1, "dataset_id": 23,
                     "model_configuration": "2d", "device": "cpu" },
        "federation": { "iterations_per_epoch": 1, "val_iterations_per_epoch": 1 },
    });
    let job = federation.submit(&message).unwrap();
    federation.finished(&job).unwrap();

    let case = |site: &str| {
        let folder = federation.root(site).join("jobs/mapped/preprocessed");
        let folder = folder.join(format!("Dataset023_{site}/nnUNetPlans_2d"));
        MappedCase::open(&folder, "case_0").unwrap()
    };
    let (alpha, beta) = (case("alpha"), case("beta"));
    for channel in [0, 1] {
        let (ours, theirs) = (alpha.data(), beta.data());
        assert_eq!(
            ours.index_axis(Axis(0), channel),
            theirs.index_axis(Axis(0), 1 - channel)
        );
    }
    let swapped = alpha
        .seg()
        .mapv(|label| if label > 0 { 3 - label } else { label });
    assert!(swapped.iter().any(|&label| label == 1) && swapped.iter().any(|&label| label == 2));
    assert_eq!(beta.seg(), swapped);

    // Settings that do not fit the data are named before the site is announced.
    let file = federation.settings_file("beta");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("kernel", "seed")).unwrap();
    let error = tests::process::run(&["site".as_ref(), file.as_os_str()])
        .unwrap_err()
        .to_string();
    for part in ["datasets.beta.labels[2].here", "\"seed\"", "kernel, shell"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}
