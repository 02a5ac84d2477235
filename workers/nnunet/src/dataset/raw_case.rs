//! The files of a case. (nnunetv2/utilities/utils.py)

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schemas::nnunet::DatasetJson;

use crate::{Error, Result, image::Reader};

/// The files of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawCase {
    /// The identifier. Stays at the site.
    pub identifier: String,
    /// The image files, one per channel, or a single one that holds all channels.
    pub images: Vec<PathBuf>,
    /// The segmentation; none for a case to predict.
    pub label: Option<PathBuf>,
}

impl RawCase {
    /// Every file of the case, the segmentation last.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.images.iter().chain(&self.label)
    }

    /// As [`RawCase::files`], with the files that they need beside themselves, such as the voxels of an .mhd.
    pub fn files_with_companions(&self, reader: Reader) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.files().cloned().collect();
        let of_images = self
            .images
            .iter()
            .filter_map(|file| reader.companion_of_image(file));
        let of_label = self
            .label
            .iter()
            .filter_map(|file| reader.companion_of_segmentation(file));
        for companion in of_images.chain(of_label) {
            // Channels may share one.
            if !files.contains(&companion) {
                files.push(companion);
            }
        }
        files
    }

    /// Whether there are as many as `channels` asks for, and all there.
    pub(super) fn check_files(&self, channels: usize) -> Result<()> {
        let found = self.images.len();
        // One file may hold all channels: reading tells.
        if found != channels && found != 1 {
            let reason = format!("found {found} images, but dataset.json names {channels} channels");
            return Err(Error::bad_case(&self.identifier, reason));
        }
        match self.files().find(|file| !file.is_file()) {
            Some(missing) => Err(Error::bad_case(
                &self.identifier,
                format!("no file {}", missing.display()),
            )),
            None => Ok(()),
        }
    }
}

/// The cases in a folder of images without labels, such as imagesTs, in code-point order.
///
/// # Errors
/// As of [`RawDataset::open`].
pub fn cases_to_predict(folder: &Path, dataset_json: &DatasetJson) -> Result<Vec<RawCase>> {
    let cases = cases_in(folder, dataset_json.file_ending())?;
    for case in &cases {
        case.check_files(dataset_json.channels())?;
    }
    Ok(cases)
}

/// The case of a file called `<identifier>_XXXX<ending>`, XXXX being the channel.
pub(super) fn identifier<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let (identifier, channel) = name.strip_suffix(ending)?.rsplit_once('_')?;
    (channel.len() == 4 && channel.bytes().all(|byte| byte.is_ascii_digit())).then_some(identifier)
}

/// What is wrong with a file of another name.
pub(super) fn misnamed(file: &Path, ending: &str) -> Error {
    let reason = format!("expected a name ending in _XXXX{ending}, XXXX being the channel");
    Error::bad_file(file, reason)
}

/// The cases of a folder: files `<identifier>_XXXX<ending>`, XXXX being the channel. Hidden files don't count.
pub(super) fn cases_in(folder: &Path, ending: &str) -> Result<Vec<RawCase>> {
    let mut cases: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        if name.starts_with('.') || !name.ends_with(ending) || !path.is_file() {
            continue;
        }
        let identifier = identifier(&name, ending).ok_or_else(|| misnamed(&path, ending))?;
        cases.entry(identifier.to_owned()).or_default().push(path);
    }
    if cases.is_empty() {
        return Err(Error::bad_file(
            folder,
            format!("no images: expected names ending in _XXXX{ending}"),
        ));
    }
    let case = |(identifier, mut images): (String, Vec<PathBuf>)| {
        images.sort();
        RawCase {
            identifier,
            images,
            label: None,
        }
    };
    Ok(cases.into_iter().map(case).collect())
}
