//! preprocess: crop, normalise, resample a shard of the cases into the site's cache.

use std::path::PathBuf;

use nnunet::{
    dataset::RawDataset,
    preprocess::{Done, preprocess_dataset},
};
use pipeline::worker::TaskContext;
use schemas::task::{Failure, Task, TaskInput, TaskOutput};

use super::{
    Watch, document, failure, fingerprint::at_case, planned::Planned, shard, training, unknown_input,
};
use crate::site::{Site, write_whole};

/// Runs one task.
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let TaskInput::Preprocess { pooled, plans_digest } = &task.input else {
        return Err(unknown_input(task));
    };
    let dataset = site.dataset(task)?;
    let inventory = site.inventory(task, &dataset)?;
    let planned = Planned::make(context, task, pooled, &dataset.name, dataset.reader.name())?;
    planned.must_be(plans_digest)?;
    write_documents(site, &dataset, &planned)?;
    let ordinals: Vec<usize> = shard(task, dataset.cases.len()).collect();
    for &ordinal in &ordinals {
        inventory
            .check_case(&dataset, ordinal)
            .map_err(|error| at_case(&dataset, error))?;
    }
    let outcomes = preprocess_dataset(
        &dataset,
        &ordinals,
        &planned.plans,
        training(task)?.model_configuration.as_str(),
        &site.preprocessed(&planned.digest, &dataset),
        site.settings.threads,
        &Watch(context),
    )
    .map_err(|error| at_case(&dataset, error))?;
    let (mut made, mut cached) = (0, 0);
    for outcome in outcomes {
        match outcome.result {
            Ok(Done::Written { .. }) => made += 1,
            Ok(Done::Cached) => cached += 1,
            // A case that all plans count on is missing: the job cannot go on without it.
            Err(error) => return Err(failure::of_error(error).at_case(outcome.ordinal as u32)),
        }
    }
    Ok(TaskOutput::Preprocessed { made, cached })
}

/// Where the preprocessed cases of the job's configuration lie.
pub fn case_folder(site: &Site, dataset: &RawDataset, planned: &Planned) -> PathBuf {
    site.preprocessed(&planned.digest, dataset)
        .join(&planned.configuration.data_identifier)
}

/// The plans and the pooled documents beside the cases, as nnU-Net has them.
fn write_documents(site: &Site, dataset: &RawDataset, planned: &Planned) -> Result<(), Failure> {
    let folder = site.preprocessed(&planned.digest, dataset);
    for (name, text) in [
        (
            format!("{}.json", planned.plans.plans_name),
            planned.plans.to_json(),
        ),
        ("dataset.json".to_owned(), document(&planned.dataset_json)?),
        (
            "dataset_fingerprint.json".to_owned(),
            document(&planned.fingerprint)?,
        ),
    ] {
        let file = folder.join(name);
        write_whole(&file, text.as_bytes())
            .map_err(|error| failure::io("the preprocessed folder", &file, &error))?;
    }
    Ok(())
}
