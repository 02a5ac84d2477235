//! `rounds unmask`: the names of cases back into the segmentations of an inference job, at their site.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{
    exposure::pseudonyms::{self, Pseudonyms},
    phases::{average::zip_folder, model::unpack},
    settings::SiteSettings,
};

/// Give the segmentations in a zip their cases' own names again, at the site that made it
#[derive(Args)]
pub struct Unmask {
    /// The zip of segmentations, as `rounds download` wrote it
    zip: PathBuf,
    /// The site's settings
    #[arg(long)]
    settings: PathBuf,
    /// The zip to write; by default `<zip>-named.zip` beside it
    #[arg(long, short)]
    output: Option<PathBuf>,
}

impl Unmask {
    /// Writes the zip, and prints its path.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = SiteSettings::read(&self.settings)?;
        let output = self.output.clone().unwrap_or_else(|| {
            let stem = self.zip.file_stem().unwrap_or_default().to_string_lossy();
            self.zip.with_file_name(format!("{stem}-named.zip"))
        });
        ensure!(
            output != self.zip,
            "{}: it would be overwritten",
            output.display()
        );
        // Names stay in the site's folder until the zip is whole.
        let scratch = tempfile::tempdir_in(&settings.root)
            .with_context(|| format!("root: {}", settings.root.display()))?;
        let unpacked = scratch.path().join("unpacked");
        unpack(&self.zip, &unpacked)
            .map_err(|failure| anyhow::anyhow!("{}: {}", self.zip.display(), failure.message))?;
        let inner = only_folder(&unpacked).with_context(|| format!("{}", self.zip.display()))?;
        let pseudonyms = of_zip(&settings.root, &inner).with_context(|| format!("{}", self.zip.display()))?;
        name_files(&inner, &pseudonyms)?;
        let prefix = inner
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        zip_folder(&inner, &prefix, &output).with_context(|| format!("{}", output.display()))?;
        println!("{}", output.display());
        Ok(())
    }
}

/// The one folder that a zip of segmentations holds.
fn only_folder(unpacked: &Path) -> anyhow::Result<PathBuf> {
    let folders: Vec<PathBuf> = fs::read_dir(unpacked)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("inference.json").is_file())
        .collect();
    match &folders[..] {
        [folder] => Ok(folder.clone()),
        _ => bail!("no zip of segmentations: expected one folder with inference.json"),
    }
}

/// The pseudonyms that the zip's job has at this site.
fn of_zip(root: &Path, folder: &Path) -> anyhow::Result<Pseudonyms> {
    let summary: Value = schemas::parse(&fs::read(folder.join("inference.json"))?)?;
    let job = summary["job"].as_str().context("inference.json: job: missing")?;
    schemas::names::check_token("job", job)?;
    let Some(id) = summary["pseudonyms"].as_str() else {
        bail!("inference.json: pseudonyms: missing: the cases have their own names already");
    };
    schemas::names::check_token("pseudonyms", id)?;
    pseudonyms::of_job(root, job, id)?.with_context(|| {
        format!("this site has no pseudonyms of job {job} with the id {id}: was it made at another?")
    })
}

/// Renames files, and what documents call cases.
fn name_files(folder: &Path, pseudonyms: &Pseudonyms) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            name_files(&path, pseudonyms)?;
            continue;
        }
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.extension().is_some_and(|ending| ending == "json") {
            fs::write(&path, named(&fs::read_to_string(&path)?, pseudonyms)?)?;
        }
        let (stem, ending) = file.split_at(file.find('.').unwrap_or(file.len()));
        if let Some(name) = pseudonyms.cases.get(stem) {
            ensure!(is_file_name(name), "pseudonyms: {name:?} is no name of a file");
            fs::rename(&path, path.with_file_name(format!("{name}{ending}")))?;
        }
    }
    Ok(())
}

fn is_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}

/// A JSON text with names where strings are pseudonyms, with a file's ending or without. Python's NaN is no JSON, so
/// the text is not parsed.
fn named(text: &str, pseudonyms: &Pseudonyms) -> anyhow::Result<String> {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\"case_") {
        let (before, string) = rest.split_at(start + 1);
        made.push_str(before);
        let end = string.find(['"', '.', '\\']).unwrap_or(string.len());
        match pseudonyms.cases.get(&string[..end]) {
            Some(name) => {
                let quoted = serde_json::to_string(name)?;
                made.push_str(&quoted[1..quoted.len() - 1]);
            }
            None => made.push_str(&string[..end]),
        }
        rest = &string[end..];
    }
    made.push_str(rest);
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn documents_are_given_names() {
        let cases = [("case_0000", "Roe \"J\""), ("case_0001", "Doe")];
        let pseudonyms = Pseudonyms {
            id: "x".into(),
            cases: BTreeMap::from(cases.map(|(case, name)| (case.to_owned(), name.to_owned()))),
        };
        let text = r#"{"case": "case_0000", "file": "case_0001.nii.gz", "mean": NaN, "other": ["case_00010", "in case_0001"]}"#;
        let expected = r#"{"case": "Roe \"J\"", "file": "Doe.nii.gz", "mean": NaN, "other": ["case_00010", "in case_0001"]}"#;
        assert_eq!(named(text, &pseudonyms).unwrap(), expected);
        assert!(!is_file_name("../x") && !is_file_name("a/b") && is_file_name("a b"));
    }
}
