//! From a fingerprint to plans (nnunetv2/experiment_planning/experiment_planners).
//!
//! - `planner`: the planners as a table of values, and the options of a run
//! - `spacing`: the target spacing and the transposition
//! - `topology`: how often each axis is pooled, and the kernels
//! - `memory`: how much memory a network needs, as nnU-Net estimates it
//! - `configuration`: patch size, batch size and network of one configuration
//! - [`plan_experiment`]: which configurations there are

use indexmap::IndexMap;
use schemas::nnunet::{DatasetJson, Fingerprint, Plans};
use serde_json::{Map, Value};

use crate::{Error, Result, preprocess::resample::resampled_shape};

mod configuration;
mod memory;
mod planner;
mod spacing;
mod topology;

pub use planner::{Options, Planner};

use configuration::{Planned, Request};

/// A low resolution configuration is made where the patch covers less of the median case than this.
const LOWRES_CREATION_THRESHOLD: f64 = 0.25;
/// How fast the spacing of the low resolution grows while it is searched.
const LOWRES_SPACING_STEP: f64 = 1.03;

/// Plans the experiment: what `nnUNetv2_plan_experiment` writes, key for key and in its order.
///
/// `dataset_name` is the folder name (DatasetXYZ_name), `reader` the class name of nnU-Net's reader; both are
/// only written down. `dataset_json.numTraining` limits the batch size.
///
/// # Errors
/// A fingerprint without cases, with spacings that are not positive, or whose channels are not those of
/// dataset.json; a memory target that no patch fits.
pub fn plan_experiment(
    fingerprint: &Fingerprint,
    dataset_json: &DatasetJson,
    options: &Options,
    dataset_name: &str,
    reader: &str,
) -> Result<Plans> {
    check(fingerprint, options)?;
    let spacing = spacing::target(fingerprint, options.overwrite_target_spacing);
    let forward = if options.suppress_transpose {
        [0, 1, 2]
    } else {
        spacing::transpose_forward(spacing)
    };
    let mut backward = [0; 3];
    for (i, &axis) in forward.iter().enumerate() {
        backward[axis] = i;
    }
    let transposed = |v: [f64; 3]| forward.map(|axis| v[axis]);

    let new_shapes: Vec<[f64; 3]> = fingerprint
        .spacings
        .iter()
        .zip(&fingerprint.shapes_after_crop)
        .map(|(old, &shape)| resampled_shape(shape, *old, spacing).map(|n| n as f64))
        .collect();
    let median_shape = transposed(spacing::medians(&new_shapes));
    let spacing = transposed(spacing);
    let median_voxels: f64 = median_shape.iter().product();
    let training_cases = dataset_json.num_training() as f64;

    let normalisation = configuration::normalisation(fingerprint, dataset_json)?;
    let plan = |name: &str, spacing: &[f64], median_shape: &[f64], dataset_voxels: f64| {
        configuration::plan(
            &Request {
                options,
                dataset_json,
                normalisation: &normalisation,
                spacing,
                median_shape,
                dataset_voxels,
            },
            options.planner.data_identifier(&options.plans_name(), name),
        )
    };

    let mut configurations: IndexMap<String, Map<String, Value>> = IndexMap::new();
    let dataset_voxels = median_voxels * training_cases;
    let mut flat = plan("2d", &spacing[1..], &median_shape[1..], dataset_voxels)?.document;
    flat.insert("batch_dice".into(), true.into());
    configurations.insert("2d".into(), flat);

    // A data set of single slices has no third dimension to plan.
    if median_shape[0] != 1.0 {
        let fullres = plan("3d_fullres", &spacing, &median_shape, dataset_voxels)?;
        let lowres = plan_lowres(
            &fullres,
            spacing,
            median_shape,
            |lowres_spacing, shape, voxels| plan("3d_lowres", lowres_spacing, shape, voxels * training_cases),
        )?;
        let mut fullres = fullres.document;
        fullres.insert("batch_dice".into(), lowres.is_some().into());
        let cascade = lowres.is_some();
        if let Some(lowres) = lowres {
            let mut lowres = lowres.document;
            lowres.insert("batch_dice".into(), false.into());
            lowres.insert("next_stage".into(), "3d_cascade_fullres".into());
            configurations.insert("3d_lowres".into(), lowres);
        }
        configurations.insert("3d_fullres".into(), fullres);
        if cascade {
            let mut entry = Map::new();
            entry.insert("inherits_from".into(), "3d_fullres".into());
            entry.insert("previous_stage".into(), "3d_lowres".into());
            configurations.insert("3d_cascade_fullres".into(), entry);
        }
    }

    let shapes: Vec<[f64; 3]> = fingerprint
        .shapes_after_crop
        .iter()
        .map(|s| s.map(|n| n as f64))
        .collect();
    Ok(Plans {
        dataset_name: dataset_name.to_owned(),
        plans_name: options.plans_name(),
        original_median_spacing_after_transp: transposed(spacing::medians(&fingerprint.spacings)).to_vec(),
        original_median_shape_after_transp: transposed(spacing::medians(&shapes))
            .iter()
            .map(|n| (n.round_ties_even() as u64).into())
            .collect(),
        image_reader_writer: reader.to_owned(),
        transpose_forward: forward,
        transpose_backward: backward,
        configurations,
        experiment_planner_used: options.planner.class_name().to_owned(),
        label_manager: "LabelManager".into(),
        foreground_intensity_properties_per_channel: fingerprint
            .foreground_intensity_properties_per_channel
            .clone(),
        other: Map::new(),
    })
}

/// Appends configurations that a person added to earlier plans of the same name, as nnU-Net does when it
/// plans again (ExperimentPlanner.save_plans).
pub fn keep_custom_configurations(plans: &mut Plans, earlier: &Plans) {
    for (name, configuration) in &earlier.configurations {
        if !plans.configurations.contains_key(name) {
            plans.configurations.insert(name.clone(), configuration.clone());
        }
    }
}

/// Coarsens the spacing until the patch covers enough of the median case. None where that is not needed, or
/// where the result is too near to full resolution.
fn plan_lowres(
    fullres: &Planned,
    spacing: [f64; 3],
    median_shape: [f64; 3],
    plan: impl Fn(&[f64], &[f64], f64) -> Result<Planned>,
) -> Result<Option<Planned>> {
    let fullres_voxels: f64 = median_shape.iter().product();
    let mut lowres = None;
    let mut lowres_spacing = spacing;
    let mut median_voxels = fullres_voxels;
    let mut patch_voxels: f64 = fullres.patch_size.iter().map(|&n| n as f64).product();
    while patch_voxels / median_voxels < LOWRES_CREATION_THRESHOLD {
        // The finer axes first, until all are within a factor of two.
        let coarsest = lowres_spacing.iter().copied().fold(f64::MIN, f64::max);
        let finer = lowres_spacing.map(|s| coarsest / s > 2.0);
        for (s, &is_finer) in lowres_spacing.iter_mut().zip(&finer) {
            if is_finer || finer == [false; 3] {
                *s *= LOWRES_SPACING_STEP;
            }
        }
        let shape: [f64; 3] = std::array::from_fn(|i| spacing[i] / lowres_spacing[i] * median_shape[i]);
        median_voxels = shape.iter().product();
        let planned =
            plan(&lowres_spacing, &shape.map(f64::round_ties_even), median_voxels)?.with_whole_median_shape();
        patch_voxels = planned.patch_size.iter().map(|&n| n as f64).product();
        lowres = Some(planned);
    }
    Ok(lowres.filter(|_| fullres_voxels / median_voxels >= 2.0))
}

fn check(fingerprint: &Fingerprint, options: &Options) -> Result<()> {
    let (spacings, shapes) = (&fingerprint.spacings, &fingerprint.shapes_after_crop);
    if spacings.is_empty() || spacings.len() != shapes.len() {
        return Err(Error::invalid(
            "fingerprint",
            format!(
                "expected as many spacings as shapes_after_crop, at least one; found {} and {}",
                spacings.len(),
                shapes.len()
            ),
        ));
    }
    for (i, s) in spacings.iter().enumerate() {
        if !s.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(Error::invalid(
                format!("fingerprint: spacings[{i}]"),
                format!("expected positive numbers, found {s:?}"),
            ));
        }
    }
    for (i, s) in shapes.iter().enumerate() {
        if s.contains(&0) {
            return Err(Error::invalid(
                format!("fingerprint: shapes_after_crop[{i}]"),
                format!("expected positive numbers, found {s:?}"),
            ));
        }
    }
    if let Some(s) = options.overwrite_target_spacing
        && !s.iter().all(|s| s.is_finite() && *s > 0.0)
    {
        return Err(Error::invalid(
            "overwrite_target_spacing",
            format!("expected three positive numbers, found {s:?}"),
        ));
    }
    let target = options.gpu_memory_target_gb();
    if !(target.is_finite() && target > 0.0) {
        return Err(Error::invalid(
            "gpu_memory_target_gb",
            format!("expected a positive number, found {target}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
