//! What the heavy augmentation does after rotation and scaling (`nnUNetTrainerDA5.get_training_transforms`).

use super::{
    AugmentationSettings, Transform,
    blur::Blur,
    intensity::PerChannel,
    local::Local,
    low_resolution::LowResolution,
    median::Median,
    mirror::Mirror,
    noise::Noise,
    random::{around_one, chance, normal, some_channels, uniform},
    rectangles::Rectangles,
    turn::{QuarterTurns, Transposition},
};
use rand_chacha::ChaCha8Rng;

/// Draws in nnU-Net's order, with its probabilities and ranges.
pub(super) fn draw(
    settings: &AugmentationSettings,
    channels: usize,
    random: &mut ChaCha8Rng,
) -> Vec<Transform> {
    let size = settings.patch_size;
    let planar = settings.is_2d || settings.dummy_2d;
    let mut drawn = Vec::new();
    let axes = equal_axes(settings);
    if !axes.is_empty() {
        if chance(random, 0.5) {
            drawn.push(Transform::QuarterTurns(QuarterTurns::draw(&axes, random)));
        }
        if chance(random, 0.5) {
            drawn.push(Transform::Transposition(Transposition::draw(&axes, random)));
        }
    }
    // One of the two is chosen before its own probability is asked.
    let median = chance(random, 0.5);
    if chance(random, 0.2) {
        drawn.push(if median {
            Transform::Median(Median::draw(channels, random))
        } else {
            Transform::Blur(Blur::draw_wide(channels, settings.is_2d, random))
        });
    }
    if chance(random, 0.1) {
        drawn.push(Transform::Noise(Noise::draw(random)));
    }
    if chance(random, 0.1) {
        let summands = PerChannel::some(channels, random, |random| normal(random, 0.5));
        drawn.push(Transform::Shift(summands));
    }
    let keep_range = chance(random, 0.5);
    if chance(random, 0.2) {
        drawn.push(Transform::Contrast {
            factors: PerChannel::some(channels, random, |random| around_one(random, 0.5, 2.0)),
            keep_range,
        });
    }
    if chance(random, 0.15) {
        let low_resolution = LowResolution::draw(channels, planar, 0.25, random);
        drawn.push(Transform::LowResolution(low_resolution));
    }
    // Both of nnU-Net's gamma transforms take the negated image.
    for _ in 0..2 {
        if chance(random, 0.1) {
            drawn.push(Transform::Gamma {
                exponents: PerChannel::around_one(channels, 0.7, 1.5, random),
                inverted: true,
            });
        }
    }
    let mirror = Mirror::draw(&settings.mirror_axes, settings.is_2d, random);
    drawn.push(Transform::Mirror(mirror));
    if chance(random, 0.4) {
        drawn.push(Transform::Rectangles(Rectangles::draw(channels, size, random)));
    }
    // A coin decides between two ranges of what is added, and of the exponents.
    let mut local = |probability, [low, high]: [[f64; 2]; 2]| {
        chance(random, probability).then(|| {
            some_channels(channels, random, |random| {
                Local::draw(size, random, |random| {
                    let [from, to] = if chance(random, 0.5) { low } else { high };
                    uniform(random, from, to)
                })
            })
        })
    };
    drawn.extend(local(0.3, [[-5.0, -1.0], [1.0, 5.0]]).map(Transform::Gradient));
    drawn.extend(local(0.3, [[0.01, 0.8], [1.5, 4.0]]).map(Transform::LocalGamma));
    if chance(random, 0.2) {
        let strengths = PerChannel::some(channels, random, |random| uniform(random, 0.1, 1.0));
        drawn.push(Transform::Sharpening(strengths));
    }
    drawn
}

/// The axes (0 is z) that are as long as another: those that may change places. In dummy 2D nnU-Net lets z take
/// part, as here.
fn equal_axes(settings: &AugmentationSettings) -> Vec<usize> {
    let axes = if settings.is_2d { 1..3 } else { 0..3 };
    let size = settings.patch_size;
    axes.clone()
        .filter(|&d| axes.clone().any(|other| other != d && size[other] == size[d]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{
        TrainerVariant,
        augment::{Augmentation, Drawn, SegInterpolation, distribution::*},
    };
    use rand::SeedableRng;

    fn settings(patch_size: &[usize]) -> AugmentationSettings {
        AugmentationSettings {
            augmentation: Augmentation::Heavy,
            ..AugmentationSettings::new(patch_size).unwrap()
        }
    }

    /// Twenty thousand draws for two channels.
    fn draws(patch_size: &[usize]) -> Vec<Drawn> {
        let mut random = ChaCha8Rng::seed_from_u64(17);
        let settings = settings(patch_size);
        (0..20_000)
            .map(|_| Drawn::draw(&settings, 2, &mut random))
            .collect()
    }

    fn share(drawn: &[Drawn], is: impl Fn(&Transform) -> bool) -> f64 {
        let count = drawn.iter().flat_map(|d| &d.transforms).filter(|t| is(t)).count();
        count as f64 / drawn.len() as f64
    }

    fn chosen(drawn: &[Drawn], of: impl Fn(&Transform) -> Option<Vec<Option<f64>>>) -> Vec<f64> {
        let all: Vec<Option<f64>> = drawn
            .iter()
            .flat_map(|d| &d.transforms)
            .filter_map(of)
            .flatten()
            .collect();
        let chosen: Vec<f64> = all.iter().flatten().copied().collect();
        close(chosen.len() as f64 / all.len() as f64, 0.5);
        chosen
    }

    fn numbers(values: &PerChannel) -> Option<Vec<Option<f64>>> {
        Some(values.0.iter().map(|v| v.map(f64::from)).collect())
    }

    #[test]
    fn probabilities_are_nnunets() {
        let drawn = draws(&[32, 32, 32]);
        close(share(&drawn, |t| matches!(t, Transform::QuarterTurns(_))), 0.5);
        close(share(&drawn, |t| matches!(t, Transform::Transposition(_))), 0.5);
        close(share(&drawn, |t| matches!(t, Transform::Median(_))), 0.1);
        close(share(&drawn, |t| matches!(t, Transform::Blur(_))), 0.1);
        close(share(&drawn, |t| matches!(t, Transform::Noise(_))), 0.1);
        close(share(&drawn, |t| matches!(t, Transform::Shift(_))), 0.1);
        for wanted in [true, false] {
            let is =
                |t: &Transform| matches!(t, Transform::Contrast { keep_range, .. } if *keep_range == wanted);
            close(share(&drawn, is), 0.1);
        }
        close(share(&drawn, |t| matches!(t, Transform::LowResolution(_))), 0.15);
        close(
            share(&drawn, |t| matches!(t, Transform::Gamma { inverted: true, .. })),
            0.2,
        );
        close(
            share(&drawn, |t| matches!(t, Transform::Gamma { inverted: false, .. })),
            0.0,
        );
        close(share(&drawn, |t| matches!(t, Transform::Mirror(_))), 1.0);
        close(share(&drawn, |t| matches!(t, Transform::Rectangles(_))), 0.4);
        close(share(&drawn, |t| matches!(t, Transform::Gradient(_))), 0.3);
        close(share(&drawn, |t| matches!(t, Transform::LocalGamma(_))), 0.3);
        close(share(&drawn, |t| matches!(t, Transform::Sharpening(_))), 0.2);
    }

    #[test]
    fn rotations_and_scales_are_nnunets() {
        let drawn = draws(&[32, 32, 32]);
        let spatial: Vec<[[f64; 3]; 3]> = drawn
            .iter()
            .filter_map(|d| d.spatial)
            .map(|s| s.matrix.map(|row| row.map(f64::from)))
            .collect();
        let n = drawn.len() as f64;
        close(spatial.len() as f64 / n, 1.0 - 0.6 * 0.8);
        // Columns of the rotation have length 1, so those of the matrix are as long as the scales.
        let (mut scales, mut turned, mut about_z) = (Vec::new(), 0.0, 0.0);
        for matrix in &spatial {
            let lengths: [f64; 3] =
                std::array::from_fn(|d| matrix.iter().map(|row| row[d] * row[d]).sum::<f64>().sqrt());
            if lengths.iter().any(|l| (l - 1.0).abs() > 1e-6) {
                assert!(lengths[0] != lengths[1] && lengths[1] != lengths[2]);
                scales.extend(lengths);
            }
            let entries = [(0, 1), (0, 2), (1, 2)].map(|(i, j)| matrix[i][j].abs() > 1e-9);
            turned += f64::from(u8::from(entries.contains(&true)));
            about_z += f64::from(u8::from(entries == [true, false, false]));
        }
        close(scales.len() as f64 / 3.0 / n, 0.2);
        fill(&scales, 0.7, 1.43);
        close(turned / n, 0.4 * (1.0 - 0.125));
        close(about_z / n, 0.4 * 0.125);
    }

    #[test]
    fn ranges_are_nnunets() {
        let drawn = draws(&[32, 32, 32]);
        let sizes = chosen(&drawn, |t| match t {
            Transform::Median(m) => Some(m.sizes.iter().map(|s| s.map(|s| s as f64)).collect()),
            _ => None,
        });
        fill(&sizes, 2.0, 7.0);
        let sigmas = chosen(&drawn, |t| match t {
            Transform::Blur(b) => {
                assert!(b.sigmas.iter().flatten().all(|s| s[0] == s[1] && s[1] == s[2]));
                Some(b.sigmas.iter().map(|s| s.map(|s| s[0])).collect())
            }
            _ => None,
        });
        fill(&sigmas, 0.3, 1.5);
        let scales = chosen(&drawn, |t| match t {
            Transform::LowResolution(l) => {
                Some(l.scales.iter().map(|s| s.map(|s| f64::from(s[0]))).collect())
            }
            _ => None,
        });
        fill(&scales, 0.25, 1.0);
        let factors = chosen(&drawn, |t| match t {
            Transform::Contrast { factors, .. } => numbers(factors),
            _ => None,
        });
        fill(&factors, 0.5, 2.0);
        close(
            factors.iter().filter(|f| **f < 1.0).count() as f64 / factors.len() as f64,
            0.5,
        );
        let strengths = chosen(&drawn, |t| match t {
            Transform::Sharpening(strengths) => numbers(strengths),
            _ => None,
        });
        fill(&strengths, 0.1, 1.0);
        let shifts = chosen(&drawn, |t| match t {
            Transform::Shift(summands) => numbers(summands),
            _ => None,
        });
        let moment = |k: i32| shifts.iter().map(|s| (s / 0.5).powi(k)).sum::<f64>() / shifts.len() as f64;
        assert!(moment(1).abs() < 0.06 && (moment(2) - 1.0).abs() < 0.08 && (moment(4) - 3.0).abs() < 0.5);
    }

    #[test]
    fn local_values_come_from_two_ranges() {
        let drawn = draws(&[32, 32, 32]);
        let values = |locals: &[Option<Local>]| {
            Some(
                locals
                    .iter()
                    .map(|l| l.as_ref().map(|l| f64::from(l.value)))
                    .collect(),
            )
        };
        let summands = chosen(&drawn, |t| match t {
            Transform::Gradient(locals) => values(locals),
            _ => None,
        });
        let exponents = chosen(&drawn, |t| match t {
            Transform::LocalGamma(locals) => values(locals),
            _ => None,
        });
        for (values, [low, high]) in [
            (summands, [[-5.0, -1.0], [1.0, 5.0]]),
            (exponents, [[0.01, 0.8], [1.5, 4.0]]),
        ] {
            let (below, above): (Vec<f64>, Vec<f64>) = values.iter().partition(|v| **v < 0.9);
            close(below.len() as f64 / values.len() as f64, 0.5);
            // f32 may round a value onto, or just past, the end of its range.
            fill(&below, low[0] - 1e-6, low[1] + 1e-6);
            fill(&above, high[0] - 1e-6, high[1] + 1e-6);
        }
    }

    #[test]
    fn only_equal_axes_change_places() {
        for (patch_size, wanted) in [
            (&[32, 32, 32][..], &[0, 1, 2][..]),
            (&[40, 56, 40], &[0, 2]),
            (&[20, 64, 64], &[1, 2]),
            (&[20, 20, 64], &[0, 1]),
            (&[24, 32, 20], &[]),
            (&[48, 48], &[1, 2]),
            (&[48, 40], &[]),
        ] {
            let settings = settings(patch_size);
            assert_eq!(equal_axes(&settings), wanted, "{patch_size:?}");
            let mut random = ChaCha8Rng::seed_from_u64(3);
            for _ in 0..200 {
                let drawn = draw(&settings, 1, &mut random);
                for transform in &drawn {
                    match transform {
                        Transform::QuarterTurns(turns) => {
                            assert!(turns.axes.iter().all(|axis| wanted.contains(axis)));
                        }
                        Transform::Transposition(transposition) => {
                            let moved = (0..3).filter(|&d| transposition.axes[d] != d);
                            assert!({ moved }.all(|axis| wanted.contains(&axis)));
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn heavy_trainers_are_values() {
        let settings = |name| {
            let variant = TrainerVariant::by_name(name).unwrap();
            let settings = variant.augmentation(&[32, 32, 32]).unwrap();
            assert_eq!(settings.augmentation, Augmentation::Heavy, "{name}");
            (
                variant.epochs,
                settings.seg_interpolation,
                settings.nearest_image,
                settings.mirror_axes,
            )
        };
        let (linear, nearest) = (SegInterpolation::Linear, SegInterpolation::Nearest);
        let (all, first) = (vec![0, 1, 2], vec![0, 1]);
        assert_eq!(settings("nnUNetTrainerDA5"), (1000, linear, false, all.clone()));
        assert_eq!(
            settings("nnUNetTrainerDA5_10epochs"),
            (10, linear, false, all.clone())
        );
        assert_eq!(
            settings("nnUNetTrainer_onlyMirror01_DA5"),
            (1000, linear, false, first)
        );
        assert_eq!(
            settings("nnUNetTrainerDA5Segord0"),
            (1000, nearest, false, all.clone())
        );
        assert_eq!(settings("nnUNetTrainerDA5ord0"), (1000, nearest, true, all));
    }
}
