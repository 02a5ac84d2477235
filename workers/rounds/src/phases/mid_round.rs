//! How far a training round has come: at the site, so that whoever takes it up again goes on behind its last
//! finished epoch, to the same bytes.
//!
//!     jobs/<job>/round/<round>/<epochs>/weights.safetensors, buffers.safetensors, scaler.json
//!     jobs/<job>/round/<round>/<epochs>/reached.json         written last: with it the rest is there
//!
//! Before the first epoch only the score of the global weights is kept. A later round takes the folder away.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nnunet::{checkpoint::safetensors, network::StateDict, train::MomentumState};
use schemas::task::{EpochReport, Failure, Task, Validation};
use serde::{Deserialize, Serialize};

use super::{failure, momentum};
use crate::{
    job_folder::{ROUND, entries},
    site::{Site, write_whole},
};

const REACHED: &str = "reached.json";
const WEIGHTS: &str = "weights.safetensors";

/// What is done of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reached {
    /// Digest of the global weights that the round started from.
    pub base: String,
    /// The update whose momentum it started from.
    pub previous_update: Option<String>,
    /// How those weights did.
    pub validation: Validation,
    /// The epochs that are finished.
    pub epochs: Vec<EpochReport>,
}

/// The weights and the momentum behind the last finished epoch.
pub struct Trained {
    /// The weights.
    pub weights: StateDict,
    /// The optimiser's momentum.
    pub momentum: MomentumState,
}

fn folder(site: &Site, task: &Task) -> PathBuf {
    site.job(task).join(ROUND)
}

/// What an earlier delivery of this round reached from the same start; none where it must begin anew. What cannot be
/// read is as if it were not there.
pub fn load(
    site: &Site,
    task: &Task,
    base: &str,
    previous_update: Option<&str>,
) -> Option<(Reached, Option<Trained>)> {
    let round = folder(site, task).join(task.key.round.to_string());
    let mut places: Vec<(usize, PathBuf)> = numbered(&round);
    places.sort();
    places.into_iter().rev().find_map(|(epochs, place)| {
        let reached: Reached = schemas::parse(&fs::read(place.join(REACHED)).ok()?).ok()?;
        let same = reached.base == base && reached.previous_update.as_deref() == previous_update;
        if !same || reached.epochs.len() != epochs {
            return None;
        }
        let trained = match epochs {
            0 => None,
            _ => Some(Trained {
                weights: safetensors::read(&place.join(WEIGHTS)).ok()?,
                momentum: momentum::read(&place).ok()??,
            }),
        };
        Some((reached, trained))
    })
}

/// Keeps what is reached, and forgets what lies behind.
#[cfg(feature = "torch")]
pub fn store(
    site: &Site,
    task: &Task,
    reached: &Reached,
    trainer: &nnunet::train::Trainer,
) -> Result<(), Failure> {
    let round = folder(site, task).join(task.key.round.to_string());
    let done = reached.epochs.len();
    let place = round.join(done.to_string());
    let write = |name: &str, bytes: &[u8]| {
        let file = place.join(name);
        write_whole(&file, bytes).map_err(|error| failure::io("the state of the round", &file, &error))
    };
    if done > 0 {
        let weights = trainer.weights().map_err(failure::of_error)?;
        write(WEIGHTS, &safetensors::to_bytes(&weights))?;
        momentum::write(&place, &trainer.momentum().map_err(failure::of_error)?)?;
    }
    let said = serde_json::to_vec(reached).map_err(|error| failure::bug(error.to_string()))?;
    write(REACHED, &said)?;
    forget(&round, done);
    Ok(())
}

/// Takes away the state of rounds before `round`.
pub fn forget_before(site: &Site, task: &Task, round: u32) {
    forget(&folder(site, task), round as usize);
}

/// Takes away the folders in `folder` that are numbered below `before`. What is left over does no harm, so errors are
/// not fatal.
pub(super) fn forget(folder: &Path, before: usize) {
    for (_, place) in numbered(folder)
        .into_iter()
        .filter(|(number, _)| *number < before)
    {
        remove(&place);
    }
}

/// Takes a folder away, where it is there.
pub(super) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::debug!("{}: {error}", folder.display());
    }
}

fn numbered(folder: &Path) -> Vec<(usize, PathBuf)> {
    let entries = entries(folder).unwrap_or_default().into_iter();
    entries
        .filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
        .collect()
}
