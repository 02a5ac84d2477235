//! What a report says of a job: its record, read.

use std::collections::BTreeMap;

use nnunet::evaluate::Scores;
use pipeline::{client::Snapshot, clock};
use schemas::{
    event::{Accepted, Event},
    task::{Outcome, TaskOutput, TaskResult},
};
use serde_json::Value;

use super::{
    dice::{classes, curves, dice_by_site, pseudo_dice},
    timeline::{Bar, duration},
};
use crate::privacy;

/// What a report shows.
#[derive(Default)]
pub struct Report {
    pub job: String,
    pub state: String,
    /// What the reader should know first.
    pub notes: Vec<String>,
    pub facts: Table,
    pub sites: Table,
    pub curves: Vec<Curve>,
    pub scores: Vec<Table>,
    pub pictures: Vec<Picture>,
    pub plans: Option<Table>,
    pub bars: Vec<Bar>,
    pub timings: Table,
    pub failures: Table,
}

/// A table; the first cell of a row names it.
#[derive(Default)]
pub struct Table {
    pub title: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Whether all other cells are numbers.
    pub numbers: bool,
    pub note: Option<String>,
}

/// A chart: lines by name, the first one being of all sites together.
pub struct Curve {
    pub title: String,
    pub x_name: &'static str,
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// A segmentation over its scan.
pub struct Picture {
    pub name: String,
    pub png: Vec<u8>,
}

impl Report {
    /// Reads a job's record. `scores`: how segmentations did at each site, where that is known.
    pub fn of(snapshot: &Snapshot, scores: &[(String, Scores)]) -> anyhow::Result<Self> {
        let record = &snapshot.record;
        let mut report = Self {
            job: snapshot.job.clone(),
            state: snapshot.state.as_str().to_owned(),
            ..Self::default()
        };
        if let Some(rejected) = &snapshot.rejected {
            report
                .notes
                .push(format!("{}: {}", rejected.path, rejected.reason));
        }
        match &record.end {
            Some(Event::Failed(failed)) => report.notes.push(format!(
                "It failed in {} at {}: {}: {}",
                failed.phase, failed.site, failed.failure.code, failed.failure.message
            )),
            Some(Event::Cancelled(cancelled)) => {
                report
                    .notes
                    .push(format!("It was cancelled: {}", cancelled.reason));
            }
            _ => {}
        }
        let results: Vec<&TaskResult> = record.results.values().collect();
        let classes = classes(&results);
        if let Some(accepted) = &record.accepted {
            report.notes.extend(accepted.warnings.iter().cloned());
            report.facts = facts(accepted)?;
            if let Some(privacy) = privacy::so_far(record) {
                report.facts.rows.push(vec!["privacy".to_owned(), privacy]);
            }
            report.sites = sites(accepted, &record.end);
        }
        if let Some(history) = record.history() {
            report.curves = curves(&history, &results, &classes);
            report.scores.extend(pseudo_dice(&history, &results, &classes));
        }
        report.scores.extend(dice_by_site(scores, &classes));
        report.plans = plans(&results, record.accepted.as_ref());
        (report.bars, report.timings) = times(&results);
        report.failures = failures(&results);
        Ok(report)
    }
}

fn facts(accepted: &Accepted) -> anyhow::Result<Table> {
    let mut rows = vec![
        vec!["accepted".to_owned(), accepted.time.clone()],
        vec!["version".to_owned(), accepted.version.clone()],
        vec!["seed".to_owned(), accepted.seed.to_string()],
    ];
    let message = serde_json::to_value(&accepted.message)?;
    let default = serde_json::to_value(schemas::job::Federation::default())?;
    for part in ["payload", "federation"] {
        for (key, value) in message[part].as_object().into_iter().flatten() {
            // Of the federation what was asked for, and of neither what says nothing.
            let nothing = value.as_object().is_some_and(serde_json::Map::is_empty);
            if nothing || part == "federation" && default.get(key) == Some(value) {
                continue;
            }
            rows.push(vec![format!("{part}.{key}"), plain(value)]);
        }
    }
    if let Some(earlier) = &accepted.continues {
        rows.push(vec!["continues".to_owned(), earlier.job.clone()]);
    }
    Ok(Table {
        rows,
        ..Table::default()
    })
}

/// A value as a person writes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn sites(accepted: &Accepted, end: &Option<Event>) -> Table {
    let trains = matches!(accepted.message.payload, schemas::job::Payload::Training(_));
    let mut head = vec!["site", "data set", "device"];
    if trains {
        head.insert(2, "training cases");
    }
    let made = match end {
        Some(Event::Finished(finished)) if !finished.segmentations.is_empty() => &finished.segmentations[..],
        _ => &[],
    };
    if !made.is_empty() {
        head.extend(["segmented", "failed"]);
    }
    let row = |member: &schemas::event::Member| {
        let device = member.device.map_or("its best", |device| device.as_str());
        let mut row = vec![member.site.clone(), member.dataset.clone(), device.to_owned()];
        if trains {
            row.insert(2, member.cases.to_string());
        }
        if let Some(made) = made.iter().find(|made| made.site == member.site) {
            row.extend([made.cases.to_string(), made.failures.len().to_string()]);
        }
        row
    };
    Table {
        head: head.into_iter().map(str::to_owned).collect(),
        rows: accepted.members.iter().map(row).collect(),
        ..Table::default()
    }
}

/// The configuration that was planned.
fn plans(results: &[&TaskResult], accepted: Option<&Accepted>) -> Option<Table> {
    let plans = results.iter().find_map(|result| match &result.outcome {
        Outcome::Done {
            output: TaskOutput::Plans { plans, .. },
        } => Some(plans),
        _ => None,
    })?;
    let schemas::job::Payload::Training(training) = &accepted?.message.payload else {
        return None;
    };
    let name = training.model_configuration.as_str();
    let configuration = &plans["configurations"][name];
    let architecture = &configuration["architecture"];
    let arguments = &architecture["arch_kwargs"];
    let entries = [
        ("plans", &plans["plans_name"]),
        ("network", &architecture["network_class_name"]),
        ("patch size", &configuration["patch_size"]),
        ("batch size", &configuration["batch_size"]),
        ("spacing in mm", &configuration["spacing"]),
        (
            "median size in voxels",
            &configuration["median_image_size_in_voxels"],
        ),
        ("normalisation", &configuration["normalization_schemes"]),
        ("features", &arguments["features_per_stage"]),
        ("strides", &arguments["strides"]),
        ("batch Dice", &configuration["batch_dice"]),
    ];
    let mut rows = vec![vec!["configuration".to_owned(), name.to_owned()]];
    let there = entries.into_iter().filter(|(_, value)| !value.is_null());
    rows.extend(there.map(|(name, value)| vec![name.to_owned(), plain(value)]));
    Some(Table {
        rows,
        ..Table::default()
    })
}

/// A bar for each attempt, and the time each phase took at each site.
fn times(results: &[&TaskResult]) -> (Vec<Bar>, Table) {
    let bar = |result: &&TaskResult| {
        let made = result.made.as_ref()?;
        Some(Bar {
            site: result.key.site.clone(),
            phase: result.key.phase.to_string(),
            start: clock::seconds(&made.started)?,
            end: clock::seconds(&made.finished)?.max(clock::seconds(&made.started)?),
            failed: matches!(result.outcome, Outcome::Failed { .. }),
        })
    };
    let mut bars: Vec<Bar> = results.iter().filter_map(bar).collect();
    bars.sort_by_key(|bar| bar.start);
    let mut phases: Vec<String> = Vec::new();
    let mut sums: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for bar in &bars {
        if !phases.contains(&bar.phase) {
            phases.push(bar.phase.clone());
        }
        *sums.entry(&bar.site).or_default().entry(&bar.phase).or_default() += bar.end - bar.start;
    }
    let row = |(site, own): (&&str, &BTreeMap<&str, u64>)| {
        let cell = |phase: &String| own.get(&**phase).map_or("-".into(), |&seconds| duration(seconds));
        let mut row = vec![(*site).to_owned()];
        row.extend(phases.iter().map(cell));
        row
    };
    let rows = sums.iter().map(row).collect();
    let mut head = vec!["site".to_owned()];
    head.extend(phases.iter().cloned());
    let table = Table {
        head,
        rows,
        numbers: true,
        note: Some("The time of all tasks together: those of one site may run side by side.".into()),
        ..Table::default()
    };
    (bars, table)
}

fn failures(results: &[&TaskResult]) -> Table {
    let row = |result: &&TaskResult| {
        let Outcome::Failed { failure } = &result.outcome else {
            return None;
        };
        let key = &result.key;
        let case = failure
            .case
            .map_or(String::new(), |case| format!("case {case} of its list"));
        Some(vec![
            key.site.clone(),
            format!("{}, round {}, attempt {}", key.phase, key.round, key.attempt),
            failure.code.clone(),
            failure.message.clone(),
            case,
        ])
    };
    Table {
        head: ["site", "task", "code", "what", "where"]
            .map(str::to_owned)
            .into(),
        rows: results.iter().filter_map(row).collect(),
        ..Table::default()
    }
}
