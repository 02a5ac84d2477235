//! Each rule against a plain computation, in any order of the sites.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{
    checkpoint::safetensors,
    network::{StateDict, Tensor32},
    progress::Unobserved,
};

/// Two tensors, the second of more values than one thread takes at a time.
fn state(values: &[f32]) -> StateDict {
    let mut state = StateDict::new();
    let long: Vec<f32> = values.iter().copied().cycle().take(PART + 3).collect();
    for (name, data) in [("a", values.to_vec()), ("b", long)] {
        let tensor = Tensor32::new(vec![data.len()], data).unwrap();
        state.insert(name, tensor).unwrap();
    }
    state
}

fn contribute(folder: &Path, sites: &[(&str, u64, Vec<f32>)]) -> Vec<Contribution> {
    let contribution = |(site, weight, values): &(&str, u64, Vec<f32>)| {
        let weights = folder.join(site);
        safetensors::write(&state(values), &weights).unwrap();
        Contribution {
            site: (*site).to_owned(),
            weights,
            weight: *weight,
        }
    };
    sites.iter().map(contribution).collect()
}

/// The average, which must be the same in the other order.
fn averaged(folder: &Path, contributions: &[Contribution], rule: &Rule) -> Result<(Vec<f32>, Averaged)> {
    let output = folder.join("average");
    let made = average(contributions, rule, &output, &Unobserved)?;
    let turned: Vec<Contribution> = contributions.iter().rev().cloned().collect();
    assert_eq!(average(&turned, rule, &output, &Unobserved)?, made);
    let read = safetensors::read(&output)?;
    let values = read.get("a").unwrap().data.clone();
    assert_eq!(read, state(&values));
    Ok((values, made))
}

const SITES: [&str; 5] = ["e", "b", "d", "a", "c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn rules_are_what_they_say(
        sites in 3..6usize,
        values in proptest::collection::vec(-1e3f32..1e3, 5 * 7),
        base in proptest::collection::vec(-1e3f32..1e3, 7),
        weights in proptest::collection::vec(1..400u64, 5),
        norm_bound in 0.3f64..2.0,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let own = |site: usize| &values[7 * site..7 * (site + 1)];
        let given: Vec<(&str, u64, Vec<f32>)> =
            (0..sites).map(|site| (SITES[site], weights[site], own(site).to_vec())).collect();
        let contributions = contribute(folder.path(), &given);
        let run = |rule: &Rule| averaged(folder.path(), &contributions, rule).unwrap();
        let column = |at: usize| {
            let mut column: Vec<f64> = (0..sites).map(|site| f64::from(own(site)[at])).collect();
            column.sort_by(f64::total_cmp);
            column
        };

        let (median, _) = run(&Rule::Median);
        let (trimmed, _) = run(&Rule::TrimmedMean { trim: 1 });
        for at in 0..7 {
            let sorted = column(at);
            let middle = (sorted[(sites - 1) / 2] + sorted[sites / 2]) / 2.0;
            prop_assert_eq!(median[at], middle as f32);
            let kept = &sorted[1..sites - 1];
            prop_assert_eq!(trimmed[at], (kept.iter().sum::<f64>() / kept.len() as f64) as f32);
        }

        let base_file = folder.path().join("base");
        safetensors::write(&state(&base), &base_file).unwrap();
        let (bounded, made) = run(&Rule::BoundedMean { norm_bound, base: base_file });
        // The second tensor repeats the first.
        let times = |at: usize| 1.0 + ((PART + 3 - at) as f64 / 7.0).ceil();
        let norm = |site: usize| -> f64 {
            let squares = (0..7).map(|at| times(at) * (f64::from(own(site)[at]) - f64::from(base[at])).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let mut norms: Vec<f64> = (0..sites).map(norm).collect();
        let unsorted = norms.clone();
        norms.sort_by(f64::total_cmp);
        let bound = norm_bound * (norms[(sites - 1) / 2] + norms[sites / 2]) / 2.0;
        let total: f64 = weights[..sites].iter().map(|weight| *weight as f64).sum();
        for at in 0..7 {
            let start = f64::from(base[at]);
            let sum: f64 = (0..sites)
                .map(|site| {
                    let factor = (bound / unsorted[site]).min(1.0);
                    weights[site] as f64 * (start + factor * (f64::from(own(site)[at]) - start))
                })
                .sum();
            prop_assert!((f64::from(bounded[at]) - sum / total).abs() < 1e-3, "{} {}", bounded[at], sum / total);
        }
        let far = unsorted.iter().filter(|norm| **norm > bound).count();
        prop_assert_eq!(made.bounded.len(), far);
    }
}

#[test]
fn one_poisoned_site_of_five_moves_only_the_mean() {
    let folder = tempfile::tempdir().unwrap();
    let honest = |shift: f32| vec![1.0 + shift, 2.0 - shift];
    let mut sites: Vec<(&str, u64, Vec<f32>)> = ["a", "b", "c", "d"]
        .iter()
        .zip([-0.2, -0.1, 0.1, 0.2])
        .map(|(site, shift)| (*site, 10, honest(shift)))
        .collect();
    sites.push(("e", 10, vec![-1e6, 1e6]));
    let contributions = contribute(folder.path(), &sites);
    let base = folder.path().join("base");
    safetensors::write(&state(&[0.9, 1.9]), &base).unwrap();
    let run = |rule: &Rule| averaged(folder.path(), &contributions, rule).unwrap();
    let near = |values: &[f32]| (values[0] - 1.0).abs() < 0.5 && (values[1] - 2.0).abs() < 0.5;
    assert!(!near(&run(&Rule::Mean).0));
    assert!(near(&run(&Rule::Median).0));
    assert!(near(&run(&Rule::TrimmedMean { trim: 1 }).0));
    let (values, made) = run(&Rule::BoundedMean {
        norm_bound: 1.5,
        base,
    });
    assert!(near(&values), "{values:?}");
    let [far] = &made.bounded[..] else {
        panic!("{made:?}")
    };
    assert_eq!(far.site, "e");
    assert!(far.norm > 1e6 && far.bound < 1e3, "{far:?}");
}

#[test]
fn what_is_within_the_bound_counts_as_in_the_mean() {
    let folder = tempfile::tempdir().unwrap();
    let sites = [
        ("a", 3, vec![0.1, 0.7]),
        ("b", 5, vec![0.3, 0.2]),
        ("c", 7, vec![0.9, 0.4]),
    ];
    let contributions = contribute(folder.path(), &sites);
    let base = folder.path().join("base");
    safetensors::write(&state(&[0.5, 0.5]), &base).unwrap();
    let (mean, plain) = averaged(folder.path(), &contributions, &Rule::Mean).unwrap();
    let rule = Rule::BoundedMean {
        norm_bound: 10.0,
        base,
    };
    assert_eq!(
        averaged(folder.path(), &contributions, &rule).unwrap(),
        (mean, plain)
    );
}

#[test]
fn what_no_rule_can_combine_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sites = [("a", 0, vec![1.0]), ("b", 0, vec![2.0])];
    let contributions = contribute(folder.path(), &sites);
    let reason = |contributions: &[Contribution], rule: Rule| {
        averaged(folder.path(), contributions, &rule)
            .unwrap_err()
            .to_string()
    };
    assert!(reason(&contributions, Rule::Mean).contains("all weights are zero"));
    assert!(reason(&contributions, Rule::TrimmedMean { trim: 1 }).contains("2 sites contribute"));
    assert!(reason(&[], Rule::Median).contains("no site contributes"));
    // Weights count nothing there.
    assert_eq!(
        averaged(folder.path(), &contributions, &Rule::Median).unwrap().0,
        [1.5]
    );

    let bad = contribute(folder.path(), &[("c", 1, vec![f32::NAN])]);
    let all: Vec<Contribution> = contributions.iter().chain(&bad).cloned().collect();
    let error = reason(&all, Rule::Median);
    assert_eq!(error, "site c: tensor a holds a value that is not finite");
    let base = folder.path().join("base");
    safetensors::write(&state(&[1.0, 2.0]), &base).unwrap();
    let norm_bound = 1.0;
    let weighed = contribute(folder.path(), &[("a", 1, vec![1.0])]);
    let error = reason(&weighed, Rule::BoundedMean { norm_bound, base });
    assert_eq!(
        error,
        "the weights that the round started from: tensor a has the shape [2], expected [1] (held against site a)"
    );
}
