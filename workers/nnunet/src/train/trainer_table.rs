//! nnU-Net's trainers by name: what each changes, as values. Names of nnunetv2/training/nnUNetTrainer.

use schemas::nnunet::Configuration;

use super::{
    augment::{Augmentation, AugmentationSettings, SegInterpolation},
    loader::Oversampling,
    loss::{LossKind, deep_supervision_weights},
    nearest::nearest_name,
    optimiser::OptimiserKind,
    schedule::Schedule,
};
use crate::{Error, Result};

/// The axes that training mirrors and that prediction may mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirroring {
    /// All spatial axes.
    All,
    /// All but the last spatial axis.
    AllButLast,
    /// None.
    None,
}

impl Mirroring {
    /// The axes of a patch with `dimensions` spatial axes: nnU-Net's `inference_allowed_mirroring_axes`, where None
    /// is written for no axis.
    pub fn axes(self, dimensions: usize) -> Option<Vec<usize>> {
        match self {
            Self::All => Some((0..dimensions).collect()),
            Self::AllButLast => Some((0..dimensions.saturating_sub(1)).collect()),
            Self::None => None,
        }
    }
}

/// How foreground is oversampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Foreground {
    /// The last third of every batch.
    LastThird,
    /// Each sample by chance, at the share that the last third of the batch is after rounding.
    ByChance,
    /// Each sample with this probability.
    Probability(f64),
}

/// What a trainer that can train does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerVariant {
    /// Its name, which is also the name of its results folder.
    pub name: &'static str,
    /// Epochs, where nothing else says how many.
    pub epochs: usize,
    /// The optimiser.
    pub optimiser: OptimiserKind,
    /// Learning rate of the first epoch.
    pub initial_learning_rate: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// The loss.
    pub loss: LossKind,
    /// Whether the network has batch norm in place of the plans' norm.
    pub batch_norm: bool,
    /// Whether the lower resolutions have a loss too.
    pub deep_supervision: bool,
    /// Mirrored axes.
    pub mirroring: Mirroring,
    /// The random augmentation.
    pub augmentation: Augmentation,
    /// Whether thin patches are rotated within slices only.
    pub dummy_2d: bool,
    /// How the segmentation is rotated and scaled.
    pub seg_interpolation: SegInterpolation,
    /// Whether the image takes the nearest voxel too.
    pub nearest_image: bool,
    /// How foreground is oversampled.
    pub foreground: Foreground,
    /// Patches in a batch, where not those of the plans.
    pub batch_size: Option<usize>,
}

const DEFAULT: TrainerVariant = TrainerVariant {
    name: "nnUNetTrainer",
    epochs: 1000,
    optimiser: OptimiserKind::Sgd,
    initial_learning_rate: 1e-2,
    schedule: Schedule::Poly,
    loss: LossKind::DiceAndCrossEntropy { smooth: 1e-5 },
    batch_norm: false,
    deep_supervision: true,
    mirroring: Mirroring::All,
    augmentation: Augmentation::Default,
    dummy_2d: true,
    seg_interpolation: SegInterpolation::Linear,
    nearest_image: false,
    foreground: Foreground::LastThird,
    batch_size: None,
};

impl Default for TrainerVariant {
    /// nnU-Net's own trainer.
    fn default() -> Self {
        DEFAULT
    }
}

const fn epochs(name: &'static str, epochs: usize) -> TrainerVariant {
    TrainerVariant {
        name,
        epochs,
        ..DEFAULT
    }
}

const fn mirrors(name: &'static str, epochs: usize, mirroring: Mirroring) -> TrainerVariant {
    TrainerVariant {
        name,
        epochs,
        mirroring,
        ..DEFAULT
    }
}

const fn nearest(name: &'static str, mirroring: Mirroring) -> TrainerVariant {
    TrainerVariant {
        name,
        seg_interpolation: SegInterpolation::Nearest,
        mirroring,
        ..DEFAULT
    }
}

const fn heavy(name: &'static str, epochs: usize, mirroring: Mirroring) -> TrainerVariant {
    TrainerVariant {
        name,
        epochs,
        augmentation: Augmentation::Heavy,
        mirroring,
        ..DEFAULT
    }
}

const fn loss(name: &'static str, epochs: usize, loss: LossKind) -> TrainerVariant {
    TrainerVariant {
        name,
        epochs,
        loss,
        ..DEFAULT
    }
}

const fn foreground(name: &'static str, foreground: Foreground) -> TrainerVariant {
    TrainerVariant {
        name,
        foreground,
        ..DEFAULT
    }
}

const fn optimiser(name: &'static str, optimiser: OptimiserKind, rate: f64) -> TrainerVariant {
    TrainerVariant {
        name,
        optimiser,
        initial_learning_rate: rate,
        ..DEFAULT
    }
}

/// The trainers that train as nnU-Net's do.
pub const TRAINS: &[TrainerVariant] = &[
    DEFAULT,
    epochs("nnUNetTrainer_1epoch", 1),
    epochs("nnUNetTrainer_5epochs", 5),
    epochs("nnUNetTrainer_10epochs", 10),
    epochs("nnUNetTrainer_20epochs", 20),
    epochs("nnUNetTrainer_50epochs", 50),
    epochs("nnUNetTrainer_100epochs", 100),
    epochs("nnUNetTrainer_250epochs", 250),
    epochs("nnUNetTrainer_500epochs", 500),
    epochs("nnUNetTrainer_750epochs", 750),
    epochs("nnUNetTrainer_2000epochs", 2000),
    epochs("nnUNetTrainer_4000epochs", 4000),
    epochs("nnUNetTrainer_8000epochs", 8000),
    mirrors("nnUNetTrainer_250epochs_NoMirroring", 250, Mirroring::None),
    mirrors("nnUNetTrainer_2000epochs_NoMirroring", 2000, Mirroring::None),
    mirrors("nnUNetTrainer_4000epochs_NoMirroring", 4000, Mirroring::None),
    mirrors("nnUNetTrainer_8000epochs_NoMirroring", 8000, Mirroring::None),
    mirrors("nnUNetTrainerNoMirroring", 1000, Mirroring::None),
    mirrors("nnUNetTrainer_onlyMirror01", 1000, Mirroring::AllButLast),
    mirrors("nnUNetTrainer_onlyMirror01_1500ep", 1500, Mirroring::AllButLast),
    nearest("nnUNetTrainer_onlyMirror01_DASegOrd0", Mirroring::AllButLast),
    nearest("nnUNetTrainer_DASegOrd0", Mirroring::All),
    nearest("nnUNetTrainer_DASegOrd0_NoMirroring", Mirroring::None),
    TrainerVariant {
        name: "nnUNetTrainerNoDA",
        augmentation: Augmentation::None,
        mirroring: Mirroring::None,
        ..DEFAULT
    },
    TrainerVariant {
        name: "nnUNetTrainer_noDummy2DDA",
        dummy_2d: false,
        ..DEFAULT
    },
    heavy("nnUNetTrainerDA5", 1000, Mirroring::All),
    heavy("nnUNetTrainerDA5_10epochs", 10, Mirroring::All),
    heavy("nnUNetTrainer_onlyMirror01_DA5", 1000, Mirroring::AllButLast),
    TrainerVariant {
        seg_interpolation: SegInterpolation::Nearest,
        ..heavy("nnUNetTrainerDA5Segord0", 1000, Mirroring::All)
    },
    TrainerVariant {
        seg_interpolation: SegInterpolation::Nearest,
        nearest_image: true,
        ..heavy("nnUNetTrainerDA5ord0", 1000, Mirroring::All)
    },
    loss("nnUNetTrainerCELoss", 1000, LossKind::CrossEntropy),
    loss("nnUNetTrainerCELoss_5epochs", 5, LossKind::CrossEntropy),
    loss("nnUNetTrainerDiceLoss", 1000, LossKind::Dice),
    loss(
        "nnUNetTrainerDiceCELoss_noSmooth",
        1000,
        LossKind::DiceAndCrossEntropy { smooth: 0.0 },
    ),
    loss(
        "nnUNetTrainerTopk10Loss",
        1000,
        LossKind::TopK {
            label_smoothing: 0.0,
            dice: false,
        },
    ),
    loss(
        "nnUNetTrainerTopk10LossLS01",
        1000,
        LossKind::TopK {
            label_smoothing: 0.1,
            dice: false,
        },
    ),
    loss(
        "nnUNetTrainerDiceTopK10Loss",
        1000,
        LossKind::TopK {
            label_smoothing: 0.0,
            dice: true,
        },
    ),
    optimiser("nnUNetTrainerAdam", OptimiserKind::AdamWAmsgrad, 1e-2),
    optimiser("nnUNetTrainerAdam1en3", OptimiserKind::AdamWAmsgrad, 1e-3),
    optimiser("nnUNetTrainerAdam3en4", OptimiserKind::AdamWAmsgrad, 3e-4),
    optimiser("nnUNetTrainerVanillaAdam", OptimiserKind::Adam, 1e-2),
    optimiser("nnUNetTrainerVanillaAdam1en3", OptimiserKind::Adam, 1e-3),
    optimiser("nnUNetTrainerVanillaAdam3en4", OptimiserKind::Adam, 3e-4),
    optimiser("nnUNetTrainerAdan", OptimiserKind::Adan, 1e-2),
    optimiser("nnUNetTrainerAdan1en1", OptimiserKind::Adan, 1e-1),
    optimiser("nnUNetTrainerAdan1en3", OptimiserKind::Adan, 1e-3),
    optimiser("nnUNetTrainerAdan3en4", OptimiserKind::Adan, 3e-4),
    TrainerVariant {
        name: "nnUNetTrainerAdanCosAnneal",
        schedule: Schedule::Cosine,
        ..optimiser("", OptimiserKind::Adan, 1e-2)
    },
    TrainerVariant {
        name: "nnUNetTrainerBN",
        batch_norm: true,
        ..DEFAULT
    },
    TrainerVariant {
        name: "nnUNetTrainerCosAnneal",
        schedule: Schedule::Cosine,
        ..DEFAULT
    },
    TrainerVariant {
        name: "nnUNetTrainer_warmup",
        schedule: Schedule::WarmUpThenPoly { epochs: 50 },
        ..DEFAULT
    },
    TrainerVariant {
        name: "nnUNetTrainerNoDeepSupervision",
        deep_supervision: false,
        ..DEFAULT
    },
    foreground("nnUNetTrainer_probabilisticOversampling", Foreground::ByChance),
    foreground(
        "nnUNetTrainer_probabilisticOversampling_033",
        Foreground::Probability(0.33),
    ),
    foreground(
        "nnUNetTrainer_probabilisticOversampling_010",
        Foreground::Probability(0.1),
    ),
    TrainerVariant {
        name: "nnUNet_Trainer_BS8",
        batch_size: Some(8),
        ..DEFAULT
    },
];

/// nnU-Net's trainers that do not train here, with the reason.
pub const REFUSED: &[(&str, &str)] = &[
    ("nnUNetTrainerBenchmark_5epochs", BENCHMARK),
    ("nnUNetTrainerBenchmark_5epochs_noDataLoading", BENCHMARK),
    ("AbstractPrimus", PRIMUS),
    ("nnUNet_Primus_S_Trainer", PRIMUS),
    ("nnUNet_Primus_B_Trainer", PRIMUS),
    ("nnUNet_Primus_M_Trainer", PRIMUS),
    ("nnUNet_Primus_L_Trainer", PRIMUS),
    ("nnUNet_Primus_M_Trainer_BS8", PRIMUS),
    ("nnUNet_Primus_M_Trainer_BS8_2e4", PRIMUS),
    ("nnUNet_PrimusV2S_Trainer", PRIMUS),
    ("nnUNet_PrimusV2B_Trainer", PRIMUS),
    ("nnUNet_PrimusV2M_Trainer", PRIMUS),
    ("nnUNet_PrimusV2L_Trainer", PRIMUS),
    ("nnUNet_PrimusV3S_Trainer", PRIMUS),
    ("nnUNet_PrimusV3B_Trainer", PRIMUS),
    ("nnUNet_PrimusV3M_Trainer", PRIMUS),
    ("nnUNet_PrimusV3L_Trainer", PRIMUS),
    ("_Primus_S_96_BS1", PRIMUS),
    ("_Primus_B_96_BS1", PRIMUS),
    ("_Primus_M_96_BS1", PRIMUS),
    ("_Primus_L_48_BS1", PRIMUS),
];

const BENCHMARK: &str = "it measures Python nnU-Net's speed and writes no checkpoint";
const PRIMUS: &str = "transformers are not supported";

impl TrainerVariant {
    /// The trainer of that name. A trainer of nnU-Net's that does not train here is an error with the reason,
    /// an unknown name one with the nearest name.
    pub fn by_name(name: &str) -> Result<&'static TrainerVariant> {
        if let Some(variant) = TRAINS.iter().find(|variant| variant.name == name) {
            return Ok(variant);
        }
        let reason = match REFUSED.iter().find(|(refused, _)| *refused == name) {
            Some((_, reason)) => format!("{name} cannot train: {reason}"),
            None => format!(
                "no trainer {name:?}; the nearest name is {}",
                nearest_name(name, Self::all_names())
            ),
        };
        Err(Error::invalid("trainer_name", reason))
    }

    /// Patches in a batch.
    pub fn batch_size_of(&self, configuration: &Configuration) -> usize {
        self.batch_size.unwrap_or(configuration.batch_size)
    }

    /// Weights of a network's `outputs` in the loss, full resolution first.
    pub fn loss_weights(&self, outputs: usize) -> Vec<f64> {
        match self.deep_supervision {
            true => deep_supervision_weights(outputs),
            false => vec![1.0],
        }
    }

    /// Whether nnU-Net has a trainer of that name, trainable here or not.
    pub fn is_known(name: &str) -> bool {
        Self::all_names().any(|known| known == name)
    }

    /// Every name, those that train first.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        TRAINS
            .iter()
            .map(|v| v.name)
            .chain(REFUSED.iter().map(|(name, _)| *name))
    }

    /// The augmentation for a patch of (z, y, x) or (y, x); masks, regions and scales are left at their defaults.
    pub fn augmentation(&self, patch_size: &[usize]) -> Result<AugmentationSettings> {
        let mut settings = AugmentationSettings::new(patch_size)?;
        if !self.dummy_2d {
            settings = settings.without_dummy_2d();
        }
        settings.augmentation = self.augmentation;
        settings.seg_interpolation = self.seg_interpolation;
        settings.nearest_image = self.nearest_image;
        settings.mirror_axes = self.mirroring.axes(patch_size.len()).unwrap_or_default();
        Ok(settings)
    }

    /// Which samples of a batch must show foreground.
    pub fn oversampling(&self, batch_size: usize) -> Oversampling {
        match self.foreground {
            Foreground::LastThird => Oversampling::LastOfBatch(0.33),
            Foreground::ByChance => {
                Oversampling::Probabilistic(Oversampling::effective_rate(0.33, batch_size))
            }
            Foreground::Probability(rate) => Oversampling::Probabilistic(rate),
        }
    }
}

#[cfg(test)]
#[path = "trainer_table_tests.rs"]
mod tests;
