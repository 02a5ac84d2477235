//! nnU-Net's folders, found through its environment variables, and data sets by id or name
//! (nnunetv2/paths.py, utilities/dataset_name_id_conversion.py).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use nnunet::{document, image::Reader};
use schemas::nnunet::{DatasetJson, Plans};

const RAW: &str = "nnUNet_raw";
const PREPROCESSED: &str = "nnUNet_preprocessed";
const RESULTS: &str = "nnUNet_results";

/// The folder of raw data sets.
pub fn raw() -> anyhow::Result<PathBuf> {
    variable(RAW, "raw data sets are")
}

/// The folder of preprocessed data sets.
pub fn preprocessed() -> anyhow::Result<PathBuf> {
    variable(PREPROCESSED, "fingerprints, plans and preprocessed cases are")
}

/// The folder of trained models.
pub fn results() -> anyhow::Result<PathBuf> {
    variable(RESULTS, "trained models are")
}

fn variable(name: &str, what: &str) -> anyhow::Result<PathBuf> {
    match std::env::var_os(name) {
        Some(value) if !value.is_empty() => Ok(value.into()),
        _ => bail!("the environment variable {name} is not set: it names the folder where {what}"),
    }
}

/// The folder name `DatasetXYZ_name` of an id or a name.
///
/// # Errors
/// Neither an id nor such a name; an id with no data set, or several, in nnU-Net's three folders.
pub fn dataset_name(id_or_name: &str) -> anyhow::Result<String> {
    if id_or_name.starts_with("Dataset") {
        return Ok(id_or_name.to_owned());
    }
    let Ok(id) = id_or_name.parse::<u32>() else {
        bail!(
            "{id_or_name:?} is no data set: expected an id such as 4, or a name such as Dataset004_Hippocampus"
        );
    };
    let roots: Vec<(&str, Option<PathBuf>)> = [RAW, PREPROCESSED, RESULTS]
        .map(|name| (name, std::env::var_os(name).map(PathBuf::from)))
        .into();
    let prefix = format!("Dataset{id:03}_");
    let mut found = BTreeSet::new();
    for entry in roots
        .iter()
        .flat_map(|(_, root)| root)
        .flat_map(fs::read_dir)
        .flatten()
        .flatten()
    {
        if let Ok(name) = entry.file_name().into_string()
            && name.starts_with(&prefix)
            && entry.path().is_dir()
        {
            found.insert(name);
        }
    }
    let looked_in = || {
        let root = |(name, root): &(&str, Option<PathBuf>)| match root {
            Some(root) => format!("{name}={}", root.display()),
            None => format!("{name} is not set"),
        };
        roots.iter().map(root).collect::<Vec<_>>().join(", ")
    };
    match found.len() {
        1 => Ok(found.pop_first().unwrap_or_default()),
        0 => bail!("no data set has the id {id}: {prefix}* is not in {}", looked_in()),
        _ => {
            let found: Vec<String> = found.into_iter().collect();
            bail!(
                "several data sets have the id {id}: {} ({})",
                found.join(", "),
                looked_in()
            )
        }
    }
}

/// Reads a dataset.json.
pub fn read_dataset_json(file: &Path) -> anyhow::Result<DatasetJson> {
    let text = document::read(file)?;
    DatasetJson::parse(&text).with_context(|| format!("{}", file.display()))
}

/// Reads a plans file.
pub fn read_plans(file: &Path) -> anyhow::Result<Plans> {
    ensure!(
        file.is_file(),
        "{}: missing; `rounds nnunet plan` writes it",
        file.display()
    );
    let text = document::read(file)?;
    Plans::from_json(text.as_bytes()).with_context(|| format!("{}", file.display()))
}

/// The dataset.json and the plans' reader of a folder of predictions: in the files named, else in the folder's own.
pub fn documents_of_predictions(
    folder: &Path,
    plans: Option<PathBuf>,
    dataset_json: Option<PathBuf>,
) -> anyhow::Result<(DatasetJson, Reader)> {
    let named = |file: Option<PathBuf>, name: &str| {
        let flag = name.replace('.', "_");
        let file = file.unwrap_or_else(|| folder.join(name));
        ensure!(
            file.is_file(),
            "{}: missing; predict writes it, else name it with -{flag}",
            file.display()
        );
        Ok(file)
    };
    let plans = read_plans(&named(plans, "plans.json")?)?;
    let dataset_json = read_dataset_json(&named(dataset_json, "dataset.json")?)?;
    Ok((dataset_json, Reader::by_name(&plans.image_reader_writer)?))
}

/// Makes a folder and those above it.
pub fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))
}

/// Writes a document that is there whole or not at all.
pub fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut temporary = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
        std::io::Write::write_all(&mut temporary, text.as_bytes())?;
        temporary.persist(file)?;
        Ok(())
    };
    write().with_context(|| format!("{}", file.display()))
}

/// Says which cases failed; an error where any did.
pub fn none_failed(outcomes: &[nnunet::Result<()>]) -> anyhow::Result<()> {
    let failed: Vec<&nnunet::Error> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err())
        .collect();
    for error in &failed {
        eprintln!("error: {error}");
    }
    ensure!(
        failed.is_empty(),
        "{} of {} cases failed; see above",
        failed.len(),
        outcomes.len()
    );
    Ok(())
}
