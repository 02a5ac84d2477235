//! The network over a whole scan, tile by tile (predict_from_raw_data.py).

use ndarray::ArrayView4;
use tch::Tensor;

use super::{Logits, Settings, mirroring::Mirroring, pass::Pass, results::Results, tile_starts};
use crate::{Error, Result, network::UNet, progress::Observer};

/// How a network goes over a scan.
#[derive(Clone, Debug)]
pub struct SlidingWindow {
    /// The patch: (z, y, x), or (y, x) for a network that sees slices.
    pub patch: Vec<usize>,
    /// The axes of the patch over which predictions are mirrored; empty for none.
    pub mirror_axes: Vec<usize>,
    /// How to predict.
    pub settings: Settings,
}

impl SlidingWindow {
    /// The logits (heads, z, y, x) of `networks` for preprocessed `data` (c, z, y, x): their mean, where they are the
    /// folds of a model. Stops between tiles.
    ///
    /// # Errors
    /// Where a logit overflows float16, or libtorch fails. Results that do not fit on the accelerator are collected
    /// in main memory instead.
    pub fn logits(
        &self,
        networks: &[UNet],
        data: ArrayView4<f32>,
        observer: &dyn Observer,
    ) -> Result<Logits> {
        let first = networks
            .first()
            .ok_or_else(|| Error::invalid("prediction", "no network"))?;
        self.check(first, data)?;
        let shape: Vec<i64> = data.shape().iter().map(|&n| n as i64).collect();
        let image = match data.as_slice() {
            Some(slice) => Tensor::f_from_slice(slice)?.f_reshape(&shape)?,
            None => Tensor::f_from_slice(&data.iter().copied().collect::<Vec<_>>())?.f_reshape(&shape)?,
        };
        let _guard = tch::no_grad_guard();
        let threads = tch::get_num_threads();
        let mirroring = Mirroring::new(&self.mirror_axes, first.device(), threads);
        let own_threads = mirroring.is_on_own_threads();
        if own_threads {
            // What this thread does is little, and libtorch's helpers would go on waiting for more of it on the time of
            // those that predict.
            tch::set_num_threads(1);
        }
        let sum = self.sum(networks, &image, &mirroring, observer);
        if own_threads {
            // Threads to come take as many as the last one asked for.
            tch::set_num_threads(threads);
        }
        sum?.into_logits()
    }

    /// The mean of the networks' logits.
    fn sum(
        &self,
        networks: &[UNet],
        image: &Tensor,
        mirroring: &Mirroring,
        observer: &dyn Observer,
    ) -> Result<Results> {
        let mut sum: Option<Results> = None;
        for (done, network) in networks.iter().enumerate() {
            let pass = Pass {
                window: self,
                network,
                mirroring,
                observer,
                done,
                networks: networks.len(),
            };
            let logits = pass.logits(image)?;
            match &sum {
                None => sum = Some(logits),
                Some(sum) => _ = sum.tensor().f_add_(&logits.tensor())?,
            }
        }
        let sum = sum.ok_or_else(|| Error::invalid("prediction", "no network"))?;
        if networks.len() > 1 {
            _ = sum.tensor().f_div_scalar_(networks.len() as i64)?;
        }
        Ok(sum)
    }

    fn check(&self, network: &UNet, data: ArrayView4<f32>) -> Result<()> {
        let dimensions = network.layout().dimensions();
        if self.patch.len() != dimensions || self.patch.contains(&0) {
            return Err(Error::invalid(
                "plans: patch_size",
                format!("{:?} for a {dimensions}D network", self.patch),
            ));
        }
        if let Some(axis) = self.mirror_axes.iter().find(|&&a| a >= dimensions) {
            return Err(Error::invalid(
                "mirroring",
                format!("axis {axis} of a {dimensions}D network"),
            ));
        }
        let step = self.settings.tile_step_size;
        if !(step > 0.0 && step <= 1.0) {
            return Err(Error::invalid(
                "step size",
                format!("{step}; expected more than 0 and at most 1"),
            ));
        }
        let channels = network.layout().input_channels();
        if data.shape()[0] != channels || data.is_empty() {
            return Err(Error::invalid(
                "image",
                format!("shape {:?}; {channels} channels are needed", data.shape()),
            ));
        }
        Ok(())
    }

    /// The image with zeros around it where it is smaller than a tile, and where it lies in that (start, length).
    pub(super) fn pad(&self, image: &Tensor) -> Result<(Tensor, Vec<(i64, i64)>)> {
        let size = image.size();
        let mut pad = Vec::new();
        let mut place = Vec::new();
        for (axis, &length) in size[1..].iter().enumerate() {
            // A network that sees slices has no patch size along the first axis.
            let wanted = (axis + self.patch.len())
                .checked_sub(3)
                .map_or(length, |i| self.patch[i] as i64);
            let missing = (wanted - length).max(0);
            let low = missing / 2;
            place.push((low, length));
            pad.splice(0..0, [low, missing - low]);
        }
        let padded = if pad.iter().all(|&n| n == 0) {
            image.shallow_clone()
        } else {
            image.f_constant_pad_nd(pad)?
        };
        Ok((padded, place))
    }

    /// Where each tile begins: (z, y, x), with a tile per slice for a network that sees slices.
    pub(super) fn tiles(&self, size: &[i64]) -> Vec<[usize; 3]> {
        let flat = self.patch.len() == 2;
        let starts: [Vec<usize>; 3] = std::array::from_fn(|axis| match (flat, axis) {
            (true, 0) => (0..size[0] as usize).collect(),
            _ => {
                let tile = self.patch[axis - usize::from(flat)];
                tile_starts(size[axis] as usize, tile, self.settings.tile_step_size)
            }
        });
        let mut tiles = Vec::new();
        for &z in &starts[0] {
            for &y in &starts[1] {
                tiles.extend(starts[2].iter().map(|&x| [z, y, x]));
            }
        }
        tiles
    }

    /// The view of a tile: (..., z, y, x), or (..., y, x), with `leading` axes before.
    pub(super) fn cut(&self, tensor: &Tensor, tile: &[usize; 3], leading: i64) -> Result<Tensor> {
        let mut view = tensor.shallow_clone();
        let flat = self.patch.len() == 2;
        for (axis, &start) in tile.iter().enumerate().rev() {
            let dimension = leading + axis as i64;
            view = match (flat, axis) {
                (true, 0) => view.f_select(dimension, start as i64)?,
                _ => view.f_narrow(
                    dimension,
                    start as i64,
                    self.patch[axis - usize::from(flat)] as i64,
                )?,
            };
        }
        Ok(view)
    }
}
