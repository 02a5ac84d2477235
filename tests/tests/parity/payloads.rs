//! Job payloads against the Pydantic models that users know: 2,000 of them, read by both.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Component, Path, PathBuf},
};

use schemas::job::JobMessage;
use serde_json::Value;

/// The sites' data sets: `a` and `b`, not `c`.
const DATASETS: [&str; 2] = ["a", "b"];

/// Whether Rounds refuses a value that Pydantic read.
type Refuses = fn(&Value) -> bool;

/// Where Rounds is stricter, with a reason for each: the field, and whether the value that Pydantic read is
/// one that Rounds refuses.
const STRICTER: [(&str, &str, Refuses); 9] = [
    (
        "num_rounds",
        "at least 1, at most 10,000,000 epochs in all",
        |value| !within(value, 1, 10_000_000),
    ),
    (
        "epochs_per_round",
        "at least 1, at most 10,000,000 epochs in all",
        |value| !within(value, 1, 10_000_000),
    ),
    (
        "starting_fed_round",
        "at least 0, at most 10,000,000 epochs in all",
        |value| !within(value, 0, 10_000_000),
    ),
    ("dataset_id", "at least 0, 32 bits", |value| {
        !within(value, 0, u64::from(u32::MAX))
    }),
    ("fold_id", "at least 0, 32 bits", |value| {
        value != "all" && !within(value, 0, u64::from(u32::MAX))
    }),
    ("checkpoint_path", "not empty", |value| value == "."),
    (
        "apheris_dataset_subdirs",
        "keys are data sets of the job",
        |value| folders(value).any(|(dataset, _)| !DATASETS.contains(&dataset)),
    ),
    ("apheris_dataset_subdirs", "folders are not empty", |value| {
        folders(value).any(|(_, folder)| folder.is_empty())
    }),
    (
        "apheris_dataset_subdirs",
        "folders are relative and do not escape",
        |value| {
            folders(value).any(|(_, folder)| {
                Path::new(folder)
                    .components()
                    .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
            })
        },
    ),
];

fn within(value: &Value, least: u64, most: u64) -> bool {
    value
        .as_u64()
        .is_some_and(|number| (least..=most).contains(&number))
}

fn folders(value: &Value) -> impl Iterator<Item = (&str, &str)> {
    let map = value.as_object().into_iter().flatten();
    map.map(|(dataset, folder)| (&**dataset, folder.as_str().unwrap_or_default()))
}

/// A path without its `.` parts, as Python's Path keeps it.
fn plain(path: &Value) -> PathBuf {
    Path::new(path.as_str().unwrap_or_default())
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

#[test]
fn two_thousand_payloads_are_read_as_pydantic_reads_them() {
    let printed = tests::oracle::run("payloads.py", &["20", "2000"]).unwrap();
    let datasets = DATASETS.map(str::to_owned);
    let mut stricter: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let (mut accepted, mut refused) = (0, 0);
    for line in printed.lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        let payload = &sample["payload"];
        let ours = JobMessage::parse(payload.to_string().as_bytes(), Some(&datasets));
        match (&ours, sample["accepted"].as_bool().unwrap()) {
            (Ok(message), true) => {
                let mut ours = serde_json::to_value(&message.payload).unwrap();
                let mut theirs = sample["parsed"].clone();
                if let (Some(mine), Some(its)) =
                    (ours.get_mut("checkpoint_path"), theirs.get_mut("checkpoint_path"))
                {
                    assert_eq!(plain(mine), plain(its), "{payload}");
                    *mine = its.clone();
                }
                assert_eq!(ours, theirs, "{payload}");
                accepted += 1;
            }
            (Err(error), false) => {
                let named = error.path.strip_prefix("payload.").unwrap_or(&error.path);
                let named = named.split('.').next().unwrap_or_default();
                let theirs: Vec<&str> = sample["errors"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(Value::as_str)
                    .collect();
                // Without a mode, the payload does not look like one: the data sets' side is named.
                let without_mode = payload.get("mode").is_none() && theirs == ["mode"];
                // The first wrong field is named: it may be one that only Rounds refuses.
                let stricter_field = STRICTER.iter().any(|(field, ..)| *field == named);
                assert!(
                    theirs.contains(&named) || theirs.contains(&"") || without_mode || stricter_field,
                    "{payload}: ours names {error}, Pydantic {theirs:?}"
                );
                refused += 1;
            }
            (Err(error), true) => {
                let field = error.path.strip_prefix("payload.").unwrap_or(&error.path);
                let field = field.split('.').next().unwrap_or_default();
                let reason = STRICTER
                    .iter()
                    .find(|(name, _, refuses)| *name == field && refuses(&sample["parsed"][field]));
                let total_too_large = ["num_rounds", "epochs_per_round"].contains(&field)
                    && error.reason.contains("10,000,000 epochs in all");
                match reason {
                    Some((name, reason, _)) => *stricter.entry((name, reason)).or_default() += 1,
                    None if total_too_large => {
                        *stricter
                            .entry(("num_rounds", "at most 10,000,000 epochs in all"))
                            .or_default() += 1;
                    }
                    None => panic!("{payload}: accepted by Pydantic, refused with {error}"),
                }
            }
            (Ok(_), false) => panic!(
                "{payload}: refused by Pydantic at {}, taken by Rounds",
                sample["errors"]
            ),
        }
    }
    let mut list =
        format!("{accepted} payloads accepted by both, {refused} refused by both; Rounds alone refuses:\n");
    for ((field, reason), count) in &stricter {
        list += &format!("  {field}: {reason} ({count} payloads)\n");
    }
    // Past the test runner's capture: the list is there to be seen.
    std::io::stderr().write_all(list.as_bytes()).unwrap();
    assert!(accepted > 400 && refused > 400, "the samples are one-sided");
}
