//! nnU-Net's losses (nnunetv2/training/loss/{dice,compound_losses,robust_ce_loss,deep_supervision}.py).

/// Which loss a trainer uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossKind {
    /// Dice + cross-entropy; with regions, Dice + binary cross-entropy.
    DiceAndCrossEntropy {
        /// Added to numerator and denominator of Dice: 1e-5, or 0 for `nnUNetTrainerDiceCELoss_noSmooth`.
        smooth: f64,
    },
    /// Cross-entropy. Not for regions.
    CrossEntropy,
    /// Dice. Not with an ignore label.
    Dice,
    /// Cross-entropy over the 10 % of voxels with the highest. Not for regions.
    TopK {
        /// Weight of the uniform distribution in the targets.
        label_smoothing: f64,
        /// Adds Dice.
        dice: bool,
    },
}

/// Weights of the outputs, full resolution first: 1, 1/2, 1/4, ..., the last 0, normalised to sum 1.
/// A single output, which nnU-Net would weigh 0/0, has weight 1.
pub fn deep_supervision_weights(outputs: usize) -> Vec<f64> {
    if outputs < 2 {
        return vec![1.0; outputs];
    }
    let mut weights: Vec<f64> = (0..outputs).map(|i| 0.5f64.powi(i as i32)).collect();
    weights[outputs - 1] = 0.0;
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

#[cfg(feature = "torch")]
pub use torch::Loss;

#[cfg(feature = "torch")]
mod torch {
    use tch::{Kind, Reduction, Tensor};

    use super::*;
    use crate::{Error, Result};

    /// A loss over the outputs of deep supervision.
    #[derive(Clone, Debug)]
    pub struct Loss {
        kind: LossKind,
        batch_dice: bool,
        regions: bool,
        ignore_label: Option<i64>,
        weights: Vec<f64>,
    }

    impl Loss {
        /// `weights` has one entry per output, full resolution first (see [`deep_supervision_weights`]);
        /// `ignore_label` with regions only says that the last target channel is the map of ignored voxels.
        pub fn new(
            kind: LossKind,
            batch_dice: bool,
            regions: bool,
            ignore_label: Option<i64>,
            weights: Vec<f64>,
        ) -> Result<Self> {
            if regions && matches!(kind, LossKind::CrossEntropy | LossKind::TopK { .. }) {
                return Err(Error::invalid(
                    "trainer_name",
                    "this trainer's loss does not support regions",
                ));
            }
            if kind == LossKind::Dice && ignore_label.is_some() {
                return Err(Error::invalid(
                    "trainer_name",
                    "this trainer's loss does not support an ignore label",
                ));
            }
            if weights.iter().all(|&w| w == 0.0) {
                return Err(Error::invalid("deep supervision", "no output has a weight"));
            }
            Ok(Self {
                kind,
                batch_dice,
                regions,
                ignore_label,
                weights,
            })
        }

        /// How many outputs, from full resolution on, have a weight: the others need not be computed.
        pub fn wanted_outputs(&self) -> usize {
            self.weights
                .iter()
                .rposition(|&w| w != 0.0)
                .map_or(0, |last| last + 1)
        }

        /// The weighted sum over outputs (b, heads, ...) with their targets: (b, 1, ...) labels, or
        /// (b, regions [+ 1 ignore map], ...) of 0 and 1; any integer or float kind.
        pub fn forward(&self, outputs: &[Tensor], targets: &[Tensor]) -> Result<Tensor> {
            let wanted = self.wanted_outputs();
            if outputs.len() < wanted || targets.len() < wanted {
                return Err(Error::Torch(format!(
                    "loss: {} outputs and {} targets for {wanted} resolutions",
                    outputs.len(),
                    targets.len()
                )));
            }
            let mut total: Option<Tensor> = None;
            for (i, &weight) in self.weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                let loss = self.single(&outputs[i], &targets[i])?.f_mul_scalar(weight)?;
                total = Some(match total {
                    Some(total) => total.f_add(&loss)?,
                    None => loss,
                });
            }
            total.ok_or_else(|| Error::Torch("loss: no output has a weight".into()))
        }

        fn single(&self, output: &Tensor, target: &Tensor) -> Result<Tensor> {
            if self.regions {
                self.of_regions(output, target)
            } else {
                self.of_labels(output, target)
            }
        }

        fn of_labels(&self, output: &Tensor, target: &Tensor) -> Result<Tensor> {
            let labels = target.f_select(1, 0)?.f_to_kind(Kind::Int64)?;
            let mask = self.ignore_label.map(|ignore| labels.f_ne(ignore)).transpose()?;
            let dice = |smooth| -> Result<Tensor> {
                let probabilities = output.f_softmax(1, None)?;
                let foreground = probabilities.f_narrow(1, 1, output.size()[1] - 1)?;
                // One-hot without background; the ignore label matches no class.
                let mut classes = vec![1; output.dim()];
                classes[1] = -1;
                let classes = Tensor::f_arange_start(1, output.size()[1], (Kind::Int64, output.device()))?
                    .f_view(&classes[..])?;
                let truth = labels.f_unsqueeze(1)?.f_eq_tensor(&classes)?;
                let mask = mask.as_ref().map(|m| m.f_unsqueeze(1)).transpose()?;
                self.dice(&foreground, &truth, mask.as_ref(), smooth)
            };
            let none_valid = || -> Result<bool> {
                Ok(match &mask {
                    Some(mask) => mask.f_any()?.f_int64_value(&[])? == 0,
                    None => false,
                })
            };
            match self.kind {
                LossKind::Dice => dice(1e-5),
                LossKind::CrossEntropy => self.cross_entropy(output, &labels, Reduction::Mean, 0.0),
                LossKind::DiceAndCrossEntropy { smooth } => {
                    let dice = dice(smooth)?;
                    if none_valid()? {
                        return Ok(dice);
                    }
                    Ok(self
                        .cross_entropy(output, &labels, Reduction::Mean, 0.0)?
                        .f_add(&dice)?)
                }
                LossKind::TopK {
                    label_smoothing,
                    dice: with_dice,
                } => {
                    let top = || -> Result<Tensor> {
                        let loss = self.cross_entropy(output, &labels, Reduction::None, label_smoothing)?;
                        let k = (loss.numel() as f64 * 10.0 / 100.0) as i64;
                        let (highest, _) = loss.f_reshape([-1])?.f_topk(k, 0, true, false)?;
                        Ok(highest.f_mean(None)?)
                    };
                    match with_dice {
                        false => top(),
                        true if none_valid()? => dice(1e-5),
                        true => Ok(top()?.f_add(&dice(1e-5)?)?),
                    }
                }
            }
        }

        fn cross_entropy(
            &self,
            output: &Tensor,
            labels: &Tensor,
            reduction: Reduction,
            label_smoothing: f64,
        ) -> Result<Tensor> {
            let ignore = self.ignore_label.unwrap_or(-100);
            Ok(output.f_cross_entropy_loss(labels, None::<&Tensor>, reduction, ignore, label_smoothing)?)
        }

        fn of_regions(&self, output: &Tensor, target: &Tensor) -> Result<Tensor> {
            let regions = output.size()[1];
            let truth = target.f_narrow(1, 0, regions)?;
            let mask = match self.ignore_label {
                Some(_) => Some(target.f_narrow(1, regions, 1)?.f_eq(0)?),
                None => None,
            };
            let probabilities = output.f_sigmoid()?;
            let dice = |smooth| self.dice(&probabilities, &truth.f_ne(0)?, mask.as_ref(), smooth);
            let smooth = match self.kind {
                LossKind::DiceAndCrossEntropy { smooth } => smooth,
                _ => return dice(1e-5),
            };
            let truth_float = truth.f_to_kind(Kind::Float)?;
            let bce = |reduction| {
                output.f_binary_cross_entropy_with_logits(
                    &truth_float,
                    None::<&Tensor>,
                    None::<&Tensor>,
                    reduction,
                )
            };
            let bce = match &mask {
                None => bce(Reduction::Mean)?,
                // nnU-Net divides by the number of voxels, not by voxels times regions.
                Some(mask) => {
                    let sum = bce(Reduction::None)?.f_mul(mask)?.f_sum(None)?;
                    sum.f_div(&mask.f_sum(Kind::Float)?.f_clamp_min(1e-8)?)?
                }
            };
            Ok(bce.f_add(&dice(smooth)?)?)
        }

        /// Minus the mean soft Dice of probabilities (b, c, ...) and a boolean one-hot truth of the same shape;
        /// `mask` (b, 1, ...) is true where voxels count.
        fn dice(
            &self,
            probabilities: &Tensor,
            truth: &Tensor,
            mask: Option<&Tensor>,
            smooth: f64,
        ) -> Result<Tensor> {
            let axes: Vec<i64> = (2..probabilities.dim() as i64).collect();
            let sum = |t: &Tensor| t.f_sum_dim_intlist(&axes[..], false, Kind::Float);
            let (intersection, prediction, truth) = match mask {
                None => (
                    sum(&probabilities.f_mul(truth)?)?,
                    sum(probabilities)?,
                    sum(truth)?,
                ),
                Some(mask) => {
                    let truth = truth.f_logical_and(mask)?;
                    (
                        sum(&probabilities.f_mul(&truth)?)?,
                        sum(&probabilities.f_mul(mask)?)?,
                        sum(&truth)?,
                    )
                }
            };
            let pool = |t: Tensor| {
                if self.batch_dice {
                    t.f_sum_dim_intlist([0].as_slice(), false, Kind::Float)
                } else {
                    Ok(t)
                }
            };
            let numerator = pool(intersection)?.f_mul_scalar(2.0)?.f_add_scalar(smooth)?;
            let denominator = pool(truth)?
                .f_add(&pool(prediction)?)?
                .f_add_scalar(smooth)?
                .f_clamp_min(1e-8)?;
            Ok(numerator.f_div(&denominator)?.f_mean(None)?.f_neg()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_output_has_no_weight() {
        assert_eq!(deep_supervision_weights(3), [2.0 / 3.0, 1.0 / 3.0, 0.0]);
        assert_eq!(deep_supervision_weights(1), [1.0]);
    }
}
