//! What nnU-Net's default augmentation does after rotation and scaling (`nnUNetTrainer.get_training_transforms`).

use super::{
    AugmentationSettings, Transform, blur::Blur, intensity::PerChannel, low_resolution::LowResolution,
    mirror::Mirror, noise::Noise, random::chance,
};
use rand_chacha::ChaCha8Rng;

/// Draws in nnU-Net's order, with its probabilities and ranges.
pub(super) fn draw(
    settings: &AugmentationSettings,
    channels: usize,
    random: &mut ChaCha8Rng,
) -> Vec<Transform> {
    let planar = settings.is_2d || settings.dummy_2d;
    let mut drawn = Vec::new();
    if chance(random, 0.1) {
        drawn.push(Transform::Noise(Noise::draw(random)));
    }
    if chance(random, 0.2) {
        drawn.push(Transform::Blur(Blur::draw(channels, settings.is_2d, random)));
    }
    if chance(random, 0.15) {
        let factors = PerChannel::around_one(channels, 0.75, 1.25, random);
        drawn.push(Transform::Brightness(factors));
    }
    if chance(random, 0.15) {
        drawn.push(Transform::Contrast {
            factors: PerChannel::around_one(channels, 0.75, 1.25, random),
            keep_range: true,
        });
    }
    if chance(random, 0.25) {
        let low_resolution = LowResolution::draw(channels, planar, 0.5, random);
        drawn.push(Transform::LowResolution(low_resolution));
    }
    for (probability, inverted) in [(0.1, true), (0.3, false)] {
        if chance(random, probability) {
            drawn.push(Transform::Gamma {
                exponents: PerChannel::around_one(channels, 0.7, 1.5, random),
                inverted,
            });
        }
    }
    let mirror = Mirror::draw(&settings.mirror_axes, settings.is_2d, random);
    drawn.push(Transform::Mirror(mirror));
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::augment::{Augmentation, Drawn, distribution::*};
    use rand::SeedableRng;

    #[test]
    fn probabilities_and_ranges_are_nnunets() {
        let settings = AugmentationSettings::new(&[32, 32, 32]).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let n = 20_000;
        let drawn: Vec<Drawn> = (0..n).map(|_| Drawn::draw(&settings, 2, &mut random)).collect();
        let all = || drawn.iter().flat_map(|d| &d.transforms);
        let share = |is: &dyn Fn(&Transform) -> bool| all().filter(|t| is(t)).count() as f64 / n as f64;
        let spatial: Vec<_> = drawn.iter().filter_map(|d| d.spatial).collect();
        close(spatial.len() as f64 / n as f64, 1.0 - 0.8 * 0.8);
        close(share(&|t| matches!(t, Transform::Noise(_))), 0.1);
        close(share(&|t| matches!(t, Transform::Blur(_))), 0.2);
        close(share(&|t| matches!(t, Transform::Brightness(_))), 0.15);
        close(
            share(&|t| matches!(t, Transform::Contrast { keep_range: true, .. })),
            0.15,
        );
        close(share(&|t| matches!(t, Transform::LowResolution(_))), 0.25);
        close(
            share(&|t| matches!(t, Transform::Gamma { inverted: true, .. })),
            0.1,
        );
        close(
            share(&|t| matches!(t, Transform::Gamma { inverted: false, .. })),
            0.3,
        );
        for axis in 0..3 {
            close(share(&|t| matches!(t, Transform::Mirror(m) if m.0[axis])), 0.5);
        }

        let numbers = |of: &dyn Fn(&Transform) -> Option<&PerChannel>| -> Vec<f64> {
            all()
                .filter_map(of)
                .flat_map(|numbers| numbers.0.iter().map(|v| f64::from(v.unwrap())))
                .collect()
        };
        let brightness = numbers(&|t| match t {
            Transform::Brightness(factors) => Some(factors),
            _ => None,
        });
        let contrast = numbers(&|t| match t {
            Transform::Contrast { factors, .. } => Some(factors),
            _ => None,
        });
        let gamma = numbers(&|t| match t {
            Transform::Gamma { exponents, .. } => Some(exponents),
            _ => None,
        });
        fill(&brightness, 0.75, 1.25);
        fill(&contrast, 0.75, 1.25);
        fill(&gamma, 0.7, 1.5);
        close(
            gamma.iter().filter(|g| **g < 1.0).count() as f64 / gamma.len() as f64,
            0.5,
        );
        let (mut noises, mut sigmas, mut left) = (Vec::new(), Vec::new(), 0u32);
        let mut scales: Vec<&[f32; 3]> = Vec::new();
        for transform in all() {
            match transform {
                Transform::Noise(noise) => noises.push(noise.sigma),
                Transform::Blur(blur) => {
                    left += blur.sigmas.iter().filter(|s| s.is_none()).count() as u32;
                    sigmas.extend(blur.sigmas.iter().flatten().flatten());
                }
                Transform::LowResolution(low) => scales.extend(low.scales.iter().flatten()),
                _ => {}
            }
        }
        fill(&noises, 0.0, 0.1);
        let blurred = sigmas.len() as f64 / 3.0;
        close(blurred / (blurred + f64::from(left)), 0.5);
        fill(&sigmas, 0.5, 1.0);
        assert!(scales.iter().all(|s| s[0] == s[1] && s[1] == s[2]));
        fill(
            &scales.iter().map(|s| f64::from(s[0])).collect::<Vec<_>>(),
            0.5,
            1.0,
        );

        // Rotation keeps volumes; the cube root of the determinant is the scale.
        let scale = |m: [[f32; 3]; 3]| {
            let m = m.map(|row| row.map(f64::from));
            (m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
                - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
                + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]))
                .cbrt()
        };
        let (still, scaled): (Vec<f64>, Vec<f64>) = spatial
            .iter()
            .map(|s| scale(s.matrix))
            .partition(|s| (*s - 1.0).abs() < 1e-6);
        close(
            scaled.len() as f64 / (still.len() + scaled.len()) as f64,
            0.2 / 0.36,
        );
        fill(&scaled, 0.7, 1.4);
    }

    #[test]
    fn what_is_left_out_is_not_drawn() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut settings = AugmentationSettings::new(&[24, 24]).unwrap();
        settings.mirror_axes = vec![0];
        for _ in 0..200 {
            let drawn = Drawn::draw(&settings, 1, &mut random);
            assert!(drawn.spatial.is_none_or(|s| s.planar));
            for transform in &drawn.transforms {
                match transform {
                    Transform::Mirror(mirror) => assert!(!mirror.0[0] && !mirror.0[2]),
                    Transform::LowResolution(low) => {
                        assert!(low.scales.iter().flatten().all(|s| s[0] == 1.0));
                    }
                    _ => {}
                }
            }
        }
        settings.augmentation = Augmentation::None;
        assert_eq!(Drawn::draw(&settings, 1, &mut random), Drawn::NOTHING);
    }
}
