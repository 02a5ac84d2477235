//! `rounds submit --dry-run`: what a training would meet at each site, before anybody spends a week.

use std::time::Duration;

use anyhow::{bail, ensure};
use nnunet::survey::oddities;
use pipeline::client::{Client, State};
use schemas::{
    job::{JobMessage, Payload},
    nnunet::DatasetJson,
    survey::{Pace, SiteSurvey},
    task::{Outcome, TaskOutput},
};

use super::{submit::submit, watch};
use crate::byte_size::ByteSize;

/// Submits the message as a dry run, follows it, and prints what it found.
pub async fn run(client: &Client, mut message: JobMessage) -> anyhow::Result<()> {
    let Payload::Training(training) = &message.payload else {
        bail!("payload.mode: a dry run is of a training job");
    };
    let rounds = f64::from(training.num_rounds);
    let iterations = [
        rounds * f64::from(training.epochs_per_round) * f64::from(message.federation.iterations_per_epoch),
        // The global weights are scored before each round, and behind the last.
        (rounds + 1.0) * f64::from(message.federation.val_iterations_per_epoch),
    ];
    message.federation.dry_run = true;
    // The job itself may want its name.
    message.job_id = None;
    let job = submit(client, &message).await?;
    println!("{job}");
    watch::follow(client, &job).await?;

    let snapshot = client.snapshot(&job).await?;
    ensure!(
        snapshot.state == State::Finished,
        "job {job} is {}",
        snapshot.state.as_str()
    );
    let mut sites: Vec<(String, SiteSurvey)> = Vec::new();
    let mut labels = None;
    for result in snapshot.record.results.values() {
        let Outcome::Done { output } = &result.outcome else {
            continue;
        };
        match output {
            TaskOutput::Plans {
                survey: Some(survey), ..
            } => sites.push((result.key.site.clone(), (**survey).clone())),
            TaskOutput::Inventory { dataset_json, .. } => labels = Some(dataset_json.clone()),
            _ => {}
        }
    }
    // A job that goes on takes no inventory.
    let labels: Option<DatasetJson> = labels
        .map(|labels| schemas::parse(labels.to_string().as_bytes()))
        .transpose()?;
    print(&sites, iterations);
    let surveys: Vec<_> = sites
        .iter()
        .map(|(site, survey)| (site.clone(), survey.data.clone()))
        .collect();
    let odd = oddities(&surveys, &|label| name(labels.as_ref(), label));
    println!();
    match odd.is_empty() {
        true => println!("No site is odd beside the others."),
        false => println!("Odd beside the other sites:"),
    }
    for (site, what) in &odd {
        println!("  {site}: {what}");
    }
    let short: Vec<&str> = sites
        .iter()
        .filter(|(_, survey)| survey.memory.is_short() || survey.disk.is_short())
        .map(|(site, _)| &**site)
        .collect();
    ensure!(
        short.is_empty(),
        "memory or disk would be short at {}",
        short.join(", ")
    );
    Ok(())
}

fn print(sites: &[(String, SiteSurvey)], iterations: [f64; 2]) {
    println!(
        "\n{:<16} {:>6} {:>22} {:>22} {:>12} {:>12}",
        "site", "cases", "memory, of", "disk, of", "s/iteration", "training"
    );
    let mut slowest = Duration::ZERO;
    for (site, survey) in sites {
        let room = |room: schemas::survey::Room| {
            let free = room
                .free
                .map_or("?".to_owned(), |free| ByteSize(free).to_string());
            format!("{}, {free}", ByteSize(room.needed))
        };
        let (pace, takes) = match survey.pace {
            Some(pace) => {
                let takes = duration(pace, iterations);
                slowest = slowest.max(takes);
                (format!("{:.3}", pace.training), words(takes))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        println!(
            "{site:<16} {:>6} {:>22} {:>22} {pace:>12} {takes:>12}",
            survey.data.cases,
            room(survey.memory),
            room(survey.disk),
        );
    }
    println!(
        "\nA round waits for its slowest site: about {} of training and scoring, beside preprocessing and what the \
         updates take on the wire.",
        words(slowest)
    );
}

fn duration(pace: Pace, [training, validation]: [f64; 2]) -> Duration {
    let seconds = pace.training * training + pace.validation * validation;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// A duration as one plans with it: `3 d 4 h`, `2 h 10 min`, `5 min`, `40 s`.
fn words(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) => format!("{} s", duration.as_secs()),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A label's name in dataset.json.
fn name(dataset_json: Option<&DatasetJson>, label: u16) -> String {
    let labels = dataset_json.map(DatasetJson::labels);
    let named = labels.and_then(|labels| labels.iter().find(|(_, values)| values.values() == [label]));
    named.map_or_else(|| format!("label {label}"), |(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_at_a_glance() {
        let words = |seconds| words(Duration::from_secs(seconds));
        assert_eq!(words(40), "40 s");
        assert_eq!(words(301), "5 min");
        assert_eq!(words(2 * 3600 + 600), "2 h 10 min");
        assert_eq!(words(76 * 3600), "3 d 4 h");
        let pace = Pace {
            training: 2.0,
            validation: 0.5,
        };
        assert_eq!(duration(pace, [250.0, 100.0]), Duration::from_secs(550));
    }
}
