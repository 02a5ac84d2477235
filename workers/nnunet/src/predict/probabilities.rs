//! Probabilities on the scan's grid: `--save_probabilities` and `--npz`, for ensembles
//! (inference/export_prediction.py, utilities/label_handling/label_handling.py).

use std::{fs::File, path::Path};

use ndarray::{Array3, Array4, ArrayView4, Axis, Zip, s};
use rayon::prelude::*;

use super::{Export, Logits};
use crate::{
    Error, Result,
    preprocess::{CaseProperties, npz, store::to_python},
};

impl Export<'_> {
    /// The probabilities (heads, z, y, x) on the grid of the scan as it was read: softmax over the labels, or the
    /// sigmoid of each region. What was cropped away is background.
    ///
    /// Holds all classes at full size, which [`Export::segmentation`] does not need.
    ///
    /// # Errors
    /// As of [`Export::segmentation`].
    pub fn probabilities(&self, logits: &Logits, properties: &CaseProperties) -> Result<Array4<f32>> {
        self.check(logits, properties)?;
        let heads = logits.shape()[0];
        let [z, y, x] = properties.shape_after_cropping_and_before_resampling;
        let mut crop = Array4::zeros((heads, z, y, x));
        match logits {
            Logits::Half(logits) => {
                let resample = self.resampler(logits, properties)?;
                for (head, mut channel) in crop.outer_iter_mut().enumerate() {
                    channel.zip_mut_with(&resample(head), |out, logit| *out = logit.to_f32());
                }
            }
            Logits::Single(logits) => {
                let resample = self.resampler(logits, properties)?;
                crop.outer_iter_mut()
                    .enumerate()
                    .for_each(|(head, mut channel)| channel.assign(&resample(head)));
            }
        }
        let regions = self.dataset.has_regions();
        if regions {
            crop.par_mapv_inplace(|logit| 1.0 / (1.0 + (-logit).exp()));
        } else {
            softmax(&mut crop);
        }

        let [z, y, x] = properties.shape_before_cropping;
        let mut whole = Array4::zeros((heads, z, y, x));
        if !regions {
            whole.index_axis_mut(Axis(0), 0).fill(1.0);
        }
        let [z, y, x] = properties.bbox_used_for_cropping;
        whole
            .slice_mut(s![.., z[0]..z[1], y[0]..y[1], x[0]..x[1]])
            .assign(&crop);
        drop(crop);
        let [a, b, c] = self.plans.transpose_backward;
        Ok(whole
            .permuted_axes([0, a + 1, b + 1, c + 1])
            .as_standard_layout()
            .into_owned())
    }
}

/// Softmax over the first axis.
fn softmax(logits: &mut Array4<f32>) {
    let largest = logits.fold_axis(Axis(0), f32::NEG_INFINITY, |a, &b| a.max(b));
    logits.outer_iter_mut().into_par_iter().for_each(|mut channel| {
        channel.zip_mut_with(&largest, |logit, largest| *logit = (*logit - largest).exp());
    });
    let mut sum: Array3<f32> = Array3::zeros(largest.dim());
    for channel in logits.outer_iter() {
        Zip::from(&mut sum)
            .and(channel)
            .par_for_each(|sum, exp| *sum += exp);
    }
    logits
        .outer_iter_mut()
        .into_par_iter()
        .for_each(|mut channel| channel /= &sum);
}

/// Writes what nnU-Net's ensembling reads: `truncated`.npz with `probabilities` (heads, z, y, x), compressed, and
/// `truncated`.pkl with the case's properties.
pub fn write_probabilities(
    probabilities: ArrayView4<f32>,
    properties: &CaseProperties,
    truncated: &Path,
) -> Result<()> {
    let with_ending = |ending: &str| {
        let mut name = truncated.as_os_str().to_owned();
        name.push(ending);
        std::path::PathBuf::from(name)
    };
    let path = with_ending(".pkl");
    std::fs::write(&path, to_python(properties)).map_err(Error::io(&path))?;
    let path = with_ending(".npz");
    let mut writer = npz::Writer::compressed(File::create(&path).map_err(Error::io(&path))?, &path);
    let contiguous = probabilities.as_standard_layout();
    // An array in standard layout is a slice.
    writer.array(
        "probabilities",
        contiguous.shape(),
        contiguous.as_slice().unwrap_or_default(),
    )?;
    writer.finish()?;
    Ok(())
}
