//! Voxels of a validation batch that are right and wrong (nnUNetTrainer.validation_step).

use tch::{Device, Kind, Tensor};

use super::validation::ValidationCounts;
use crate::Result;

/// How logits and targets are read.
pub struct Counting {
    /// Whether heads are regions.
    pub regions: bool,
    /// The label of voxels that do not count; with regions only that the last target channel is their map.
    pub ignore_label: Option<i64>,
}

impl Counting {
    /// How many classes or regions are counted of a network with so many `heads`.
    pub fn classes(&self, heads: usize) -> usize {
        if self.regions { heads } else { heads - 1 }
    }

    /// Adds what logits `output` (b, heads, ...) say of `target`: (b, 1, ...) labels, or (b, regions [+ 1 ignore map],
    /// ...) of 0 and 1.
    pub fn add(&self, output: &Tensor, target: &Tensor, counts: &mut ValidationCounts) -> Result<()> {
        tch::no_grad(|| self.count(output, target, counts))
    }

    fn count(&self, output: &Tensor, target: &Tensor, counts: &mut ValidationCounts) -> Result<()> {
        let heads = output.size()[1];
        if !self.regions {
            let truth = target.f_select(1, 0)?.f_to_kind(Kind::Int64)?;
            // Cells of the confusion matrix; a voxel to ignore falls into a row of its own, after the last.
            let truth = match self.ignore_label {
                Some(ignore) => truth.f_masked_fill(&truth.f_eq(ignore)?, heads)?,
                None => truth,
            };
            let cells = truth.f_mul_scalar(heads)?.f_add(&output.f_argmax(1, false)?)?;
            let cells = cells
                .f_reshape([-1])?
                .f_bincount(None::<&Tensor>, heads * (heads + 1))?;
            let cells: Vec<i64> = Vec::try_from(cells.f_to_device(Device::Cpu)?)?;
            let n = heads as usize;
            for class in 1..n {
                let tp = cells[class * n + class];
                let predicted: i64 = (0..n).map(|truth| cells[truth * n + class]).sum();
                let actual: i64 = cells[class * n..(class + 1) * n].iter().sum();
                counts.true_positives[class - 1] += tp as u64;
                counts.false_positives[class - 1] += (predicted - tp) as u64;
                counts.false_negatives[class - 1] += (actual - tp) as u64;
            }
            return Ok(());
        }
        let predicted = output.f_sigmoid()?.f_gt(0.5)?;
        let truth = target.f_narrow(1, 0, heads)?.f_ne(0)?;
        let valid = if target.size()[1] > heads {
            target.f_narrow(1, heads, 1)?.f_eq(0)?
        } else {
            Tensor::f_ones([1], (Kind::Bool, target.device()))?
        };
        let mut axes: Vec<i64> = (0..output.dim() as i64).collect();
        axes.remove(1);
        let sum = |cells: &Tensor| -> Result<Vec<i64>> {
            let sum = cells
                .f_logical_and(&valid)?
                .f_sum_dim_intlist(&axes[..], false, Kind::Int64)?;
            Ok(Vec::try_from(sum.f_to_device(Device::Cpu)?)?)
        };
        let tp = sum(&predicted.f_logical_and(&truth)?)?;
        let fp = sum(&predicted.f_logical_and(&truth.f_logical_not()?)?)?;
        let fn_ = sum(&predicted.f_logical_not()?.f_logical_and(&truth)?)?;
        for (total, new) in [
            (&mut counts.true_positives, tp),
            (&mut counts.false_positives, fp),
            (&mut counts.false_negatives, fn_),
        ] {
            total
                .iter_mut()
                .zip(new)
                .for_each(|(total, n)| *total += n as u64);
        }
        Ok(())
    }
}
