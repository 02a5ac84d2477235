//! `dataset_fingerprint.json`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::IntensityProperties;

/// nnU-Net's data set fingerprint (nnunetv2/experiment_planning/dataset_fingerprint/fingerprint_extractor.py).
///
/// The fields stand in the order of nnU-Net's sorted keys, so that
/// [`python_json::to_string`](super::python_json::to_string) writes nnU-Net's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Whether a site's setting merged bins of few voxels, so that percentiles, minimum and maximum are not exact. Not in
    /// nnU-Net, and absent where false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approximate: bool,
    /// Intensities of foreground voxels by channel index ("0", "1", ...), in the order of the channels.
    pub foreground_intensity_properties_per_channel: IndexMap<String, IntensityProperties>,
    /// The median over cases of voxels after cropping to nonzero / voxels before.
    pub median_relative_size_after_cropping: f64,
    /// The shape (z, y, x) of each case after cropping to nonzero.
    pub shapes_after_crop: Vec<[usize; 3]>,
    /// The spacing (z, y, x) of each case in mm, in the order of the shapes.
    pub spacings: Vec<[f64; 3]>,
}
