//! One network over a whole image.

use tch::{Device, Kind, Tensor};

use super::{
    Precision, importance_map, mirroring::Mirroring, results::Results, sliding_window::SlidingWindow,
};
use crate::{Error, Result, network::UNet, progress::Observer};

/// A network's way over an image.
pub(super) struct Pass<'a> {
    pub window: &'a SlidingWindow,
    pub network: &'a UNet,
    pub mirroring: &'a Mirroring,
    pub observer: &'a dyn Observer,
    /// Networks that have gone before.
    pub done: usize,
    /// All networks.
    pub networks: usize,
}

impl Pass<'_> {
    /// The logits (heads, z, y, x) of an image (c, z, y, x). Tries once more in main memory where the accelerator cannot
    /// hold the results.
    pub fn logits(&self, image: &Tensor) -> Result<Results> {
        let device = self.network.device();
        if device != Device::Cpu && self.window.settings.results_on_device {
            match self.collect(image, device) {
                Err(Error::Torch(_)) => self.collect(image, Device::Cpu),
                done => done,
            }
        } else {
            self.collect(image, Device::Cpu)
        }
    }

    fn collect(&self, image: &Tensor, results: Device) -> Result<Results> {
        let precision = self.window.settings.precision;
        let kind = match precision {
            Precision::Half => Kind::Half,
            Precision::Single => Kind::Float,
        };
        let (image, padding) = self.window.pad(image)?;
        let image = image.f_to(results)?;
        let size = image.size();
        let heads = self.network.layout().heads() as i64;
        let shape = [heads, size[1], size[2], size[3]];
        let (logits, on_cpu) = match results {
            Device::Cpu => {
                let here = Results::zeros(shape, precision)?;
                (here.tensor(), Some(here))
            }
            _ => (Tensor::f_zeros(shape, (kind, results))?, None),
        };
        let weights = Tensor::f_zeros(&size[1..], (kind, results))?;
        self.add_tiles(&image, (&logits, &weights))?;

        // Class by class: what torch makes on the way is as large as what it looks at.
        for head in 0..heads {
            let finite = logits
                .f_select(0, head)?
                .f_div_(&weights)?
                .f_isfinite()?
                .f_all()?;
            if !bool::try_from(finite)? {
                return Err(Error::invalid(
                    "prediction",
                    "a logit is not finite; in float16, try single precision",
                ));
            }
        }
        let whole = padding
            .iter()
            .zip(&shape[1..])
            .all(|((_, length), padded)| length == padded);
        match on_cpu {
            Some(results) if whole => Ok(results),
            _ => {
                let mut view = logits.shallow_clone();
                let mut shape = shape;
                for (axis, (low, length)) in padding.into_iter().enumerate() {
                    view = view.f_narrow(axis as i64 + 1, low, length)?;
                    shape[axis + 1] = length;
                }
                let results = Results::zeros(shape, precision)?;
                results.tensor().f_copy_(&view)?;
                Ok(results)
            }
        }
    }

    /// Adds to logits (heads, z, y, x), and to the weights that they are to be divided by, what a network predicts tile by
    /// tile.
    fn add_tiles(&self, image: &Tensor, (logits, weights): (&Tensor, &Tensor)) -> Result<()> {
        let window = self.window;
        let patch: Vec<i64> = window.patch.iter().map(|&n| n as i64).collect();
        let gaussian = if window.settings.use_gaussian {
            let map = Tensor::f_from_slice(&importance_map(&window.patch))?;
            Some(map.f_reshape(&patch)?.f_to(logits.device())?)
        } else {
            None
        };
        let one = Tensor::f_ones([1], (weights.kind(), weights.device()))?;
        let tiles = window.tiles(&weights.size());
        for (done, tile) in tiles.iter().enumerate() {
            if self.observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let input = window
                .cut(image, tile, 1)?
                .f_unsqueeze(0)?
                .f_contiguous()?
                .f_to(self.network.device())?;
            let mut prediction = self
                .mirroring
                .predict(self.network, &input)?
                .f_squeeze_dim(0)?
                .f_to(logits.device())?;
            if let Some(gaussian) = &gaussian {
                prediction = prediction.f_mul_(gaussian)?;
            }
            _ = window.cut(logits, tile, 1)?.f_add_(&prediction)?;
            _ = window
                .cut(weights, tile, 0)?
                .f_add_(gaussian.as_ref().unwrap_or(&one))?;
            let total = tiles.len() * self.networks;
            self.observer
                .advanced("tiles", self.done * tiles.len() + done + 1, total);
        }
        Ok(())
    }
}
