//! The folder that all workers of a site share, and what lies where in it.
//!
//!     rounds-site.json                       the marker: which site this is
//!     splits/DatasetXYZ_name.json            splits_final.json of each data set, kept beyond any job
//!     preprocessed/<plans>/DatasetXYZ_name/  nnU-Net's preprocessed folder, for one digest of plans
//!     jobs/<job>/inventory.json              the frozen list of cases
//!     jobs/<job>/plan/                       the pooled documents and the plans
//!     jobs/<job>/momentum/<update>           the optimiser's momentum, by the digest of the update it made
//!     jobs/<job>/model/                      the model an inference job predicts with, where it was fetched
//!     jobs/<job>/segmentations/              what an inference job made

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use nnunet::{
    dataset::{Inventory, RawDataset},
    splits::{self, Fold, Split},
};
use schemas::{
    job::FoldId,
    task::{Failure, Task},
};
use serde::{Deserialize, Serialize};

use crate::{phases::failure, settings::SiteSettings};

/// A site: its settings and its folder.
pub struct Site {
    /// What the site was told.
    pub settings: SiteSettings,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    site: String,
}

impl Site {
    /// Opens the site's folder, makes it where it is missing, and refuses another site's.
    pub fn open(settings: SiteSettings) -> anyhow::Result<Self> {
        settings.check()?;
        fs::create_dir_all(&settings.root).with_context(|| format!("root: {}", settings.root.display()))?;
        let file = settings.root.join("rounds-site.json");
        if !file.exists() {
            write_whole(
                &file,
                &serde_json::to_vec(&Marker {
                    site: settings.site.clone(),
                })?,
            )?;
        }
        let bytes = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        let marker: Marker = schemas::parse(&bytes).with_context(|| format!("{}", file.display()))?;
        ensure!(
            marker.site == settings.site,
            "root: {} is the folder of site {:?}, not of {:?}",
            settings.root.display(),
            marker.site,
            settings.site
        );
        Ok(Self { settings })
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
        RawDataset::open(&settings.path).map_err(failure::of_error)
    }

    /// The folder of a job.
    pub fn job(&self, task: &Task) -> PathBuf {
        self.settings.root.join("jobs").join(&task.key.job)
    }

    /// The job's frozen list of cases; the data set's list must still be the same. A job that continues another
    /// takes over that one's list, and keeps it for those that continue it in turn.
    pub fn inventory(&self, task: &Task, dataset: &RawDataset) -> Result<Inventory, Failure> {
        let io = |file: &Path, error: std::io::Error| failure::io("the job's inventory", file, &error);
        let file = self.job(task).join("inventory.json");
        if let (false, Some(earlier)) = (file.exists(), &task.job.continues) {
            let earlier = self.settings.root.join("jobs").join(&earlier.job);
            let earlier = earlier.join("inventory.json");
            let bytes = fs::read(&earlier).map_err(|error| io(&earlier, error))?;
            write_whole(&file, &bytes).map_err(|error| io(&file, error))?;
        }
        let bytes = fs::read(&file).map_err(|error| io(&file, error))?;
        let inventory: Inventory = schemas::parse(&bytes)
            .map_err(|error| Failure::fatal("bad-inventory", format!("the job's inventory: {error}")))?;
        inventory.check_list(dataset).map_err(failure::of_error)?;
        Ok(inventory)
    }

    /// nnU-Net's preprocessed folder of a data set for these plans.
    pub fn preprocessed(&self, plans_digest: &str, dataset: &RawDataset) -> PathBuf {
        let plans = plans_digest.get(..16).unwrap_or(plans_digest);
        self.settings
            .root
            .join("preprocessed")
            .join(plans)
            .join(&dataset.name)
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

fn make_parent(file: &Path) -> nnunet::Result<()> {
    match file.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(nnunet::Error::io(parent)),
        None => Ok(()),
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
