//! Weights at rest: nnU-Net's .pth checkpoints, safetensors between sites, and nnU-Net's results folder.
//!
//! Nothing here needs libtorch.

pub(crate) mod made;
mod optimizer_state;
pub mod pickle;
mod pth_read;
mod pth_write;
pub mod results;
pub mod safetensors;

pub use pth_read::PthFile;
pub use pth_write::write_pth;

use schemas::job::FoldId;

use crate::{
    network::StateDict,
    train::{OptimiserKind, ScalerState, TrainerVariant},
};

/// What a checkpoint of nnU-Net holds (nnUNetTrainer.save_checkpoint).
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The network's weights.
    pub weights: StateDict,
    /// What the optimiser remembers, as in [`MomentumState`](crate::train::MomentumState). A weight of which it
    /// remembers nothing has not been updated yet.
    pub momentum: StateDict,
    /// The optimizer's settings.
    pub optimiser: OptimiserGroup,
    /// The gradient scaler; None of a training on the CPU.
    pub scaler: Option<ScalerState>,
    /// The curves of the training, one entry per completed epoch.
    pub logging: Logging,
    /// The best moving average of the pseudo Dice so far. NaN where it became NaN; None before the first epoch.
    pub best_ema: Option<f64>,
    /// How many epochs are completed.
    pub current_epoch: usize,
    /// What the trainer was started with.
    pub init_args: InitArgs,
    /// The trainer's class name.
    pub trainer_name: String,
    /// The axes (0 = first spatial axis of the transposed image) over which predictions may be mirrored.
    pub mirror_axes: Option<Vec<usize>>,
}

/// The settings of the optimizer's only parameter group: constants of the kind, and learning rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimiserGroup {
    /// Which optimiser.
    pub kind: OptimiserKind,
    /// The learning rate of the last epoch.
    pub learning_rate: f64,
    /// The learning rate of the first epoch.
    pub initial_learning_rate: f64,
}

impl OptimiserGroup {
    /// The group of a trainer after an epoch of learning rate `last`; before the first one where that is None.
    pub fn of(trainer: &TrainerVariant, last: Option<f64>) -> Self {
        Self {
            kind: trainer.optimiser,
            learning_rate: last.unwrap_or(trainer.initial_learning_rate),
            initial_learning_rate: trainer.initial_learning_rate,
        }
    }
}

/// What the trainer was started with. The device is left out: it is a Python object, and not needed to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct InitArgs {
    /// plans.json.
    pub plans: serde_json::Value,
    /// The configuration's name, such as `3d_fullres`.
    pub configuration: String,
    /// The fold.
    pub fold: FoldId,
    /// dataset.json.
    pub dataset_json: serde_json::Value,
}

/// nnU-Net's training curves (training/logging/nnunet_logger.py). All lists have one entry per completed epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logging {
    /// Mean foreground pseudo Dice.
    pub mean_fg_dice: Vec<f64>,
    /// Its moving average.
    pub ema_fg_dice: Vec<f64>,
    /// Pseudo Dice per class or region.
    pub dice_per_class_or_region: Vec<Vec<f64>>,
    /// Mean training loss.
    pub train_losses: Vec<f64>,
    /// Mean validation loss.
    pub val_losses: Vec<f64>,
    /// Learning rate.
    pub lrs: Vec<f64>,
    /// When the epoch began, in seconds.
    pub epoch_start_timestamps: Vec<f64>,
    /// When the epoch ended, in seconds.
    pub epoch_end_timestamps: Vec<f64>,
}

/// One epoch of [`Logging`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEpoch {
    /// Pseudo Dice per class or region; NaN for a class that did not occur.
    pub dice_per_class_or_region: Vec<f64>,
    /// Mean training loss.
    pub train_loss: f64,
    /// Mean validation loss.
    pub val_loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// When the epoch began, in seconds. In a federated checkpoint an ordinal.
    pub start: f64,
    /// When the epoch ended, in seconds. In a federated checkpoint an ordinal.
    pub end: f64,
}

impl Logging {
    /// Appends an epoch. The mean of the Dice leaves NaN out; the moving average is 0.9 of the old and 0.1 of the new,
    /// in float32 as nnU-Net computes it. Returns the moving average.
    pub fn record(&mut self, epoch: LoggedEpoch) -> f64 {
        let known: Vec<f32> = epoch
            .dice_per_class_or_region
            .iter()
            .filter(|d| !d.is_nan())
            .map(|&d| d as f32)
            .collect();
        let mean = known.iter().sum::<f32>() / known.len() as f32;
        let ema = match self.ema_fg_dice.last() {
            Some(&last) => last as f32 * 0.9 + 0.1 * mean,
            None => mean,
        };
        self.mean_fg_dice.push(mean.into());
        self.ema_fg_dice.push(ema.into());
        self.dice_per_class_or_region.push(epoch.dice_per_class_or_region);
        self.train_losses.push(epoch.train_loss);
        self.val_losses.push(epoch.val_loss);
        self.lrs.push(epoch.lr);
        self.epoch_start_timestamps.push(epoch.start);
        self.epoch_end_timestamps.push(epoch.end);
        ema.into()
    }

    /// How many epochs every list covers.
    pub fn epochs(&self) -> usize {
        self.scalars()
            .map(|(_, list)| list.len())
            .into_iter()
            .min()
            .unwrap_or(0)
            .min(self.dice_per_class_or_region.len())
    }

    /// Drops what reaches beyond `epochs` completed epochs.
    pub fn truncate(&mut self, epochs: usize) {
        for list in [
            &mut self.mean_fg_dice,
            &mut self.ema_fg_dice,
            &mut self.train_losses,
            &mut self.val_losses,
            &mut self.lrs,
            &mut self.epoch_start_timestamps,
            &mut self.epoch_end_timestamps,
        ] {
            list.truncate(epochs);
        }
        self.dice_per_class_or_region.truncate(epochs);
    }

    fn scalars(&self) -> [(&'static str, &Vec<f64>); 7] {
        [
            ("mean_fg_dice", &self.mean_fg_dice),
            ("ema_fg_dice", &self.ema_fg_dice),
            ("train_losses", &self.train_losses),
            ("val_losses", &self.val_losses),
            ("lrs", &self.lrs),
            ("epoch_start_timestamps", &self.epoch_start_timestamps),
            ("epoch_end_timestamps", &self.epoch_end_timestamps),
        ]
    }

    fn to_pickle(&self) -> pickle::Value {
        use pickle::Value;
        let floats = |list: &[f64]| Value::List(list.iter().map(|&v| Value::Float(v)).collect());
        let mut entries: Vec<(&str, Value)> = self.scalars().map(|(key, list)| (key, floats(list))).to_vec();
        let per_class = Value::List(self.dice_per_class_or_region.iter().map(|d| floats(d)).collect());
        entries.insert(2, ("dice_per_class_or_region", per_class));
        Value::dict(entries)
    }

    fn from_pickle(value: &pickle::Value) -> Result<Logging, String> {
        let list = |key: &str| {
            value
                .get(key)
                .and_then(pickle::Value::as_items)
                .ok_or(format!("logging.{key}: no list"))
        };
        let floats = |key: &str, items: &[pickle::Value]| {
            let number = |v: &pickle::Value| v.as_f64().ok_or(format!("logging.{key}: holds {}", v.kind()));
            items.iter().map(number).collect::<Result<Vec<f64>, String>>()
        };
        let column = |key: &str| floats(key, list(key)?);
        let per_class = "dice_per_class_or_region";
        Ok(Logging {
            mean_fg_dice: column("mean_fg_dice")?,
            ema_fg_dice: column("ema_fg_dice")?,
            dice_per_class_or_region: list(per_class)?
                .iter()
                .map(|v| {
                    floats(
                        per_class,
                        v.as_items()
                            .ok_or(format!("logging.{per_class}: no list of lists"))?,
                    )
                })
                .collect::<Result<_, String>>()?,
            train_losses: column("train_losses")?,
            val_losses: column("val_losses")?,
            lrs: column("lrs")?,
            epoch_start_timestamps: column("epoch_start_timestamps")?,
            epoch_end_timestamps: column("epoch_end_timestamps")?,
        })
    }
}

#[cfg(test)]
mod tests;
