//! fingerprint pass 0: what every site has.

use schemas::{
    event::Event,
    names::Phase,
    task::{Failure, SiteInventory, TaskInput, TaskOutput},
};

use super::{
    next::{Job, Outputs},
    record::Step,
};

/// The first release of a training job.
pub(super) fn first(job: &Job<'_>) -> Event {
    job.at_sites(Step::once(Phase::Fingerprint, 0), |_| {
        (1, TaskInput::Inventory {})
    })
}

/// Then the orchestrator compares the descriptors.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let mut sites = Vec::new();
    for (site, outputs) in outputs {
        let [
            TaskOutput::Inventory {
                dataset_json, cases, ..
            },
        ] = &outputs[..]
        else {
            return Err(job.unknown_step());
        };
        let announced = job.accepted.members.iter().find(|member| member.site == *site);
        let announced = announced.map_or(0, |member| member.cases);
        if *cases != announced {
            return Err(Failure::fatal(
                "data-changed",
                format!("site {site} announced {announced} training cases and now has {cases}"),
            ));
        }
        if *cases == 0 {
            return Err(Failure::fatal(
                "no-cases",
                format!("site {site} has no training cases"),
            ));
        }
        sites.push(SiteInventory {
            site: site.clone(),
            dataset_json: dataset_json.clone(),
            cases: *cases,
        });
    }
    Ok(job.at_orchestrator(
        Step::once(Phase::Aggregate, 0),
        TaskInput::AggregateInventory { sites },
    ))
}
