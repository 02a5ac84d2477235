//! The files of a raw data set. (nnunetv2/utilities/utils.py)

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use schemas::nnunet::DatasetJson;

use super::{
    mapping::Mapped,
    raw_case::{RawCase, cases_in},
};
use crate::{
    Error, Result, document,
    image::{Image, Reader, Segmentation},
};

/// A raw data set: a folder with `dataset.json` and its cases.
#[derive(Clone, Debug)]
pub struct RawDataset {
    /// The folder.
    pub folder: PathBuf,
    /// The folder's name, such as `Dataset004_Hippocampus`.
    pub name: String,
    /// What channels and labels mean.
    pub dataset_json: DatasetJson,
    /// Which reader its files are read with.
    pub reader: Reader,
    /// The training cases, by identifier in code-point order (in the order of `dataset.json` where that
    /// lists them).
    pub cases: Vec<RawCase>,
    /// How its files are read where others name or number labels or channels otherwise.
    pub(crate) mapped: Mapped,
}

impl RawDataset {
    /// Opens the folder: reads `dataset.json`, lists the training cases, chooses the reader.
    /// Variables in paths that `dataset.json` lists are left as they stand.
    ///
    /// # Errors
    /// A missing folder or document, no cases, a case with too few or too many images, a missing file,
    /// no reader: each names the file or case.
    pub fn open(folder: &Path) -> Result<RawDataset> {
        Self::open_with_variables(folder, &|_| None)
    }

    /// As [`RawDataset::open`]; `variable` gives the value of `$NAME` and `${NAME}` in the paths that
    /// `dataset.json` lists. nnU-Net takes them from the environment.
    ///
    /// # Errors
    /// As of [`RawDataset::open`].
    pub fn open_with_variables(
        folder: &Path,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<RawDataset> {
        let dataset_json = read_dataset_json(folder)?;
        let channels = dataset_json.channels();
        let mut cases = Vec::new();
        match dataset_json.cases() {
            Some(listed) => {
                for (identifier, files) in listed {
                    let absolute = |path: &String| folder.join(expand(path, variable));
                    cases.push(RawCase {
                        identifier: identifier.clone(),
                        images: files.images.iter().map(absolute).collect(),
                        label: Some(absolute(&files.label)),
                    });
                }
            }
            None => {
                let labels = folder.join("labelsTr");
                cases = cases_in(&folder.join("imagesTr"), dataset_json.file_ending())?;
                for case in &mut cases {
                    case.label =
                        Some(labels.join(format!("{}{}", case.identifier, dataset_json.file_ending())));
                }
            }
        }
        for case in &cases {
            case.check_files(channels)?;
        }
        let Some(example) = cases.first().and_then(|case| case.images.first()) else {
            return Err(Error::bad_file(folder, "the data set has no training cases"));
        };
        let reader = Reader::for_dataset(&dataset_json, example)?;
        let name = folder
            .file_name()
            .unwrap_or(folder.as_os_str())
            .to_string_lossy()
            .into_owned();
        Ok(RawDataset {
            folder: folder.to_owned(),
            name,
            dataset_json,
            reader,
            cases,
            mapped: Mapped::default(),
        })
    }

    /// The number of the data set, the XYZ of `DatasetXYZ_name`.
    pub fn id(&self) -> Option<u32> {
        let digits = self.name.strip_prefix("Dataset")?.get(..3)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    }

    /// The identifiers of all cases, in their order.
    pub fn identifiers(&self) -> Vec<String> {
        self.cases.iter().map(|case| case.identifier.clone()).collect()
    }

    /// The case of that identifier.
    ///
    /// # Errors
    /// There is none.
    pub fn case(&self, identifier: &str) -> Result<&RawCase> {
        let found = self.cases.iter().find(|case| case.identifier == identifier);
        found.ok_or_else(|| Error::bad_case(identifier, format!("{} has no such case", self.name)))
    }

    /// Reads a case: its image, and its segmentation where it has one.
    ///
    /// # Errors
    /// A file that cannot be read, another number of channels than `dataset.json` names, a segmentation of
    /// another shape, a voxel that is not a number, a label that [`RawDataset::mapped`] did not name or that
    /// `dataset.json` does not have. Each names the case.
    pub fn read(&self, case: &RawCase) -> Result<(Image, Option<Segmentation>)> {
        let (image, mut segmentation) = self.read_unchecked(case)?;
        check_numbers(&image, &case.images).map_err(|error| error.in_case(&case.identifier))?;
        if let (Some(segmentation), Some(file)) = (&mut segmentation, &case.label) {
            self.check_labels(segmentation, file)
                .map_err(|error| error.in_case(&case.identifier))?;
        }
        Ok((image, segmentation))
    }

    /// Reads the segmentation of a case, with the labels that [`RawDataset::mapped`] gives it.
    ///
    /// # Errors
    /// The case has none, or as of [`RawDataset::read`]. Each names the case.
    pub fn read_reference(&self, case: &RawCase) -> Result<Segmentation> {
        let read = || {
            let file = case
                .label
                .as_ref()
                .ok_or_else(|| Error::invalid("reference", "the case has none"))?;
            let mut segmentation = self.reader.read_segmentation(file)?;
            self.check_labels(&mut segmentation, file)?;
            Ok(segmentation)
        };
        read().map_err(|error: Error| error.in_case(&case.identifier))
    }

    /// Gives a segmentation the others' labels, and refuses those that `dataset.json` does not have.
    fn check_labels(&self, segmentation: &mut Segmentation, file: &Path) -> Result<()> {
        let wrong = |reason: String| Error::bad_file(file, reason);
        self.mapped.apply(&mut segmentation.labels).map_err(|label| {
            wrong(format!(
                "its segmentation holds the label {label}, which the site's labels do not name"
            ))
        })?;
        let expected = self.expected_labels();
        match segmentation.labels.iter().find(|label| !expected.contains(label)) {
            Some(stray) => Err(wrong(format!(
                "it holds the label {stray}, but dataset.json has {expected:?}"
            ))),
            None => Ok(()),
        }
    }

    /// [`RawDataset::read`], whatever the voxels hold.
    pub(super) fn read_unchecked(&self, case: &RawCase) -> Result<(Image, Option<Segmentation>)> {
        let in_case = |error: Error| error.in_case(&case.identifier);
        let image = self.reader.read_images(&case.images).map_err(in_case)?;
        let (found, z, y, x) = image.data.dim();
        let channels = self.dataset_json.channels();
        if found != channels {
            let reason = format!("the images have {found} channels, but dataset.json names {channels}");
            let first = case.images.first().unwrap_or(&self.folder);
            return Err(in_case(Error::bad_file(first, reason)));
        }
        let Some(label) = &case.label else {
            return Ok((image, None));
        };
        let segmentation = self.reader.read_segmentation(label).map_err(in_case)?;
        if segmentation.labels.dim() != (z, y, x) {
            let (found, expected) = (segmentation.labels.shape().to_vec(), [z, y, x]);
            let reason = format!("the segmentation's shape is {found:?}, but its image's {expected:?}");
            return Err(in_case(Error::bad_file(label, reason)));
        }
        Ok((image, Some(segmentation)))
    }

    /// The labels that a segmentation may hold, the ignore label with them.
    pub(super) fn expected_labels(&self) -> BTreeSet<i16> {
        let labels = self.dataset_json.all_labels().into_iter();
        let labels = labels.chain(self.dataset_json.ignore_label());
        labels.filter_map(|label| i16::try_from(label).ok()).collect()
    }
}

/// Refuses an image with a voxel that is not a number. nnU-Net would train on it and end with such weights.
/// `files` are the image's, one per channel or one for all.
///
/// # Errors
/// Names the file.
pub fn check_numbers(image: &Image, files: &[PathBuf]) -> Result<()> {
    let bad = image
        .data
        .outer_iter()
        .position(|channel| channel.iter().any(|value| value.is_nan()));
    match bad.and_then(|channel| files.get(channel).or(files.first())) {
        Some(file) => Err(Error::bad_file(
            file,
            "it holds voxels that are not a number (NaN)",
        )),
        None => Ok(()),
    }
}

/// Reads the folder's `dataset.json`.
fn read_dataset_json(folder: &Path) -> Result<DatasetJson> {
    let path = folder.join("dataset.json");
    let text = document::read(&path)?;
    DatasetJson::parse(&text).map_err(|error| Error::bad_file(path, error))
}

/// Python's `os.path.expandvars`: unknown variables stay as they are.
fn expand(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::new();
    let mut rest = path;
    while let Some(start) = rest.find('$') {
        expanded.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        let (name, length) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let length = after.find(|c| !word(c)).unwrap_or(after.len());
                (&after[..length], length)
            }
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => expanded.push_str(&value),
            None => expanded.push_str(&rest[start..start + 1 + length]),
        }
        rest = &after[length..];
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::image::Geometry;

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let original_affine = [
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ];
        let geometry = Geometry::Nibabel { original_affine };
        Reader::Nibabel
            .write_segmentation(Array3::zeros((2, 3, 4)).view(), &geometry, path)
            .unwrap();
    }

    fn dataset(channels: &str, extra: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            r#"{{"channel_names": {channels}, "labels": {{"background": 0, "a": 1}}, "numTraining": 2,
            "file_ending": ".nii"{extra}}}"#
        );
        std::fs::write(folder.path().join("dataset.json"), text).unwrap();
        folder
    }

    #[test]
    fn cases_are_found_by_name() {
        let folder = dataset(r#"{"0": "a", "1": "b"}"#, "");
        for name in [
            "imagesTr/b_1_0000.nii",
            "imagesTr/b_1_0001.nii",
            "imagesTr/B_0000.nii",
            "imagesTr/B_0001.nii",
            "labelsTr/B.nii",
        ] {
            write(&folder.path().join(name));
        }
        std::fs::write(folder.path().join("imagesTr/._x_0000.nii"), "").unwrap();
        let error = RawDataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("case b_1: no file"), "{error}");
        write(&folder.path().join("labelsTr/b_1.nii"));
        let opened = RawDataset::open(folder.path()).unwrap();
        assert_eq!(opened.identifiers(), ["B", "b_1"]);
        assert_eq!(opened.cases[1].images.len(), 2);
        assert_eq!(opened.reader, Reader::Nibabel);
        let (image, segmentation) = opened.read(&opened.cases[0]).unwrap();
        assert_eq!(image.data.dim(), (2, 2, 3, 4));
        assert_eq!(segmentation.unwrap().labels.dim(), (2, 3, 4));
        write(&folder.path().join("imagesTr/b_1_0002.nii"));
        let error = RawDataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("found 3 images"), "{error}");
    }

    #[test]
    fn one_file_must_hold_all_channels() {
        let folder = dataset(r#"{"0": "a", "1": "b"}"#, "");
        write(&folder.path().join("imagesTr/a_0000.nii"));
        write(&folder.path().join("labelsTr/a.nii"));
        let opened = RawDataset::open(folder.path()).unwrap();
        let error = opened.read(&opened.cases[0]).unwrap_err().to_string();
        assert!(error.contains("1 channels, but dataset.json names 2"), "{error}");
    }

    #[test]
    fn listed_cases_keep_their_order_and_expand_variables() {
        let listed = r#", "dataset": {"z": {"images": ["${WHERE}/i.nii"], "label": "$WHERE/l.nii"},
            "a": {"images": ["x/i.nii"], "label": "x/l.nii"}}"#;
        let folder = dataset(r#"{"0": "a"}"#, listed);
        write(&folder.path().join("x/i.nii"));
        write(&folder.path().join("x/l.nii"));
        let variable = |name: &str| (name == "WHERE").then(|| "x".to_owned());
        let opened = RawDataset::open_with_variables(folder.path(), &variable).unwrap();
        assert_eq!(opened.identifiers(), ["z", "a"]);
        assert!(
            RawDataset::open(folder.path())
                .unwrap_err()
                .to_string()
                .contains("${WHERE}/i.nii")
        );
    }
}
