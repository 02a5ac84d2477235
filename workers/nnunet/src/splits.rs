//! Which cases train and which validate: nnU-Net's five folds.
//! (nnunetv2/utilities/crossval_split.py, nnUNetTrainer.do_split)

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, document, numpy_random::RandomState};

/// The seed of nnU-Net's splits.
const SEED: u32 = 12345;
/// The folds of a generated `splits_final.json`.
pub const FOLDS: usize = 5;

/// The training and validation cases of one fold, by identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Cases to train on.
    pub train: Vec<String>,
    /// Cases to validate on.
    pub val: Vec<String>,
}

/// Which part of the cases a training uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    /// Every case trains and validates.
    All,
    /// A fold of `splits_final.json`; past its end, a random 80:20 split seeded by the number.
    Number(u32),
}

impl std::fmt::Display for Fold {
    /// As in nnU-Net's folder names: `all` or the number.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fold::All => f.write_str("all"),
            Fold::Number(number) => write!(f, "{number}"),
        }
    }
}

/// nnU-Net's five folds: `KFold(5, shuffle=True, random_state=12345)` over the sorted identifiers.
///
/// # Errors
/// Fewer than five cases.
pub fn generate(identifiers: &[String]) -> Result<Vec<Split>> {
    let identifiers = sorted(identifiers);
    let n = identifiers.len();
    if n < FOLDS {
        return Err(Error::invalid(
            "splits",
            format!("{n} cases are too few for {FOLDS} folds: at least {FOLDS} are needed, or fold \"all\""),
        ));
    }
    let order = RandomState::new(SEED).permutation(n as u32);
    let mut start = 0;
    Ok((0..FOLDS)
        .map(|fold| {
            let size = n / FOLDS + usize::from(fold < n % FOLDS);
            let mut held_out = vec![false; n];
            for &index in &order[start..start + size] {
                held_out[index as usize] = true;
            }
            start += size;
            let part = |wanted: bool| {
                let chosen = identifiers
                    .iter()
                    .zip(&held_out)
                    .filter(|(_, held)| **held == wanted);
                chosen.map(|(identifier, _)| (*identifier).clone()).collect()
            };
            Split {
                train: part(false),
                val: part(true),
            }
        })
        .collect())
}

/// The cases of `fold`, as nnU-Net's trainer chooses them.
///
/// `splits` is the content of `splits_final.json`; unused for [`Fold::All`].
/// A fold past the end of `splits` is a random 80:20 split, its training cases in drawn order.
///
/// # Errors
/// A fold of the file names a case that is not in `identifiers`, or none to train on.
pub fn select(identifiers: &[String], splits: &[Split], fold: Fold) -> Result<Split> {
    let identifiers = sorted(identifiers);
    let number = match fold {
        Fold::All => {
            let all: Vec<String> = identifiers.into_iter().cloned().collect();
            return Ok(Split {
                train: all.clone(),
                val: all,
            });
        }
        Fold::Number(number) => number,
    };
    if let Some(split) = splits.get(number as usize) {
        let unknown = split
            .train
            .iter()
            .chain(&split.val)
            .find(|case| identifiers.binary_search(case).is_err());
        if let Some(case) = unknown {
            return Err(Error::bad_case(
                case,
                format!("fold {number} of splits_final.json names it, but there is no such case"),
            ));
        }
        if split.train.is_empty() {
            let reason = "it has no case to train on";
            return Err(Error::invalid(
                format!("splits_final.json, fold {number}"),
                reason,
            ));
        }
        return Ok(split.clone());
    }
    let n = identifiers.len();
    let drawn = RandomState::new(SEED.wrapping_add(number))
        .choice_without_replacement(n as u32, (n as f64 * 0.8) as usize);
    let mut trains = vec![false; n];
    for &index in &drawn {
        trains[index as usize] = true;
    }
    Ok(Split {
        train: drawn
            .iter()
            .map(|&index| identifiers[index as usize].clone())
            .collect(),
        val: (0..n)
            .filter(|&i| !trains[i])
            .map(|i| identifiers[i].clone())
            .collect(),
    })
}

/// Reads a `splits_final.json`.
///
/// # Errors
/// The file cannot be read, or is not a list of `train` and `val` lists.
pub fn read(path: &Path) -> Result<Vec<Split>> {
    let text = document::read(path)?;
    let deserializer = &mut serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(deserializer).map_err(|error| Error::bad_file(path, error))
}

/// Writes a `splits_final.json` in nnU-Net's format, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write(splits: &[Split], path: &Path) -> Result<()> {
    let text =
        schemas::nnunet::python_json::to_string(&splits).map_err(|error| Error::bad_file(path, error))?;
    document::write(path, &text)
}

/// The identifiers in code-point order, as numpy sorts them.
fn sorted(identifiers: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = identifiers.iter().collect();
    sorted.sort();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(numbers: &[usize]) -> Vec<String> {
        numbers.iter().map(|n| format!("case_{n:02}")).collect()
    }

    // Golden values: scikit-learn's KFold(5, shuffle=True, random_state=12345) and numpy 2.4.6.
    #[test]
    fn five_folds_are_scikit_learns() {
        let mut identifiers = names(&(0..12).collect::<Vec<_>>());
        identifiers.reverse();
        let splits = generate(&identifiers).unwrap();
        let held_out: [&[usize]; 5] = [&[0, 3, 8], &[7, 10, 11], &[6, 9], &[1, 4], &[2, 5]];
        for (split, held_out) in splits.iter().zip(held_out) {
            assert_eq!(split.val, names(held_out));
        }
        assert_eq!(splits[4].train, names(&[0, 1, 3, 4, 6, 7, 8, 9, 10, 11]));
    }

    #[test]
    fn four_cases_are_too_few() {
        let error = generate(&names(&[0, 1, 2, 3])).unwrap_err().to_string();
        assert!(error.contains("4 cases"), "{error}");
    }

    #[test]
    fn a_fold_past_the_end_is_a_seeded_split() {
        let identifiers = names(&(0..10).collect::<Vec<_>>());
        let split = select(&identifiers, &[], Fold::Number(2)).unwrap();
        assert_eq!(split.train, names(&[3, 1, 5, 0, 2, 4, 9, 6]));
        assert_eq!(split.val, names(&[7, 8]));
    }

    #[test]
    fn all_trains_and_validates_on_everything() {
        let split = select(&names(&[1, 0]), &[], Fold::All).unwrap();
        assert_eq!((split.train, split.val), (names(&[0, 1]), names(&[0, 1])));
    }

    #[test]
    fn a_fold_naming_an_unknown_case_is_refused() {
        let splits = [Split {
            train: names(&[0]),
            val: names(&[7]),
        }];
        let error = select(&names(&[0, 1]), &splits, Fold::Number(0))
            .unwrap_err()
            .to_string();
        assert!(error.contains("case_07"), "{error}");
    }

    #[test]
    fn the_file_reads_back_and_looks_like_pythons() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("splits_final.json");
        let splits = vec![Split {
            train: names(&[0]),
            val: vec!["é".into()],
        }];
        write(&splits, &path).unwrap();
        assert_eq!(read(&path).unwrap(), splits);
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "[\n    {\n        \"train\": [\n            \"case_00\"\n        ],\n        \"val\": [\n            \"\\u00e9\"\n        ]\n    }\n]";
        assert_eq!(text, expected);
    }
}
