//! Preprocessed cases are made once for all jobs of a site, and go when no live job needs them.

use std::{collections::BTreeMap, ffi::OsStr, fs, path::Path};

use pipeline::client::Watched;
use schemas::{
    event::Event,
    names::Phase,
    task::{Outcome, TaskOutput, TaskResult},
};
use serde_json::{Value, json};
use tests::{federation::Federation, process, scans::SMALL};

/// Site alpha, and site beta whose cache may hold next to nothing.
fn federation() -> Federation {
    let own = |_: &Federation, site: &str| match site {
        "beta" => "cache_bytes = \"1 KB\"".to_owned(),
        _ => String::new(),
    };
    Federation::of_sites(51, &["alpha", "beta"], &SMALL, own).unwrap()
}

fn message(job: &str, configuration: &str, fold: Value, federation: Value) -> Value {
    let mut message = json!({
        "job_id": job,
        "datasets": ["alpha", "beta"],
        "payload": { "mode": "training", "num_rounds": 2, "dataset_id": 51, "fold_id": fold,
                     "model_configuration": configuration, "device": "cpu" },
        "federation": { "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "shard_cases": 3 },
    });
    let all = message["federation"].as_object_mut().unwrap();
    all.extend(federation.as_object().unwrap().clone());
    message
}

/// Trains a job: the cases that each site made, and those that it found.
fn train(federation: &Federation, message: &Value) -> BTreeMap<String, (u32, u32)> {
    let job = federation.submit(message).unwrap();
    federation.finished(&job).unwrap();
    let record: Value =
        serde_json::from_str(&federation.command(&["show", &job, "--json"]).unwrap()).unwrap();
    let results: Vec<TaskResult> = serde_json::from_value(record["results"].clone()).unwrap();
    let mut sites = BTreeMap::new();
    for result in results {
        if let Outcome::Done {
            output: TaskOutput::Preprocessed { made, cached },
        } = result.outcome
        {
            let site: &mut (u32, u32) = sites.entry(result.key.site).or_default();
            (site.0, site.1) = (site.0 + made, site.1 + cached);
        }
    }
    sites
}

fn counts(alpha: (u32, u32), beta: (u32, u32)) -> BTreeMap<String, (u32, u32)> {
    BTreeMap::from([("alpha".to_owned(), alpha), ("beta".to_owned(), beta)])
}

/// Runs `rounds site gc` with alpha's settings, or others.
fn gc(settings: &Path, flags: &[&str]) -> String {
    let mut arguments: Vec<&OsStr> = vec!["site".as_ref(), "gc".as_ref(), settings.as_os_str()];
    arguments.extend(flags.iter().map(OsStr::new));
    process::run(&arguments).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[test]
fn cases_are_made_once_and_go_when_no_job_needs_them() {
    let federation = federation();
    let first = message("first", "3d_fullres", json!("all"), json!({}));
    assert_eq!(train(&federation, &first), counts((5, 0), (5, 0)));

    // Another fold, another network, another name: the same cases. At beta they are over the bound, but wanted.
    let other = json!({ "gpu_memory_target_gb": 3.0, "name": "Other", "plans": "otherPlans" });
    let second = message("second", "3d_fullres", json!(1), other);
    assert_eq!(train(&federation, &second), counts((0, 5), (0, 5)));
    let said = federation.said();
    assert!(said.contains("cache_bytes is 1.0 KB"), "{said}");

    let (alpha, settings) = (federation.root("alpha"), federation.settings_file("alpha"));
    a_live_job_loses_nothing(&federation, &settings);
    // beta made room for the 2d cases, alpha was told to while they were in use.
    assert_eq!(files(&federation.root("beta").join("cases")).len(), 10);
    assert_eq!(files(&alpha.join("cases")).len(), 10);
    assert_eq!(train(&federation, &first_again()), counts((5, 0), (5, 0)));

    without_a_server_every_job_is_live(&federation, &settings);
    let would = gc(&settings, &["--dry-run"]);
    for said in ["third: momentum", "preprocessed cases: 10 of 10", "would free"] {
        assert!(would.contains(said), "{said:?} is not in {would}");
    }
    assert_eq!(files(&alpha.join("cases")).len(), 20);
    let freed = gc(&settings, &[]);
    assert!(freed.contains("freed"), "{freed}");
    assert_eq!(files(&alpha.join("cases")), [] as [String; 0]);
    for job in ["first", "second", "third", "again"] {
        let left = files(&alpha.join("jobs").join(job));
        assert_eq!(left, ["inventory.json", "job.json", "shapes"], "{job}");
    }
    assert!(gc(&settings, &[]).contains("freed 0 B"));
    // What has ended can still be continued; it says that momentum is lost.
    let mut further = message("further", "3d_fullres", json!("all"), json!({}));
    further["resume_from"] = "first".into();
    further["payload"]["starting_fed_round"] = 2.into();
    assert_eq!(train(&federation, &further), counts((5, 0), (0, 5)));
    assert!(federation.said().contains("the momentum is lost"));
}

fn first_again() -> Value {
    message("again", "3d_fullres", json!("all"), json!({}))
}

/// A job with cases of its own: in its midst the site is cleared, and its cases are taken away by force.
fn a_live_job_loses_nothing(federation: &Federation, settings: &Path) {
    let third = message("third", "2d", json!("all"), json!({}));
    let job = federation.submit(&third).unwrap();
    let mut watching = federation.watch(&job).unwrap();
    loop {
        match watching.next(federation).unwrap() {
            Watched::Event(Event::Released(release))
                if release.phase == Phase::TrainRound && release.round == 0 =>
            {
                let freed = gc(settings, &[]);
                for said in [
                    "third: not known to have ended; stays",
                    "second: momentum",
                    "preprocessed cases: 5 of 10",
                ] {
                    assert!(freed.contains(said), "{said:?} is not in {freed}");
                }
            }
            Watched::Result(result)
                if result.key.phase == Phase::TrainRound
                    && result.key.site == "alpha"
                    && result.key.round == 0 =>
            {
                let own = federation.root("alpha").join("jobs/third/preprocessed");
                fs::remove_dir_all(own).unwrap();
            }
            Watched::Event(Event::Finished(_)) => break,
            Watched::Event(event) if event.is_end() => panic!("{event:?}\n{}", federation.said()),
            _ => {}
        }
    }
    assert!(federation.said().contains("5 preprocessed cases are lost"));
}

fn without_a_server_every_job_is_live(federation: &Federation, settings: &Path) {
    let text = fs::read_to_string(settings).unwrap();
    let url = text.lines().find(|line| line.starts_with("url")).unwrap();
    let away = federation.folder().join("away.toml");
    // Port 9 discards: nobody listens.
    fs::write(&away, text.replace(url, "url = \"nats://127.0.0.1:9\"")).unwrap();
    let would = gc(&away, &["--dry-run", "--ended", "second"]);
    for said in [
        "first: not known to have ended; stays",
        "again: not known to have ended; stays",
        "preprocessed cases: 0 of 10",
    ] {
        assert!(would.contains(said), "{said:?} is not in {would}");
    }
}
