//! Whether a job's releases are what follows from its results.

use schemas::{
    event::{Event, Release},
    task::{Outcome, TaskResult},
};

use super::{
    next::{Action, next},
    record::{Record, Step},
};

/// Goes through a job's events again, with its results, and asks at each release what [`next()`] would have released.
/// Only the deadline is taken as it stands: it is the orchestrator's clock. Gives the number of releases.
///
/// # Errors
/// The first step that does not follow; for an end that does not, the last step.
pub(crate) fn replay(record: &Record, events: &[Event]) -> Result<usize, Step> {
    let mut then = Record::default();
    then.results.clone_from(&record.results);
    for event in events {
        match event {
            Event::Released(release) if then.release(Step::of(release)).is_none() => {
                let late = take_late(&mut then, release);
                // A release behind an end stands, as for a conductor that had not read the end.
                let end = then.end.take();
                let follows = next(&then).into_iter().any(|action| match action {
                    Action::Publish(Event::Released(mut own)) => {
                        own.deadline.clone_from(&release.deadline);
                        own == *release
                    }
                    _ => false,
                });
                then.end = end;
                late.into_iter().for_each(|result| then.result(result));
                if !follows {
                    return Err(Step::of(release));
                }
            }
            Event::Finished(finished) if then.end.is_none() => {
                let follows = next(&then)
                    .iter()
                    .any(|action| matches!(action, Action::Publish(Event::Finished(own)) if own == finished));
                if let (false, Some(last)) = (follows, then.releases.last()) {
                    return Err(Step::of(last));
                }
            }
            _ => {}
        }
        then.event(event.clone());
    }
    Ok(then.releases.len())
}

/// What the sites that a step was gone on from without have done in it all the same, afterwards.
fn take_late(record: &mut Record, next: &Release) -> Vec<TaskResult> {
    let Some(last) = record.releases.last().filter(|_| !next.without.is_empty()) else {
        return Vec::new();
    };
    let step = Step::of(last);
    let late: Vec<_> = record
        .results
        .values()
        .filter(|result| matches!(result.outcome, Outcome::Done { .. }))
        .map(|result| &result.key)
        .filter(|key| (key.phase, key.round, key.pass) == (step.phase, step.round, step.pass))
        .filter(|key| next.without.contains(&key.site))
        .cloned()
        .collect();
    late.iter().filter_map(|key| record.results.remove(key)).collect()
}
