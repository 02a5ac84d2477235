//! infer: the model is compared, the cases are segmented, the segmentations are zipped.

use schemas::{
    event::{Event, Finished, History, Segmentations},
    names::Phase,
    task::{Failure, TaskInput, TaskOutput},
};

use super::{
    next::{Job, Outputs},
    record::Step,
};

/// The first release of an inference job.
pub(super) fn first(job: &Job<'_>) -> Event {
    job.at_sites(Step::once(Phase::Infer, 0), |_| (1, TaskInput::InspectModel {}))
}

/// Pass 0 leads to the segmentation, pass 1 to the zips, pass 2 to the end.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    match job.step.pass {
        0 => predict(job, outputs),
        1 => collect(job, outputs),
        2 => finish(job, outputs),
        _ => Err(job.unknown_step()),
    }
}

/// What pass 0 found at each site: its model's digest, and its number of cases.
fn models(job: &Job<'_>, outputs: &Outputs) -> Result<Vec<(String, String, u32)>, Failure> {
    let model = |(site, outputs): &(String, Vec<TaskOutput>)| match &outputs[..] {
        [TaskOutput::Model { digest, cases }] => Ok((site.clone(), digest.clone(), *cases)),
        _ => Err(job.unknown_step()),
    };
    outputs.iter().map(model).collect()
}

fn predict(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let models = models(job, outputs)?;
    let (first_site, model_digest, _) = models.first().ok_or_else(|| job.unknown_step())?;
    for (site, digest, cases) in &models {
        if digest != model_digest {
            let message = format!(
                "the model's digest is {model_digest} at site {first_site} and {digest} at site {site}"
            );
            return Err(Failure::fatal("model-differs", message));
        }
        if *cases == 0 {
            return Err(Failure::fatal(
                "no-cases",
                format!("site {site} has no cases to segment"),
            ));
        }
    }
    Ok(job.at_some(Step::once(Phase::Infer, 1), |member| {
        let (_, _, cases) = models.iter().find(|(site, ..)| *site == member.site)?;
        let input = TaskInput::Predict {
            model_digest: model_digest.clone(),
        };
        Some((job.shards(*cases), input))
    }))
}

/// A site that was gone on without has no zip: it would lack cases.
fn collect(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let models = models(job, &job.record.outputs_of(Step::once(Phase::Infer, 0)))?;
    let (_, model_digest, _) = models.first().ok_or_else(|| job.unknown_step())?;
    Ok(job.at_some(Step::once(Phase::Infer, 2), |member| {
        outputs.iter().find(|(site, _)| *site == member.site)?;
        let input = TaskInput::Collect {
            model_digest: model_digest.clone(),
        };
        Some((1, input))
    }))
}

fn finish(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let segmentations = |(site, outputs): &(String, Vec<TaskOutput>)| match &outputs[..] {
        [
            TaskOutput::Collected {
                archive,
                cases,
                failures,
                scores,
                pictures,
            },
        ] => {
            let member = job.accepted.members.iter().find(|member| member.site == *site);
            Ok(Segmentations {
                site: site.clone(),
                dataset: member.map(|member| member.dataset.clone()).unwrap_or_default(),
                archive: archive.clone(),
                cases: *cases,
                failures: failures.clone(),
                scores: scores.clone(),
                pictures: pictures.clone(),
            })
        }
        _ => Err(job.unknown_step()),
    };
    Ok(Event::Finished(Box::new(Finished {
        job: job.accepted.job.clone(),
        results: None,
        segmentations: outputs.iter().map(segmentations).collect::<Result<_, _>>()?,
        history: History::default(),
        resumes: job.record.resumes(),
    })))
}
