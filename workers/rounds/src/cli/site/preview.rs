//! `rounds site preview`: what would leave a site for a job, before anything does.

use std::path::PathBuf;

use clap::Args;
use nnunet::{
    dataset::RawDataset,
    fingerprint::{self, Scan, scan},
    network::Layout,
    progress::Unobserved,
    train::network_of,
};
use pipeline::{exit::Kind, signing::RosterFile};
use schemas::{
    event::Accepted,
    job::{Momentum, Payload, TrainingPayload},
    names::Phase,
    nnunet::python_json,
    task::{Failure, Task, TaskInput, TaskKey},
};
use serde_json::json;

use super::known::Job;
use crate::{
    byte_size::ByteSize,
    exposure::{admission::Door, approval::Said, policy::Approval},
    phases::{failure, infer, planned},
    settings::SiteSettings,
    site::Site,
};

/// Of a sample as many lines are shown.
const LINES: usize = 24;

/// Show what would leave this site for a job: every kind, with a sample of what can be made here
#[derive(Args)]
pub struct Preview {
    /// The site's settings
    settings: PathBuf,
    /// The job's id
    job: String,
    /// Read all cases, and plan from them, to tell the size of the weights; without it one case is read
    #[arg(long)]
    full: bool,
}

impl Preview {
    /// Prints it.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = SiteSettings::read(&self.settings)?;
        let Job { accepted, asked } = Job::find(&settings, &self.job)?;
        let roster = settings.roster.as_deref().map(RosterFile::open).transpose()?;
        let decided = Door::new(&settings, roster).check(&accepted);
        match &decided {
            Ok(()) => println!("the policy allows it"),
            Err(failure) => println!("the policy refuses it: {}", failure.message),
        }
        if settings.policy.approval == Approval::Required {
            println!(
                "{}",
                match asked.map(|asked| asked.said) {
                    Some(Said::Approved {}) => "a person has approved it".to_owned(),
                    Some(Said::Refused { reason }) => format!("a person has refused it: {reason}"),
                    Some(Said::Waiting {}) | None => "it waits for a person".to_owned(),
                }
            );
        }
        let site = Site::open(settings)?;
        let task = task(&site, accepted);
        let shown = match task.job.message.payload.clone() {
            Payload::Training(payload) => training(&site, &task, &payload, self.full),
            Payload::Inference(_) => inference(&site, &task),
        };
        if let Err(failure) = shown {
            anyhow::bail!("{}: {}", failure.code, failure.message);
        }
        println!("\nwith every task");
        for kind in [Kind::Progress, Kind::Failure] {
            say(kind, "");
        }
        Ok(())
    }
}

/// A task of the job's, to look with.
fn task(site: &Site, job: Accepted) -> Task {
    Task {
        key: TaskKey {
            site: site.settings.site.clone(),
            phase: Phase::Infer,
            job: job.job.clone(),
            round: 0,
            pass: 0,
            shard: 0,
            attempt: 1,
        },
        shards: 1,
        job,
        input: TaskInput::InspectModel {},
    }
}

fn say(kind: Kind, more: &str) {
    println!("  {:<14} {}", kind.as_str(), kind.holds());
    if !more.is_empty() {
        println!("                 here: {more}");
    }
}

/// A document's first lines.
fn sample(text: &str) {
    for line in text.lines().take(LINES) {
        println!("                 | {line}");
    }
    let more = text.lines().count().saturating_sub(LINES);
    if more > 0 {
        println!("                 | and {more} lines more");
    }
}

fn written<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    python_json::to_string(value).map_err(|error| failure::bug(error.to_string()))
}

fn training(site: &Site, task: &Task, payload: &TrainingPayload, full: bool) -> Result<(), Failure> {
    let dataset = site.dataset(task)?;
    println!("\nonce");
    say(Kind::Descriptors, &format!("{} cases, and", dataset.cases.len()));
    sample(&written(&dataset.dataset_json.travelling())?);
    let read = if full {
        dataset.cases.len()
    } else {
        1.min(dataset.cases.len())
    };
    let total = dataset.cases.len() as u64;
    let least = site.settings.policy.least_count_per_bin;
    let cases = &dataset.cases[..read];
    let scanned = scan(&dataset, cases, total, least, &Unobserved).map_err(failure::of_error)?;
    let bytes = serde_json::to_vec(&scanned).map_err(|error| failure::bug(error.to_string()))?;
    let size = ByteSize(bytes.len() as u64);
    let hidden = match task.job.message.federation.secure_aggregation {
        Some(_) => ", all but the cases' shapes and spacings hidden in the sum of all sites'",
        None => "",
    };
    say(
        Kind::Fingerprint,
        &format!("{size} of {read} cases{hidden}, in two passes; the first has"),
    );
    sample(&written(&summary(&scanned))?);
    say(Kind::Plans, "");
    say(Kind::CaseCounts, "");

    println!("\nin each of {} rounds", payload.num_rounds);
    let weights = match full {
        true => weights(task, &dataset, payload)?,
        false => {
            "known once the federation has planned; with --full as planned from the cases here".to_owned()
        }
    };
    say(Kind::Weights, &weights);
    say(Kind::RoundMetrics, "");
    sample(&written(&json!({
        "epochs": [{ "epoch": 0, "learning_rate": 0.01, "train_loss": 0.5, "iterations": 250, "seconds": 60.0 }],
        "validation": { "true_positives": [1], "false_positives": [1], "false_negatives": [1], "loss": 0.5 },
    }))?);
    if task.job.message.federation.evaluate {
        println!("\nat the end");
        say(
            Kind::Scores,
            "of each validation case, by its place in the list of cases",
        );
    }
    println!("\nno segmentation leaves");
    Ok(())
}

/// What a scan tells, in short.
fn summary(scanned: &Scan) -> serde_json::Value {
    let shapes = scanned.cases.iter().map(|case| {
        json!({
            "shape": case.before, "shape_after_cropping": case.after,
            "spacing": case.spacing_bits.map(f64::from_bits),
        })
    });
    let channels = scanned.channels.iter().map(|channel| {
        json!({ "samples": channel.count, "bins_of_the_histogram": channel.high.len(), "sums": "exact, of x and x*x" })
    });
    json!({
        "channels": channels.collect::<Vec<_>>(), "cases_without_foreground": scanned.without_foreground,
        "cases": shapes.collect::<Vec<_>>(),
    })
}

/// The size of the weights that would be planned from the cases here alone.
fn weights(task: &Task, dataset: &RawDataset, payload: &TrainingPayload) -> Result<String, Failure> {
    let fingerprint = fingerprint::extract(dataset, &Unobserved).map_err(failure::of_error)?;
    let reader = dataset.reader.name();
    let plans = planned::plan(task, &fingerprint, &dataset.dataset_json, &dataset.name, reader)?;
    let name = payload.model_configuration.as_str();
    let configuration = plans
        .configuration(name)
        .map_err(|error| Failure::fatal("no-configuration", error.to_string()))?;
    let layout = Layout::new(
        &network_of(&payload.trainer_name, &configuration.architecture),
        dataset.dataset_json.channels(),
        dataset.dataset_json.segmentation_heads(),
    )
    .map_err(failure::of_error)?;
    let parameters: usize = layout
        .parameters()
        .iter()
        .map(|parameter| parameter.shape.iter().product::<usize>())
        .sum();
    let copies = match task.job.message.federation.momentum {
        Momentum::Average => 2,
        Momentum::Keep | Momentum::Reset => 1,
    };
    let size = ByteSize(4 * copies * parameters as u64);
    Ok(format!(
        "{size}, {parameters} parameters, as planned from the cases here alone"
    ))
}

fn inference(site: &Site, task: &Task) -> Result<(), Failure> {
    let leaving = infer::would_leave(site, task)?;
    println!("\nonce");
    let names = match site.settings.policy.case_names {
        true => "under the cases' own names",
        false => "under pseudonyms",
    };
    say(
        Kind::Segmentations,
        &format!("{} label maps, {names}:", leaving.len()),
    );
    sample(&leaving.join("\n"));
    let federation = &task.job.message.federation;
    if federation.evaluate {
        say(Kind::Scores, "of the cases that have references");
    }
    if federation.pictures > 0 && site.settings.pictures {
        say(Kind::Picture, &format!("of up to {} cases", federation.pictures));
    }
    say(Kind::CaseCounts, "");
    Ok(())
}
