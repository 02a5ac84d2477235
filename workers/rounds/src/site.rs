//! The folder that all workers of a site share, and what lies where in it.
//!
//!     rounds-site.json                       the marker: which site this is, and which folder
//!     splits/DatasetXYZ_name.json            splits_final.json of each data set, kept beyond any job
//!     cases/<key>.npz, <key>.pkl             preprocessed cases by what they were made from: a cache, for all jobs
//!     approvals/<job>.json                   what a person said to a job
//!     audit/log.jsonl                        what left the site
//!     secret, pseudonyms/<job>.json          what cases are called outside
//!     jobs/<job>/                            what belongs to one job: see `job_folder.rs`

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use nnunet::{
    dataset::{Inventory, RawDataset},
    fingerprint::CaseShape,
    preprocess::CaseCache,
    splits::{self, Fold, Split},
};
use pipeline::{connection::Connection, exit::Guard, signing::Identity};
use schemas::{
    job::FoldId,
    site::SiteFolder,
    task::{Failure, Task},
};

use crate::{
    exposure::{exit, names::Names},
    job_folder::{self, INVENTORY, PREPROCESSED, SHAPES},
    phases::failure,
    settings::SiteSettings,
};

/// A site: its settings and its folder.
pub struct Site {
    /// What the site was told.
    pub settings: SiteSettings,
    /// The mark of its folder, which all its workers must share.
    pub folder: SiteFolder,
    guard: Guard,
    /// Who the site is in the federation, and whom it believes.
    pub identity: Identity,
}

impl Site {
    /// Opens the site's folder, makes it where it is missing, and refuses another site's.
    pub fn open(settings: SiteSettings) -> anyhow::Result<Self> {
        settings.check()?;
        fs::create_dir_all(&settings.root).with_context(|| format!("root: {}", settings.root.display()))?;
        let file = settings.root.join("rounds-site.json");
        let mark = SiteFolder {
            site: settings.site.clone(),
            mark: new_mark(&settings.root),
        };
        // Of workers that come at once, the first one's mark stands.
        write_first(&file, &serde_json::to_vec(&mark)?).with_context(|| format!("{}", file.display()))?;
        let bytes = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        let folder: SiteFolder = schemas::parse(&bytes).with_context(|| format!("{}", file.display()))?;
        ensure!(
            folder.site == settings.site,
            "root: {} is the folder of site {:?}, not of {:?}",
            settings.root.display(),
            folder.site,
            settings.site
        );
        check_links(&settings.root)?;
        let identity = settings.nats.identity(settings.roster.as_deref())?;
        Ok(Self {
            guard: exit::guard(&settings),
            settings,
            folder,
            identity,
        })
    }

    /// The connection, on which nothing leaves the site but past its exit.
    pub fn guarded(&self, connection: &Connection) -> Connection {
        connection.clone().guarded(self.guard.clone())
    }

    /// Takes the names that stay at the site out of what failures say.
    pub fn clean<'a>(&self, failures: impl Iterator<Item = &'a mut Failure>) {
        let mut failures = failures.peekable();
        if failures.peek().is_some() {
            let names = Names::of(&self.settings);
            failures.for_each(|failure| failure.message = names.without(&failure.message));
        }
    }

    /// The raw data set that the task's job uses here.
    pub fn dataset(&self, task: &Task) -> Result<RawDataset, Failure> {
        let id = task.dataset().ok_or_else(|| {
            failure::bug(format!(
                "site {} is no member of job {}",
                task.key.site, task.key.job
            ))
        })?;
        let settings = self.settings.dataset(id).ok_or_else(|| {
            Failure::fatal(
                "no-dataset",
                format!("this worker's settings have no data set {id:?}"),
            )
        })?;
        settings.open().map_err(failure::of_error)
    }

    /// Makes the folder of the task's job where there is none. Every task begins with it.
    pub fn begin(&self, task: &Task) -> Result<(), Failure> {
        job_folder::claim(&self.settings.root, &task.job)
            .map_err(|error| failure::io("the job's folder", &self.job(task), &error))
    }

    /// The folder of a job.
    pub fn job(&self, task: &Task) -> PathBuf {
        self.job_named(&task.key.job)
    }

    fn job_named(&self, job: &str) -> PathBuf {
        job_folder::jobs(&self.settings.root).join(job)
    }

    /// The job's frozen list of cases; the data set's list must still be the same. A job that continues another
    /// takes over that one's list, and keeps it for those that continue it in turn.
    pub fn inventory(&self, task: &Task, dataset: &RawDataset) -> Result<Inventory, Failure> {
        let io = |file: &Path, error: std::io::Error| failure::io("the job's inventory", file, &error);
        let file = self.job(task).join(INVENTORY);
        if let (false, Some(earlier)) = (file.exists(), &task.job.continues) {
            let earlier = self.job_named(&earlier.job);
            let shapes = earlier.join(SHAPES);
            for part in job_folder::entries(&shapes).map_err(|error| io(&shapes, error))? {
                let bytes = fs::read(&part).map_err(|error| io(&part, error))?;
                let name = part.file_name().unwrap_or_default();
                let own = self.job(task).join(SHAPES).join(name);
                write_whole(&own, &bytes).map_err(|error| io(&own, error))?;
            }
            let earlier = earlier.join(INVENTORY);
            let bytes = fs::read(&earlier).map_err(|error| io(&earlier, error))?;
            write_whole(&file, &bytes).map_err(|error| io(&file, error))?;
        }
        let bytes = fs::read(&file).map_err(|error| io(&file, error))?;
        let inventory: Inventory = schemas::parse(&bytes)
            .map_err(|error| Failure::fatal("bad-inventory", format!("the job's inventory: {error}")))?;
        inventory.check_list(dataset).map_err(failure::of_error)?;
        Ok(inventory)
    }

    /// Keeps the shapes that a shard's scan found, for the disk estimate.
    pub fn keep_shapes(&self, task: &Task, shapes: &[CaseShape]) -> Result<(), Failure> {
        let file = self
            .job(task)
            .join(SHAPES)
            .join(format!("{}.json", task.key.shard));
        let bytes = serde_json::to_vec(shapes).map_err(|error| failure::bug(error.to_string()))?;
        write_whole(&file, &bytes).map_err(|error| failure::io("the cases' shapes", &file, &error))
    }

    /// The shapes that all shards' scans found, in no order; none where there are not `cases` of them.
    pub fn shapes(&self, task: &Task, cases: usize) -> Option<Vec<CaseShape>> {
        let mut shapes: Vec<CaseShape> = Vec::new();
        for file in job_folder::entries(&self.job(task).join(SHAPES)).ok()? {
            shapes.extend(schemas::parse::<Vec<CaseShape>>(&fs::read(file).ok()?).ok()?);
        }
        (shapes.len() == cases).then_some(shapes)
    }

    /// The preprocessed cases that jobs share.
    pub fn cases(&self) -> CaseCache {
        CaseCache::new(self.settings.root.join("cases"))
    }

    /// The job's own nnU-Net preprocessed folder of a data set.
    pub fn preprocessed(&self, task: &Task, dataset: &RawDataset) -> PathBuf {
        self.job(task).join(PREPROCESSED).join(&dataset.name)
    }

    /// The identifiers to train and to validate on. Splits are made once and kept; a `splits_final.json`
    /// in the raw folder goes first, as nnU-Net copies it.
    pub fn split(&self, dataset: &RawDataset, fold: FoldId) -> Result<Split, Failure> {
        let identifiers: Vec<String> = dataset.cases.iter().map(|case| case.identifier.clone()).collect();
        let fold = match fold {
            FoldId::All => return splits::select(&identifiers, &[], Fold::All).map_err(failure::of_error),
            FoldId::Fold(fold) => Fold::Number(fold),
        };
        let own = dataset.folder.join("splits_final.json");
        let kept = self
            .settings
            .root
            .join("splits")
            .join(format!("{}.json", dataset.name));
        let splits = if own.exists() {
            splits::read(&own)
        } else if kept.exists() {
            splits::read(&kept)
        } else {
            splits::generate(&identifiers).and_then(|made| {
                make_parent(&kept)?;
                splits::write(&made, &kept)?;
                Ok(made)
            })
        };
        splits
            .and_then(|splits| splits::select(&identifiers, &splits, fold))
            .map_err(failure::of_error)
    }
}

/// Refuses a file system without hard links, by which jobs share preprocessed cases.
fn check_links(root: &Path) -> anyhow::Result<()> {
    let tried = || {
        let folder = tempfile::Builder::new().prefix(".link-").tempdir_in(root)?;
        let file = folder.path().join("file");
        fs::write(&file, "")?;
        fs::hard_link(&file, folder.path().join("link"))
    };
    tried().with_context(|| {
        format!(
            "root: {}: a file and a hard link to it cannot be made; preprocessed cases need both",
            root.display()
        )
    })
}

fn make_parent(file: &Path) -> nnunet::Result<()> {
    match file.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(nnunet::Error::io(parent)),
        None => Ok(()),
    }
}

/// A mark that no other folder has.
fn new_mark(root: &Path) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let made = (host, std::process::id(), std::time::SystemTime::now(), root);
    schemas::sha256(format!("{made:?}").as_bytes())[..16].to_owned()
}

/// Writes a file, whole or not at all, where there is none of its name.
pub fn write_first(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut temporary = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
    std::io::Write::write_all(&mut temporary, bytes)?;
    temporary.as_file().sync_all()?;
    match temporary.persist_noclobber(file) {
        Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}

/// Writes a file so that it is there whole or not at all.
pub fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut temporary, bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    Ok(())
}
