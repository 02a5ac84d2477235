//! One step of an optimiser on libtorch, with nnU-Net's gradient clipping.

use std::collections::BTreeMap;

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
///
/// A step works on vectors of many parameters, not on one parameter after another: on an accelerator an operation on a
/// small tensor takes as long as its launch, and a network has a hundred tensors.
pub struct Optimiser {
    kind: OptimiserKind,
    /// One for each tensor of the layout that is in no group; None: nothing is remembered.
    memories: Vec<Option<Memory>>,
    /// Of the parameters that had gradients at the last step.
    groups: Vec<Group>,
    /// None on the CPU, where nothing is scaled.
    scaler: Option<ScalerState>,
}

/// What is remembered of one parameter, or of a group.
struct Memory {
    /// Updates so far; not counted for SGD, which does not ask.
    steps: f64,
    /// The tensors of [`OptimiserKind::memory`], in its order, without the steps.
    buffers: Vec<Tensor>,
}

/// Parameters that have had as many updates.
struct Group {
    members: Vec<Member>,
    /// Its buffers are vectors of all members' values.
    memory: Memory,
}

/// A parameter's place in the layout, and how it lies in memory.
struct Member {
    index: usize,
    size: Vec<i64>,
    stride: Vec<i64>,
}

impl Memory {
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

impl Group {
    /// What is remembered of each member, by its place in the layout; the tensors are parts of the group's.
    fn memories(&self) -> Result<Vec<(usize, Memory)>> {
        let mut start = 0;
        let of_member = |member: &Member| {
            let part =
                |buffer: &Tensor| Ok(buffer.f_as_strided(&member.size, &member.stride, Some(start))?);
            let memory = Memory {
                steps: self.memory.steps,
                buffers: self.memory.buffers.iter().map(part).collect::<Result<_>>()?,
            };
            start += member.size.iter().product::<i64>();
            Ok((member.index, memory))
        };
        self.members.iter().map(of_member).collect()
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
            groups: Vec::new(),
            scaler,
        })
    }

    /// What is remembered, and the scaler.
    pub fn momentum(&self, layout: &Layout) -> Result<MomentumState> {
        let mut grouped = BTreeMap::new();
        for group in &self.groups {
            grouped.extend(group.memories()?);
        }
        let mut buffers = StateDict::new();
        for (i, parameter) in layout.parameters().iter().enumerate() {
            if let Some(memory) = grouped.get(&i).or(self.memories[i].as_ref()) {
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
            self.group(parameters, &gradients)?;
            let of_group = |group: &Group| {
                let members = group.members.iter().map(|member| member.index);
                let present = members.filter_map(|i| Some((gradients[i].as_ref()?, &parameters[i])));
                let vectors = present
                    .map(|(gradient, parameter)| vector(gradient, parameter))
                    .collect::<Result<Vec<_>>>()?;
                Ok(Tensor::f_cat(&vectors, 0)?)
            };
            let of_groups = self.groups.iter().map(of_group).collect::<Result<Vec<_>>>()?;
            drop(gradients);
            let unscale = 1.0 / self.loss_scale();
            let norms = of_groups.iter().map(norm).collect::<Result<Vec<_>>>()?;
            let norm = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])? * unscale;
            if let Some(scaler) = &mut self.scaler {
                scaler.update(!norm.is_finite());
            }
            if !norm.is_finite() {
                return Ok(norm);
            }
            let factor = unscale * (LARGEST_NORM / (norm + 1e-6)).min(1.0);
            for (group, mut gradient) in self.groups.iter_mut().zip(of_groups) {
                if factor != 1.0 {
                    gradient = gradient.f_mul_scalar_(factor)?;
                }
                let members = group.members.iter().map(|member| &parameters[member.index]);
                let parts = members.map(|p| vector(p, p)).collect::<Result<Vec<_>>>()?;
                let mut values = Tensor::f_cat(&parts, 0)?;
                let memory = &mut group.memory;
                match self.kind {
                    OptimiserKind::Sgd => sgd(&mut values, gradient, memory, learning_rate)?,
                    OptimiserKind::Adan => adan(&mut values, gradient, memory, learning_rate)?,
                    kind => adam(kind, &mut values, gradient, memory, learning_rate)?,
                }
                let sizes: Vec<i64> = parts.iter().map(|part| part.numel() as i64).collect();
                values.f_split_with_sizes_copy_out(&parts, sizes, 0)?;
            }
            Ok(norm)
        })
    }

    /// Makes the groups of the parameters that have gradients, unless they are made.
    fn group(&mut self, parameters: &[Tensor], gradients: &[Option<Tensor>]) -> Result<()> {
        let has_gradient = |i: &usize| gradients[*i].is_some();
        let present: Vec<usize> = (0..gradients.len()).filter(has_gradient).collect();
        let members = self.groups.iter().flat_map(|group| &group.members);
        let mut grouped: Vec<usize> = members.map(|member| member.index).collect();
        grouped.sort_unstable();
        if grouped == present {
            return Ok(());
        }
        for group in self.groups.drain(..) {
            for (i, memory) in group.memories()? {
                self.memories[i] = Some(memory);
            }
        }
        let mut by_steps: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for i in present {
            let steps = self.memories[i].as_ref().map_or(0.0, |memory| memory.steps);
            by_steps.entry(steps.to_bits()).or_default().push(i);
        }
        for (steps, members) in by_steps {
            let memories: Vec<Option<Memory>> = members.iter().map(|&i| self.memories[i].take()).collect();
            let buffer = |k: usize| {
                let vectors = members.iter().zip(&memories).map(|(&i, memory)| match memory {
                    Some(memory) => vector(&memory.buffers[k], &parameters[i]),
                    None => vector(&parameters[i].f_zeros_like()?, &parameters[i]),
                });
                Ok(Tensor::f_cat(&vectors.collect::<Result<Vec<_>>>()?, 0)?)
            };
            let buffers = self.kind.memory().iter().filter(|kind| **kind != STEP).count();
            let memory = Memory {
                steps: f64::from_bits(steps),
                buffers: (0..buffers).map(buffer).collect::<Result<_>>()?,
            };
            let members = members.into_iter().map(|index| Member {
                index,
                size: parameters[index].size(),
                stride: parameters[index].stride(),
            });
            self.groups.push(Group {
                members: members.collect(),
                memory,
            });
        }
        Ok(())
    }
}

/// The values of `tensor` as a vector, in the order in which those of `like` lie in memory, without gaps. Of `like`
/// itself it is the same memory.
fn vector(tensor: &Tensor, like: &Tensor) -> Result<Tensor> {
    let mut tensor = tensor.shallow_clone();
    if tensor.stride() != like.stride() {
        let mut alike = like.f_empty_like()?;
        alike.f_copy_(&tensor)?;
        tensor = alike;
    }
    Ok(tensor.f_as_strided([tensor.numel() as i64], [1], None)?)
}

/// The norm of a vector, by rows: a sum of so many squares one by one would lose digits.
fn norm(vector: &Tensor) -> Result<Tensor> {
    const ROW: i64 = 4096;
    let length = vector.numel() as i64;
    let rows = length / ROW;
    let (whole, rest) = (rows * ROW, length % ROW);
    let rows = vector.f_narrow(0, 0, whole)?.f_view([rows, ROW])?;
    let norms = [
        rows.f_norm_scalaropt_dim(2, [1], false)?.f_norm()?,
        vector.f_narrow(0, whole, rest)?.f_norm()?,
    ];
    Ok(Tensor::f_stack(&norms, 0)?.f_norm()?)
}

/// torch.optim.SGD: the first gradient is the first momentum.
fn sgd(parameter: &mut Tensor, mut gradient: Tensor, memory: &mut Memory, rate: f64) -> Result<()> {
    let [momentum] = &mut memory.buffers[..] else {
        return Err(another_shape());
    };
    let mut gradient = gradient.f_add_(&parameter.f_mul_scalar(WEIGHT_DECAY)?)?;
    let momentum = momentum.f_mul_scalar_(MOMENTUM)?.f_add_(&gradient)?;
    let mut step = gradient.f_add_(&momentum.f_mul_scalar(MOMENTUM)?)?;
    let _ = parameter.f_sub_(&step.f_mul_scalar_(rate)?)?;
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
