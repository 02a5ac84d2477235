//! A dry run says what a training would need, and which site is odd, and trains nothing.

use std::{fs, path::Path};

use nnunet::image::Reader;
use schemas::{event::Event, names::Phase};
use serde_json::json;
use tests::{
    federation::{Dataset, Federation},
    scans::{SMALL, Scans},
};

/// Exchanges labels 1 and 2 in all segmentations of a data set, whose dataset.json does not say so.
fn swap(folder: &Path) {
    for entry in fs::read_dir(folder.join("labelsTr")).unwrap() {
        let file = entry.unwrap().path();
        let found = Reader::SimpleItk.read_segmentation(&file).unwrap();
        let swapped = found.labels.mapv(|label| [0, 2, 1][label as usize]);
        Reader::SimpleItk
            .write_segmentation(swapped.view(), &found.geometry, &file)
            .unwrap();
    }
}

#[test]
fn a_dry_run_names_the_odd_site_and_trains_nothing() {
    let mut federation = Federation::start().unwrap();
    for (seed, site) in ["alpha", "beta", "gamma"].into_iter().enumerate() {
        let folder = format!("Dataset021_{site}");
        let scans = Scans {
            seed: seed as u64,
            ..SMALL
        };
        scans.write(&federation.folder().join(&folder)).unwrap();
        if site == "gamma" {
            swap(&federation.folder().join(&folder));
        }
        let dataset = Dataset {
            id: site,
            folder: &folder,
            dataset_id: None,
        };
        federation.site(site, &[dataset]).unwrap();
    }
    let message = json!({
        "datasets": ["alpha", "beta", "gamma"],
        "payload": { "mode": "training", "num_rounds": 30, "dataset_id": 21, "model_configuration": "2d",
                     "device": "cpu" },
    });
    let file = federation.folder().join("job.json");
    fs::write(&file, message.to_string()).unwrap();
    let said = federation
        .command(&["submit", file.to_str().unwrap(), "--dry-run"])
        .unwrap();
    for site in ["alpha", "beta", "gamma"] {
        assert!(said.contains(&format!("\n{site} ")), "{said}");
    }
    assert!(
        said.contains("gamma: shell looks like the others' core and the other way round"),
        "{said}"
    );
    assert!(!said.contains("alpha: ") && !said.contains("beta: "), "{said}");

    let job = said.lines().next().unwrap();
    let Event::Finished(finished) = federation.end(job).unwrap() else {
        panic!("{said}");
    };
    assert_eq!(finished.results, None);
    let show = federation.command(&["show", job]).unwrap();
    assert!(
        show.contains(Phase::PlanVerify.as_str()) && !show.contains(Phase::Preprocess.as_str()),
        "{show}"
    );
    // It is no job that another goes on from.
    let error = federation.command(&["resume", job, "--rounds", "1"]).unwrap_err();
    assert!(error.to_string().contains("dry run"), "{error}");
}
