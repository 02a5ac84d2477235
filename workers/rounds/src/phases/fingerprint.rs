//! fingerprint: inventory, scan, select. Only counts, sums and histograms leave the site, and where the job asks for it
//! hidden in the sum of all sites'.

use nnunet::{
    dataset::Inventory,
    fingerprint::{ScanNumbers, SelectionNumbers, Wanted, scan, select},
};
use pipeline::{exit::Kind, worker::TaskContext};
use schemas::task::{Failure, Task, TaskInput, TaskOutput};

use super::{Watch, failure, fetch_json, masking, send_json, shard, unknown_input};
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
        TaskInput::MakeKeys {} => masking::make_keys(site, task),
        TaskInput::Scan { cases_total, keys } => {
            let inventory = site.inventory(task, &dataset)?;
            let ordinals = shard(task, dataset.cases.len());
            for ordinal in ordinals.clone() {
                inventory
                    .check_case(&dataset, ordinal)
                    .map_err(|error| at_case(&dataset, error))?;
            }
            let least = site.settings.policy.least_count_per_bin;
            let scanned = scan(&dataset, &dataset.cases[ordinals], *cases_total, least, &watch)
                .map_err(|error| at_case(&dataset, error))?;
            site.keep_shapes(task, &scanned.cases)?;
            let part = match hidden(task) {
                true => {
                    let mut scanned = ScanNumbers::from(scanned);
                    masking::hide(site, task, keys, &mut scanned.numbers)?;
                    send_json(context, Kind::Fingerprint, &scanned)?
                }
                false => send_json(context, Kind::Fingerprint, &scanned)?,
            };
            Ok(TaskOutput::FingerprintPart { part })
        }
        TaskInput::Select { request, keys, .. } => {
            site.inventory(task, &dataset)?;
            let wanted: Wanted = fetch_json(context, request, "the selection request")?;
            let ordinals = shard(task, dataset.cases.len());
            let least = site.settings.policy.least_count_per_bin;
            let selected = select(&dataset, &dataset.cases[ordinals], &wanted, least, &watch)
                .map_err(|error| at_case(&dataset, error))?;
            let part = match hidden(task) {
                true => {
                    let mut selected = SelectionNumbers::from(&selected);
                    masking::hide(site, task, keys, &mut selected.numbers)?;
                    send_json(context, Kind::Fingerprint, &selected)?
                }
                false => send_json(context, Kind::Fingerprint, &selected)?,
            };
            Ok(TaskOutput::FingerprintPart { part })
        }
        _ => Err(unknown_input(task)),
    }
}

/// Whether the sites' numbers are hidden in their sum.
pub fn hidden(task: &Task) -> bool {
    task.job.message.federation.secure_aggregation.is_some()
}

/// The failure with the ordinal of the case that the error names.
pub fn at_case(dataset: &nnunet::dataset::RawDataset, error: nnunet::Error) -> Failure {
    failure::of_case_error(error, dataset.cases.iter().map(|case| &*case.identifier))
}
