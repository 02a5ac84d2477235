//! What the pipeline does, as plain values; the variants of nnU-Net's trainers are settings, not code.

use super::target;
use crate::{Error, Result};

/// How the segmentation is resampled by rotation and scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegInterpolation {
    /// Per label bilinear, the largest wins (nnU-Net's default).
    Linear,
    /// The nearest voxel (`nnUNetTrainer_DASegOrd0`).
    Nearest,
}

/// Which random transforms there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// None at all (`nnUNetTrainerNoDA`, and validation); the patch is then cut at its final size.
    None,
    /// nnU-Net's default.
    Default,
    /// Those of `nnUNetTrainerDA5`.
    Heavy,
}

/// The settings of the augmentation. [`AugmentationSettings::new`] gives nnU-Net's default for a patch size.
#[derive(Debug, Clone, PartialEq)]
pub struct AugmentationSettings {
    /// What the network gets: (z, y, x), or (1, y, x) for 2D.
    pub patch_size: [usize; 3],
    /// A 2D configuration: transforms leave z alone and the batch has no z axis.
    pub is_2d: bool,
    /// The random transforms.
    pub augmentation: Augmentation,
    /// Rotations are uniform in +- this angle, in radians.
    pub rotation: f64,
    /// Rotate and scale within slices only, for patches much thinner than wide.
    pub dummy_2d: bool,
    /// How the segmentation is rotated and scaled.
    pub seg_interpolation: SegInterpolation,
    /// Whether the image takes the nearest voxel too (`nnUNetTrainerDA5ord0`), where it is else bilinear.
    pub nearest_image: bool,
    /// The spatial axes that may be mirrored, in nnU-Net's numbering of the patch (0 is z in 3D, y in 2D).
    pub mirror_axes: Vec<usize>,
    /// Per channel: normalised inside the nonzero mask, so zeroed where the segmentation is negative.
    pub use_mask_for_norm: Vec<bool>,
    /// The labels of each region in training order, for region-based training; the targets are then maps.
    pub regions: Option<Vec<Vec<i16>>>,
    /// The ignore label; with regions it becomes the last map.
    pub ignore_label: Option<i16>,
    /// Scale per axis of each target, full resolution first; None gives the full resolution only.
    /// As `_get_deep_supervision_scales`: 1 / cumulative product of the strides, without the last.
    pub deep_supervision_scales: Option<Vec<Vec<f64>>>,
}

/// nnU-Net's ANISO_THRESHOLD.
const ANISOTROPY_THRESHOLD: f64 = 3.0;

impl AugmentationSettings {
    /// nnU-Net's default for a patch of (z, y, x) or (y, x):
    /// `configure_rotation_dummyDA_mirroring_and_inital_patch_size`. No masks, regions or deep supervision.
    pub fn new(patch_size: &[usize]) -> Result<Self> {
        let degrees = |d: f64| d / 360.0 * 2.0 * std::f64::consts::PI;
        let largest = patch_size.iter().copied().max().unwrap_or(0) as f64;
        let smallest = patch_size.iter().copied().min().unwrap_or(0) as f64;
        if smallest == 0.0 {
            return Err(Error::invalid(
                "patch_size",
                format!("{patch_size:?} has an empty axis"),
            ));
        }
        let (size, rotation, dummy_2d, mirror_axes) = match *patch_size {
            [y, x] => {
                let angle = if largest / smallest > 1.5 { 15.0 } else { 180.0 };
                ([1, y, x], degrees(angle), false, vec![0, 1])
            }
            [z, y, x] => {
                let dummy = largest / z as f64 > ANISOTROPY_THRESHOLD;
                (
                    [z, y, x],
                    degrees(if dummy { 180.0 } else { 30.0 }),
                    dummy,
                    vec![0, 1, 2],
                )
            }
            _ => {
                return Err(Error::invalid(
                    "patch_size",
                    format!("{patch_size:?} has neither 2 nor 3 axes"),
                ));
            }
        };
        Ok(AugmentationSettings {
            patch_size: size,
            is_2d: patch_size.len() == 2,
            augmentation: Augmentation::Default,
            rotation,
            dummy_2d,
            seg_interpolation: SegInterpolation::Linear,
            nearest_image: false,
            mirror_axes,
            use_mask_for_norm: Vec::new(),
            regions: None,
            ignore_label: None,
            deep_supervision_scales: None,
        })
    }

    /// `nnUNetTrainer_noDummy2DDA`: rotations about all axes by up to 30 degrees, whatever the patch.
    pub fn without_dummy_2d(mut self) -> Self {
        if self.dummy_2d {
            self.dummy_2d = false;
            self.rotation = 30.0 / 360.0 * 2.0 * std::f64::consts::PI;
        }
        self
    }

    /// The scales of the targets for these strides of the network's stages (`pool_op_kernel_sizes`).
    pub fn with_deep_supervision(mut self, strides: &[Vec<usize>]) -> Self {
        let mut product = vec![1usize; strides.first().map_or(0, Vec::len)];
        let mut scales = Vec::new();
        for stride in strides {
            product.iter_mut().zip(stride).for_each(|(p, s)| *p *= s);
            scales.push(product.iter().map(|&p| 1.0 / p as f64).collect());
        }
        scales.pop();
        self.deep_supervision_scales = Some(scales);
        self
    }

    /// The size (z, y, x) that is cut from a case for training, before rotation and scaling.
    /// `compute_initial_patch_size.get_patch_size` with the trainer's least scale, which is not that of the scaling.
    pub fn initial_patch_size(&self) -> [usize; 3] {
        let least_scale = match self.augmentation {
            Augmentation::None => return self.patch_size,
            Augmentation::Default => 0.85,
            Augmentation::Heavy => 0.7,
        };
        let (sin, cos) = self.rotation.min(std::f64::consts::FRAC_PI_2).sin_cos();
        let [z, y, x] = self.patch_size.map(|s| s as f64);
        let mut size = [z, y, x];
        let mut grow = |corner: [f64; 3]| {
            for d in 0..3 {
                size[d] = size[d].max(corner[d].abs());
            }
        };
        // The corner as a row vector times batchgenerators' rotation matrix about each axis in turn.
        if self.is_2d {
            grow([z, y * cos + x * sin, -y * sin + x * cos]);
        } else {
            grow([z, y * cos + x * sin, -y * sin + x * cos]);
            grow([z * cos - x * sin, y, z * sin + x * cos]);
            grow([z * cos + y * sin, -z * sin + y * cos, x]);
        }
        let mut size = size.map(|s| (s / least_scale) as usize);
        if self.is_2d {
            size[0] = 1;
        } else if self.dummy_2d {
            size[0] = self.patch_size[0];
        }
        size
    }

    /// Whether the values fit each other.
    pub fn check(&self) -> Result<()> {
        let axes = if self.is_2d { 2 } else { 3 };
        if let Some(axis) = self.mirror_axes.iter().find(|axis| **axis >= axes) {
            return Err(Error::invalid(
                "mirror_axes",
                format!("axis {axis} of a patch with {axes} axes"),
            ));
        }
        if self.patch_size.contains(&0) || (self.is_2d && self.patch_size[0] != 1) {
            return Err(Error::invalid("patch_size", format!("{:?}", self.patch_size)));
        }
        for scale in self.deep_supervision_scales.iter().flatten() {
            if scale.len() != axes {
                return Err(Error::invalid(
                    "deep_supervision_scales",
                    format!("{scale:?} for a patch with {axes} axes"),
                ));
            }
        }
        if target::sizes(self).iter().flatten().any(|size| *size == 0) {
            return Err(Error::invalid(
                "deep_supervision_scales",
                "a target would be empty",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_patch_sizes_are_nnunets() {
        // Python: get_patch_size(patch, *3 * (+-rotation), (0.85, 1.25)), initial[0] = patch[0] in dummy 2D.
        for (patch, initial) in [
            (&[40, 56, 40][..], [73, 80, 64]),
            (&[96, 160, 160], [191, 257, 219]),
            (&[128, 128, 128], [205, 205, 205]),
            (&[64, 192, 160], [178, 289, 200]),
            (&[20, 320, 256], [20, 376, 376]),
            (&[56, 40], [1, 65, 65]),
            (&[512, 512], [1, 602, 602]),
            (&[256, 320], [1, 376, 376]),
            (&[320, 192], [1, 422, 225]),
        ] {
            let settings = AugmentationSettings::new(patch).unwrap();
            assert_eq!(settings.initial_patch_size(), initial, "{patch:?}");
        }
    }

    #[test]
    fn the_heavy_augmentation_starts_from_larger_patches() {
        // Python: get_patch_size(patch, *3 * (+-rotation), (0.7, 1.43)), initial[0] = patch[0] in dummy 2D.
        for (patch, initial) in [
            (&[40, 56, 40][..], [89, 97, 78]),
            (&[128, 128, 128], [249, 249, 249]),
            (&[20, 320, 256], [20, 457, 457]),
            (&[56, 40], [1, 80, 80]),
            (&[512, 512], [1, 731, 731]),
        ] {
            let settings = AugmentationSettings {
                augmentation: Augmentation::Heavy,
                ..AugmentationSettings::new(patch).unwrap()
            };
            assert_eq!(settings.initial_patch_size(), initial, "{patch:?}");
        }
    }

    #[test]
    fn variants_are_values() {
        let thin = AugmentationSettings::new(&[20, 320, 256]).unwrap();
        assert!(thin.dummy_2d && thin.rotation > 3.0);
        let turned = thin.clone().without_dummy_2d();
        assert!(!turned.dummy_2d && (turned.rotation.to_degrees() - 30.0).abs() < 1e-9);
        assert!(turned.initial_patch_size()[0] > 20);
        let still = AugmentationSettings {
            augmentation: Augmentation::None,
            ..thin
        };
        assert_eq!(still.initial_patch_size(), [20, 320, 256]);
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        assert!(AugmentationSettings::new(&[8]).is_err());
        let mut settings = AugmentationSettings::new(&[32, 32]).unwrap();
        settings.mirror_axes = vec![2];
        assert!(settings.check().unwrap_err().to_string().contains("mirror_axes"));
        let settings = AugmentationSettings::new(&[8, 8])
            .unwrap()
            .with_deep_supervision(&[vec![1, 1, 1], vec![2, 2, 2]]);
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .contains("deep_supervision_scales")
        );
    }
}
