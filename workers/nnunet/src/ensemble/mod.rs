//! Ensembling: the mean of several predictions' probabilities (ensembling/ensemble.py).

mod geometry;
mod member;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use ndarray::{Array3, Zip};
use schemas::nnunet::DatasetJson;

use crate::{
    Error, Result,
    evaluate::files_ending_in,
    image::Reader,
    preprocess::npz,
    progress::{Observer, on_each},
};
use member::Member;

/// A case of an ensemble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsembleCase {
    /// Its name.
    pub identifier: String,
    /// The `.npz` of each member, with the `.pkl` of the same name beside it.
    pub files: Vec<PathBuf>,
}

/// The cases whose probabilities lie in each of `folders`, by name.
///
/// # Errors
/// A folder that lacks a case of another, naming both; no case at all.
pub fn ensemble_cases(folders: &[PathBuf]) -> Result<Vec<EnsembleCase>> {
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for folder in folders {
        found.push(probabilities_in(folder)?);
    }
    let all: BTreeSet<&String> = found.iter().flatten().collect();
    for (folder, here) in folders.iter().zip(&found) {
        if let Some(missing) = all.iter().find(|name| !here.contains(**name)) {
            let reason = "missing, but another folder has it: give folders with predictions of the same cases, made \
                          with --save_probabilities";
            return Err(Error::bad_file(folder.join(format!("{missing}.npz")), reason));
        }
    }
    if all.is_empty() {
        let reason = "no .npz here: predict with --save_probabilities";
        return Err(Error::bad_file(
            folders.first().cloned().unwrap_or_default(),
            reason,
        ));
    }
    let case = |identifier: &String| EnsembleCase {
        identifier: identifier.clone(),
        files: folders
            .iter()
            .map(|f| f.join(format!("{identifier}.npz")))
            .collect(),
    };
    Ok(all.into_iter().map(case).collect())
}

/// The cases of several models' cross-validations: `folds` names the folders of each model's folds. Members may have
/// had other splits.
///
/// # Errors
/// A fold without probabilities; a case twice in a model, or not in each of them.
pub fn ensemble_folds(folds: &[Vec<PathBuf>]) -> Result<Vec<EnsembleCase>> {
    let mut models: Vec<BTreeMap<String, PathBuf>> = Vec::new();
    for model in folds {
        let mut files = BTreeMap::new();
        for folder in model {
            let here = probabilities_in(folder)?;
            if here.is_empty() {
                let reason = "no .npz here: train with --val --npz to make them";
                return Err(Error::bad_file(folder, reason));
            }
            for name in here {
                let file = folder.join(format!("{name}.npz"));
                if let Some(other) = files.insert(name, file.clone()) {
                    let reason = format!("another fold has this case too: {}", other.display());
                    return Err(Error::bad_file(file, reason));
                }
            }
        }
        models.push(files);
    }
    let all: BTreeSet<&String> = models.iter().flat_map(|model| model.keys()).collect();
    let mut cases = Vec::new();
    for identifier in all {
        let mut files = Vec::new();
        for (model, folders) in models.iter().zip(folds) {
            let file = model.get(identifier).ok_or_else(|| {
                let folder = folders
                    .first()
                    .and_then(|fold| fold.parent())
                    .unwrap_or(Path::new(""));
                Error::bad_file(
                    folder,
                    format!("no fold has {identifier}.npz, which another model has"),
                )
            })?;
            files.push(file.clone());
        }
        cases.push(EnsembleCase {
            identifier: identifier.clone(),
            files,
        });
    }
    Ok(cases)
}

fn probabilities_in(folder: &Path) -> Result<BTreeSet<String>> {
    let names = files_ending_in(folder, ".npz")?;
    Ok(names
        .iter()
        .filter_map(|name| name.strip_suffix(".npz"))
        .map(str::to_owned)
        .collect())
}

/// How members are merged.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'a> {
    /// Labels or regions, and the ending of segmentations.
    pub dataset: &'a DatasetJson,
    /// How segmentations are written.
    pub reader: Reader,
    /// Whether the mean probabilities are written too.
    pub save_probabilities: bool,
}

impl Merge<'_> {
    /// Merges each case into a segmentation in `folder`. What became of each, in their order: one that fails does not
    /// stop the others.
    ///
    /// # Errors
    /// The folder cannot be made, or the observer asked to stop.
    pub fn cases(
        &self,
        cases: &[EnsembleCase],
        folder: &Path,
        observer: &dyn Observer,
    ) -> Result<Vec<Result<()>>> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        on_each(cases, "cases merged", observer, |case| {
            let outcome = self.case(case, folder).map_err(|e| e.in_case(&case.identifier));
            if outcome.is_err() {
                let _ = fs::remove_file(partial(case, folder));
            }
            outcome
        })
    }

    /// Merges one case, class by class: of all members, one class is in memory at a time.
    ///
    /// # Errors
    /// Members of unlike shape or of another data set, or files that are not what nnU-Net writes.
    fn case(&self, case: &EnsembleCase, folder: &Path) -> Result<()> {
        let properties = case.files.first().map(|first| first.with_extension("pkl"));
        let properties = properties.ok_or_else(|| Error::invalid("ensemble", "no members"))?;
        let geometry = geometry::read(&properties, self.reader)?;
        let mut archives = case
            .files
            .iter()
            .map(|f| member::open(f))
            .collect::<Result<Vec<_>>>()?;
        let mut members = archives
            .iter_mut()
            .zip(&case.files)
            .map(|(archive, file)| Member::start(archive, file))
            .collect::<Result<Vec<_>>>()?;
        let shape = members.first().map_or([0; 4], Member::shape);
        if let Some(other) = members.iter().find(|member| member.shape() != shape) {
            let reason = format!(
                "its shape is {:?}, that of the first member {shape:?}",
                other.shape()
            );
            return Err(Error::bad_file(other.path(), reason));
        }
        let heads = self.dataset.segmentation_heads();
        if shape[0] != heads {
            let reason = format!("{} classes, but dataset.json has {heads}", shape[0]);
            return Err(Error::bad_file(members[0].path(), reason));
        }

        let at = |name: String| folder.join(name);
        let partial = partial(case, folder);
        let mut saved = match self.save_probabilities {
            true => {
                let file = BufWriter::new(File::create(&partial).map_err(Error::io(&partial))?);
                let mut writer = npz::Writer::compressed(file, &partial);
                writer.begin_array::<f32>("probabilities", &shape)?;
                Some(writer)
            }
            false => None,
        };
        let mut labels = Labels::new(self.dataset, [shape[1], shape[2], shape[3]]);
        let mut mean = Array3::zeros((shape[1], shape[2], shape[3]));
        for head in 0..heads {
            for (number, member) in members.iter_mut().enumerate() {
                // The first member sets, the others add: in their order, as nnU-Net does.
                let add = |sum: &mut f32, value| *sum = if number == 0 { value } else { *sum + value };
                member.next(add, mean.as_slice_mut().unwrap_or_default())?;
            }
            let count = members.len() as f32;
            mean.par_mapv_inplace(|sum| sum / count);
            if let Some(writer) = &mut saved {
                writer.append(mean.as_slice().unwrap_or_default())?;
            }
            labels.add(head, &mean);
        }
        members.iter_mut().try_for_each(Member::finish)?;
        if let Some(writer) = saved {
            let file = writer
                .finish()?
                .into_inner()
                .map_err(|e| Error::io(&partial)(e.into_error()))?;
            file.sync_all().map_err(Error::io(&partial))?;
            let to = at(format!("{}.pkl", case.identifier));
            fs::copy(&properties, &to).map_err(Error::io(&to))?;
            let to = at(format!("{}.npz", case.identifier));
            fs::rename(&partial, &to).map_err(Error::io(&to))?;
        }
        let output = at(format!("{}{}", case.identifier, self.dataset.file_ending()));
        self.reader
            .write_segmentation(labels.labels.view(), &geometry, &output)
    }
}

/// Where a case's probabilities are written, until they are whole.
fn partial(case: &EnsembleCase, folder: &Path) -> PathBuf {
    folder.join(format!(".{}.npz.partial", case.identifier))
}

/// Labels from probabilities that come class by class (convert_probabilities_to_segmentation).
struct Labels<'a> {
    regions: Option<&'a [u16]>,
    best: Array3<f32>,
    labels: Array3<u16>,
}

impl<'a> Labels<'a> {
    fn new(dataset: &'a DatasetJson, shape: [usize; 3]) -> Self {
        let regions = dataset.has_regions();
        Labels {
            regions: regions.then(|| dataset.regions_class_order().unwrap_or_default()),
            // Regions are held against a half, not against each other.
            best: Array3::zeros(if regions { [0; 3] } else { shape }),
            labels: Array3::zeros(shape),
        }
    }

    fn add(&mut self, head: usize, probabilities: &Array3<f32>) {
        if let Some(order) = self.regions {
            let label = order.get(head).copied().unwrap_or_default();
            Zip::from(&mut self.labels)
                .and(probabilities)
                .par_for_each(|out, &p| {
                    if p > 0.5 {
                        *out = label;
                    }
                });
        } else if head == 0 {
            self.best.assign(probabilities);
        } else {
            Zip::from(&mut self.labels)
                .and(&mut self.best)
                .and(probabilities)
                .par_for_each(|label, best, &p| {
                    if p > *best {
                        *best = p;
                        *label = head as u16;
                    }
                });
        }
    }
}
