//! Settings of a site and of the connection, read from TOML. Unknown fields are refused.

use std::{
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use anyhow::{Context, bail, ensure};
use nnunet::dataset::{MappedChannel, MappedLabel, Mapping, RawDataset};
use schemas::{job::Device, names};
use serde::{Deserialize, Serialize};

mod connection;

pub use connection::Connection;

use crate::{byte_size::ByteSize, exposure::policy::Policy, parts::OrchestratorFolders};

/// A site: its name, its folder, its data sets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSettings {
    /// The site's name, a NATS token.
    pub site: String,
    /// How to reach NATS.
    pub nats: Connection,
    /// Who belongs to the federation (`roster.json`); none on one machine, where nothing is signed.
    #[serde(default)]
    pub roster: Option<PathBuf>,
    /// The folder that all workers of the site share.
    pub root: PathBuf,
    /// The data sets that jobs may name.
    pub datasets: Vec<DatasetSettings>,
    /// What tensors may live on here.
    #[serde(default = "cpu")]
    pub devices: Vec<Device>,
    /// Folders inside which the models that jobs segment with or start from may lie.
    #[serde(default)]
    pub models: Vec<PathBuf>,
    /// Which jobs the site takes on, and what of them may leave.
    #[serde(default)]
    pub policy: Policy,
    /// Whether pictures of scans with their segmentations may leave the site, where a job asks for them.
    #[serde(default)]
    pub pictures: bool,
    /// Threads for work on one task; the default is the number of cores.
    #[serde(default = "cores")]
    pub threads: usize,
    /// Samples that the network sees at once in training, where the device holds no whole batch; none: the whole batch.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Tasks of preprocess, train-round and infer that one machine works on at once.
    #[serde(default = "one")]
    pub slots: usize,
    /// Whether workers of unlike builds, devices, threads or instruction sets may train for one job, which may then end
    /// in other bytes.
    #[serde(default)]
    pub unlike_replicas: bool,
    /// Bound on the cache of preprocessed cases; none: the disk's end. Cases of live jobs stay above it.
    #[serde(default)]
    pub cache_bytes: Option<ByteSize>,
    /// `address:port` of /metrics; none: not served.
    #[serde(default)]
    pub metrics: Option<String>,
}

/// One data set of a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSettings {
    /// The name that jobs use.
    pub id: String,
    /// The nnU-Net raw data set: a folder DatasetXYZ_name with dataset.json, imagesTr and labelsTr. With neither
    /// dataset.json nor imagesTr it holds scans to segment only.
    pub path: PathBuf,
    /// The id that jobs mean by `dataset_id`, where it is not the folder's XYZ.
    #[serde(default)]
    pub dataset_id: Option<u32>,
    /// The federation's labels, where they are not the data set's.
    #[serde(default)]
    pub labels: Vec<MappedLabel>,
    /// The federation's channels, where they are not the data set's.
    #[serde(default)]
    pub channels: Vec<MappedChannel>,
}

/// The orchestrator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrchestratorSettings {
    /// How to reach NATS.
    pub nats: Connection,
    /// Who belongs to the federation (`roster.json`): jobs and results must be signed by its members. None on one
    /// machine, where everybody is believed.
    #[serde(default)]
    pub roster: Option<PathBuf>,
    /// A folder of its own: temporaries.
    pub root: PathBuf,
    /// A folder that all orchestrators share: what brings jobs back when the server loses its disk. Without it,
    /// `archive` in `root`.
    #[serde(default)]
    pub archive: Option<PathBuf>,
    /// Whether the archive keeps all updates of the sites, so that `rounds verify` can average them again. They take the
    /// space of a model a site and round.
    #[serde(default)]
    pub keep_updates: bool,
    /// `address:port` of /metrics; none: not served.
    #[serde(default)]
    pub metrics: Option<String>,
}

/// Somebody who submits jobs and follows them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitterSettings {
    /// How to reach NATS.
    pub nats: Connection,
    /// Who belongs to the federation (`roster.json`); none: results are shown as they stand.
    #[serde(default)]
    pub roster: Option<PathBuf>,
}

impl SubmitterSettings {
    /// Reads a submitter's settings file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let (settings, folder): (Self, _) = (read(file)?, folder_of(file));
        Ok(Self {
            nats: settings.nats.beside(folder),
            roster: settings.roster.map(|roster| folder.join(roster)),
        })
    }
}

fn cpu() -> Vec<Device> {
    vec![Device::Cpu]
}

fn one() -> usize {
    1
}

/// The number of cores this process may use.
pub fn cores() -> usize {
    available_parallelism().map_or(1, |n| n.get())
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{}", file.display()))
}

/// The folder that the paths of keys, certificates and the roster start in.
fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

impl SiteSettings {
    /// Reads and checks a site's settings file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let mut settings: Self = read(file)?;
        let folder = folder_of(file);
        settings.nats = settings.nats.beside(folder);
        settings.roster = settings.roster.map(|roster| folder.join(roster));
        settings.check().with_context(|| format!("{}", file.display()))?;
        Ok(settings)
    }

    /// Checks names and folders.
    pub fn check(&self) -> anyhow::Result<()> {
        names::check_site("site", &self.site)?;
        ensure!(!self.datasets.is_empty(), "datasets: expected at least one");
        ensure!(
            !self.devices.is_empty(),
            "devices: expected at least one of cpu, cuda, mps"
        );
        ensure!(self.threads > 0, "threads: expected at least 1");
        ensure!(self.micro_batch != Some(0), "micro_batch: expected at least 1");
        for (index, dataset) in self.datasets.iter().enumerate() {
            names::check_token(&format!("datasets[{index}].id"), &dataset.id)?;
            ensure!(
                !self.datasets[..index].iter().any(|other| other.id == dataset.id),
                "datasets[{index}].id: {:?} is named twice",
                dataset.id
            );
            dataset.dataset_id()?;
        }
        ensure!(self.slots > 0, "slots: expected at least 1");
        ensure!(
            self.policy.submitters.is_none() || self.roster.is_some(),
            "policy.submitters: needs the setting roster, which knows submitters by their keys"
        );
        Ok(())
    }

    /// Checks that this build and this machine have the devices.
    pub fn check_devices(&self) -> anyhow::Result<()> {
        self.devices
            .iter()
            .try_for_each(|device| crate::device::check_present(*device))
    }

    /// The settings of a data set.
    pub fn dataset(&self, id: &str) -> Option<&DatasetSettings> {
        self.datasets.iter().find(|dataset| dataset.id == id)
    }
}

impl DatasetSettings {
    /// Opens the data set as the federation sees it.
    ///
    /// # Errors
    /// As of [`RawDataset::open`] and [`RawDataset::mapped`]; what does not fit names the setting.
    pub fn open(&self) -> nnunet::Result<RawDataset> {
        let mapping = Mapping {
            labels: self.labels.clone(),
            channels: self.channels.clone(),
        };
        RawDataset::open(&self.path)?
            .mapped(&mapping)
            .map_err(|error| match error {
                nnunet::Error::Invalid { what, reason } => {
                    nnunet::Error::invalid(format!("settings: datasets.{}.{what}", self.id), reason)
                }
                other => other,
            })
    }

    /// Whether the folder says what its scans are; else the model does.
    pub fn described(&self) -> bool {
        self.path.join("dataset.json").exists()
    }

    /// Opens the data set, where it is one to train on; none for a folder of scans to segment, which has neither
    /// dataset.json nor imagesTr.
    ///
    /// # Errors
    /// There is no such folder, or as of [`DatasetSettings::open`].
    pub fn open_described(&self) -> anyhow::Result<Option<RawDataset>> {
        ensure!(self.path.is_dir(), "expected a folder");
        let trains = self.described() || self.path.join("imagesTr").exists();
        Ok(trains.then(|| self.open()).transpose()?)
    }

    /// The XYZ that jobs mean: the setting's, or the folder name's.
    pub fn dataset_id(&self) -> anyhow::Result<u32> {
        if let Some(id) = self.dataset_id {
            return Ok(id);
        }
        let name = self
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        folder_id(name)
            .with_context(|| format!("{}: expected a folder named DatasetXYZ_name", self.path.display()))
    }
}

/// The XYZ of a folder name `DatasetXYZ_name`.
pub fn folder_id(name: &str) -> anyhow::Result<u32> {
    let Some((digits, rest)) = name.strip_prefix("Dataset").and_then(|tail| tail.split_once('_')) else {
        bail!("{name:?} is not DatasetXYZ_name");
    };
    ensure!(
        digits.len() >= 3 && !rest.is_empty(),
        "{name:?} is not DatasetXYZ_name"
    );
    digits
        .parse()
        .with_context(|| format!("{name:?} is not DatasetXYZ_name"))
}

impl OrchestratorSettings {
    /// Reads an orchestrator's settings file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let (settings, folder): (Self, _) = (read(file)?, folder_of(file));
        Ok(Self {
            nats: settings.nats.beside(folder),
            roster: settings.roster.map(|roster| folder.join(roster)),
            ..settings
        })
    }

    /// Its folders.
    pub fn folders(&self) -> OrchestratorFolders {
        let folders = OrchestratorFolders::within(&self.root);
        OrchestratorFolders {
            archive: self.archive.clone().unwrap_or(folders.archive),
            keep_updates: self.keep_updates,
            ..folders
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_samples_are_read() {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/settings");
        let site = SiteSettings::read(&samples.join("site.toml")).unwrap();
        assert_eq!(site.datasets[0].dataset_id().unwrap(), 4);
        // What the sample only shows can be read, too.
        let sample = std::fs::read_to_string(samples.join("site.toml")).unwrap();
        let shown: String = sample
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") || setting.starts_with("  {") || setting == "]" => {
                    setting
                }
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let site: SiteSettings = toml::from_str(&shown).unwrap();
        assert_eq!(site.cache_bytes, Some(ByteSize(500_000_000_000)));
        let [dataset] = &site.datasets[..] else { panic!() };
        assert_eq!((dataset.labels.len(), dataset.channels.len()), (3, 2));
        OrchestratorSettings::read(&samples.join("orchestrator.toml")).unwrap();
        SubmitterSettings::read(&samples.join("submitter.toml")).unwrap();
        let overlays = samples.join("../kubernetes/overlays");
        for site in ["site-cpu", "site-gpu"] {
            SiteSettings::read(&overlays.join(site).join("site.toml")).unwrap();
        }
        OrchestratorSettings::read(&overlays.join("hub/orchestrator.toml")).unwrap();
    }

    #[test]
    fn a_size_that_is_none_is_named() {
        let error = toml::from_str::<SiteSettings>("cache_bytes = \"200 Gb/s\"").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("cache_bytes") && error.contains("200 GB"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_without_dataset_json_holds_scans_to_segment_only() {
        let folder = tempfile::tempdir().unwrap();
        let settings = |path: PathBuf| DatasetSettings {
            id: "a".to_owned(),
            path,
            dataset_id: Some(4),
            labels: Vec::new(),
            channels: Vec::new(),
        };
        let scans = settings(folder.path().to_owned());
        assert!(scans.open_described().unwrap().is_none());
        assert!(settings(folder.path().join("none")).open_described().is_err());
        std::fs::write(folder.path().join("dataset.json"), "{}").unwrap();
        assert!(scans.open_described().is_err(), "a broken one is not passed over");
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let error = toml::from_str::<SiteSettings>("site = \"a\"\nroots = 1").unwrap_err();
        assert!(error.to_string().contains("roots"), "{error}");
    }
}
