use schemas::event::Accepted;

use super::*;
use crate::job_folder::{claim, jobs, tests::accepted};

/// A site's folder with two cases: `shared` of the jobs first and second, `own` of first alone.
struct Made {
    root: tempfile::TempDir,
    cache: CaseCache,
}

fn continuing(job: &str, earlier: &str) -> Accepted {
    let artifact = schemas::task::ArtifactRef {
        owner: "global".into(),
        job: earlier.into(),
        digest: "0".into(),
        size: 1,
    };
    Accepted {
        continues: Some(schemas::event::Continuation {
            job: earlier.into(),
            pooled: schemas::task::Pooled {
                fingerprint: artifact.clone(),
                dataset_json: artifact.clone(),
            },
            kept_plans: None,
            weights: artifact,
            updates: Vec::new(),
            epochs: 1,
            history: Default::default(),
            best: None,
        }),
        ..accepted(job, "now")
    }
}

impl Made {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = CaseCache::new(root.path().join("cases"));
        let made = Self { root, cache };
        for key in ["shared", "own", "unused"] {
            made.write(&made.cache.folder().join(format!("{key}.npz")), 100);
        }
        for (job, keys) in [("first", &["shared", "own"][..]), ("second", &["shared"])] {
            claim(made.root.path(), &accepted(job, "now")).unwrap();
            for key in keys {
                let own = made
                    .job(job)
                    .join(format!("preprocessed/Dataset001_A/2d/{key}.npz"));
                fs::create_dir_all(own.parent().unwrap()).unwrap();
                fs::hard_link(made.cache.folder().join(format!("{key}.npz")), own).unwrap();
            }
            made.write(&made.job(job).join(INVENTORY), 5);
            made.write(&made.job(job).join("shapes/0.json"), 5);
            made.write(&made.job(job).join("momentum/digest/buffers.safetensors"), 20);
        }
        claim(made.root.path(), &accepted("segmented", "now")).unwrap();
        made.write(&made.job("segmented").join("segmentations/a.nii.gz"), 30);
        made
    }

    fn write(&self, file: &Path, bytes: usize) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, vec![0; bytes]).unwrap();
    }

    fn job(&self, job: &str) -> PathBuf {
        jobs(self.root.path()).join(job)
    }

    fn find(&self, known: &[Known], said: &[String]) -> Garbage {
        Garbage::find(self.root.path(), &self.cache, known, said).unwrap()
    }

    fn cases(&self) -> Vec<String> {
        let mut keys: Vec<String> = room::cached(&self.cache)
            .unwrap()
            .into_iter()
            .map(|case| case.key)
            .collect();
        keys.sort();
        keys
    }
}

fn known(accepted: Accepted, ended: bool) -> Known {
    Known { accepted, ended }
}

fn names(garbage: &Garbage) -> Vec<(&str, &str)> {
    garbage
        .parts
        .iter()
        .map(|part| (&*part.job, &*part.name))
        .collect()
}

fn keys(garbage: &Garbage) -> Vec<&str> {
    let mut keys: Vec<&str> = garbage.cases.iter().map(|case| &*case.key).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn what_is_not_known_to_have_ended_is_live() {
    let made = Made::new();
    // Of another server's job of that name, nothing is known here.
    for known in [
        vec![],
        vec![known(accepted("first", "now"), false)],
        vec![known(accepted("first", "then"), true)],
    ] {
        let garbage = made.find(&known, &[]);
        assert_eq!(garbage.live, ["first", "second", "segmented"]);
        assert_eq!(garbage.parts, []);
        assert_eq!(keys(&garbage), ["unused"]);
        assert_eq!((garbage.bytes(), garbage.cases_in_total), (100, 3));
    }
}

#[test]
fn an_ended_job_leaves_what_others_may_continue_from() {
    let made = Made::new();
    let ended = [
        known(accepted("first", "now"), true),
        known(accepted("segmented", "now"), true),
    ];
    let garbage = made.find(&ended, &[]);
    assert_eq!(garbage.live, ["second"]);
    assert_eq!(
        names(&garbage),
        [
            ("first", "momentum"),
            ("first", "preprocessed"),
            ("segmented", "")
        ]
    );
    // second uses the shared case too.
    assert_eq!(keys(&garbage), ["own", "unused"]);
    let accepted_bytes = fs::metadata(made.job("segmented").join("job.json"))
        .unwrap()
        .len();
    assert_eq!(garbage.bytes(), 20 + 30 + accepted_bytes + 200);

    garbage.remove(&made.cache).unwrap();
    assert_eq!(made.cases(), ["shared"]);
    assert!(!made.job("segmented").exists());
    for (file, stays) in [
        ("job.json", true),
        (INVENTORY, true),
        ("shapes/0.json", true),
        ("momentum", false),
        ("preprocessed", false),
    ] {
        assert_eq!(made.job("first").join(file).exists(), stays, "{file}");
    }
    assert!(
        made.job("second")
            .join("preprocessed/Dataset001_A/2d/shared.npz")
            .exists()
    );
    // Nothing is left to do.
    let garbage = made.find(&ended, &[]);
    assert_eq!((garbage.parts.len(), garbage.cases.len()), (0, 0));
}

#[test]
fn a_job_that_goes_on_from_an_ended_one_keeps_its_momentum() {
    let made = Made::new();
    let ended = known(accepted("first", "now"), true);
    let elsewhere = known(continuing("third", "first"), false);
    let garbage = made.find(&[ended.clone(), elsewhere], &[]);
    assert_eq!(names(&garbage), [("first", "preprocessed")]);
    // The server is away, but the folder of the one that goes on says so too.
    claim(made.root.path(), &continuing("third", "first")).unwrap();
    let garbage = made.find(&[], &["first".into()]);
    assert_eq!(names(&garbage), [("first", "preprocessed")]);
    let over = known(continuing("third", "first"), true);
    let garbage = made.find(&[ended, over], &[]);
    assert!(names(&garbage).contains(&("first", "momentum")));
}

#[test]
fn a_case_that_a_job_begins_to_use_meanwhile_stays() {
    let made = Made::new();
    let garbage = made.find(&[known(accepted("first", "now"), true)], &[]);
    let own = made.job("second").join("preprocessed/Dataset001_A/2d/own.npz");
    fs::hard_link(made.cache.folder().join("own.npz"), own).unwrap();
    garbage.remove(&made.cache).unwrap();
    assert_eq!(made.cases(), ["own", "shared"]);
}

#[test]
fn room_is_made_by_taking_ended_jobs_links_only() {
    let made = Made::new();
    release(made.root.path(), &[known(accepted("first", "now"), true)]);
    assert!(!made.job("first").join("preprocessed").exists());
    assert!(made.job("first").join("momentum").exists());
    assert!(made.job("second").join("preprocessed").exists());
    let in_use: Vec<bool> = ["own", "shared"]
        .iter()
        .map(|key| {
            let cases = room::cached(&made.cache).unwrap();
            cases.iter().any(|case| case.key == *key && case.in_use(|_| 0))
        })
        .collect();
    assert_eq!(in_use, [false, true]);
}
