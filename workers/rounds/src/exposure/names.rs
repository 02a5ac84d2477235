//! What must not be in a sentence that leaves: names of cases and files, and paths.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::settings::SiteSettings;

/// What stands in a name's place.
const HIDDEN: &str = "...";
/// A shorter name is no name: it would take the words out of every sentence.
const SHORTEST: usize = 3;
/// Files of nnU-Net's, whose names say nothing.
const DOCUMENTS: [&str; 4] = ["dataset", "splits_final", "dataset_fingerprint", "nnUNetPlans"];
/// Folders below a data set that are looked into.
const DEEPEST: usize = 8;

/// The names in a site's data sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// Of all data sets of a site, as they are now. What cannot be read has none.
    pub fn of(settings: &SiteSettings) -> Self {
        let mut found = BTreeSet::new();
        for dataset in &settings.datasets {
            if let Some(name) = dataset.path.file_name() {
                found.insert(name.to_string_lossy().into_owned());
            }
            below(&dataset.path, DEEPEST, &mut found);
            listed(&dataset.path.join("dataset.json"), &mut found);
        }
        let mut names: Vec<String> = found
            .into_iter()
            .filter(|name| name.chars().count() >= SHORTEST && !DOCUMENTS.contains(&&**name))
            .map(|name| name.to_ascii_lowercase())
            .collect();
        // A name may begin with another one.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self(names)
    }

    /// The text without names, and without what follows the first path.
    pub fn without(&self, text: &str) -> String {
        let mut text = match path_in(text) {
            Some(start) => format!("{}{HIDDEN}", &text[..start]),
            None => text.to_owned(),
        };
        for name in &self.0 {
            let mut from = 0;
            // Of one length with the text: only ASCII letters change.
            while let Some(found) = text.to_ascii_lowercase()[from..].find(&**name) {
                let (start, end) = (from + found, from + found + name.len());
                if is_whole(&text, start, end) {
                    text.replace_range(start..end, HIDDEN);
                    from = start + HIDDEN.len();
                } else {
                    from = end;
                }
            }
        }
        text
    }
}

/// Where a path begins.
fn path_in(text: &str) -> Option<usize> {
    let begins = |(place, _): &(usize, &str)| {
        let before = text[..*place].chars().next_back();
        let after = text[place + 1..].chars().next();
        before.is_none_or(|c| c.is_whitespace() || "\"'`([=:".contains(c))
            && after.is_some_and(|c| !c.is_whitespace())
    };
    text.match_indices('/').find(begins).map(|(place, _)| place)
}

fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}

/// The names of files and folders below `folder`, without channel and ending.
fn below(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !path.is_dir() {
            found.extend(stems(&name));
        } else if depth > 0 {
            if !name.starts_with("images") && !name.starts_with("labels") {
                found.insert(name);
            }
            below(&path, depth - 1, found);
        }
    }
}

/// A file's name without its ending, and without its channel.
fn stems(file: &str) -> Vec<String> {
    let stem = file.split('.').next().unwrap_or_default();
    let mut stems = vec![stem.to_owned()];
    if let Some((case, channel)) = stem.rsplit_once('_')
        && channel.len() == 4
        && channel.bytes().all(|byte| byte.is_ascii_digit())
    {
        stems.push(case.to_owned());
    }
    stems
}

/// Cases and files that dataset.json lists, and what it calls itself.
fn listed(file: &Path, found: &mut BTreeSet<String>) {
    let Some(document) = fs::read(file)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
    else {
        return;
    };
    if let Some(Value::String(name)) = document.get("name") {
        found.insert(name.clone());
    }
    for (case, files) in document
        .get("dataset")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        found.insert(case.clone());
        let images = files
            .get("images")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        for path in images.chain(files.get("label")).filter_map(Value::as_str) {
            let name = Path::new(path).file_name().unwrap_or_default();
            found.extend(stems(&name.to_string_lossy()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = folder.path().join("Dataset004_RoeJane");
        fs::create_dir_all(dataset.join("imagesTr")).unwrap();
        for file in [
            "imagesTr/Roe_Jane_0000.nii.gz",
            "imagesTr/Roe_0000.nii.gz",
            "imagesTr/17_0000.nii.gz",
        ] {
            fs::write(dataset.join(file), "").unwrap();
        }
        let document = r#"{"name": "Clinic of Doe", "dataset": {"Doe_John": {"images": ["x/dj_1.nii"], "label": "l.nii"}}}"#;
        fs::write(dataset.join("dataset.json"), document).unwrap();
        let settings = format!(
            "site = \"a\"\nroot = \"r\"\n[nats]\nurl = \"\"\n[[datasets]]\nid = \"a\"\npath = {dataset:?}\n"
        );
        let names = Names::of(&toml::from_str(&settings).unwrap());
        for (text, left) in [
            ("no file /data/Dataset004_RoeJane/x y.nii", "no file ..."),
            ("roe_jane.nii.gz differs from Roe", "....nii.gz differs from ..."),
            ("\"Roe_Jane_0000\" has 17 voxels/mm", "\"...\" has 17 voxels/mm"),
            ("Dataset004_RoeJane has no Doe_John, dj_1", "... has no ..., ..."),
            ("Clinic of Doe", "..."),
            ("the dataset's roebuck", "the dataset's roebuck"),
            ("at='/x/y' it broke", "at='..."),
        ] {
            assert_eq!(names.without(text), left);
            assert_eq!(names.without(left), left);
        }
    }
}
