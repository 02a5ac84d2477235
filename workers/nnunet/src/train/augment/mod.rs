//! nnU-Net's default augmentation (`nnUNetTrainer.get_training_transforms` on batchgeneratorsv2 0.3.6).
//!
//! Every transform is split in two: a struct of parameters drawn from the sample's generator, and a pure
//! function that applies them. All parameters of a sample are drawn before anything is computed, so that only
//! the voxels that are needed are read and computed.

pub mod blur;
pub mod intensity;
pub mod low_resolution;
pub mod mirror;
pub mod noise;
pub mod patch;
pub mod random;
mod sampling;
pub mod settings;
pub mod spatial;
mod statistics;
pub mod target;
mod wide;

pub use patch::Patch;
pub use settings::{AugmentationSettings, SegInterpolation};

use crate::train::loader::Window;
use blur::Blur;
use intensity::Factors;
use low_resolution::LowResolution;
use mirror::Mirror;
use noise::Noise;
use rand_chacha::ChaCha8Rng;
use random::chance;
use serde::Serialize;
use spatial::Spatial;

/// All that is random about one sample's augmentation. What is None is not applied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drawn {
    /// Rotation and scaling; the centre of the initial patch without it.
    pub spatial: Option<Spatial>,
    /// Additive noise.
    pub noise: Option<Noise>,
    /// Blur.
    pub blur: Option<Blur>,
    /// Factor of the brightness.
    pub brightness: Option<Factors>,
    /// Factor of the contrast.
    pub contrast: Option<Factors>,
    /// Simulated low resolution.
    pub low_resolution: Option<LowResolution>,
    /// Exponent for the negated image.
    pub gamma_inverted: Option<Factors>,
    /// Exponent for the image.
    pub gamma: Option<Factors>,
    /// Mirrored axes.
    pub mirror: Mirror,
}

impl Drawn {
    /// Nothing but the centre crop: validation, and training without augmentation.
    pub const NOTHING: Drawn = Drawn {
        spatial: None,
        noise: None,
        blur: None,
        brightness: None,
        contrast: None,
        low_resolution: None,
        gamma_inverted: None,
        gamma: None,
        mirror: Mirror([false; 3]),
    };

    /// Draws in nnU-Net's order, with nnU-Net's probabilities and ranges.
    pub fn draw(settings: &AugmentationSettings, channels: usize, random: &mut ChaCha8Rng) -> Self {
        if !settings.random {
            return Drawn::NOTHING;
        }
        let planar = settings.is_2d || settings.dummy_2d;
        Drawn {
            spatial: Spatial::draw(settings, random),
            noise: chance(random, 0.1).then(|| Noise::draw(random)),
            blur: chance(random, 0.2).then(|| Blur::draw(channels, settings.is_2d, random)),
            brightness: chance(random, 0.15).then(|| Factors::draw(channels, 0.75, 1.25, random)),
            contrast: chance(random, 0.15).then(|| Factors::draw(channels, 0.75, 1.25, random)),
            low_resolution: chance(random, 0.25).then(|| LowResolution::draw(channels, planar, random)),
            gamma_inverted: chance(random, 0.1).then(|| Factors::draw(channels, 0.7, 1.5, random)),
            gamma: chance(random, 0.3).then(|| Factors::draw(channels, 0.7, 1.5, random)),
            mirror: Mirror::draw(&settings.mirror_axes, settings.is_2d, random),
        }
    }

    /// Reads and transforms a sample: `window` is the initial patch, in training and validation alike.
    pub fn apply(&self, settings: &AugmentationSettings, window: &Window) -> Sample {
        let mut patch = self.patch(settings, window);
        if let Some(noise) = &self.noise {
            noise.apply(&mut patch);
        }
        if let Some(blur) = &self.blur {
            blur.apply(&mut patch);
        }
        if let Some(factors) = &self.brightness {
            intensity::brightness(&mut patch, factors);
        }
        if let Some(factors) = &self.contrast {
            intensity::contrast(&mut patch, factors);
        }
        if let Some(low_resolution) = &self.low_resolution {
            low_resolution.apply(&mut patch);
        }
        if let Some(exponents) = &self.gamma_inverted {
            intensity::gamma(&mut patch, exponents, true);
        }
        if let Some(exponents) = &self.gamma {
            intensity::gamma(&mut patch, exponents, false);
        }
        self.mirror.apply(&mut patch);
        if settings.random {
            target::mask(&mut patch, &settings.use_mask_for_norm);
        }
        let targets = target::targets(patch.seg, settings);
        Sample {
            data: patch.data,
            targets,
        }
    }

    /// The patch after the spatial transform.
    fn patch(&self, settings: &AugmentationSettings, window: &Window) -> Patch {
        if let Some(spatial) = &self.spatial {
            return spatial.apply(window, settings.patch_size, settings.seg_interpolation);
        }
        let centre = window.centre(settings.patch_size);
        let voxels: usize = centre.size.iter().product();
        let mut patch = Patch {
            data: vec![0.0; voxels * centre.channels],
            seg: vec![-1; voxels],
            channels: centre.channels,
            size: centre.size,
        };
        centre.read_data(&mut patch.data);
        centre.read_seg(&mut patch.seg);
        patch
    }
}

/// One sample of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The image (c, z, y, x).
    pub data: Vec<f32>,
    /// The targets (1 or regions, z, y, x) of each resolution, full resolution first.
    pub targets: Vec<Vec<i16>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn probabilities_and_ranges_are_nnunets() {
        let settings = AugmentationSettings::new(&[32, 32, 32]).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let n = 20_000;
        let drawn: Vec<Drawn> = (0..n).map(|_| Drawn::draw(&settings, 2, &mut random)).collect();
        let share = |has: &dyn Fn(&Drawn) -> bool| drawn.iter().filter(|d| has(d)).count() as f64 / n as f64;
        let close = |got: f64, wanted: f64| assert!((got - wanted).abs() < 0.012, "{got} for {wanted}");
        close(share(&|d| d.spatial.is_some()), 1.0 - 0.8 * 0.8);
        close(share(&|d| d.noise.is_some()), 0.1);
        close(share(&|d| d.blur.is_some()), 0.2);
        close(share(&|d| d.brightness.is_some()), 0.15);
        close(share(&|d| d.contrast.is_some()), 0.15);
        close(share(&|d| d.low_resolution.is_some()), 0.25);
        close(share(&|d| d.gamma_inverted.is_some()), 0.1);
        close(share(&|d| d.gamma.is_some()), 0.3);
        for axis in 0..3 {
            close(share(&|d| d.mirror.0[axis]), 0.5);
        }

        let range = |values: Vec<f64>, low: f64, high: f64| {
            let (least, most) = values
                .iter()
                .fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            let near = (high - low) * 0.02;
            assert!(least >= low && least < low + near, "{least} for {low}");
            assert!(most <= high && most > high - near, "{most} for {high}");
        };
        range(
            drawn
                .iter()
                .filter_map(|d| d.noise.as_ref())
                .map(|n| n.sigma)
                .collect(),
            0.0,
            0.1,
        );
        let sigmas = drawn
            .iter()
            .filter_map(|d| d.blur.as_ref())
            .flat_map(|b| &b.sigmas);
        let (chosen, left): (Vec<&Option<[f64; 3]>>, Vec<_>) = sigmas.partition(|s| s.is_some());
        close(chosen.len() as f64 / (chosen.len() + left.len()) as f64, 0.5);
        range(
            chosen.into_iter().flatten().flatten().copied().collect(),
            0.5,
            1.0,
        );
        let scales = drawn
            .iter()
            .filter_map(|d| d.low_resolution.as_ref())
            .flat_map(|l| l.scales.iter().flatten());
        let scales: Vec<_> = scales.collect();
        assert!(scales.iter().all(|s| s[0] == s[1] && s[1] == s[2]));
        range(scales.iter().map(|s| f64::from(s[0])).collect(), 0.5, 1.0);
        let factors = |of: &dyn Fn(&Drawn) -> Option<&Factors>| -> Vec<f64> {
            drawn
                .iter()
                .filter_map(of)
                .flat_map(|f| f.0.iter().map(|v| f64::from(*v)))
                .collect()
        };
        range(factors(&|d| d.brightness.as_ref()), 0.75, 1.25);
        range(factors(&|d| d.contrast.as_ref()), 0.75, 1.25);
        let gammas = factors(&|d| d.gamma.as_ref());
        close(
            gammas.iter().filter(|g| **g < 1.0).count() as f64 / gammas.len() as f64,
            0.5,
        );
        range(gammas, 0.7, 1.5);
        // Rotation keeps volumes; the cube root of the determinant is the scale.
        let scale = |m: [[f32; 3]; 3]| {
            let m = m.map(|row| row.map(f64::from));
            (m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
                - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
                + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]))
                .cbrt()
        };
        let scales: Vec<f64> = drawn
            .iter()
            .filter_map(|d| d.spatial)
            .map(|s| scale(s.matrix))
            .collect();
        let (still, scaled): (Vec<f64>, Vec<f64>) = scales.iter().partition(|s| (*s - 1.0).abs() < 1e-6);
        close(
            scaled.len() as f64 / (still.len() + scaled.len()) as f64,
            0.2 / 0.36,
        );
        range(scaled, 0.7, 1.4);
    }

    #[test]
    fn what_is_left_out_is_not_drawn() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut settings = AugmentationSettings::new(&[24, 24]).unwrap();
        settings.mirror_axes = vec![0];
        for _ in 0..200 {
            let drawn = Drawn::draw(&settings, 1, &mut random);
            assert!(!drawn.mirror.0[0] && !drawn.mirror.0[2]);
            assert!(drawn.spatial.is_none_or(|s| s.planar));
            let scales = drawn
                .low_resolution
                .iter()
                .flat_map(|l| l.scales.iter().flatten());
            assert!(scales.into_iter().all(|s| s[0] == 1.0));
        }
        settings.random = false;
        assert_eq!(Drawn::draw(&settings, 1, &mut random), Drawn::NOTHING);
    }
}
