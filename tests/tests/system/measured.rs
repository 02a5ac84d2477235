//! dashboards/METRICS.md is what the processes export.
//!
//! `just metrics` writes its table anew (ROUNDS_WRITE_METRICS=1).

use std::collections::{BTreeMap, BTreeSet};

use pipeline::metrics::{Definition, catalogue};
use tests::{federation::Federation, repository};

/// Where the table begins.
const HEAD: &str = "| metric | type | labels | meaning |\n|---|---|---|---|\n";

/// What a job without trouble on a machine without accelerators does not count.
const RARE: [&str; 7] = [
    "rounds_task_redeliveries_total",
    "rounds_site_task_redeliveries_total",
    "rounds_dead_letters_total",
    "rounds_updates_rejected_total",
    "rounds_results_refused_total",
    "rounds_gpu_",
    "rounds_site_gpu_",
];

#[test]
fn the_table_of_metrics_is_current() {
    let file = repository().join("dashboards/METRICS.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, _) = text
        .split_once(HEAD)
        .unwrap_or_else(|| panic!("{}: no table of metrics", file.display()));
    let rows: String = catalogue().iter().map(row).collect();
    let expected = format!("{before}{HEAD}{rows}");
    if std::env::var_os("ROUNDS_WRITE_METRICS").is_some() {
        std::fs::write(&file, &expected).unwrap();
        return;
    }
    assert!(text == expected, "{}: run `just metrics`", file.display());
}

fn row(metric: &Definition) -> String {
    let Definition {
        name,
        kind,
        labels,
        help,
    } = metric;
    format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
}

/// What these processes show is in the list of metrics, with that type and those labels; and all of the list is shown
/// by one of them, but for what only trouble or an accelerator brings.
pub fn as_documented(federation: &Federation, processes: &[&str]) {
    let known = catalogue();
    let mut shown = BTreeSet::new();
    for process in processes {
        let page = federation.metrics(process).unwrap();
        let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
        for line in page.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                kinds.insert(name, kind);
            } else if line.starts_with("rounds_") || line.starts_with("process_") {
                let series = line.split([' ', '{']).next().unwrap();
                let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| {
                    let name = series.strip_suffix(end)?;
                    (kinds.get(name) == Some(&"histogram")).then_some(name)
                });
                let name = of_histogram.unwrap_or(series);
                let metric = known
                    .iter()
                    .find(|metric| metric.name == name)
                    .unwrap_or_else(|| panic!("{process} shows {name}, which is not documented"));
                assert_eq!(kinds[name], metric.kind, "{name}");
                let mut labels = labels(line);
                labels.retain(|label| *label != "le");
                let mut expected = metric.labels.clone();
                expected.sort_unstable();
                assert_eq!(labels, expected, "{line}");
                shown.insert(name.to_owned());
            }
        }
    }
    let missing: Vec<&str> = known
        .iter()
        .map(|metric| &*metric.name)
        .filter(|name| !shown.contains(*name) && !RARE.iter().any(|rare| name.starts_with(rare)))
        .collect();
    assert!(
        missing.is_empty(),
        "documented, but shown by none of {processes:?}: {missing:?}"
    );
}

fn labels(line: &str) -> Vec<&str> {
    let Some((_, rest)) = line.split_once('{') else {
        return Vec::new();
    };
    let inside = rest.rsplit_once('}').unwrap().0;
    let mut labels: Vec<&str> = inside
        .split("\",")
        .filter_map(|pair| pair.split_once("=\"").map(|(name, _)| name))
        .collect();
    labels.sort_unstable();
    labels
}
