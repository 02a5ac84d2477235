//! What to predict, as people name it: a folder, one scan, or a list.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use schemas::nnunet::DatasetJson;

use super::{RawCase, cases_to_predict, raw_case};
use crate::{Error, Result, document};

/// The cases that `input` names: all of a folder; the one that a file IDENTIFIER_XXXX with the data set's ending
/// belongs to, with its other channels; or those of a list.
///
/// A list is a file ending in .json with nnU-Net's list of lists: for each case the files of its channels, in their
/// order. Relative paths start at the list's folder. A case is called as its first file, without _XXXX and ending.
///
/// # Errors
/// As of [`cases_to_predict`]; a file of another name or a list of another form; two cases of one name.
pub fn input_cases(input: &Path, dataset_json: &DatasetJson) -> Result<Vec<RawCase>> {
    if input.is_dir() {
        return cases_to_predict(input, dataset_json);
    }
    if input.extension().is_some_and(|ending| ending == "json") {
        return listed(input, dataset_json);
    }
    let wanted = identifier(input, dataset_json)?;
    let folder = match input.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut images: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if identifier(&path, dataset_json).is_ok_and(|found| found == wanted) {
            images.push(path);
        }
    }
    images.sort();
    let case = RawCase {
        identifier: wanted,
        images,
        label: None,
    };
    if !input.is_file() {
        return Err(Error::bad_file(
            input,
            "no such file; expected a folder, a scan or a list",
        ));
    }
    case.check_files(dataset_json.channels())?;
    Ok(vec![case])
}

fn listed(list: &Path, dataset_json: &DatasetJson) -> Result<Vec<RawCase>> {
    let text = document::read(list)?;
    let files: Vec<Vec<PathBuf>> = serde_json::from_str(&text).map_err(|error| {
        let reason = format!("expected a list with a list of files for each case: {error}");
        Error::bad_file(list, reason)
    })?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let mut seen = BTreeSet::new();
    let cases = files.into_iter().enumerate().map(|(number, images)| {
        let first = images.first().ok_or_else(|| {
            Error::bad_file(list, format!("entry {number} is an empty list, expected files"))
        })?;
        let case = RawCase {
            identifier: identifier(first, dataset_json)?,
            images: images.iter().map(|image| folder.join(image)).collect(),
            label: None,
        };
        if !seen.insert(case.identifier.clone()) {
            let reason = format!("two entries have the name {}", case.identifier);
            return Err(Error::bad_file(list, reason));
        }
        case.check_files(dataset_json.channels())?;
        Ok(case)
    });
    cases.collect()
}

/// The case of a file IDENTIFIER_XXXX with the data set's ending.
fn identifier(file: &Path, dataset_json: &DatasetJson) -> Result<String> {
    let ending = dataset_json.file_ending();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    raw_case::identifier(&name, ending)
        .filter(|identifier| !identifier.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| raw_case::misnamed(file, ending))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(input: &Path) -> Result<Vec<(String, usize)>> {
        let dataset = DatasetJson::parse(
            r#"{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}, "numTraining": 1,
                "file_ending": ".nii.gz"}"#,
        );
        let cases = input_cases(input, &dataset.unwrap())?;
        Ok(cases
            .into_iter()
            .map(|c| (c.identifier, c.images.len()))
            .collect())
    }

    #[test]
    fn a_folder_a_scan_and_a_list_name_cases() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a_b_0000", "a_b_0001", "c_0000", "c_0001"] {
            fs::write(at(&format!("{name}.nii.gz")), "").unwrap();
        }
        let both = vec![("a_b".to_owned(), 2), ("c".to_owned(), 2)];
        assert_eq!(names(folder.path()).unwrap(), both);
        for name in ["a_b_0000.nii.gz", "a_b_0001.nii.gz"] {
            assert_eq!(names(&at(name)).unwrap(), both[..1]);
        }
        let list = at("list.json");
        let list_is = |text: &str| {
            fs::write(&list, text).unwrap();
            names(&list)
        };
        let entry = r#"["c_0000.nii.gz", "c_0001.nii.gz"]"#;
        assert_eq!(list_is(&format!("[{entry}]")).unwrap(), both[1..]);
        for (text, named) in [
            (format!("[{entry}, {entry}]"), "two entries have the name c"),
            ("[[]]".to_owned(), "entry 0"),
            (r#"[["d_0000.nii.gz"]]"#.to_owned(), "d_0000.nii.gz"),
            (r#"[["c.nii.gz"]]"#.to_owned(), "_XXXX.nii.gz"),
            (r#"["c_0000.nii.gz"]"#.to_owned(), "a list of files for each case"),
        ] {
            let error = list_is(&text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        for missing in ["z_0000.nii.gz", "nowhere"] {
            let error = names(&at(missing)).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }
}
