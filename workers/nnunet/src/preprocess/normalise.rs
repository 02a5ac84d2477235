//! Intensity normalisation (nnunetv2/preprocessing/normalization/default_normalization_schemes.py).

use ndarray::{ArrayView3, ArrayViewMut3, Zip};
use schemas::nnunet::IntensityProperties;

use crate::{Error, Result};

/// No deviation counts as smaller, so that a constant image does not divide by zero.
const SMALLEST_DEVIATION: f32 = 1e-8;

/// How a channel is normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scheme {
    /// To mean 0 and deviation 1, over all voxels or over those inside the mask only.
    ZScore { inside_mask: bool },
    /// Clipped to, and scaled by, the foreground intensities of the whole data set.
    Ct(IntensityProperties),
    /// As it is.
    Nothing,
    /// From the smallest to the largest intensity.
    RescaleTo01,
    /// From 0..255.
    RgbTo01,
}

impl Scheme {
    /// Whether the scheme of that class name looks at the intensities of the whole data set.
    pub fn reads_properties(name: &str) -> bool {
        name == "CTNormalization"
    }

    /// The scheme with nnU-Net's class name. `properties` are needed for CT.
    pub fn by_name(name: &str, use_mask: bool, properties: Option<&IntensityProperties>) -> Result<Self> {
        Ok(match name {
            "ZScoreNormalization" => Scheme::ZScore {
                inside_mask: use_mask,
            },
            "CTNormalization" => Scheme::Ct(*properties.ok_or_else(|| {
                Error::invalid(
                    "plans: foreground_intensity_properties_per_channel",
                    "CTNormalization needs an entry per channel",
                )
            })?),
            "NoNormalization" => Scheme::Nothing,
            "RescaleTo01Normalization" => Scheme::RescaleTo01,
            "RGBTo01Normalization" => Scheme::RgbTo01,
            other => {
                return Err(Error::invalid(
                    "plans: normalization_schemes",
                    format!(
                        "'{other}' is not implemented; ZScoreNormalization, CTNormalization, NoNormalization, RescaleTo01Normalization and RGBTo01Normalization are"
                    ),
                ));
            }
        })
    }

    /// Normalises one channel (z, y, x). `labels` below 0 lie outside of the mask.
    pub fn apply(self, mut channel: ArrayViewMut3<f32>, labels: ArrayView3<i16>) -> Result<()> {
        match self {
            Scheme::ZScore { inside_mask: false } => {
                let (mean, deviation) = moments(channel.iter().copied());
                channel.mapv_inplace(|v| (v - mean) / deviation.max(SMALLEST_DEVIATION));
            }
            Scheme::ZScore { inside_mask: true } => {
                let inside = || {
                    channel
                        .iter()
                        .zip(labels)
                        .filter(|(_, label)| **label >= 0)
                        .map(|(v, _)| *v)
                };
                let (mean, deviation) = moments(inside());
                Zip::from(&mut channel).and(labels).for_each(|v, &label| {
                    if label >= 0 {
                        *v = (*v - mean) / deviation.max(SMALLEST_DEVIATION);
                    }
                });
            }
            Scheme::Ct(p) => {
                let (low, high) = (p.percentile_00_5 as f32, p.percentile_99_5 as f32);
                let (mean, deviation) = (p.mean as f32, p.std.max(f64::from(SMALLEST_DEVIATION)) as f32);
                channel.mapv_inplace(|v| (v.max(low).min(high) - mean) / deviation);
            }
            Scheme::Nothing => {}
            Scheme::RescaleTo01 => {
                let (low, high) = range(&channel);
                let width = (high - low).max(SMALLEST_DEVIATION);
                channel.mapv_inplace(|v| (v - low) / width);
            }
            Scheme::RgbTo01 => {
                let (low, high) = range(&channel);
                if low < 0.0 || high > 255.0 {
                    return Err(Error::invalid(
                        "image",
                        format!(
                            "RGBTo01Normalization expects intensities from 0 to 255, found {low} to {high}"
                        ),
                    ));
                }
                channel.mapv_inplace(|v| v / 255.0);
            }
        }
        Ok(())
    }
}

/// Mean and deviation (without Bessel's correction), in two passes. nnU-Net sums in f32 and pairwise, which
/// agrees to about 4e-7.
fn moments(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let (mut sum, mut count) = (0.0, 0usize);
    for v in values.clone() {
        sum += f64::from(v);
        count += 1;
    }
    let mean = sum / count.max(1) as f64;
    let squares: f64 = values.map(|v| (f64::from(v) - mean).powi(2)).sum();
    (mean as f32, (squares / count.max(1) as f64).sqrt() as f32)
}

fn range(channel: &ArrayViewMut3<f32>) -> (f32, f32) {
    channel
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    fn run(scheme: Scheme, values: [f32; 4]) -> Result<Vec<f32>> {
        let mut channel = Array3::from_shape_vec((1, 2, 2), values.to_vec()).unwrap();
        let labels = Array3::from_shape_vec((1, 2, 2), vec![0, 1, -1, 0]).unwrap();
        scheme.apply(channel.view_mut(), labels.view())?;
        Ok(channel.into_raw_vec_and_offset().0)
    }

    // Golden values: nnU-Net 2.8.1 on the same four voxels.
    #[test]
    fn schemes_are_nnunets() {
        let properties = IntensityProperties {
            max: 9.0,
            mean: 2.0,
            median: 2.0,
            min: 0.0,
            percentile_00_5: 0.5,
            percentile_99_5: 8.0,
            std: 1.5,
        };
        let named = |name, mask| Scheme::by_name(name, mask, Some(&properties)).unwrap();
        assert_eq!(
            run(named("NoNormalization", false), [1.0, 2.0, 3.0, 6.0]).unwrap(),
            [1.0, 2.0, 3.0, 6.0]
        );
        assert_eq!(
            run(named("ZScoreNormalization", true), [1.0, 2.0, 77.0, 6.0]).unwrap(),
            [-0.9258201, -0.46291006, 77.0, 1.3887302]
        );
        assert_eq!(
            run(named("ZScoreNormalization", false), [4.0; 4]).unwrap(),
            [0.0; 4]
        );
        assert_eq!(
            run(named("CTNormalization", false), [-5.0, 2.0, 3.5, 100.0]).unwrap(),
            [-1.0, 0.0, 1.0, 4.0]
        );
        assert_eq!(
            run(named("RescaleTo01Normalization", false), [1.0, 2.0, 3.0, 5.0]).unwrap(),
            [0.0, 0.25, 0.5, 1.0]
        );
        assert_eq!(
            run(named("RGBTo01Normalization", false), [0.0, 51.0, 255.0, 0.0]).unwrap(),
            [0.0, 0.2, 1.0, 0.0]
        );
        assert!(run(named("RGBTo01Normalization", false), [0.0, 51.0, 256.0, 0.0]).is_err());
        assert!(Scheme::by_name("MyNormalization", false, None).is_err());
    }
}
