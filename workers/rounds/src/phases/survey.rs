//! What a training would meet at a site: its data, the device's memory, the disk, and how long an iteration takes.

use std::time::Instant;

use nnunet::{dataset::RawDataset, network::StateDict, survey::survey, train::pace};
use pipeline::worker::TaskContext;
use schemas::{
    survey::{Room, SiteSurvey},
    task::{Failure, Task},
};

use super::{Watch, failure, fingerprint::at_case, planned::Planned, train_round::settings};
use crate::{memory::KeepFreed, room, site::Site};

/// Surveys the site for a dry run.
pub fn run(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    dataset: &RawDataset,
    planned: Planned,
    weights: &StateDict,
) -> Result<SiteSurvey, Failure> {
    let watch = Watch(context);
    let data = survey(dataset, &watch).map_err(|error| at_case(dataset, error))?;
    let memory = planned.memory(site, task)?;
    let disk = Room {
        needed: planned.preprocessed_bytes(&site.shapes(task, dataset.cases.len()).unwrap_or_default()),
        free: room::free_bytes(&site.settings.root).ok(),
    };
    let pace = match memory.is_short() {
        true => None,
        false => {
            let _kept = KeepFreed::start();
            let clock = Instant::now();
            let settings = settings(site, task, planned, 1)?;
            let measured = pace(settings, weights, &|| clock.elapsed().as_secs_f64(), &watch);
            Some(measured.map_err(failure::of_error)?)
        }
    };
    Ok(SiteSurvey {
        data,
        memory,
        disk,
        pace,
    })
}
