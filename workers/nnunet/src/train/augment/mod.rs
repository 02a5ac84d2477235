//! nnU-Net's augmentation (`get_training_transforms` of its trainers, on batchgeneratorsv2 0.3.6): the default one,
//! and the heavy one of `nnUNetTrainerDA5`.
//!
//! Every transform is split in two: a struct of parameters drawn from the sample's generator, and a pure
//! function that applies them. All parameters of a sample are drawn before anything is computed, so that only
//! the voxels that are needed are read and computed.

pub mod blur;
mod default;
mod heavy;
pub mod intensity;
pub mod local;
pub mod low_resolution;
pub mod median;
pub mod mirror;
pub mod noise;
pub mod patch;
pub mod random;
pub mod rectangles;
mod sampling;
pub mod settings;
mod sharpen;
pub mod spatial;
mod statistics;
pub mod target;
pub mod turn;

pub use patch::Patch;
pub use settings::{Augmentation, AugmentationSettings, SegInterpolation};

use crate::train::loader::Window;
use blur::Blur;
use intensity::PerChannel;
use local::Local;
use low_resolution::LowResolution;
use median::Median;
use mirror::Mirror;
use noise::Noise;
use rand_chacha::ChaCha8Rng;
use rectangles::Rectangles;
use serde::Serialize;
use spatial::Spatial;
use turn::{QuarterTurns, Transposition};

/// All that is random about one sample's augmentation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drawn {
    /// Rotation and scaling; the centre of the initial patch without it.
    pub spatial: Option<Spatial>,
    /// What is done to that patch, in this order.
    pub transforms: Vec<Transform>,
}

/// A transform of the patch with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// Quarter turns about an axis.
    QuarterTurns(QuarterTurns),
    /// Axes in another order.
    Transposition(Transposition),
    /// Additive noise.
    Noise(Noise),
    /// Median filter.
    Median(Median),
    /// Blur.
    Blur(Blur),
    /// Factors of the brightness.
    Brightness(PerChannel),
    /// Summands of the brightness.
    Shift(PerChannel),
    /// Factors of the contrast.
    #[allow(missing_docs)]
    Contrast {
        factors: PerChannel,
        /// Whether the channel keeps its range.
        keep_range: bool,
    },
    /// Simulated low resolution.
    LowResolution(LowResolution),
    /// Exponents for the image or for the negated image.
    #[allow(missing_docs)]
    Gamma { exponents: PerChannel, inverted: bool },
    /// Mirrored axes.
    Mirror(Mirror),
    /// Blanked rectangles.
    Rectangles(Rectangles),
    /// Per channel, how much is added where.
    Gradient(Vec<Option<Local>>),
    /// Per channel, which exponent where.
    LocalGamma(Vec<Option<Local>>),
    /// Strengths of the sharpening.
    Sharpening(PerChannel),
}

impl Transform {
    fn apply(&self, patch: &mut Patch) {
        match self {
            Transform::QuarterTurns(turns) => turns.apply(patch),
            Transform::Transposition(transposition) => transposition.apply(patch),
            Transform::Noise(noise) => noise.apply(patch),
            Transform::Median(median) => median.apply(patch),
            Transform::Blur(blur) => blur.apply(patch),
            Transform::Brightness(factors) => intensity::brightness(patch, factors),
            Transform::Shift(summands) => intensity::shift(patch, summands),
            Transform::Contrast { factors, keep_range } => intensity::contrast(patch, factors, *keep_range),
            Transform::LowResolution(low_resolution) => low_resolution.apply(patch),
            Transform::Gamma { exponents, inverted } => intensity::gamma(patch, exponents, *inverted),
            Transform::Mirror(mirror) => mirror.apply(patch),
            Transform::Rectangles(rectangles) => rectangles.apply(patch),
            Transform::Gradient(summands) => local::gradient(patch, summands),
            Transform::LocalGamma(exponents) => local::gamma(patch, exponents),
            Transform::Sharpening(strengths) => sharpen::sharpen(patch, strengths),
        }
    }
}

impl Drawn {
    /// Nothing but the centre crop: validation, and training without augmentation.
    pub const NOTHING: Drawn = Drawn {
        spatial: None,
        transforms: Vec::new(),
    };

    /// Draws in nnU-Net's order, with nnU-Net's probabilities and ranges.
    pub fn draw(settings: &AugmentationSettings, channels: usize, random: &mut ChaCha8Rng) -> Self {
        let transforms = match settings.augmentation {
            Augmentation::None => return Drawn::NOTHING,
            Augmentation::Default => default::draw,
            Augmentation::Heavy => heavy::draw,
        };
        Drawn {
            spatial: Spatial::draw(settings, random),
            transforms: transforms(settings, channels, random),
        }
    }

    /// Reads and transforms a sample: `window` is the initial patch, in training and validation alike.
    pub fn apply(&self, settings: &AugmentationSettings, window: &Window) -> Sample {
        let mut patch = self.patch(settings, window);
        for transform in &self.transforms {
            transform.apply(&mut patch);
        }
        if settings.augmentation != Augmentation::None {
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
            return spatial.apply(window, settings);
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

/// Checks of distributions, for the tests of what is drawn.
#[cfg(test)]
pub(crate) mod distribution {
    /// Whether a share of some ten thousand draws is what was wanted.
    pub(crate) fn close(got: f64, wanted: f64) {
        assert!((got - wanted).abs() < 0.012, "{got} for {wanted}");
    }

    /// Whether the values lie in a range and reach both of its ends.
    pub(crate) fn fill(values: &[f64], low: f64, high: f64) {
        let (least, most) = values
            .iter()
            .fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
        let near = (high - low) * 0.02;
        assert!(least >= low && least < low + near, "{least} for {low}");
        assert!(most <= high && most > high - near, "{most} for {high}");
    }
}
