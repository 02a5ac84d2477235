//! SGD with Nesterov momentum as nnU-Net configures it, gradient clipping, and the scaler of half-precision training.

use crate::network::StateDict;

/// What the optimiser remembers between iterations; stays at the site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MomentumState {
    /// A momentum buffer per parameter, by the parameter's name and in its order. Empty before the first iteration;
    /// a head without loss never has one.
    pub buffers: StateDict,
    /// The gradient scaler; None on the CPU.
    pub scaler: Option<ScalerState>,
}

/// The state of [torch.amp.GradScaler](https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalerState {
    /// What the loss is multiplied by.
    pub scale: f32,
    /// Iterations since the last overflow or growth.
    pub growth_tracker: u32,
}

impl Default for ScalerState {
    fn default() -> Self {
        Self {
            scale: 65536.0,
            growth_tracker: 0,
        }
    }
}

impl ScalerState {
    /// Halves the scale after an overflow; doubles it after 2000 iterations without.
    pub fn update(&mut self, overflow: bool) {
        if overflow {
            *self = Self {
                scale: self.scale * 0.5,
                growth_tracker: 0,
            };
            return;
        }
        self.growth_tracker += 1;
        if self.growth_tracker == 2000 {
            // A scale that would become infinite stays.
            let scale = if (self.scale * 2.0).is_finite() {
                self.scale * 2.0
            } else {
                self.scale
            };
            *self = Self {
                scale,
                growth_tracker: 0,
            };
        }
    }
}

#[cfg(feature = "torch")]
pub use torch::Sgd;

#[cfg(feature = "torch")]
mod torch {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::{
        Result,
        network::{Layout, tensors},
    };

    /// nnU-Net's constants.
    const MOMENTUM: f64 = 0.99;
    const WEIGHT_DECAY: f64 = 3e-5;
    const LARGEST_NORM: f64 = 12.0;

    /// torch.optim.SGD(momentum 0.99, nesterov, weight decay 3e-5 on every parameter that has a gradient).
    pub struct Sgd {
        buffers: Vec<Option<Tensor>>,
        /// None on the CPU, where nothing is scaled.
        scaler: Option<ScalerState>,
    }

    impl Sgd {
        /// Continues from `momentum`; fails where a buffer is not one of the layout's parameters, or not finite.
        pub fn new(layout: &Layout, momentum: &MomentumState, device: Device) -> Result<Self> {
            momentum.buffers.check_names(layout)?;
            momentum.buffers.check_finite()?;
            let buffers = layout
                .parameters()
                .iter()
                .map(|parameter| {
                    momentum
                        .buffers
                        .get(&parameter.name)
                        .map(|t| tensors::to_device(t, device))
                        .transpose()
                })
                .collect::<Result<_>>()?;
            let scaler = matches!(device, Device::Cuda(_)).then(|| momentum.scaler.unwrap_or_default());
            Ok(Self { buffers, scaler })
        }

        /// The momentum buffers and the scaler.
        pub fn momentum(&self, layout: &Layout) -> Result<MomentumState> {
            let mut buffers = StateDict::new();
            for (parameter, buffer) in layout.parameters().iter().zip(&self.buffers) {
                if let Some(buffer) = buffer {
                    buffers.insert(&parameter.name, tensors::to_tensor32(buffer)?)?;
                }
            }
            Ok(MomentumState {
                buffers,
                scaler: self.scaler,
            })
        }

        /// What the loss must be multiplied by before the backward pass.
        pub fn loss_scale(&self) -> f64 {
            self.scaler.map_or(1.0, |scaler| f64::from(scaler.scale))
        }

        /// One step, changing `parameters` in place. `gradients` are of the scaled loss, one per parameter; None
        /// leaves its parameter and momentum alone, without weight decay. Returns the norm of all gradients before
        /// clipping. If that is not finite nothing is changed but the scale.
        pub fn step(
            &mut self,
            parameters: &mut [Tensor],
            gradients: Vec<Option<Tensor>>,
            learning_rate: f64,
        ) -> Result<f64> {
            tch::no_grad(|| {
                let gradients: Vec<(usize, Tensor)> = gradients
                    .into_iter()
                    .enumerate()
                    .filter_map(|(i, g)| Some((i, g?)))
                    .collect();
                let unscale = 1.0 / self.loss_scale();
                let norms = gradients
                    .iter()
                    .map(|(_, g)| g.f_norm())
                    .collect::<Result<Vec<_>, _>>()?;
                let norm = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])? * unscale;
                if let Some(scaler) = &mut self.scaler {
                    scaler.update(!norm.is_finite());
                }
                if !norm.is_finite() {
                    return Ok(norm);
                }
                let factor = unscale * (LARGEST_NORM / (norm + 1e-6)).min(1.0);
                for (i, mut gradient) in gradients {
                    let parameter = &mut parameters[i];
                    if factor != 1.0 {
                        gradient = gradient.f_mul_scalar_(factor)?;
                    }
                    let mut gradient = gradient.f_add_(&parameter.f_mul_scalar(WEIGHT_DECAY)?)?;
                    let buffer = match self.buffers[i].take() {
                        Some(mut buffer) => buffer.f_mul_scalar_(MOMENTUM)?.f_add_(&gradient)?,
                        None => gradient.f_detach_copy()?,
                    };
                    let mut step = gradient.f_add_(&buffer.f_mul_scalar(MOMENTUM)?)?;
                    let _ = parameter.f_sub_(&step.f_mul_scalar_(learning_rate)?.f_to_kind(Kind::Float)?)?;
                    self.buffers[i] = Some(buffer);
                }
                Ok(norm)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_on_overflow_and_doubles_after_2000() {
        let mut scaler = ScalerState::default();
        scaler.update(true);
        assert_eq!(scaler.scale, 32768.0);
        (0..1999).for_each(|_| scaler.update(false));
        assert_eq!(scaler.scale, 32768.0);
        scaler.update(false);
        assert_eq!(
            scaler,
            ScalerState {
                scale: 65536.0,
                growth_tracker: 0
            }
        );
    }
}
