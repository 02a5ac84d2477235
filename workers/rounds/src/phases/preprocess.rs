//! preprocess: crop, normalise, resample a shard of the cases, or take them from the site's cache.

use std::path::PathBuf;

use nnunet::{
    dataset::{Inventory, RawDataset},
    preprocess::{Done, Preprocessing, partial_folder},
    splits::Split,
};
use pipeline::worker::TaskContext;
use schemas::task::{Failure, Task, TaskInput, TaskOutput};

use super::{
    Watch, document, failure, fingerprint::at_case, initial, planned::Planned, shard, training, unknown_input,
};
use crate::{
    gc,
    room::{self, Wanted},
    site::{Site, write_whole},
};

/// Runs one task.
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let TaskInput::Preprocess { pooled, plans_digest } = &task.input else {
        return Err(unknown_input(task));
    };
    let dataset = site.dataset(task)?;
    let planned = initial::planned(site, task, context, pooled, &dataset)?;
    planned.must_be(plans_digest)?;
    write_documents(site, task, &dataset, &planned)?;
    let ordinals: Vec<usize> = shard(task, dataset.cases.len()).collect();
    let (made, cached) = make(site, task, context, &dataset, &planned, &ordinals)?;
    Ok(TaskOutput::Preprocessed { made, cached })
}

/// The preprocessed cases of a split: their folder. Cases that somebody removed are made again.
pub fn cases_of(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    dataset: &RawDataset,
    planned: &Planned,
    split: &Split,
) -> Result<PathBuf, Failure> {
    let folder = site
        .preprocessed(task, dataset)
        .join(&planned.configuration.data_identifier);
    let mut identifiers: Vec<&str> = split.train.iter().chain(&split.val).map(String::as_str).collect();
    identifiers.sort_unstable();
    identifiers.dedup();
    let lost: Vec<usize> = dataset
        .cases
        .iter()
        .enumerate()
        .filter(|(_, case)| identifiers.binary_search(&&*case.identifier).is_ok())
        .filter(|(_, case)| !folder.join(format!("{}.npz", case.identifier)).is_file())
        .map(|(ordinal, _)| ordinal)
        .collect();
    if !lost.is_empty() {
        tracing::warn!(
            job = task.key.job,
            "{} preprocessed cases are lost: they are made again",
            lost.len()
        );
        write_documents(site, task, dataset, planned)?;
        make(site, task, context, dataset, planned, &lost)?;
    }
    room::note_use(&folder, identifiers);
    Ok(folder)
}

/// Preprocesses cases into the job's folder, or links them out of the cache: how many were made, and found.
fn make(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    dataset: &RawDataset,
    planned: &Planned,
    ordinals: &[usize],
) -> Result<(u32, u32), Failure> {
    let inventory = site.inventory(task, dataset)?;
    let cache = site.cases();
    let folder = site.preprocessed(task, dataset);
    let configuration = training(task)?.model_configuration.as_str();
    let work = Preprocessing::new(dataset, &planned.plans, configuration, &folder)
        .map_err(failure::of_error)?
        .shared(&cache, &inventory);
    for made_in in [work.stored(), cache.folder()] {
        room::sweep(&partial_folder(made_in).map_err(failure::of_error)?);
    }
    make_room(site, task, context, planned, &work.keys(&inventory), &inventory)?;
    let outcomes = work
        .run(ordinals, site.settings.threads, &Watch(context))
        .map_err(|error| at_case(dataset, error))?;
    let (mut made, mut cached) = (0, 0);
    for outcome in &outcomes {
        match outcome.result {
            Ok(Done::Written { .. }) => made += 1,
            Ok(Done::Cached) => cached += 1,
            Err(_) => {}
        }
    }
    let done = ordinals.iter().filter_map(|&ordinal| dataset.cases.get(ordinal));
    room::note_use(work.stored(), done.map(|case| &*case.identifier));
    // A case that all plans count on is missing: the job cannot go on without it.
    for outcome in outcomes {
        let ordinal = outcome.ordinal as u32;
        outcome
            .result
            .map_err(|error| failure::of_error(error).at_case(ordinal))?;
    }
    Ok((made, cached))
}

/// Makes room for all cases of the job that the cache does not hold, whatever the shard: what does not fit
/// should be known before the first is made.
fn make_room(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    planned: &Planned,
    keys: &[String],
    inventory: &Inventory,
) -> Result<(), Failure> {
    let shapes = site.shapes(task, inventory.cases.len());
    if shapes.is_none() {
        tracing::warn!(
            job = task.key.job,
            "the cases' shapes are lost: the disk is not looked at"
        );
    }
    let wanted = Wanted {
        keys,
        bytes: shapes.map(|shapes| planned.preprocessed_bytes(&shapes)),
        bound: site.settings.cache_bytes,
    };
    let root = &site.settings.root;
    let release = || match context.known_jobs() {
        Ok(known) => gc::release(root, &known),
        Err(failure) => tracing::warn!("no job is known to have ended: {}", failure.message),
    };
    room::make_room(&site.cases(), &wanted, &|| room::free_bytes(root), &release)
}

/// The plans and the pooled documents beside the cases, as nnU-Net has them.
fn write_documents(site: &Site, task: &Task, dataset: &RawDataset, planned: &Planned) -> Result<(), Failure> {
    let folder = site.preprocessed(task, dataset);
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
