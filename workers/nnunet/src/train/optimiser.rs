//! The optimisers of nnU-Net's trainers, what they remember, and the scaler of half-precision training.

use crate::{
    Error, Result,
    network::{Layout, StateDict, Tensor32},
};

#[cfg(feature = "torch")]
mod step;
#[cfg(feature = "torch")]
pub use step::Optimiser;

/// The weight decay of every trainer, on every parameter that has a gradient.
pub const WEIGHT_DECAY: f64 = 3e-5;
/// SGD's factor of the old momentum.
pub const MOMENTUM: f64 = 0.99;
/// Adam's weights of the old averages: of the gradient and of its square.
pub const ADAM_BETAS: [f64; 2] = [0.9, 0.999];
/// Adan's weights of the new values: of the gradient, of its change, and of the square of the gradient looked ahead.
pub const ADAN_BETAS: [f64; 3] = [0.02, 0.08, 0.01];
/// Keeps Adam's and Adan's denominators from 0.
pub const EPS: f64 = 1e-8;

/// An optimiser with the constants that nnU-Net gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimiserKind {
    /// torch.optim.SGD with Nesterov's momentum.
    Sgd,
    /// torch.optim.Adam: the weight decay is part of the gradient.
    Adam,
    /// torch.optim.AdamW with amsgrad: weights decay by themselves, the largest mean square so far divides.
    AdamWAmsgrad,
    /// adan_pytorch.Adan (Xie et al., arXiv 2208.06677).
    Adan,
}

impl OptimiserKind {
    /// What it remembers of each parameter, by the names and in the order of Python's optimizer state.
    pub fn memory(self) -> &'static [&'static str] {
        match self {
            Self::Sgd => &["momentum_buffer"],
            Self::Adam => &[STEP, "exp_avg", "exp_avg_sq"],
            Self::AdamWAmsgrad => &[STEP, "exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
            Self::Adan => &[STEP, "prev_grad", "m", "v", "n"],
        }
    }

    /// The tensors that `state` holds for a parameter, in the order of [`OptimiserKind::memory`]; None where it holds
    /// none. Some without the others are an error.
    pub fn memory_of<'a>(self, state: &'a StateDict, parameter: &str) -> Result<Option<Vec<&'a Tensor32>>> {
        let names = || self.memory().iter().map(|kind| memory_name(parameter, kind));
        let found: Vec<&Tensor32> = names().filter_map(|name| state.get(&name)).collect();
        match names().find(|name| state.get(name).is_none()) {
            None => Ok(Some(found)),
            Some(_) if found.is_empty() => Ok(None),
            Some(name) => Err(Error::invalid(format!("optimiser state {name}"), "missing")),
        }
    }

    /// Fails where `state` holds anything but what this optimiser remembers of the layout's parameters, in their
    /// shapes and finite. Parameters may be without: a head that has no loss is never updated.
    pub fn check(self, state: &StateDict, layout: &Layout) -> Result<()> {
        for (name, tensor) in state.iter() {
            let bad = |reason: String| Err(Error::invalid(format!("optimiser state {name}"), reason));
            let (parameter, kind) = name.rsplit_once('.').unwrap_or((name, ""));
            if !self.memory().contains(&kind) {
                let known = self.memory().join(", ");
                return bad(format!("is not of this optimiser, which has {known}"));
            }
            let Some(parameter) = layout.parameter(parameter).filter(|p| p.role.is_trained()) else {
                return bad("is of no parameter of the plans' network".into());
            };
            let scalar = Vec::new();
            let expected = if kind == STEP { &scalar } else { &parameter.shape };
            if tensor.shape != *expected {
                return bad(format!("has shape {:?}, expected {expected:?}", tensor.shape));
            }
        }
        for parameter in layout.trained() {
            self.memory_of(state, &parameter.name)?;
        }
        state.check_finite()
    }
}

/// How many updates a parameter has had: a scalar.
pub const STEP: &str = "step";

/// The name in a state of what an optimiser remembers of a parameter.
pub fn memory_name(parameter: &str, kind: &str) -> String {
    format!("{parameter}.{kind}")
}

/// What the optimiser remembers between iterations; stays at the site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MomentumState {
    /// What [`OptimiserKind::memory`] names of each parameter, under [`memory_name`] and in the parameters' order.
    /// Empty before the first iteration; a head without loss never has one.
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
