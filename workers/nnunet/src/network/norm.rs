//! The norm of a network's blocks: instance norm or batch norm, as the plans name it, with or without running
//! statistics (torch.nn.InstanceNorm2d/3d and BatchNorm2d/3d).

use super::arguments::{Keywords, class, invalid};
use crate::Result;

/// Over what the statistics are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum NormKind {
    /// Each channel of each sample.
    Instance,
    /// Each channel of the whole batch.
    Batch,
}

/// A norm with its arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) eps: f64,
    /// The weight of a new batch in the running statistics. None: all batches weigh the same.
    pub(super) momentum: Option<f64>,
    /// Whether it has a scale and a shift.
    pub(super) affine: bool,
    /// Whether it keeps running statistics, which inference then uses.
    pub(super) tracked: bool,
}

/// Where a block's norm has its tensors, as indices into `Layout::parameters`.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(super) struct BlockNorm {
    /// Scale and shift.
    pub(super) affine: Option<(usize, usize)>,
    /// Running mean, running variance, and the number of batches seen.
    pub(super) running: Option<[usize; 3]>,
}

impl Norm {
    /// The norm that `op`, a dotted Python path, names; None for null. Absent arguments are torch's defaults.
    pub(super) fn new(op: Option<&str>, keywords: &Keywords, dimensions: usize) -> Result<Option<Self>> {
        let Some(op) = op else {
            return Ok(None);
        };
        let (instance, batch) = (
            format!("InstanceNorm{dimensions}d"),
            format!("BatchNorm{dimensions}d"),
        );
        let kind = match class(op) {
            name if name == instance => NormKind::Instance,
            name if name == batch => NormKind::Batch,
            _ => return Err(invalid("norm_op", op, &format!("{instance}, {batch} or null"))),
        };
        keywords.only(&["eps", "momentum", "affine", "track_running_stats"])?;
        let batch = kind == NormKind::Batch;
        let momentum = keywords.number_or_null("momentum", 0.1)?;
        Ok(Some(Self {
            kind,
            eps: keywords.number("eps", 1e-5, 0.0..=1.0)?,
            // torch's instance norm takes null for 0.
            momentum: if batch { momentum } else { momentum.or(Some(0.0)) },
            affine: keywords.boolean("affine", batch)?,
            tracked: keywords.boolean("track_running_stats", batch)?,
        }))
    }
}

#[cfg(feature = "torch")]
impl Norm {
    /// `x` (b, c, ...) normalised with the tensors that `block` points to, and then what `behind` makes of it, which may
    /// work in place. In training the statistics are the batch's, and the running ones move towards them.
    pub(super) fn apply(
        &self,
        x: &tch::Tensor,
        block: &BlockNorm,
        tensors: &[tch::Tensor],
        training: bool,
        behind: impl FnOnce(tch::Tensor) -> Result<tch::Tensor>,
    ) -> Result<tch::Tensor> {
        let (scale, shift) = block.affine.unzip();
        let (scale, shift) = (scale.map(|i| &tensors[i]), shift.map(|i| &tensors[i]));
        let Some([mean, variance, batches]) = block.running else {
            return match self.kind {
                NormKind::Instance => self.of_instances(x, scale, shift, behind),
                NormKind::Batch => behind(self.of_batch(x, scale, shift, None, true, 0.0)?),
            };
        };
        let mut momentum = self.momentum.unwrap_or_default();
        if training && self.kind == NormKind::Batch {
            let seen = tensors[batches].shallow_clone().f_add_scalar_(1)?;
            if self.momentum.is_none() {
                momentum = 1.0 / seen.f_double_value(&[])?;
            }
        }
        let running = (&tensors[mean], &tensors[variance]);
        behind(match self.kind {
            NormKind::Instance => {
                let (mean, variance) = (Some(running.0), Some(running.1));
                x.f_instance_norm(scale, shift, mean, variance, training, momentum, self.eps, true)?
            }
            NormKind::Batch => self.of_batch(x, scale, shift, Some(running), training, momentum)?,
        })
    }

    /// The norm of each channel of each sample, as libtorch has it: that of a batch of one sample with as many channels.
    /// libtorch would return a view of it. Whatever then works in place, as the nonlinearity does, makes the backward
    /// pass go over all values five times more: to clear, to copy there and back, for the view's sake.
    fn of_instances(
        &self,
        x: &tch::Tensor,
        scale: Option<&tch::Tensor>,
        shift: Option<&tch::Tensor>,
        behind: impl FnOnce(tch::Tensor) -> Result<tch::Tensor>,
    ) -> Result<tch::Tensor> {
        let size = x.size();
        let mut together = size.clone();
        together[0] = 1;
        together[1] *= size[0];
        let of_all =
            |tensor: Option<&tch::Tensor>| tensor.map(|tensor| tensor.f_repeat([size[0]])).transpose();
        let (scale, shift) = (of_all(scale)?, of_all(shift)?);
        let x = x.f_contiguous()?.f_view(&together[..])?;
        let y = self.of_batch(&x, scale.as_ref(), shift.as_ref(), None, true, 0.0)?;
        Ok(behind(y)?.f_view(&size[..])?)
    }

    /// The norm of each channel; `running` are mean and variance.
    fn of_batch(
        &self,
        x: &tch::Tensor,
        scale: Option<&tch::Tensor>,
        shift: Option<&tch::Tensor>,
        running: Option<(&tch::Tensor, &tch::Tensor)>,
        of_input: bool,
        momentum: f64,
    ) -> Result<tch::Tensor> {
        let (mean, variance) = running.unzip();
        Ok(x.f_batch_norm(scale, shift, mean, variance, of_input, momentum, self.eps, true)?)
    }
}
