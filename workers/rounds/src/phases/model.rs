//! The trained model that a job names: to segment with, or to start from.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use nnunet::checkpoint::results::{ModelFolder, fold_folder_name};
use pipeline::worker::TaskContext;
use schemas::{
    job::{FoldId, NamedModel},
    task::{ArtifactRef, Failure, Task},
};

use super::failure;
use crate::site::Site;

/// The model that the task's job names.
pub fn named(task: &Task) -> Result<NamedModel<'_>, Failure> {
    task.job
        .message
        .model()
        .ok_or_else(|| failure::bug("the job names no model"))
}

/// The folder Trainer__Plans__Configuration: fetched from an earlier job, or inside a models root.
pub fn folder(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    model: &NamedModel,
) -> Result<PathBuf, Failure> {
    let field = model.path_field;
    if model.job().is_some() {
        let archive = task
            .job
            .model
            .as_ref()
            .ok_or_else(|| failure::bug(format!("{field}: the job names no model archive")))?;
        return fetched(site, task, context, archive);
    }
    local_folder(site, model)
}

/// The folder of a model inside a models root.
///
/// # Errors
/// There is none that the site allows.
pub fn local_folder(site: &Site, model: &NamedModel) -> Result<PathBuf, Failure> {
    let field = model.path_field;
    for root in &site.settings.models {
        let Ok(root) = root.canonicalize() else { continue };
        if let Ok(folder) = root.join(model.path).canonicalize()
            && folder.starts_with(&root)
            && folder.is_dir()
        {
            return Ok(folder);
        }
    }
    let message = format!("{field}: no such folder inside a models root that this site allows");
    Err(Failure::fatal("no-model", message))
}

fn fetched(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    archive: &ArtifactRef,
) -> Result<PathBuf, Failure> {
    let folder = site.job(task).join("model");
    if !folder.exists() {
        let root = site.job(task);
        let io = |error: std::io::Error| failure::io("the model", &root, &error);
        fs::create_dir_all(&root).map_err(io)?;
        let temporary = tempfile::tempdir_in(&root).map_err(io)?;
        let zip = temporary.path().join("results.zip");
        context.download_file(archive, &zip)?;
        let unpacked = temporary.path().join("model");
        unpack(&zip, &unpacked)?;
        // Another shard may have been faster; its model is the same.
        if let Err(error) = fs::rename(&unpacked, &folder)
            && !folder.exists()
        {
            return Err(io(error));
        }
    }
    model_folder(&folder)
}

/// The Trainer__Plans__Configuration in an unpacked results folder.
pub fn model_folder(unpacked: &Path) -> Result<PathBuf, Failure> {
    let inner = |folder: &Path| {
        let mut entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
        entries.find(|path| path.is_dir())
    };
    inner(unpacked)
        .and_then(|dataset| inner(&dataset))
        .ok_or_else(|| {
            Failure::fatal(
                "bad-model",
                "the model archive holds no DatasetXYZ_name/Trainer__Plans__Configuration",
            )
        })
}

/// Unpacks a zip; a member that would leave the folder is an error.
pub fn unpack(archive: &Path, folder: &Path) -> Result<(), Failure> {
    let io = |error: std::io::Error| failure::io("an archive", archive, &error);
    let bad = |reason: String| Failure::fatal("bad-archive", reason);
    let mut zip =
        zip::ZipArchive::new(File::open(archive).map_err(io)?).map_err(|error| bad(error.to_string()))?;
    for index in 0..zip.len() {
        let mut member = zip.by_index(index).map_err(|error| bad(error.to_string()))?;
        let Some(inside) = member.enclosed_name() else {
            return Err(bad(format!("member {:?} leads out of the folder", member.name())));
        };
        let path = folder.join(inside);
        if member.is_dir() {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        std::io::copy(&mut member, &mut File::create(&path).map_err(io)?).map_err(io)?;
    }
    Ok(())
}

/// Digest of checkpoint, plans and dataset.json.
pub fn digest(folder: &Path, model: &NamedModel) -> Result<String, Failure> {
    let name = model.checkpoint_name.as_str();
    let opened = ModelFolder::open(folder).map_err(failure::of_error)?;
    let folds = opened.folds(name).map_err(failure::of_error)?;
    if !folds.contains(&model.fold_id) {
        let there: Vec<String> = folds.iter().map(FoldId::to_string).collect();
        let message = format!(
            "{}: the model has no {}/{name}; folds that have it: [{}]",
            model.fold_field,
            fold_folder_name(model.fold_id),
            there.join(", ")
        );
        return Err(Failure::fatal("no-fold", message));
    }
    let mut digests = String::new();
    let checkpoint = PathBuf::from(fold_folder_name(model.fold_id)).join(name);
    for file in [
        checkpoint.as_path(),
        Path::new("plans.json"),
        Path::new("dataset.json"),
    ] {
        let path = folder.join(file);
        let bytes = fs::read(&path).map_err(|error| failure::io("the model", &path, &error))?;
        digests.push_str(&schemas::sha256(&bytes));
    }
    Ok(schemas::sha256(digests.as_bytes()))
}
