//! The optimiser's momentum between rounds: at the site, under the digest of the update it made. Where the federation
//! averages it, it comes with the global weights, and only the gradient scaler stays here.
//!
//!     jobs/<job>/momentum/<update>/scaler.json           the gradient scaler, on an accelerator
//!     jobs/<job>/momentum/<update>/buffers.safetensors   written last: with it the momentum is there

use std::path::{Path, PathBuf};

use nnunet::{
    checkpoint::safetensors,
    network::StateDict,
    train::{MomentumState, ScalerState},
};
use schemas::{
    job::Momentum,
    task::{Failure, Task},
};
use serde_json::json;

use super::failure;
use crate::{
    job_folder::{self, MOMENTUM},
    site::{Site, write_whole},
};

const BUFFERS: &str = "buffers.safetensors";
const SCALER: &str = "scaler.json";

fn folder(site: &Site, job: &str) -> PathBuf {
    job_folder::jobs(&site.settings.root).join(job).join(MOMENTUM)
}

/// What a round starts from: `averaged` where the federation averages momentum, else what belongs to `update`, the
/// site's last averaged one. Fresh, with a warning, where it is lost.
pub fn load(
    site: &Site,
    task: &Task,
    update: Option<&str>,
    averaged: StateDict,
) -> Result<MomentumState, Failure> {
    let mode = task.job.message.federation.momentum;
    let mut fresh = MomentumState::default();
    if mode == Momentum::Average {
        fresh.buffers = averaged;
    }
    let Some(update) = update.filter(|_| mode != Momentum::Reset) else {
        return Ok(fresh);
    };
    let what = match mode {
        Momentum::Average => "gradient scaler",
        Momentum::Keep | Momentum::Reset => "momentum",
    };
    if mode == Momentum::Average && fresh.buffers.is_empty() {
        tracing::warn!(
            job = task.key.job,
            round = task.key.round,
            "the global weights came without momentum: it starts fresh"
        );
    }
    // A job that continues another finds it in that job's folder.
    let jobs = [
        Some(&task.key.job),
        task.job.continues.as_ref().map(|earlier| &earlier.job),
    ];
    let mut places = jobs
        .into_iter()
        .flatten()
        .map(|job| folder(site, job).join(update));
    let Some(stored) = places.find_map(|place| read(&place).transpose()).transpose()? else {
        tracing::warn!(
            job = task.key.job,
            round = task.key.round,
            "the {what} is lost: it starts fresh"
        );
        return Ok(fresh);
    };
    Ok(match mode {
        Momentum::Average => MomentumState {
            buffers: fresh.buffers,
            ..stored
        },
        Momentum::Keep | Momentum::Reset => stored,
    })
}

/// The momentum in a folder; none where it is not there whole.
pub fn read(place: &Path) -> Result<Option<MomentumState>, Failure> {
    let buffers = place.join(BUFFERS);
    if !buffers.exists() {
        return Ok(None);
    }
    let buffers = safetensors::read(&buffers).map_err(failure::of_error)?;
    let file = place.join(SCALER);
    let scaler = match std::fs::read(&file) {
        Ok(bytes) => {
            Some(scaler(&bytes).ok_or_else(|| Failure::fatal("bad-momentum", "the gradient scaler"))?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failure::io("the gradient scaler", &file, &error)),
    };
    Ok(Some(MomentumState { buffers, scaler }))
}

fn scaler(bytes: &[u8]) -> Option<ScalerState> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(ScalerState {
        scale: value.get("scale")?.as_f64()? as f32,
        growth_tracker: u32::try_from(value.get("growth_tracker")?.as_u64()?).ok()?,
    })
}

/// Keeps the momentum that `update` was made with, and that of `previous`; forgets older ones.
pub fn store(
    site: &Site,
    task: &Task,
    state: &MomentumState,
    update: &str,
    previous: Option<&str>,
) -> Result<(), Failure> {
    let folder = folder(site, &task.key.job);
    write(&folder.join(update), state)?;
    forget(&folder, &[Some(update), previous]);
    Ok(())
}

/// Writes the momentum into a folder.
pub fn write(place: &Path, state: &MomentumState) -> Result<(), Failure> {
    if let Some(scaler) = state.scaler {
        let file = place.join(SCALER);
        let text = json!({ "scale": scaler.scale, "growth_tracker": scaler.growth_tracker }).to_string();
        write_whole(&file, text.as_bytes())
            .map_err(|error| failure::io("the gradient scaler", &file, &error))?;
    }
    let file = place.join(BUFFERS);
    write_whole(&file, &safetensors::to_bytes(&state.buffers))
        .map_err(|error| failure::io("the momentum", &file, &error))
}

/// What is left over does no harm, so errors are not fatal.
fn forget(folder: &Path, keep: &[Option<&str>]) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let kept = entry
            .file_name()
            .to_str()
            .is_some_and(|name| keep.contains(&Some(name)));
        if !kept && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::debug!("{}: {error}", entry.path().display());
        }
    }
}
