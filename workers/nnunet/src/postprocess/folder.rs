//! Deciding on the post-processing of a folder of predictions, with the files that nnU-Net leaves there.

use std::{fs, path::Path};

use schemas::nnunet::DatasetJson;

use super::{Determined, apply_to_files, determine, write_documents};
use crate::{Error, Result, evaluate::pairs, image::Reader, progress::Observer};

/// Decides on the predictions in `folder`, held against the files of the same names in `references`. Writes into
/// `folder` summary.json where there is none, postprocessing.pkl and .json, and, where `keep` says so, the folder
/// `postprocessed` with what the decision makes of the predictions and their summary.json.
///
/// # Errors
/// A prediction without a reference, or a file that cannot be read or written.
pub fn determine_in_folder(
    folder: &Path,
    references: &Path,
    reader: Reader,
    dataset: &DatasetJson,
    keep: bool,
    observer: &dyn Observer,
) -> Result<Determined> {
    let pairs = pairs(references, folder, dataset.file_ending(), true)?;
    let mut determined = determine(&pairs, reader, dataset, observer)?;
    let output = folder.join("postprocessed");
    let names: Vec<String> = pairs
        .iter()
        .filter_map(|(_, prediction)| Some(prediction.file_name()?.to_str()?.to_owned()))
        .collect();
    for (case, name) in determined.after.cases.iter_mut().zip(&names) {
        case.prediction_file = output.join(name).to_string_lossy().into_owned();
    }
    let summary = folder.join("summary.json");
    if !summary.is_file() {
        determined.before.write(&summary)?;
    }
    // Files of an earlier decision would be taken for those of this one.
    match fs::remove_dir_all(&output) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&output)(error)),
        _ => {}
    }
    if keep {
        let steps = &determined.steps;
        let outcomes = apply_to_files(folder, &names, &output, steps, reader, observer)?;
        outcomes.into_iter().collect::<Result<()>>()?;
        determined.after.write(&output.join("summary.json"))?;
    }
    write_documents(&determined, folder)?;
    Ok(determined)
}
