//! The loss of a batch and its gradient, of all samples at once or of a few at a time.
//!
//! A device that can not hold what the network remembers of a whole batch sees micro-batches. The loss is still that of
//! the whole batch, batch Dice and top-k included: all logits are made without remembering anything, the loss gives the
//! gradient of the logits, and a second pass carries it, some samples at a time, to the parameters. That costs one more
//! forward pass and differs from the whole batch's gradient by rounding only.

use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::loss::Loss;
use crate::{
    Error, Result,
    network::{Layout, Mode, UNet},
};

/// Samples that a network sees at once; None: the whole batch.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch(Option<i64>);

impl MicroBatch {
    /// That many `samples`.
    ///
    /// # Errors
    /// 0 samples; a network whose norm looks at, or remembers, more than one sample.
    pub fn new(samples: Option<usize>, layout: &Layout) -> Result<Self> {
        let invalid = |reason| Err(Error::invalid("micro_batch", reason));
        match samples {
            Some(0) => invalid("is 0, expected 1 or more"),
            Some(_) if layout.couples_samples() => invalid(
                "the plans' norm couples the samples of a batch (batch norm, or running statistics), which cannot be split",
            ),
            samples => Ok(Self(samples.map(|n| n as i64))),
        }
    }

    /// First sample and number of samples of each part of a batch.
    fn parts(self, batch: i64) -> impl Iterator<Item = (i64, i64)> {
        let step = self.0.unwrap_or(batch).max(1);
        (0..batch)
            .step_by(step as usize)
            .map(move |first| (first, step.min(batch - first)))
    }

    fn splits(self, batch: i64) -> bool {
        self.0.is_some_and(|samples| samples < batch)
    }
}

/// The passes of one batch through a network and its loss.
pub struct Passes<'a> {
    /// The network.
    pub network: &'a UNet,
    /// The loss.
    pub loss: &'a Loss,
    /// Samples at once.
    pub micro_batch: MicroBatch,
}

/// A loss that waits for [`Passes::gradients`].
pub struct Forwarded {
    /// The loss, a scalar.
    pub loss: Tensor,
    /// Logits that stand for a network whose passes are not remembered.
    logits: Option<Vec<Tensor>>,
}

/// Gives the generator of a layer's number; what drops out is drawn from it.
pub type Draws<'a> = &'a dyn Fn(u64) -> ChaCha8Rng;

impl Passes<'_> {
    /// Logits of the resolutions that have a loss, and the loss, of weights as inference uses them.
    pub fn validate(&self, data: &Tensor, targets: &[Tensor]) -> Result<(Vec<Tensor>, Tensor)> {
        tch::no_grad(|| {
            let logits = self.logits(data, |_| Mode::Inference)?;
            let loss = self.loss.forward(&logits, targets)?;
            Ok((logits, loss))
        })
    }

    /// The loss of a training iteration.
    pub fn forward(&self, data: &Tensor, targets: &[Tensor], draws: Draws) -> Result<Forwarded> {
        let training = |first_sample| Mode::Training { draws, first_sample };
        if !self.micro_batch.splits(data.size()[0]) {
            let logits = self
                .network
                .outputs(data, self.loss.wanted_outputs(), training(0))?;
            let loss = self.loss.forward(&logits, targets)?;
            return Ok(Forwarded { loss, logits: None });
        }
        let logits: Vec<Tensor> = tch::no_grad(|| self.logits(data, training))?
            .into_iter()
            .map(|logits| logits.set_requires_grad(true))
            .collect();
        let loss = self.loss.forward(&logits, targets)?;
        Ok(Forwarded {
            loss,
            logits: Some(logits),
        })
    }

    /// The gradients of the network's parameters, for the loss times `scale`; None for parameters without a loss.
    pub fn gradients(
        &self,
        data: &Tensor,
        forwarded: Forwarded,
        scale: f64,
        draws: Draws,
    ) -> Result<Vec<Option<Tensor>>> {
        let wanted = self.loss.wanted_outputs();
        let used = self.network.used(wanted);
        let parameters = self.network.parameters().iter().zip(&used);
        let leaves: Vec<&Tensor> = parameters.filter_map(|(p, used)| used.then_some(p)).collect();
        let scaled = forwarded.loss.f_mul_scalar(scale)?;
        let gradients = match forwarded.logits {
            None => Tensor::f_run_backward(&[scaled], &leaves, false, false)?,
            Some(logits) => {
                let logits: Vec<&Tensor> = logits.iter().collect();
                let of_logits = Tensor::f_run_backward(&[scaled], &logits, false, false)?;
                let mut sums: Vec<Tensor> = Vec::new();
                for (first, samples) in self.micro_batch.parts(data.size()[0]) {
                    let part = data.f_narrow(0, first, samples)?;
                    let mode = Mode::Training {
                        draws,
                        first_sample: first as usize,
                    };
                    let outputs = self.network.outputs(&part, wanted, mode)?;
                    // The gradient of this sum is that of the loss.
                    let mut sum = Tensor::f_zeros([1], (tch::Kind::Float, data.device()))?;
                    for (output, gradient) in outputs.iter().zip(&of_logits) {
                        let product = output.f_mul(&gradient.f_narrow(0, first, samples)?)?;
                        sum = sum.f_add(&product.f_sum(tch::Kind::Float)?)?;
                    }
                    let new = Tensor::f_run_backward(&[sum], &leaves, false, false)?;
                    if sums.is_empty() {
                        sums = new;
                    } else {
                        for (sum, new) in sums.iter_mut().zip(new) {
                            let _ = sum.f_add_(&new)?;
                        }
                    }
                }
                sums
            }
        };
        let mut gradients = gradients.into_iter();
        Ok(used
            .iter()
            .map(|used| if *used { gradients.next() } else { None })
            .collect())
    }

    /// Logits of the whole batch, part by part; nothing is to be remembered of the passes.
    fn logits<'m>(&self, data: &Tensor, mode: impl Fn(usize) -> Mode<'m>) -> Result<Vec<Tensor>> {
        let mut parts: Vec<Vec<Tensor>> = (0..self.loss.wanted_outputs()).map(|_| Vec::new()).collect();
        for (first, samples) in self.micro_batch.parts(data.size()[0]) {
            let part = data.f_narrow(0, first, samples)?;
            let outputs = self.network.outputs(&part, parts.len(), mode(first as usize))?;
            for (parts, output) in parts.iter_mut().zip(outputs) {
                parts.push(output);
            }
        }
        let whole = |mut parts: Vec<Tensor>| match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => Ok(Tensor::f_cat(&parts, 0)?),
        };
        parts.into_iter().map(whole).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;
    use serde_json::json;
    use tch::{Device, Kind};

    use super::*;
    use crate::{network::initial_weights, train::loss::LossKind};

    fn network(norm: &str, bfloat16: bool) -> UNet {
        let architecture = json!({
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3, "features_per_stage": [8, 12, 16], "conv_op": "torch.nn.modules.conv.Conv2d",
                "kernel_sizes": [[3, 3], [3, 3], [3, 3]], "strides": [[1, 1], [2, 2], [2, 2]],
                "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2], "conv_bias": false,
                "norm_op": format!("torch.nn.modules.{norm}2d"), "norm_op_kwargs": {"eps": 1e-5, "affine": true},
                "dropout_op": "torch.nn.Dropout2d", "dropout_op_kwargs": {"p": 0.2},
                "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
        });
        let layout = Layout::new(&serde_json::from_value(architecture).unwrap(), 1, 3).unwrap();
        let weights = initial_weights(&layout, 7).unwrap();
        UNet::new(layout, &weights, Device::Cpu)
            .unwrap()
            .in_bfloat16(bfloat16)
    }

    /// Five unlike samples, and labels for both resolutions that have a loss.
    fn batch() -> (Tensor, Vec<Tensor>) {
        let value = |i: usize| ((i * 2_654_435_761) % 1_000_003) as f32 / 500_000.0 - 1.0;
        let data: Vec<f32> = (0..5 * 24 * 16)
            .map(|i| value(i) * (1.0 + i as f32 / 500.0))
            .collect();
        let labels = |n: usize| {
            let labels: Vec<i16> = (0..n)
                .map(|i| if value(i + 7) > 0.6 { i % 3 } else { 0 } as i16)
                .collect();
            Tensor::from_slice(&labels)
        };
        (
            Tensor::from_slice(&data).view([5, 1, 24, 16]),
            vec![
                labels(5 * 24 * 16).view([5, 1, 24, 16]),
                labels(5 * 12 * 8).view([5, 1, 12, 8]),
            ],
        )
    }

    fn gradients(network: &UNet, loss: &Loss, samples: Option<usize>) -> (f64, Vec<Option<Tensor>>) {
        let passes = Passes {
            network,
            loss,
            micro_batch: MicroBatch::new(samples, network.layout()).unwrap(),
        };
        let (data, targets) = batch();
        let draws = |layer| ChaCha8Rng::seed_from_u64(layer);
        let forwarded = passes.forward(&data, &targets, &draws).unwrap();
        let value = forwarded.loss.double_value(&[]);
        let gradients = passes.gradients(&data, forwarded, 8.0, &draws).unwrap();
        (value, gradients)
    }

    /// The largest difference of a tensor's gradients, of its largest.
    fn apart(ours: &[Option<Tensor>], theirs: &[Option<Tensor>]) -> f64 {
        let size = |t: &Tensor| t.abs().max().double_value(&[]);
        ours.iter()
            .zip(theirs)
            .filter_map(|pair| match pair {
                (Some(ours), Some(theirs)) => Some(size(&(ours - theirs)) / size(theirs)),
                (ours, theirs) => {
                    assert!(ours.is_none() && theirs.is_none());
                    None
                }
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn micro_batches_have_the_whole_batchs_gradient() {
        let network = network("instancenorm.InstanceNorm", false);
        for kind in [
            LossKind::DiceAndCrossEntropy { smooth: 1e-5 },
            LossKind::TopK {
                label_smoothing: 0.0,
                dice: true,
            },
        ] {
            for (batch_dice, ignore) in [(true, None), (false, None), (true, Some(2))] {
                let loss = Loss::new(kind, batch_dice, false, ignore, vec![0.7, 0.3]).unwrap();
                let (value, whole) = gradients(&network, &loss, None);
                for samples in [1, 2, 3, 5, 8] {
                    let (split_value, split) = gradients(&network, &loss, Some(samples));
                    let apart = apart(&split, &whole);
                    assert!(
                        (split_value - value).abs() < 1e-6,
                        "{samples}: {split_value} {value}"
                    );
                    assert!(
                        apart < 1e-5,
                        "{kind:?}, {batch_dice}, {ignore:?}, {samples}: {apart}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_couples_the_samples_is_not_split() {
        let network = network("batchnorm.BatchNorm", false);
        for samples in [0, 1] {
            let error = MicroBatch::new(Some(samples), network.layout()).unwrap_err();
            assert!(error.to_string().contains("micro_batch"), "{error}");
        }
        MicroBatch::new(None, network.layout()).unwrap();
    }

    /// bfloat16 has 8 bits: a layer rounds by up to 2^-9, and the errors of the layers are independent.
    #[test]
    fn bfloat16_is_near_float32() {
        let loss = Loss::new(
            LossKind::DiceAndCrossEntropy { smooth: 1e-5 },
            true,
            false,
            None,
            vec![0.7, 0.3],
        )
        .unwrap();
        let norm = "instancenorm.InstanceNorm";
        let (value, exact) = gradients(&network(norm, false), &loss, None);
        let (near_value, near) = gradients(&network(norm, true), &loss, None);
        let squares = |of: &dyn Fn(&Tensor, &Tensor) -> Tensor| -> f64 {
            let pairs = near.iter().flatten().zip(exact.iter().flatten());
            pairs
                .map(|(near, exact)| of(near, exact).square().sum(Kind::Double).double_value(&[]))
                .sum()
        };
        // Of all parameters together: the gradient of a single small one is a difference of large numbers.
        let apart =
            (squares(&|near, exact| near - exact) / squares(&|_, exact| exact.shallow_clone())).sqrt();
        println!("bfloat16: loss {near_value} for {value}, gradients apart by {apart:.1e}");
        assert!(near_value != value && (near_value - value).abs() < 0.02 * value.abs());
        assert!(apart > 0.0 && apart < 0.25, "{apart}");
        assert!(
            near.iter()
                .flatten()
                .all(|gradient| gradient.kind() == Kind::Float)
        );
    }
}
