//! Preprocessed cases that several folders share: one copy on disk, under a digest of all that it was made from.
//!
//! A folder uses a case by a hard link. So a case is the folder's own, whatever becomes of the cache, and its
//! links tell how many folders use it: a case with a single link is used by none.

use std::path::{Path, PathBuf};

use schemas::nnunet::{Configuration, Plans};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{normalise::Scheme, store::stored_key, whole};
use crate::{Error, Result, dataset::RawDataset};

/// Raised whenever preprocessing gives other bytes, so that cached cases are made again.
const ALGORITHM_VERSION: u32 = 1;

/// The endings of the two files of a case. The first is what makes it a case: it goes last.
const ENDINGS: [&str; 2] = ["npz", "pkl"];

/// A folder of cases that other folders share: `<key>.npz` and `<key>.pkl`.
#[derive(Clone, Debug)]
pub struct CaseCache {
    folder: PathBuf,
}

impl CaseCache {
    /// The cache in `folder`, which is made when the first case comes. It and the folders that use it must be
    /// on one file system.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether both files of the case of that key are there.
    pub fn holds(&self, key: &str) -> bool {
        ENDINGS
            .iter()
            .all(|ending| self.folder.join(format!("{key}.{ending}")).is_file())
    }

    /// Links the case of that key into `folder` as `identifier`. False where the cache has no whole one.
    pub(super) fn lend(&self, key: &str, folder: &Path, identifier: &str) -> Result<bool> {
        for ending in ENDINGS.into_iter().rev() {
            let cached = self.folder.join(format!("{key}.{ending}"));
            if !whole::link(&cached, folder, &format!("{identifier}.{ending}"))? {
                return Ok(false);
            }
        }
        Ok(stored_key(folder, identifier).as_deref() == Some(key))
    }

    /// Takes up the case `identifier` of `folder`. What is there under that key is replaced.
    pub(super) fn keep(&self, key: &str, folder: &Path, identifier: &str) -> Result<()> {
        for ending in ENDINGS.into_iter().rev() {
            let own = folder.join(format!("{identifier}.{ending}"));
            whole::link(&own, &self.folder, &format!("{key}.{ending}"))?;
        }
        Ok(())
    }
}

/// What all preprocessed cases of a data set are a function of, beside their raw files, as a sha256: the data
/// set's labels and reader (the order of its channels is that of its files), the part of the plans that preprocessing reads, the version of the algorithm. Plans
/// that differ only in their network, batch size or names have the same recipe.
pub(super) fn recipe(raw: &RawDataset, plans: &Plans, configuration: &Configuration) -> Result<String> {
    let labels: Vec<Value> = raw
        .dataset_json
        .labels()
        .iter()
        .map(|(name, label)| json!([name, label]))
        .collect();
    // Most schemes look at the case alone: then a case does not depend on who else took part.
    let intensities: Vec<Value> = configuration
        .normalization_schemes
        .iter()
        .enumerate()
        .filter(|(_, scheme)| Scheme::reads_properties(scheme))
        .map(|(channel, _)| {
            let properties = &plans.foreground_intensity_properties_per_channel;
            json!([channel, properties.get(&channel.to_string())])
        })
        .collect();
    let made_from = json!({
        "algorithm_version": ALGORITHM_VERSION,
        "reader": raw.reader.name(),
        "labels": labels,
        "label_values": raw.mapped.values(),
        "transpose_forward": plans.transpose_forward,
        "intensities": intensities,
        "preprocessor": configuration.preprocessor_name,
        "spacing": configuration.spacing,
        "normalization_schemes": configuration.normalization_schemes,
        "use_mask_for_norm": configuration.use_mask_for_norm,
        "resampling": [
            configuration.resampling_fn_data,
            configuration.resampling_fn_data_kwargs,
            configuration.resampling_fn_seg,
            configuration.resampling_fn_seg_kwargs,
        ],
    });
    let text = serde_json::to_vec(&made_from).map_err(|e| Error::invalid("plans", e))?;
    Ok(hex::encode(Sha256::digest(text)))
}

/// The key of a case: a sha256 over the recipe and the digest of its raw files.
pub(super) fn key(recipe: &str, files: &str) -> String {
    hex::encode(Sha256::digest(format!("{recipe} {files}")))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
