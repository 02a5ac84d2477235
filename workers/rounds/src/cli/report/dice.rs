//! The curves of a training, and Dice by class and site.

use nnunet::evaluate::{Counts, Scores};
use schemas::{
    event::History,
    nnunet::{DatasetJson, Label},
    task::{Outcome, TaskOutput, TaskResult, Validation},
};

use super::content::{Curve, Table};

/// A class or region, and its name in dataset.json.
pub type Class = (Label, String);

/// The job's classes in the order of their scores; none where its record does not say.
pub fn classes(results: &[&TaskResult]) -> Vec<Class> {
    let document = results.iter().find_map(|result| match &result.outcome {
        Outcome::Done {
            output: TaskOutput::Inventory { dataset_json, .. },
        } => serde_json::from_value::<DatasetJson>(dataset_json.clone()).ok(),
        _ => None,
    });
    let Some(document) = document else {
        return Vec::new();
    };
    let named = |label: Label| {
        let mut names = document.labels().iter();
        let name = names.find(|(_, other)| **other == label);
        let name = name.map_or_else(|| label.to_string(), |(name, _)| name.clone());
        (label, name)
    };
    document.foreground().into_iter().map(named).collect()
}

fn class(classes: &[Class], place: usize) -> String {
    match classes.get(place) {
        Some((_, name)) => name.clone(),
        None => format!("class {}", place + 1),
    }
}

/// The rounds' results that scored weights: (the round the weights start, site, counts).
fn validations<'a>(results: &[&'a TaskResult]) -> Vec<(u32, &'a str, &'a Validation)> {
    let scored = results.iter().filter_map(|result| match &result.outcome {
        Outcome::Done {
            output: TaskOutput::Trained { validation, .. },
        } => Some((result.key.round + result.key.pass, &*result.key.site, validation)),
        _ => None,
    });
    scored.collect()
}

pub fn curves(history: &History, results: &[&TaskResult], classes: &[Class]) -> Vec<Curve> {
    let all = || "all sites".to_owned();
    let mut train = vec![(all(), Vec::new())];
    for epoch in &history.epochs {
        let x = f64::from(epoch.epoch);
        train[0].1.push((x, epoch.train_loss));
        for (site, loss) in &epoch.sites {
            push(&mut train, site, (x, *loss));
        }
    }
    let mut loss = vec![(all(), Vec::new())];
    let mut dice = vec![
        ("mean".to_owned(), Vec::new()),
        ("moving average".to_owned(), Vec::new()),
    ];
    for score in &history.scores {
        let x = f64::from(score.round);
        loss[0].1.push((x, score.loss));
        dice[0].1.extend(score.mean_dice.map(|dice| (x, dice)));
        dice[1].1.extend(score.ema_dice.map(|dice| (x, dice)));
        for (place, value) in score.dice.iter().enumerate() {
            if let Some(value) = value {
                push(&mut dice, &class(classes, place), (x, *value));
            }
        }
    }
    for (round, site, validation) in validations(results) {
        push(&mut loss, site, (f64::from(round), validation.loss));
    }
    let rate = history
        .epochs
        .iter()
        .map(|epoch| (f64::from(epoch.epoch), epoch.learning_rate));
    let on_training = history.scores.last().is_some_and(|score| score.on_training_cases);
    let cases = if on_training { "training" } else { "validation" };
    let curve = |title: String, x_name, lines| Curve { title, x_name, lines };
    vec![
        curve("Training loss".into(), "epoch", train),
        curve(format!("Loss on {cases} cases"), "rounds before", loss),
        curve(format!("Pseudo Dice on {cases} cases"), "rounds before", dice),
        curve("Learning rate".into(), "epoch", vec![(all(), rate.collect())]),
    ]
}

fn push(lines: &mut Vec<(String, Vec<(f64, f64)>)>, name: &str, point: (f64, f64)) {
    match lines.iter_mut().find(|(other, _)| other == name) {
        Some((_, points)) => points.push(point),
        None => lines.push((name.to_owned(), vec![point])),
    }
}

/// The pseudo Dice of the last weights that were scored, by class and site.
pub fn pseudo_dice(history: &History, results: &[&TaskResult], classes: &[Class]) -> Option<Table> {
    let last = history.scores.last()?;
    let at_sites: Vec<_> = validations(results)
        .into_iter()
        .filter(|(round, ..)| *round == last.round)
        .collect();
    let row = |(place, dice): (usize, &Option<f64>)| {
        let mut row = vec![class(classes, place), shown(*dice)];
        row.extend(at_sites.iter().map(|(_, _, validation)| {
            let [tp, fp, fn_] = [
                &validation.true_positives,
                &validation.false_positives,
                &validation.false_negatives,
            ]
            .map(|counts| counts.get(place).copied().unwrap_or(0));
            shown(Some(Counts { tp, fp, fn_, tn: 0 }.dice()))
        }));
        row
    };
    let mut head = vec!["class".to_owned(), "all sites".to_owned()];
    head.extend(at_sites.iter().map(|(_, site, _)| (*site).to_owned()));
    let of = if last.on_training_cases {
        "training"
    } else {
        "validation"
    };
    Some(Table {
        title: "Pseudo Dice of the last average".into(),
        head,
        rows: last.dice.iter().enumerate().map(row).collect(),
        numbers: true,
        note: Some(format!(
            "On patches of {of} cases, counted over all of them, as nnU-Net does."
        )),
    })
}

/// The mean Dice over whole cases, by class and site.
pub fn dice_by_site(sites: &[(String, Scores)], classes: &[Class]) -> Option<Table> {
    let all = Scores::summary(sites).ok().filter(|all| !all.cases.is_empty())?;
    let each: Vec<_> = sites
        .iter()
        .filter_map(|site| Some((&site.0, Scores::summary(std::slice::from_ref(site)).ok()?)))
        .collect();
    let name = |label: &Label| {
        let known = classes.iter().find(|(other, _)| other == label);
        known.map_or_else(|| format!("class {label}"), |(_, name)| name.clone())
    };
    let mut rows: Vec<Vec<String>> = all
        .labels
        .iter()
        .enumerate()
        .map(|(place, label)| {
            let mut row = vec![name(label), shown(Some(all.mean(place).dice()))];
            row.extend(each.iter().map(|(_, own)| shown(Some(own.mean(place).dice()))));
            row
        })
        .collect();
    let mut mean = vec!["mean".to_owned(), shown(Some(all.foreground_mean().dice()))];
    mean.extend(
        each.iter()
            .map(|(_, own)| shown(Some(own.foreground_mean().dice()))),
    );
    rows.push(mean);
    let mut cases = vec!["cases".to_owned(), all.cases.len().to_string()];
    cases.extend(each.iter().map(|(_, own)| own.cases.len().to_string()));
    rows.push(cases);
    let mut head = vec!["class".to_owned(), "all sites".to_owned()];
    head.extend(each.iter().map(|(site, _)| (*site).clone()));
    Some(Table {
        title: "Dice of whole cases".into(),
        head,
        rows,
        numbers: true,
        note: Some("The mean over cases, as in nnU-Net's summary.json.".into()),
    })
}

fn shown(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.4}"),
        _ => "-".to_owned(),
    }
}
