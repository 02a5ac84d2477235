//! Probabilities on the scan's grid: `--save_probabilities` and `--npz`, for ensembles
//! (inference/export_prediction.py, utilities/label_handling/label_handling.py).

use std::{fs::File, path::Path};

use half::f16;
use ndarray::{Array3, Array4, ArrayView4, Axis, Zip, s};
use rayon::prelude::*;

use super::{Export, Logits};
use crate::{
    Error, Result,
    preprocess::{CaseProperties, npz, resample::Resampling, store::to_python},
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
        let single = Resampling::of_probabilities(self.configuration)?.gives_single_precision();
        match logits {
            Logits::Half(logits) if !single => {
                let resample = self.resampler::<_, f16>(logits, properties)?;
                for (head, mut channel) in crop.outer_iter_mut().enumerate() {
                    channel.zip_mut_with(&resample(head), |out, logit| *out = logit.to_f32());
                }
            }
            Logits::Half(logits) => assign(&mut crop, self.resampler(logits, properties)?),
            Logits::Single(logits) => assign(&mut crop, self.resampler(logits, properties)?),
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

fn assign(channels: &mut Array4<f32>, resample: impl Fn(usize) -> Array3<f32>) {
    let heads = channels.outer_iter_mut().enumerate();
    heads.for_each(|(head, mut channel)| channel.assign(&resample(head)));
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

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use schemas::nnunet::{DatasetJson, Fingerprint, IntensityProperties};

    use super::*;
    use crate::{
        image::Geometry,
        plan::{Options, plan_experiment},
    };

    // torch.softmax and torch.sigmoid of these logits.
    const LOGITS: [f32; 3] = [1.0, 2.0, -1.0];
    const SOFTMAX: [f32; 3] = [0.25949648, 0.7053845, 0.035119034];
    const SIGMOID: [f32; 2] = [0.7310586, 0.880797];

    /// A scan of 4 x 5 x 6 voxels, cropped to 3 x 4 x 5.
    fn properties() -> CaseProperties {
        CaseProperties {
            geometry: Geometry::Nibabel {
                original_affine: [[0.0; 4]; 4],
            },
            spacing: [1.0; 3],
            shape_before_cropping: [4, 5, 6],
            bbox_used_for_cropping: [[1, 4], [1, 5], [1, 6]],
            shape_after_cropping_and_before_resampling: [3, 4, 5],
            class_locations: Vec::new(),
        }
    }

    fn probabilities(labels: &str, heads: usize) -> Array4<f32> {
        let text = format!(
            r#"{{"channel_names": {{"0": "MRI"}}, "labels": {labels}, "numTraining": 9, "file_ending": ".nii"}}"#
        );
        let dataset = DatasetJson::parse(&text).unwrap();
        let intensities = IntensityProperties {
            max: 1.0,
            mean: 0.5,
            median: 0.5,
            min: 0.0,
            percentile_00_5: 0.0,
            percentile_99_5: 1.0,
            std: 0.1,
        };
        let fingerprint = Fingerprint {
            approximate: false,
            foreground_intensity_properties_per_channel: IndexMap::from([("0".to_owned(), intensities)]),
            median_relative_size_after_cropping: 1.0,
            shapes_after_crop: vec![[36, 50, 35]],
            spacings: vec![[1.0; 3]],
        };
        let plans = plan_experiment(
            &fingerprint,
            &dataset,
            &Options::default(),
            "Dataset001_A",
            "NibabelIO",
        )
        .unwrap();
        let configuration = plans.configuration("3d_fullres").unwrap();
        let export = Export {
            plans: &plans,
            configuration: &configuration,
            dataset: &dataset,
        };
        let logits = Array4::from_shape_fn((heads, 3, 4, 5), |(head, ..)| LOGITS[head]);
        export
            .probabilities(&Logits::Single(logits), &properties())
            .unwrap()
    }

    fn near(found: f32, expected: f32) -> bool {
        (found - expected).abs() < 1e-6
    }

    #[test]
    fn labels_share_a_softmax_and_the_rest_is_background() {
        let found = probabilities(r#"{"background": 0, "a": 1, "b": 2}"#, 3);
        assert_eq!(found.dim(), (3, 4, 5, 6));
        for ((head, z, y, x), &found) in found.indexed_iter() {
            let outside = f32::from(u8::from(head == 0));
            let expected = if z > 0 && y > 0 && x > 0 {
                SOFTMAX[head]
            } else {
                outside
            };
            assert!(
                near(found, expected),
                "{head} {z} {y} {x}: {found} for {expected}"
            );
        }
    }

    #[test]
    fn regions_have_a_sigmoid_each() {
        let labels = r#"{"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]"#;
        let found = probabilities(labels, 2);
        for ((head, z, y, x), &found) in found.indexed_iter() {
            let expected = if z > 0 && y > 0 && x > 0 {
                SIGMOID[head]
            } else {
                0.0
            };
            assert!(
                near(found, expected),
                "{head} {z} {y} {x}: {found} for {expected}"
            );
        }
    }
}
