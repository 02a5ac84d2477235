//! What a site keeps of one job: the folder `jobs/<job>`.
//!
//!     job.json                     the job as it was accepted: which of all jobs of that name this is
//!     inventory.json               the frozen list of cases
//!     shapes/<shard>.json          the cases' shapes and spacings, for the disk estimate
//!     preprocessed/<data set>/     nnU-Net's preprocessed folder: the documents, and links into the cache of cases
//!     momentum/<update>            the optimiser's momentum, by the digest of the update it made
//!     round/<round>/<epochs>       how far a training round has come
//!     protected/<round>            secrets of a round whose update leaves masked, and what was sent
//!     replica.json                 build, device, threads and instruction set of the first worker that trained
//!     model/                       the model that the job segments with or starts from, where it was fetched
//!     scans.json                   the frozen list of scans that an inference job segments
//!     segmentations/               what it made
//!     validation/<average>/        the validation cases as the last average segments them
//!     segmented/<shard>.json       which of its cases failed, and how the others did

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use schemas::event::Accepted;

use crate::site::write_whole;

/// The job as it was accepted.
const ACCEPTED: &str = "job.json";
/// The frozen list of cases.
pub const INVENTORY: &str = "inventory.json";
/// The shapes and spacings of the cases.
pub const SHAPES: &str = "shapes";
/// nnU-Net's preprocessed folders.
pub const PREPROCESSED: &str = "preprocessed";
/// The optimiser's momentum.
pub const MOMENTUM: &str = "momentum";
/// How far a training round has come.
pub const ROUND: &str = "round";
/// The secrets of rounds whose updates leave masked.
pub const PROTECTED: &str = "protected";
/// The frozen list of scans of an inference job.
pub const SCANS: &str = "scans.json";
/// What an inference job made.
pub const SEGMENTATIONS: &str = "segmentations";
/// The validation cases of a training job, segmented.
pub const VALIDATION: &str = "validation";
/// What became of an inference job's cases.
pub const SEGMENTED: &str = "segmented";

/// What decided the bytes of the job's training here: that of the first worker.
pub const REPLICA: &str = "replica.json";

/// What a later job may continue from: it stays when the job has ended. It is small.
pub const LASTING: [&str; 3] = [ACCEPTED, INVENTORY, SHAPES];

/// What the folders of jobs that a new job of the same name pushed aside begin with.
pub const PUSHED_ASIDE: &str = ".gone-";

/// A job's folder.
#[derive(Clone, Debug)]
pub struct JobFolder {
    /// The job's name.
    pub job: String,
    /// The folder.
    pub path: PathBuf,
    /// The job as it was accepted; none where the folder does not say.
    pub accepted: Option<Accepted>,
}

/// The folder of all jobs of a site.
pub fn jobs(root: &Path) -> PathBuf {
    root.join("jobs")
}

/// Makes the job's folder where there is none. A folder of another job of that name, which an earlier server
/// gave, goes: nothing of it may be taken for this job's.
///
/// # Errors
/// A folder or file that cannot be made or removed.
pub fn claim(root: &Path, accepted: &Accepted) -> io::Result<()> {
    let jobs = jobs(root);
    let folder = jobs.join(&accepted.job);
    if read(&folder).as_ref() == Some(accepted) {
        return Ok(());
    }
    fs::create_dir_all(&jobs)?;
    // The workers of a site come at once: one makes the folder, freed when dropped.
    let lock = File::create(jobs.join(".lock"))?;
    lock.lock()?;
    match read(&folder) {
        Some(there) if there == *accepted => return Ok(()),
        Some(other) => {
            tracing::warn!(
                "jobs/{}: of a job accepted at {}, not of the one accepted at {}: it is removed",
                accepted.job,
                other.time,
                accepted.time
            );
            let aside = tempfile::Builder::new().prefix(PUSHED_ASIDE).tempdir_in(&jobs)?;
            fs::rename(&folder, aside.path().join(&accepted.job))?;
        }
        None => {}
    }
    write_whole(&folder.join(ACCEPTED), &serde_json::to_vec(accepted)?)
}

/// Whether the site has taken this very job on.
pub fn holds(root: &Path, accepted: &Accepted) -> bool {
    read(&jobs(root).join(&accepted.job)).as_ref() == Some(accepted)
}

/// The folders of all jobs, by name.
///
/// # Errors
/// The folder cannot be read.
pub fn all(root: &Path) -> io::Result<Vec<JobFolder>> {
    let mut all: Vec<JobFolder> = entries(&jobs(root))?
        .into_iter()
        .filter_map(|path| {
            let job = path.file_name()?.to_str()?.to_owned();
            (path.is_dir() && !job.starts_with('.')).then(|| JobFolder {
                accepted: read(&path),
                job,
                path,
            })
        })
        .collect();
    all.sort_by(|a, b| a.job.cmp(&b.job));
    Ok(all)
}

/// What is in a folder; nothing where there is none.
///
/// # Errors
/// The folder cannot be read.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn read(folder: &Path) -> Option<Accepted> {
    schemas::parse(&fs::read(folder.join(ACCEPTED)).ok()?).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A job as a conductor accepts it.
    pub fn accepted(job: &str, time: &str) -> Accepted {
        let message = serde_json::json!({
            "datasets": ["a"],
            "payload": { "mode": "training", "num_rounds": 1, "dataset_id": 1, "model_configuration": "2d" },
        });
        Accepted {
            job: job.into(),
            submit: 1,
            message: schemas::job::JobMessage::parse(message.to_string().as_bytes(), None).unwrap(),
            members: Vec::new(),
            seed: 0,
            protocol: 1,
            version: "0".into(),
            algorithm: 0,
            continues: None,
            model: None,
            signed: None,
            warnings: Vec::new(),
            time: time.into(),
        }
    }

    #[test]
    fn a_folder_is_of_one_job_only() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (accepted("job-1", "then"), accepted("job-1", "now"));
        claim(root.path(), &first).unwrap();
        let file = jobs(root.path()).join("job-1").join(INVENTORY);
        fs::write(&file, "{}").unwrap();
        claim(root.path(), &first).unwrap();
        assert!(file.exists());
        claim(root.path(), &second).unwrap();
        assert!(!file.exists());
        let [folder] = &all(root.path()).unwrap()[..] else {
            panic!()
        };
        assert_eq!((&*folder.job, &folder.accepted), ("job-1", &Some(second)));
        assert_eq!(
            entries(&jobs(root.path())).unwrap().len(),
            2,
            "the job and the lock"
        );
    }
}
