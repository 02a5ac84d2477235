//! From logits on the network's grid to a segmentation on the scan's (inference/export_prediction.py).

use half::f16;
use ndarray::{Array3, Array4, ArrayView3, Axis, Zip, s};
use schemas::nnunet::{Configuration, DatasetJson, Plans};

use super::Logits;
use crate::{
    Error, Result,
    preprocess::{
        CaseProperties,
        resample::{Resampling, Sample},
    },
};

/// What turns logits into a segmentation: the part of a model that is not its weights.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// The plans.
    pub plans: &'a Plans,
    /// The configuration that predicted.
    pub configuration: &'a Configuration,
    /// The data set: labels or regions.
    pub dataset: &'a DatasetJson,
}

impl Export<'_> {
    /// The segmentation (z, y, x) on the grid of the scan as it was read.
    ///
    /// Works class by class: resamples one class, and keeps the best so far. That is what nnU-Net's argmax over all
    /// resampled classes gives, in the memory of one of them.
    ///
    /// # Errors
    /// Where the number of logits is not that of labels or regions, or the properties contradict each other.
    pub fn segmentation(&self, logits: &Logits, properties: &CaseProperties) -> Result<Array3<u16>> {
        self.check(logits, properties)?;
        let single = Resampling::of_probabilities(self.configuration)?.gives_single_precision();
        let crop = match logits {
            Logits::Half(logits) if single => self.classify(logits, properties, |v: f32| v),
            Logits::Half(logits) => self.classify(logits, properties, f16::to_f32),
            Logits::Single(logits) => self.classify(logits, properties, |v: f32| v),
        }?;
        Ok(self.paste(crop, properties))
    }

    /// Whether the logits are of this data set and the properties make sense.
    pub(super) fn check(&self, logits: &Logits, properties: &CaseProperties) -> Result<()> {
        let (heads, found) = (self.dataset.segmentation_heads(), logits.shape()[0]);
        if found != heads {
            return Err(Error::invalid(
                "logits",
                format!("{found} heads, dataset.json has {heads}"),
            ));
        }
        let (bounds, shape) = (
            properties.bbox_used_for_cropping,
            properties.shape_before_cropping,
        );
        let crop = properties.shape_after_cropping_and_before_resampling;
        let fits = |a: usize| bounds[a][0] <= bounds[a][1] && bounds[a][1] <= shape[a];
        if !(0..3).all(|a| fits(a) && bounds[a][1] - bounds[a][0] == crop[a]) {
            let reason = format!("{crop:?} voxels for {bounds:?} of {shape:?}");
            return Err(Error::invalid("case properties", reason));
        }
        Ok(())
    }

    /// How one class of logits is resampled to the cropped scan's grid.
    pub(super) fn resampler<T: Sample, U: Sample>(
        &self,
        logits: &Array4<T>,
        properties: &CaseProperties,
    ) -> Result<impl Fn(usize) -> Array3<U>> {
        let shape = properties.shape_after_cropping_and_before_resampling;
        let resampling = Resampling::of_probabilities(self.configuration)?;
        if resampling.keeps_shape() && logits.shape()[1..] != shape {
            let found = &logits.shape()[1..];
            let reason = format!("{found:?} voxels, the scan has {shape:?}, and the plans do not resample");
            return Err(Error::invalid("logits", reason));
        }
        let scan: [f64; 3] = self.plans.transpose_forward.map(|axis| properties.spacing[axis]);
        let network: [f64; 3] = match self.configuration.spacing[..] {
            [z, y, x] => [z, y, x],
            // A network that sees slices does not resample across them.
            [y, x] => [scan[0], y, x],
            _ => return Err(Error::invalid("plans: spacing", "expected 2 or 3 numbers")),
        };
        Ok(move |class: usize| resampling.channel(logits.index_axis(Axis(0), class), shape, network, scan))
    }

    fn classify<T: Sample, U: Sample + PartialOrd>(
        &self,
        logits: &Array4<T>,
        properties: &CaseProperties,
        single: impl Fn(U) -> f32 + Sync,
    ) -> Result<Array3<u16>> {
        let resample = self.resampler::<T, U>(logits, properties)?;
        let shape = properties.shape_after_cropping_and_before_resampling;
        let mut labels = Array3::<u16>::zeros(shape);
        if self.dataset.has_regions() {
            let order = self.dataset.regions_class_order().unwrap_or_default();
            for (class, &label) in order.iter().enumerate() {
                Zip::from(&mut labels)
                    .and(&resample(class))
                    .par_for_each(|out, &logit| {
                        let probability = 1.0 / (1.0 + (-single(logit)).exp());
                        if probability > 0.5 {
                            *out = label;
                        }
                    });
            }
        } else {
            let mut best = resample(0);
            for class in 1..logits.shape()[0] {
                Zip::from(&mut labels)
                    .and(&mut best)
                    .and(&resample(class))
                    .par_for_each(|label, best, &logit| {
                        if logit > *best {
                            *best = logit;
                            *label = class as u16;
                        }
                    });
            }
        }
        Ok(labels)
    }

    /// Undoes cropping and transposing.
    fn paste(&self, crop: Array3<u16>, properties: &CaseProperties) -> Array3<u16> {
        let mut whole = Array3::<u16>::zeros(properties.shape_before_cropping);
        let [z, y, x] = properties.bbox_used_for_cropping;
        whole
            .slice_mut(s![z[0]..z[1], y[0]..y[1], x[0]..x[1]])
            .assign(&crop);
        let [a, b, c] = self.plans.transpose_backward;
        contiguous(whole.view().permuted_axes([a, b, c]))
    }
}

fn contiguous(view: ArrayView3<u16>) -> Array3<u16> {
    view.as_standard_layout().into_owned()
}
