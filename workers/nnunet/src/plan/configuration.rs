//! Patch size, batch size and network of one configuration (get_plans_for_configuration).

use schemas::nnunet::{DatasetJson, Fingerprint, NetworkKind};
use serde_json::{Map, Value, json};

use super::{
    memory::{Network, feature_map_size},
    planner::{Options, ResamplingPlan, Values},
    topology::{Topology, topology},
};
use crate::{Error, Result};

const BASE_FEATURES: usize = 32;
const MAX_FEATURES_2D: usize = 512;
const MAX_FEATURES_3D: usize = 320;
const REFERENCE_BATCH_SIZE_2D: f64 = 12.0;
const REFERENCE_BATCH_SIZE_3D: f64 = 2.0;
const MIN_BATCH_SIZE: f64 = 2.0;
/// Below this median relative size after cropping, intensities are normalised inside the nonzero mask only.
const MASK_THRESHOLD: f64 = 0.75;

/// What a configuration is planned from.
pub(super) struct Request<'a> {
    pub options: &'a Options,
    pub dataset_json: &'a DatasetJson,
    pub normalisation: &'a Normalisation,
    /// Target spacing in mm, transposed; two entries for 2d.
    pub spacing: &'a [f64],
    /// Median shape at that spacing.
    pub median_shape: &'a [f64],
    /// Voxels of all training cases at that spacing.
    pub dataset_voxels: f64,
}

/// A planned configuration.
pub(super) struct Planned {
    pub patch_size: Vec<usize>,
    pub document: Map<String, Value>,
}

impl Planned {
    /// nnU-Net rounds the median shape of the low resolution to whole numbers.
    pub fn with_whole_median_shape(mut self) -> Self {
        if let Some(Value::Array(shape)) = self.document.get_mut("median_image_size_in_voxels") {
            for n in shape {
                *n = (n.as_f64().unwrap_or_default() as u64).into();
            }
        }
        self
    }
}

/// How each channel is normalised.
pub(super) struct Normalisation {
    schemes: Vec<&'static str>,
    use_mask: Vec<bool>,
}

/// The normalisation by channel name (map_channel_name_to_normalization.py).
///
/// # Errors
/// The fingerprint's channels are not those of dataset.json.
pub(super) fn normalisation(fingerprint: &Fingerprint, dataset_json: &DatasetJson) -> Result<Normalisation> {
    let names: Vec<&String> = dataset_json.channel_names().values().collect();
    let described = &fingerprint.foreground_intensity_properties_per_channel;
    if described.len() != names.len() || (0..names.len()).any(|c| !described.contains_key(&c.to_string())) {
        return Err(Error::invalid(
            "fingerprint: foreground_intensity_properties_per_channel",
            format!(
                "expected the {} channels of dataset.json, found {:?}",
                names.len(),
                described.keys().collect::<Vec<_>>()
            ),
        ));
    }
    let schemes: Vec<&'static str> = names
        .into_iter()
        .map(|name| match name.to_lowercase().as_str() {
            "ct" => "CTNormalization",
            "nonorm" => "NoNormalization",
            "rescale_to_0_1" => "RescaleTo01Normalization",
            "rgb_to_0_1" => "RGBTo01Normalization",
            _ => "ZScoreNormalization",
        })
        .collect();
    let cropped_much = fingerprint.median_relative_size_after_cropping < MASK_THRESHOLD;
    let use_mask = schemes
        .iter()
        .map(|&scheme| cropped_much && scheme == "ZScoreNormalization")
        .collect();
    Ok(Normalisation { schemes, use_mask })
}

/// Plans a configuration.
///
/// # Errors
/// No patch fits the memory target.
pub(super) fn plan(request: &Request, data_identifier: String) -> Result<Planned> {
    let Request {
        options,
        dataset_json,
        normalisation,
        spacing,
        median_shape,
        dataset_voxels,
    } = request;
    let values = options.planner.values();
    let flat = spacing.len() == 2;
    let (reference, reference_batch_size) = if flat {
        (values.reference_2d, REFERENCE_BATCH_SIZE_2D)
    } else {
        (values.reference_3d, REFERENCE_BATCH_SIZE_3D)
    };
    let reference = reference * (options.gpu_memory_target_gb() / values.reference_gb);
    let classes = dataset_json.labels().len();
    let shrink_divisor = if values.corrects_batch_size {
        reference_batch_size / 2.0
    } else {
        1.0
    };

    let mut topology = topology(spacing, &initial_patch(spacing, median_shape));
    let mut estimate = estimate_memory(values, &topology, flat, classes)?;
    while estimate / shrink_divisor > reference {
        shrink(&mut topology, spacing, median_shape).ok_or_else(|| {
            Error::invalid(
                "gpu_memory_target_gb",
                format!(
                    "no patch of {data_identifier} fits {} GB",
                    options.gpu_memory_target_gb()
                ),
            )
        })?;
        estimate = estimate_memory(values, &topology, flat, classes)?;
    }

    let patch_voxels: f64 = topology.patch_size.iter().map(|&n| n as f64).product();
    let fitting = (reference / estimate * reference_batch_size).round_ties_even();
    // A batch sees no more than a part of the data set, against overfitting.
    let covering = (dataset_voxels * values.max_dataset_covered / patch_voxels).round_ties_even();
    let batch_size = fitting.min(covering).max(MIN_BATCH_SIZE) as u64;

    let mut document = Map::new();
    let mut insert = |key: &str, value: Value| document.insert(key.to_owned(), value);
    insert("data_identifier", data_identifier.into());
    insert(
        "preprocessor_name",
        options
            .preprocessor_name
            .as_deref()
            .unwrap_or("DefaultPreprocessor")
            .into(),
    );
    insert("batch_size", batch_size.into());
    insert("patch_size", topology.patch_size.clone().into());
    insert("median_image_size_in_voxels", median_shape.to_vec().into());
    insert("spacing", spacing.to_vec().into());
    insert("normalization_schemes", normalisation.schemes.clone().into());
    insert("use_mask_for_norm", normalisation.use_mask.clone().into());
    for (key, value) in resampling_entries(values.resampling) {
        insert(key, value);
    }
    insert("architecture", architecture(values, &topology, flat));
    Ok(Planned {
        patch_size: topology.patch_size,
        document,
    })
}

/// A patch with the aspect ratio of the spacing and a volume that is surely too large, cut to the median shape.
fn initial_patch(spacing: &[f64], median_shape: &[f64]) -> Vec<f64> {
    let inverse: Vec<f64> = spacing.iter().map(|s| 1.0 / s).collect();
    let volume: f64 = inverse.iter().product();
    let scale = if spacing.len() == 3 {
        (256f64.powi(3) / volume).powf(1.0 / 3.0)
    } else {
        (2048f64.powi(2) / volume).powf(1.0 / 2.0)
    };
    inverse
        .iter()
        .zip(median_shape)
        .map(|(i, &median)| (i * scale).round_ties_even().min(median))
        .collect()
}

/// Makes the axis smaller that is largest against the median shape. None where it cannot get smaller.
///
/// The step is the divisor that holds *after* one step: 256 with five poolings goes to 224, not to 192.
fn shrink(current: &mut Topology, spacing: &[f64], median_shape: &[f64]) -> Option<()> {
    let ratios: Vec<f64> = current
        .patch_size
        .iter()
        .zip(median_shape)
        .map(|(&n, m)| n as f64 / m)
        .collect();
    // Of equal ratios the last, as numpy's argsort has it.
    let axis = (1..ratios.len()).fold(0, |best, i| if ratios[i] >= ratios[best] { i } else { best });
    let mut patch: Vec<f64> = current.patch_size.iter().map(|&n| n as f64).collect();
    let full = patch[axis];
    patch[axis] = full - current.divisible_by[axis] as f64;
    let divisor = topology(spacing, &patch).divisible_by[axis];
    patch[axis] = full - divisor as f64;
    if patch[axis] < 1.0 {
        return None;
    }
    *current = topology(spacing, &patch);
    Some(())
}

fn features(stages: usize, flat: bool) -> Vec<usize> {
    let most = if flat { MAX_FEATURES_2D } else { MAX_FEATURES_3D };
    (0..stages)
        .map(|i| most.min(BASE_FEATURES << i.min(16)))
        .collect()
}

fn estimate_memory(values: &Values, topology: &Topology, flat: bool, classes: usize) -> Result<f64> {
    let stages = topology.strides.len();
    if stages > values.encoder.len() {
        return Err(Error::invalid(
            "fingerprint",
            format!(
                "a network of {stages} stages is needed; nnU-Net's planners know {}",
                values.encoder.len()
            ),
        ));
    }
    let network = Network {
        kind: values.network,
        features: &features(stages, flat),
        strides: &topology.strides,
        encoder: &values.encoder[..stages],
        decoder: &values.decoder[..stages - 1],
        classes,
    };
    Ok(feature_map_size(&network, &topology.patch_size))
}

fn architecture(values: &Values, topology: &Topology, flat: bool) -> Value {
    let stages = topology.strides.len();
    let dimensions = if flat { 2 } else { 3 };
    let (class, encoder) = match values.network {
        NetworkKind::PlainConvUNet => ("PlainConvUNet", "n_conv_per_stage"),
        NetworkKind::ResidualEncoderUNet => ("ResidualEncoderUNet", "n_blocks_per_stage"),
    };
    json!({
        "network_class_name": format!("dynamic_network_architectures.architectures.unet.{class}"),
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features(stages, flat),
            "conv_op": format!("torch.nn.modules.conv.Conv{dimensions}d"),
            "kernel_sizes": topology.kernel_sizes,
            "strides": topology.strides,
            encoder: &values.encoder[..stages],
            "n_conv_per_stage_decoder": &values.decoder[..stages - 1],
            "conv_bias": true,
            "norm_op": format!("torch.nn.modules.instancenorm.InstanceNorm{dimensions}d"),
            "norm_op_kwargs": {"eps": 1e-5, "affine": true},
            "dropout_op": null,
            "dropout_op_kwargs": null,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": true},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    })
}

/// The functions that resample images, segmentations and predictions, and their arguments.
fn resampling_entries(plan: ResamplingPlan) -> [(&'static str, Value); 6] {
    let splines = |is_seg: bool, order: u8| json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": null});
    let torch = |is_seg: bool| json!({"is_seg": is_seg, "force_separate_z": false, "memefficient_seg_resampling": false});
    let by_slices = |is_seg: bool| {
        json!({"is_seg": is_seg, "force_separate_z": null, "memefficient_seg_resampling": false,
            "separate_z_anisotropy_threshold": 3})
    };
    let (function, data, seg, probabilities) = match plan {
        ResamplingPlan::Splines => (
            "resample_data_or_seg_to_shape",
            splines(false, 3),
            splines(true, 1),
            splines(false, 1),
        ),
        ResamplingPlan::Torch => (
            "resample_torch_fornnunet",
            torch(false),
            torch(true),
            torch(false),
        ),
        ResamplingPlan::TorchBySlices => (
            "resample_torch_fornnunet",
            by_slices(false),
            by_slices(true),
            by_slices(false),
        ),
        ResamplingPlan::Unchanged => ("no_resampling_hack", json!({}), json!({}), json!({})),
    };
    [
        ("resampling_fn_data", function.into()),
        ("resampling_fn_seg", function.into()),
        ("resampling_fn_data_kwargs", data),
        ("resampling_fn_seg_kwargs", seg),
        ("resampling_fn_probabilities", function.into()),
        ("resampling_fn_probabilities_kwargs", probabilities),
    ]
}
