//! The target spacing and the transposition.

use schemas::nnunet::Fingerprint;

/// From here on a spacing counts as anisotropic (nnunetv2/configuration.py).
pub(crate) const ANISO_THRESHOLD: f64 = 3.0;

/// The spacing of 3d_fullres in mm, untransposed (determine_fullres_target_spacing): the median, but finer on
/// an axis of thick and few slices, so that thin-sliced cases do not lose too much.
pub(super) fn target(fingerprint: &Fingerprint, overwrite: Option<[f64; 3]>) -> [f64; 3] {
    if let Some(spacing) = overwrite {
        return spacing;
    }
    let column = |axis: usize| fingerprint.spacings.iter().map(|s| s[axis]).collect::<Vec<_>>();
    let mut target: [f64; 3] = std::array::from_fn(|axis| percentile(column(axis), 50.0));
    let size: [f64; 3] = std::array::from_fn(|axis| {
        percentile(
            fingerprint
                .shapes_after_crop
                .iter()
                .map(|s| s[axis] as f64)
                .collect(),
            50.0,
        )
    });
    let worst = first_largest(target);
    let others = [0, 1, 2].into_iter().filter(|&axis| axis != worst);
    let coarsest_other = others.clone().map(|axis| target[axis]).fold(f64::MIN, f64::max);
    let smallest_other = others.map(|axis| size[axis]).fold(f64::MAX, f64::min);
    let anisotropic_spacing = target[worst] > ANISO_THRESHOLD * coarsest_other;
    let anisotropic_voxels = size[worst] * ANISO_THRESHOLD < smallest_other;
    if anisotropic_spacing && anisotropic_voxels {
        let finer = percentile(column(worst), 10.0);
        // Never finer than the other axes.
        target[worst] = if finer < coarsest_other {
            coarsest_other + 1e-5
        } else {
            finer
        };
    }
    target
}

/// The coarsest axis first, the others in order.
pub(super) fn transpose_forward(spacing: [f64; 3]) -> [usize; 3] {
    match first_largest(spacing) {
        0 => [0, 1, 2],
        1 => [1, 0, 2],
        _ => [2, 0, 1],
    }
}

fn first_largest(values: [f64; 3]) -> usize {
    (1..3).fold(
        0,
        |best, axis| if values[axis] > values[best] { axis } else { best },
    )
}

/// numpy's median of each column. `rows` is not empty.
pub(super) fn medians(rows: &[[f64; 3]]) -> [f64; 3] {
    std::array::from_fn(|axis| {
        let mut values: Vec<f64> = rows.iter().map(|row| row[axis]).collect();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        }
    })
}

/// numpy's linear percentile, with its two-sided interpolation. `values` is not empty.
fn percentile(mut values: Vec<f64>, percent: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let position = percent / 100.0 * (values.len() - 1) as f64;
    let low = position.floor() as usize;
    let (a, b) = (values[low], values[(low + 1).min(values.len() - 1)]);
    let t = position - low as f64;
    if t >= 0.5 {
        b - (b - a) * (1.0 - t)
    } else {
        a + (b - a) * t
    }
}
