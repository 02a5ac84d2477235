//! One step of an optimiser on libtorch, with nnU-Net's gradient clipping.

use tch::{Device, Tensor};

use super::{
    ADAM_BETAS, ADAN_BETAS, EPS, MOMENTUM, MomentumState, OptimiserKind, STEP, ScalerState, WEIGHT_DECAY,
    memory_name,
};
use crate::{
    Error, Result,
    network::{Layout, StateDict, Tensor32, tensors},
};

/// Gradients whose norm is larger are scaled down to it.
const LARGEST_NORM: f64 = 12.0;

/// An optimiser at work on the parameters of one network.
pub struct Optimiser {
    kind: OptimiserKind,
    /// One for each tensor of the layout; None before its first update.
    memories: Vec<Option<Memory>>,
    /// None on the CPU, where nothing is scaled.
    scaler: Option<ScalerState>,
}

/// What is remembered of one parameter.
struct Memory {
    /// Updates so far; not counted for SGD, which does not ask.
    steps: f64,
    /// The tensors of [`OptimiserKind::memory`], in its order, without the steps.
    buffers: Vec<Tensor>,
}

impl Memory {
    fn fresh(kind: OptimiserKind, parameter: &Tensor) -> Result<Self> {
        let kinds = kind.memory().iter().filter(|kind| **kind != STEP);
        Ok(Self {
            steps: 0.0,
            buffers: kinds
                .map(|_| Ok(parameter.f_detach()?.f_zeros_like()?))
                .collect::<Result<_>>()?,
        })
    }

    fn read(kind: OptimiserKind, stored: &[&Tensor32], device: Device) -> Result<Self> {
        let mut memory = Self {
            steps: 0.0,
            buffers: Vec::new(),
        };
        for (kind, tensor) in kind.memory().iter().zip(stored) {
            match *kind {
                STEP => memory.steps = tensor.data.iter().copied().map(f64::from).sum(),
                _ => memory.buffers.push(tensors::to_device(tensor, device)?),
            }
        }
        Ok(memory)
    }

    fn write(&self, kind: OptimiserKind, parameter: &str, state: &mut StateDict) -> Result<()> {
        let mut buffers = self.buffers.iter();
        for kind in kind.memory() {
            let tensor = match *kind {
                STEP => Tensor32::new(Vec::new(), vec![self.steps as f32])?,
                _ => match buffers.next() {
                    Some(buffer) => tensors::to_tensor32(buffer)?,
                    None => continue,
                },
            };
            state.insert(memory_name(parameter, kind), tensor)?;
        }
        Ok(())
    }
}

impl Optimiser {
    /// Continues from `momentum`; fails where that is not what this optimiser remembers of the layout's parameters.
    pub fn new(
        kind: OptimiserKind,
        layout: &Layout,
        momentum: &MomentumState,
        device: Device,
    ) -> Result<Self> {
        kind.check(&momentum.buffers, layout)?;
        let memories = layout
            .parameters()
            .iter()
            .map(|parameter| {
                kind.memory_of(&momentum.buffers, &parameter.name)?
                    .map(|stored| Memory::read(kind, &stored, device))
                    .transpose()
            })
            .collect::<Result<_>>()?;
        let scaler = matches!(device, Device::Cuda(_)).then(|| momentum.scaler.unwrap_or_default());
        Ok(Self {
            kind,
            memories,
            scaler,
        })
    }

    /// What is remembered, and the scaler.
    pub fn momentum(&self, layout: &Layout) -> Result<MomentumState> {
        let mut buffers = StateDict::new();
        for (parameter, memory) in layout.parameters().iter().zip(&self.memories) {
            if let Some(memory) = memory {
                memory.write(self.kind, &parameter.name, &mut buffers)?;
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

    /// One step, changing `parameters` in place. `gradients` are of the scaled loss, one per tensor of the layout; None
    /// leaves its parameter and memory alone, without weight decay. Returns the norm of all gradients before
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
                if factor != 1.0 {
                    gradient = gradient.f_mul_scalar_(factor)?;
                }
                let (parameter, memory) = (&mut parameters[i], &mut self.memories[i]);
                match self.kind {
                    OptimiserKind::Sgd => sgd(parameter, gradient, memory, learning_rate)?,
                    kind => {
                        let memory = match memory {
                            Some(memory) => memory,
                            None => memory.insert(Memory::fresh(kind, parameter)?),
                        };
                        match kind {
                            OptimiserKind::Adan => adan(parameter, gradient, memory, learning_rate)?,
                            _ => adam(kind, parameter, gradient, memory, learning_rate)?,
                        }
                    }
                }
            }
            Ok(norm)
        })
    }
}

/// torch.optim.SGD: the first gradient is the first momentum.
fn sgd(parameter: &mut Tensor, mut gradient: Tensor, memory: &mut Option<Memory>, rate: f64) -> Result<()> {
    let mut gradient = gradient.f_add_(&parameter.f_mul_scalar(WEIGHT_DECAY)?)?;
    let buffer = match memory.as_mut().and_then(|memory| memory.buffers.first_mut()) {
        Some(buffer) => buffer.f_mul_scalar_(MOMENTUM)?.f_add_(&gradient)?,
        None => gradient.f_detach_copy()?,
    };
    let mut step = gradient.f_add_(&buffer.f_mul_scalar(MOMENTUM)?)?;
    let _ = parameter.f_sub_(&step.f_mul_scalar_(rate)?)?;
    *memory = Some(Memory {
        steps: 0.0,
        buffers: vec![buffer],
    });
    Ok(())
}

/// torch.optim.Adam, and AdamW with amsgrad.
fn adam(
    kind: OptimiserKind,
    parameter: &mut Tensor,
    mut gradient: Tensor,
    memory: &mut Memory,
    rate: f64,
) -> Result<()> {
    let [beta1, beta2] = ADAM_BETAS;
    let decoupled = kind == OptimiserKind::AdamWAmsgrad;
    if decoupled {
        let _ = parameter.f_mul_scalar_(1.0 - rate * WEIGHT_DECAY)?;
    } else {
        gradient = gradient.f_add_(&parameter.f_mul_scalar(WEIGHT_DECAY)?)?;
    }
    let [mean, square, largest @ ..] = &mut memory.buffers[..] else {
        return Err(another_shape());
    };
    memory.steps += 1.0;
    let _ = mean.f_lerp_(&gradient, 1.0 - beta1)?;
    let _ = square
        .f_mul_scalar_(beta2)?
        .f_add_(&gradient.f_square()?.f_mul_scalar_(1.0 - beta2)?)?;
    let square = match largest {
        [largest, ..] => {
            *largest = largest.f_maximum(square)?;
            largest
        }
        [] => square,
    };
    let unbiased = |beta: f64| 1.0 - beta.powf(memory.steps);
    let scale = square
        .f_sqrt()?
        .f_div_scalar_(unbiased(beta2).sqrt())?
        .f_add_scalar_(EPS)?;
    let mut step = mean.f_div(&scale)?;
    let _ = parameter.f_sub_(&step.f_mul_scalar_(rate / unbiased(beta1))?)?;
    Ok(())
}

/// adan_pytorch.Adan without restarts: moving averages of the gradient (m), of its change (v), and of the square of the
/// gradient looked ahead (n). The first step only remembers the gradient and lets the weights decay.
fn adan(parameter: &mut Tensor, gradient: Tensor, memory: &mut Memory, rate: f64) -> Result<()> {
    let [beta1, beta2, beta3] = ADAN_BETAS;
    let [previous, m, v, n] = &mut memory.buffers[..] else {
        return Err(another_shape());
    };
    let average = |of: &mut Tensor, value: &Tensor, beta: f64| -> Result<()> {
        let _ = of.f_mul_scalar_(1.0 - beta)?.f_add_(&value.f_mul_scalar(beta)?)?;
        Ok(())
    };
    if memory.steps > 0.0 {
        let change = gradient.f_sub(previous)?;
        let ahead = gradient.f_add(&change.f_mul_scalar(1.0 - beta2)?)?;
        average(m, &gradient, beta1)?;
        average(v, &change, beta2)?;
        average(n, &ahead.f_square()?, beta3)?;
    }
    memory.steps += 1.0;
    let unbiased = |beta: f64| 1.0 / (1.0 - (1.0 - beta).powf(memory.steps));
    let scale = n.f_mul_scalar(unbiased(beta3))?.f_sqrt()?.f_add_scalar_(EPS)?;
    let direction = m
        .f_mul_scalar(unbiased(beta1))?
        .f_add_(&v.f_mul_scalar(unbiased(beta2) * (1.0 - beta2))?)?;
    let mut step = direction.f_div(&scale)?;
    let _ = parameter
        .f_sub_(&step.f_mul_scalar_(rate)?)?
        .f_div_scalar_(1.0 + WEIGHT_DECAY * rate)?;
    previous.f_copy_(&gradient)?;
    Ok(())
}

fn another_shape() -> Error {
    Error::invalid("optimiser", "remembers something else than its kind does")
}
