//! One case: transpose, crop, normalise, resample, sample class locations
//! (nnunetv2/preprocessing/preprocessors/default_preprocessor.py).

use ndarray::{Array3, Array4, ArrayView3, Axis, Slice};
use schemas::nnunet::{Configuration, DatasetJson, Plans};
use serde::{Deserialize, Serialize};

use super::{
    class_locations::{self, ClassKey, ClassLocations},
    crop::{BoundingBox, crop_to_nonzero, mark_outside},
    normalise::Scheme,
    resample::Resampling,
};
use crate::{
    Error, Result,
    image::{Geometry, Image, Segmentation},
};

/// The preprocessor that is implemented, the only one that nnU-Net's planners write.
const PREPROCESSOR: &str = "DefaultPreprocessor";
/// A resampled case of so many voxels is always fine: 1 GB in single precision.
const LARGE: f64 = (1u64 << 28) as f64;
/// A larger one may not have more than so many times the voxels it had. A spacing of nonsense in a header would
/// else fill the memory.
const LARGEST_GROWTH: f64 = 1000.0;

/// A case as the network sees it. Axes are transposed as the plans say.
#[derive(Clone, Debug, PartialEq)]
pub struct PreprocessedCase {
    /// Normalised intensities, (c, z, y, x).
    pub data: Array4<f32>,
    /// Labels, (1, z, y, x); -1 outside of the nonzero mask. Without a segmentation 0 inside of it.
    pub seg: Array4<i16>,
    /// How to get back to the raw scan, and where the classes lie.
    pub properties: CaseProperties,
}

/// What nnU-Net keeps of a case beside its voxels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseProperties {
    /// The raw scan's geometry.
    pub geometry: Geometry,
    /// The raw scan's spacing in mm, not transposed.
    pub spacing: [f64; 3],
    /// The raw scan's shape, transposed.
    pub shape_before_cropping: [usize; 3],
    /// The nonzero region, [lower, upper) per transposed axis.
    pub bbox_used_for_cropping: [[usize; 2]; 3],
    /// The shape of that region.
    pub shape_after_cropping_and_before_resampling: [usize; 3],
    /// Sampled voxels of each class, in nnU-Net's order; empty without a segmentation.
    #[serde(skip)]
    pub class_locations: Vec<ClassLocations>,
}

/// The target spacing in mm of three axes: a 2d configuration keeps the distance of the slices.
pub(super) fn target_spacing(configuration: &Configuration, original: [f64; 3]) -> [f64; 3] {
    match configuration.spacing.as_slice() {
        [y, x] => [original[0], *y, *x],
        [z, y, x] => [*z, *y, *x],
        // Plans are checked to have two or three.
        _ => original,
    }
}

/// The preprocessor's functions: how images and how segmentations are resampled.
///
/// # Errors
/// Names in the plans that are not implemented.
pub(super) fn functions(configuration: &Configuration) -> Result<(Resampling, Resampling)> {
    if configuration.preprocessor_name != PREPROCESSOR {
        let found = &configuration.preprocessor_name;
        return Err(Error::invalid(
            "plans: preprocessor_name",
            format!("'{found}' is not implemented; {PREPROCESSOR} is"),
        ));
    }
    let (data, seg) = (
        Resampling::of_data(configuration)?,
        Resampling::of_segmentation(configuration)?,
    );
    if data.keeps_shape() != seg.keeps_shape() {
        let (data, seg) = (
            &configuration.resampling_fn_data,
            &configuration.resampling_fn_seg,
        );
        let reason = format!("'{seg}' gives other shapes than '{data}', the images' function");
        return Err(Error::invalid("plans: resampling_fn_seg", reason));
    }
    Ok((data, seg))
}

/// Preprocesses a case. `segmentation` is None for a case to predict.
///
/// # Errors
/// A segmentation of another shape; a number of channels that is not the plans'; intensities that a
/// normalisation refuses or that do not end finite; names in the plans that are not implemented; a spacing at which
/// nothing is left, or far too much.
pub fn preprocess_case(
    image: &Image,
    segmentation: Option<&Segmentation>,
    plans: &Plans,
    configuration: &Configuration,
    dataset_json: &DatasetJson,
) -> Result<PreprocessedCase> {
    let (resample_data, resample_segmentation) = functions(configuration)?;
    let schemes = schemes(image, plans, configuration)?;

    let axes = plans.transpose_forward;
    let raw_shape = &image.data.shape()[1..];
    let transposed = |v: [usize; 3]| axes.map(|axis| v[axis]);
    let current = axes.map(|axis| image.spacing[axis]);
    let shape_before_cropping = axes.map(|axis| raw_shape[axis]);
    if let Some(segmentation) = segmentation
        && segmentation.labels.shape() != raw_shape
    {
        let found = segmentation.labels.shape();
        return Err(Error::invalid(
            "segmentation",
            format!("its shape is {found:?}, but the image's is {raw_shape:?}"),
        ));
    }

    // Cropping commutes with transposing; only the box is copied.
    let (bounds, mask) = crop_to_nonzero(image.data.view());
    let bounds = BoundingBox {
        lower: transposed(bounds.lower),
        upper: transposed(bounds.upper),
    };
    let mask = mask.permuted_axes(axes);
    let mut data = image
        .data
        .view()
        .permuted_axes([0, axes[0] + 1, axes[1] + 1, axes[2] + 1]);
    for axis in 0..3 {
        data.slice_axis_inplace(
            Axis(axis + 1),
            Slice::from(bounds.lower[axis]..bounds.upper[axis]),
        );
    }
    let mut data = data.as_standard_layout().into_owned();
    let labels: Array3<i16> = match segmentation {
        Some(segmentation) => {
            let mut labels = cut(segmentation.labels.view().permuted_axes(axes), &bounds);
            mark_outside(labels.view_mut(), mask.view());
            labels
        }
        None => mask
            .as_standard_layout()
            .mapv(|inside| if inside { 0 } else { -1 }),
    };
    drop(mask);

    for (mut channel, scheme) in data.outer_iter_mut().zip(schemes) {
        scheme.apply(channel.view_mut(), labels.view())?;
    }

    let cropped_shape = bounds.shape();
    let target = target_spacing(configuration, current);
    let shape = resample_data.shape(cropped_shape, current, target);
    if shape.contains(&0) {
        return Err(Error::invalid(
            "image",
            format!("nothing is left of {cropped_shape:?} voxels of {current:?} mm at {target:?} mm"),
        ));
    }
    let voxels = |shape: [usize; 3]| shape.iter().map(|&n| n as f64).product::<f64>();
    if voxels(shape)
        > LARGE
            .max(LARGEST_GROWTH * voxels(cropped_shape))
            .min(f64::from(u32::MAX))
    {
        return Err(Error::invalid(
            "image",
            format!("{cropped_shape:?} voxels of {current:?} mm would become {shape:?} at {target:?} mm"),
        ));
    }
    if shape != cropped_shape {
        let mut resampled = Array4::zeros((data.len_of(Axis(0)), shape[0], shape[1], shape[2]));
        for (mut to, channel) in resampled.outer_iter_mut().zip(data.outer_iter()) {
            to.assign(&resample_data.channel::<f32, f32>(channel, shape, current, target));
        }
        data = resampled;
    }
    if let Some(channel) = data.outer_iter().position(|c| c.iter().any(|v| !v.is_finite())) {
        return Err(Error::invalid(
            format!("image, channel {channel}"),
            "its normalised intensities are not finite: the scan holds infinite or too large values",
        ));
    }
    let labels = if shape == cropped_shape {
        labels
    } else {
        resample_segmentation.segmentation(labels.view(), shape, current, target)
    };
    let class_locations = match segmentation {
        Some(_) => class_locations::sample(labels.view(), ClassKey::of_dataset(dataset_json)),
        None => Vec::new(),
    };
    Ok(PreprocessedCase {
        data,
        seg: labels.insert_axis(Axis(0)),
        properties: CaseProperties {
            geometry: image.geometry.clone(),
            spacing: image.spacing,
            shape_before_cropping,
            bbox_used_for_cropping: std::array::from_fn(|i| [bounds.lower[i], bounds.upper[i]]),
            shape_after_cropping_and_before_resampling: cropped_shape,
            class_locations,
        },
    })
}

fn schemes(image: &Image, plans: &Plans, configuration: &Configuration) -> Result<Vec<Scheme>> {
    let (names, masks) = (
        &configuration.normalization_schemes,
        &configuration.use_mask_for_norm,
    );
    let channels = image.data.len_of(Axis(0));
    if names.len() != channels {
        return Err(Error::invalid(
            "image",
            format!("it has {channels} channels, but the plans have {}", names.len()),
        ));
    }
    let properties = &plans.foreground_intensity_properties_per_channel;
    names
        .iter()
        .zip(masks)
        .enumerate()
        .map(|(c, (name, &mask))| Scheme::by_name(name, mask, properties.get(&c.to_string())))
        .collect()
}

fn cut(mut volume: ArrayView3<i16>, bounds: &BoundingBox) -> Array3<i16> {
    for axis in 0..3 {
        volume.slice_axis_inplace(Axis(axis), Slice::from(bounds.lower[axis]..bounds.upper[axis]));
    }
    volume.as_standard_layout().into_owned()
}
