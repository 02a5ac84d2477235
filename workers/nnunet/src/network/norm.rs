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
    /// `x` normalised with the tensors that `block` points to. In training the statistics are the batch's, and the
    /// running ones move towards them.
    pub(super) fn apply(
        &self,
        x: &tch::Tensor,
        block: &BlockNorm,
        tensors: &[tch::Tensor],
        training: bool,
    ) -> Result<tch::Tensor> {
        let (scale, shift) = block.affine.unzip();
        let (scale, shift) = (scale.map(|i| &tensors[i]), shift.map(|i| &tensors[i]));
        let mut momentum = self.momentum.unwrap_or_default();
        if let Some([.., batches]) = block.running
            && training
            && self.kind == NormKind::Batch
        {
            let seen = tensors[batches].shallow_clone().f_add_scalar_(1)?;
            if self.momentum.is_none() {
                momentum = 1.0 / seen.f_double_value(&[])?;
            }
        }
        let mean = block.running.map(|[mean, ..]| &tensors[mean]);
        let variance = block.running.map(|[_, variance, _]| &tensors[variance]);
        let of_input = training || block.running.is_none();
        Ok(match self.kind {
            NormKind::Instance => {
                x.f_instance_norm(scale, shift, mean, variance, of_input, momentum, self.eps, true)?
            }
            NormKind::Batch => {
                x.f_batch_norm(scale, shift, mean, variance, of_input, momentum, self.eps, true)?
            }
        })
    }
}
