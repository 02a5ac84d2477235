//! nnU-Net's model zips: a trained model as one file, and back (model_sharing/model_export.py, model_import.py).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Component, Path, PathBuf},
};

use schemas::job::FoldId;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{
    Error, Result,
    checkpoint::results::{fold_folder_name, model_folder_name},
};

/// What a zip may hold for each of its bytes. Weights hardly shrink, segmentations a hundredfold.
const LARGEST_EXPANSION: u64 = 200;
/// A zip may hold so much whatever its size.
const ALWAYS_FINE: u64 = 64 << 20;

/// What goes into a zip.
#[derive(Clone, Debug)]
pub struct Export<'a> {
    /// The folder of trained models.
    pub results: &'a Path,
    /// `DatasetXYZ_name`.
    pub dataset_name: &'a str,
    /// The trainer.
    pub trainer: &'a str,
    /// The plans' name.
    pub plans: &'a str,
    /// The configurations.
    pub configurations: &'a [String],
    /// The folds of each.
    pub folds: &'a [FoldId],
    /// The checkpoints of each fold.
    pub checkpoints: &'a [String],
    /// Whether a configuration or a fold that is not there is left out; else it is an error.
    pub partial: bool,
    /// Whether the predictions of validation cases go along.
    pub predictions: bool,
}

impl Export<'_> {
    /// Writes the zip to `output`, which appears when it is whole. Its members' names, in their order.
    ///
    /// # Errors
    /// What was asked for and is not there, by name; nothing at all; a file that cannot be written.
    pub fn write(&self, output: &Path) -> Result<Vec<String>> {
        let files = self.files()?;
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let partial = output.with_file_name(format!(".{name}.partial"));
        let written = self.write_files(&files, &partial);
        let placed = written.and_then(|()| fs::rename(&partial, output).map_err(Error::io(output)));
        if placed.is_err() {
            let _ = fs::remove_file(&partial);
        }
        placed.map(|()| files)
    }

    fn write_files(&self, files: &[String], path: &Path) -> Result<()> {
        let file = File::create(path).map_err(Error::io(path))?;
        let mut zip = ZipWriter::new(BufWriter::new(file));
        for name in files {
            let from = self.results.join(name);
            let mut content = File::open(&from).map_err(Error::io(&from))?;
            let length = content.metadata().map_err(Error::io(&from))?.len();
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Deflated)
                .large_file(length >= u64::from(u32::MAX));
            zip.start_file(name, options)
                .map_err(|e| Error::bad_file(path, e))?;
            io::copy(&mut content, &mut zip).map_err(Error::io(path))?;
        }
        let file = zip.finish().map_err(|e| Error::bad_file(path, e))?;
        let file = file.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
        file.sync_all().map_err(Error::io(path))
    }

    /// The files, relative to the folder of trained models, with slashes.
    fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for configuration in self.configurations {
            let model = model_folder_name(self.trainer, self.plans, configuration);
            let model = format!("{}/{model}", self.dataset_name);
            if self.results.join(&model).is_dir() {
                self.model(&model, &mut files)?;
            } else if !self.partial {
                return Err(Error::bad_file(
                    self.results.join(model),
                    "there is no such trained model",
                ));
            }
        }
        if files.is_empty() {
            let folder = self.results.join(self.dataset_name);
            return Err(Error::bad_file(folder, "none of the configurations was trained"));
        }
        self.ensembles(&mut files)?;
        let information = format!("{}/inference_information.json", self.dataset_name);
        self.optional(information, &mut files);
        Ok(files)
    }

    fn model(&self, model: &str, files: &mut Vec<String>) -> Result<()> {
        for &fold in self.folds {
            let fold = format!("{model}/{}", fold_folder_name(fold));
            if !self.results.join(&fold).is_dir() {
                if self.partial {
                    continue;
                }
                return Err(Error::bad_file(
                    self.results.join(fold),
                    "this fold was not trained",
                ));
            }
            self.optional(format!("{fold}/debug.json"), files);
            for checkpoint in self.checkpoints {
                self.needed(format!("{fold}/{checkpoint}"), files)?;
            }
            self.needed(format!("{fold}/progress.png"), files)?;
            self.optional(format!("{fold}/network_architecture.pdf"), files);
            if self.predictions {
                let plain = |name: &str| !name.ends_with(".npz") && !name.ends_with(".pkl");
                self.folder(&format!("{fold}/validation"), files, plain)?;
            } else {
                self.needed(format!("{fold}/validation/summary.json"), files)?;
            }
        }
        let folds: Vec<String> = self.folds.iter().map(FoldId::to_string).collect();
        self.scores(
            &format!("{model}/crossval_results_folds_{}", folds.join("_")),
            files,
        )?;
        for name in ["plans.json", "dataset_fingerprint.json", "dataset.json"] {
            self.needed(format!("{model}/{name}"), files)?;
        }
        Ok(())
    }

    /// Ensembles all of whose members are in the zip: `ensemble___MODEL___MODEL___FOLDS`.
    fn ensembles(&self, files: &mut Vec<String>) -> Result<()> {
        let folder = format!("{}/ensembles", self.dataset_name);
        let Ok(entries) = fs::read_dir(self.results.join(&folder)) else {
            return Ok(());
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        names.sort();
        for name in names {
            let parts: Vec<&str> = name.split("___").collect();
            let ["ensemble", members @ .., _] = &parts[..] else {
                continue;
            };
            let here = |member: &&str| {
                let configuration = |c: &String| model_folder_name(self.trainer, self.plans, c) == **member;
                self.configurations.iter().any(configuration)
            };
            if members.iter().all(here) {
                self.scores(&format!("{folder}/{name}"), files)?;
            }
        }
        Ok(())
    }

    /// What a folder of pooled predictions says: its scores and post-processing, or all that is in it.
    fn scores(&self, folder: &str, files: &mut Vec<String>) -> Result<()> {
        if !self.results.join(folder).is_dir() {
            return Ok(());
        }
        if self.predictions {
            return self.folder(folder, files, |_| true);
        }
        for name in ["summary.json", "postprocessing.pkl", "postprocessing.json"] {
            self.optional(format!("{folder}/{name}"), files);
        }
        Ok(())
    }

    fn folder(&self, folder: &str, files: &mut Vec<String>, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let path = self.results.join(folder);
        let names = crate::evaluate::files_ending_in(&path, "")?;
        files.extend(
            names
                .iter()
                .filter(|name| wanted(name))
                .map(|name| format!("{folder}/{name}")),
        );
        Ok(())
    }

    fn optional(&self, name: String, files: &mut Vec<String>) {
        if self.results.join(&name).is_file() {
            files.push(name);
        }
    }

    fn needed(&self, name: String, files: &mut Vec<String>) -> Result<()> {
        let path = self.results.join(&name);
        if !path.is_file() {
            return Err(Error::bad_file(path, "missing: a model zip holds it"));
        }
        files.push(name);
        Ok(())
    }
}

/// Unpacks a model zip into `results`, the folder of trained models. Files that are there are replaced, each at once.
/// Nothing is written unless all members may be. The models' folders that the zip holds.
///
/// # Errors
/// A file that is no zip; a member with an absolute path, with `..`, or that is a link, by name; a zip that promises
/// far more than such a file can hold; a file that cannot be written.
pub fn install(zip: &Path, results: &Path) -> Result<Vec<PathBuf>> {
    let file = File::open(zip).map_err(Error::io(zip))?;
    let length = file.metadata().map_err(Error::io(zip))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file))
        .map_err(|e| Error::bad_file(zip, format!("not a whole zip, cut short? {e}")))?;
    let mut members = Vec::new();
    let mut promised = 0u64;
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index).map_err(|e| Error::bad_file(zip, e))?;
        let name = member.name().to_owned();
        let path = safe_path(&name).filter(|_| !member.is_symlink());
        let Some(path) = path else {
            let reason = format!(
                "member {name:?} is refused: expected a file below the zip's own top, not an absolute path, one \
                 with '..', or a link"
            );
            return Err(Error::bad_file(zip, reason));
        };
        promised = promised.saturating_add(member.size());
        if !member.is_dir() {
            members.push((index, path, member.size()));
        }
    }
    let most = length.saturating_mul(LARGEST_EXPANSION).max(ALWAYS_FINE);
    if promised > most {
        let reason =
            format!("{length} bytes promise {promised}: more than the {most} that a model zip may hold");
        return Err(Error::bad_file(zip, reason));
    }
    let mut models = BTreeSet::new();
    for (index, path, size) in members {
        unpack(&mut archive, index, size, zip, &results.join(&path))?;
        models
            .extend((path.components().count() > 2).then(|| path.components().take(2).collect::<PathBuf>()));
    }
    Ok(models.into_iter().collect())
}

/// The relative path of a member; None where it could lead elsewhere, on any system.
fn safe_path(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let odd = name.is_empty() || name.contains(['\\', ':', '\0']);
    (plain && !odd).then(|| path.to_owned())
}

fn unpack<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    index: usize,
    size: u64,
    zip: &Path,
    to: &Path,
) -> Result<()> {
    let member = archive.by_index(index).map_err(|e| Error::bad_file(zip, e))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let partial = to.with_file_name(format!(".{name}.partial"));
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(&partial).map_err(Error::io(&partial))?);
        // One byte more than promised, so that a lie shows; the checksum is held against the content at its end.
        let written = io::copy(&mut member.take(size.saturating_add(1)), &mut file)
            .map_err(|e| Error::bad_file(zip, format!("member {name:?}: {e}")))?;
        if written != size {
            let reason = format!("member {name:?} has {written} bytes or more, but promises {size}");
            return Err(Error::bad_file(zip, reason));
        }
        file.flush().map_err(Error::io(&partial))?;
        file.get_ref().sync_all().map_err(Error::io(&partial))?;
        fs::rename(&partial, to).map_err(Error::io(to))
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zip_with(path: &Path, add: impl FnOnce(&mut ZipWriter<File>)) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        add(&mut zip);
        zip.finish().unwrap();
    }

    #[test]
    fn what_leads_elsewhere_or_is_a_bomb_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (zip, results) = (folder.path().join("model.zip"), folder.path().join("results"));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let refused = |named: &str| {
            let error = install(&zip, &results).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
            assert!(!results.exists(), "{named}");
        };
        for name in [
            "/etc/a",
            "../a",
            "Dataset001_A/../../a",
            "C:\\a",
            "Dataset001_A\\..\\a",
        ] {
            zip_with(&zip, |zip| {
                zip.start_file("Dataset001_A/fine", options).unwrap();
                zip.start_file(name, options).unwrap();
            });
            refused(&format!("{name:?}"));
        }
        zip_with(&zip, |zip| {
            zip.add_symlink("Dataset001_A/link", "/etc", options).unwrap()
        });
        refused("Dataset001_A/link");
        zip_with(&zip, |zip| {
            zip.start_file("Dataset001_A/bomb", options).unwrap();
            (0..200).for_each(|_| zip.write_all(&vec![0; 1 << 20]).unwrap());
        });
        refused("promise");
        fs::write(&zip, "no zip").unwrap();
        refused("not a whole zip");
    }

    #[test]
    fn a_member_whose_bytes_changed_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (zip, results) = (folder.path().join("model.zip"), folder.path().join("results"));
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip_with(&zip, |zip| {
            zip.start_file("Dataset001_A/T__P__C/plans.json", stored).unwrap();
            zip.write_all(b"content").unwrap();
        });
        let models = install(&zip, &results).unwrap();
        assert_eq!(models, [Path::new("Dataset001_A/T__P__C")]);
        let file = results.join("Dataset001_A/T__P__C/plans.json");
        assert_eq!(fs::read(&file).unwrap(), b"content");

        let mut bytes = fs::read(&zip).unwrap();
        let at = bytes.windows(7).position(|w| w == b"content").unwrap();
        bytes[at] = b'C';
        fs::write(&zip, bytes).unwrap();
        assert!(install(&zip, &results).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"content");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
