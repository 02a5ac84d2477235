//! The real data beside the repository: 180 hippocampi at three sites.

use std::{fs, path::Path, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::repository;

/// The data, `../shared/data/hippocampus`, where present. A test that needs them calls [`crate::skip`] without
/// them and returns.
pub fn folder() -> Option<PathBuf> {
    let folder = repository().join("../shared/data/hippocampus");
    folder.is_dir().then_some(folder)
}

/// The raw data set of each site in `data`, in the order of the sites' names.
pub fn sites(data: &Path) -> Result<Vec<PathBuf>> {
    ["site-a", "site-b", "site-c"]
        .into_iter()
        .map(|site| {
            let mut entries = fs::read_dir(data.join(site))?;
            let entry = entries.next().with_context(|| format!("{site} is empty"))?;
            Ok(entry?.path())
        })
        .collect()
}

/// Makes `folder` the raw data set of all the sites' cases, which are linked.
pub fn pool(sites: &[PathBuf], folder: &Path) -> Result<()> {
    for part in ["imagesTr", "labelsTr"] {
        fs::create_dir_all(folder.join(part))?;
        for site in sites {
            for entry in fs::read_dir(site.join(part))? {
                let entry = entry?;
                let source = fs::canonicalize(entry.path())?;
                std::os::unix::fs::symlink(source, folder.join(part).join(entry.file_name()))?;
            }
        }
    }
    let first = sites.first().context("no sites")?;
    let mut document: Value = serde_json::from_slice(&fs::read(first.join("dataset.json"))?)?;
    document["numTraining"] = fs::read_dir(folder.join("labelsTr"))?.count().into();
    Ok(fs::write(folder.join("dataset.json"), document.to_string())?)
}
