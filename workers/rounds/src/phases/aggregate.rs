//! aggregate: the orchestrator merges each pass of the fingerprint.

use nnunet::{
    dataset::{Descriptors, pooled_dataset_json},
    fingerprint::{Scan, ScanNumbers, Selection, SelectionNumbers, Wanted, finish},
};
use pipeline::worker::TaskContext;
use schemas::{
    nnunet::DatasetJson,
    task::{ArtifactRef, Failure, SiteInventory, Task, TaskInput, TaskOutput},
};
use serde::de::DeserializeOwned;

use super::{failure, fetch_json, fingerprint::hidden, store_json, unknown_input};

/// Runs one task.
pub fn run(task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    match &task.input {
        TaskInput::AggregateInventory { sites } => pool_descriptors(context, sites),
        TaskInput::AggregateScan { parts } => {
            let merged = match hidden(task) {
                true => {
                    let sum = merged(context, parts, "a site's hidden scan", ScanNumbers::add)?;
                    sum.scan().map_err(failure::of_error)?
                }
                false => merged(context, parts, "a site's scan", |sum: &mut Scan, scan| {
                    sum.merge(&scan)
                })?,
            };
            let wanted = Wanted::of(&merged).map_err(failure::of_error)?;
            Ok(TaskOutput::PooledScan {
                scan: store_json(context, &merged)?,
                request: store_json(context, &wanted)?,
            })
        }
        TaskInput::AggregateSelect { scan, parts } => {
            let scan: Scan = fetch_json(context, scan, "the merged scan")?;
            let wanted = Wanted::of(&scan).map_err(failure::of_error)?;
            let selection = match hidden(task) {
                true => {
                    let add = |sum: &mut SelectionNumbers, part| sum.add(&part);
                    let sum = merged(context, parts, "a site's hidden selection", add)?;
                    sum.selection(&wanted).map_err(failure::of_error)?
                }
                false => {
                    let add = |sum: &mut Selection, part| sum.merge(&part);
                    merged(context, parts, "a site's selection", add)?
                }
            };
            let fingerprint = finish(&scan, &selection).map_err(failure::of_error)?;
            Ok(TaskOutput::PooledFingerprint {
                fingerprint: store_json(context, &fingerprint)?,
            })
        }
        _ => Err(unknown_input(task)),
    }
}

/// All parts, one added to the other.
fn merged<T: DeserializeOwned>(
    context: &TaskContext,
    parts: &[ArtifactRef],
    what: &str,
    add: impl Fn(&mut T, T) -> nnunet::Result<()>,
) -> Result<T, Failure> {
    let mut merged: Option<T> = None;
    for (index, part) in parts.iter().enumerate() {
        let part: T = fetch_json(context, part, what)?;
        match &mut merged {
            None => merged = Some(part),
            Some(merged) => add(merged, part).map_err(failure::of_error)?,
        }
        context.progress("part", index + 1, parts.len());
    }
    merged.ok_or_else(|| failure::bug("no parts to merge"))
}

/// Descriptors must be equal; the pooled dataset.json carries the summed numTraining.
fn pool_descriptors(context: &TaskContext, sites: &[SiteInventory]) -> Result<TaskOutput, Failure> {
    let mut documents = Vec::with_capacity(sites.len());
    for site in sites {
        let document: DatasetJson = schemas::parse_value("dataset_json", site.dataset_json.clone())
            .map_err(|error| Failure::fatal("bad-dataset-json", format!("site {}: {error}", site.site)))?;
        documents.push(document);
    }
    let described: Vec<(Descriptors, usize)> = sites
        .iter()
        .zip(&documents)
        .map(|(site, dataset_json)| {
            (
                Descriptors {
                    site: &site.site,
                    dataset_json,
                },
                site.cases as usize,
            )
        })
        .collect();
    let pooled = pooled_dataset_json(&described).map_err(|error| match error {
        nnunet::Error::Invalid { what, reason } => {
            Failure::fatal("descriptors-differ", format!("{what}: {reason}"))
        }
        other => failure::of_error(other),
    })?;
    Ok(TaskOutput::PooledDescriptors {
        dataset_json: store_json(context, &pooled)?,
        cases_total: sites.iter().map(|site| u64::from(site.cases)).sum(),
    })
}
