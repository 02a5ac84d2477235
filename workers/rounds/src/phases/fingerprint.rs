//! fingerprint: inventory, scan, select. Only counts, sums and histograms leave the site.

use nnunet::{
    dataset::Inventory,
    fingerprint::{Wanted, scan, select},
};
use pipeline::{exit::Kind, worker::TaskContext};
use schemas::task::{Failure, Task, TaskInput, TaskOutput};

use super::{Watch, failure, fetch_json, send_json, shard, unknown_input};
use crate::{
    job_folder::INVENTORY,
    site::{Site, write_whole},
};

/// Runs one task.
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let dataset = site.dataset(task)?;
    let watch = Watch(context);
    match &task.input {
        TaskInput::Inventory {} => {
            let file = site.job(task).join(INVENTORY);
            // A second delivery finds the list that the first froze.
            let inventory = if file.exists() {
                site.inventory(task, &dataset)?
            } else {
                let taken = Inventory::take(&dataset, &watch).map_err(failure::of_error)?;
                let bytes = serde_json::to_vec(&taken).map_err(|error| failure::bug(error.to_string()))?;
                write_whole(&file, &bytes).map_err(|error| failure::io("the inventory", &file, &error))?;
                taken
            };
            let dataset_json = serde_json::to_value(dataset.dataset_json.travelling())
                .map_err(|error| failure::bug(error.to_string()))?;
            Ok(TaskOutput::Inventory {
                dataset_json,
                cases: inventory.cases.len() as u32,
                digest: inventory.digest(),
            })
        }
        TaskInput::Scan { cases_total } => {
            let inventory = site.inventory(task, &dataset)?;
            let ordinals = shard(task, dataset.cases.len());
            for ordinal in ordinals.clone() {
                inventory
                    .check_case(&dataset, ordinal)
                    .map_err(|error| at_case(&dataset, error))?;
            }
            let scanned = scan(&dataset, &dataset.cases[ordinals], *cases_total, &watch)
                .map_err(|error| at_case(&dataset, error))?;
            site.keep_shapes(task, &scanned.cases)?;
            Ok(TaskOutput::FingerprintPart {
                part: send_json(context, Kind::Fingerprint, &scanned)?,
            })
        }
        TaskInput::Select { request, .. } => {
            site.inventory(task, &dataset)?;
            let wanted: Wanted = fetch_json(context, request, "the selection request")?;
            let ordinals = shard(task, dataset.cases.len());
            let selected = select(&dataset, &dataset.cases[ordinals], &wanted, &watch)
                .map_err(|error| at_case(&dataset, error))?;
            Ok(TaskOutput::FingerprintPart {
                part: send_json(context, Kind::Fingerprint, &selected)?,
            })
        }
        _ => Err(unknown_input(task)),
    }
}

/// The failure with the ordinal of the case that the error names.
pub fn at_case(dataset: &nnunet::dataset::RawDataset, error: nnunet::Error) -> Failure {
    failure::of_case_error(error, dataset.cases.iter().map(|case| &*case.identifier))
}
