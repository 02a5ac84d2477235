//! The weights of a network: unique tensors by name.

use indexmap::IndexMap;

use super::{Layout, ParameterRole};
use crate::{Error, Result};

/// A float32 tensor in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor32 {
    /// Size of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values, last axis fastest.
    pub data: Vec<f32>,
}

impl Tensor32 {
    /// A tensor; fails where `data` does not fill `shape`.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Result<Self> {
        let expected = shape
            .iter()
            .try_fold(1usize, |product, &n| product.checked_mul(n));
        if expected != Some(data.len()) {
            return Err(Error::invalid(
                "tensor",
                format!("{} values do not fill shape {shape:?}", data.len()),
            ));
        }
        Ok(Self { shape, data })
    }
}

/// Unique tensors by name, in nnU-Net's optimizer parameter order (encoder, decoder.stages, transpconvs, seg_layers).
///
/// nnU-Net's own state_dict repeats each tensor up to four times; [`Layout::aliases`] says under which keys.
/// The name kept here is the first of them. Also holds what the optimiser remembers, under names of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    tensors: IndexMap<String, Tensor32>,
}

impl StateDict {
    /// No tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor at the end; a name that is there already is an error.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor32) -> Result<()> {
        let name = name.into();
        if self.tensors.contains_key(&name) {
            return Err(Error::invalid(format!("tensor {name}"), "appears twice"));
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor32> {
        self.tensors.get(name)
    }

    /// The tensor of that name, to change its values.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Tensor32> {
        self.tensors.get_mut(name)
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor32)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True without tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of values in all tensors.
    pub fn value_count(&self) -> usize {
        self.tensors.values().map(|t| t.data.len()).sum()
    }

    /// Fails unless names, their order and shapes are exactly those of `layout`, naming the first key that is not; and
    /// where a variance or a count is negative.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        self.check_names(layout)?;
        for parameter in layout.parameters() {
            if !self.tensors.contains_key(&parameter.name) {
                return Err(Error::invalid(
                    format!("tensor {}", parameter.name),
                    format!("missing; the plans expect shape {:?}", parameter.shape),
                ));
            }
        }
        for (index, (parameter, name)) in layout.parameters().iter().zip(self.names()).enumerate() {
            if parameter.name != name {
                return Err(Error::invalid(
                    format!("tensor {index}"),
                    format!("is {name}, the plans' order expects {}", parameter.name),
                ));
            }
            let no_less_than_0 = matches!(
                parameter.role,
                ParameterRole::RunningVariance | ParameterRole::BatchCount
            );
            if no_less_than_0 && self.tensors[name].data.iter().any(|v| *v < 0.0) {
                return Err(Error::invalid(format!("tensor {name}"), "holds a negative value"));
            }
        }
        Ok(())
    }

    /// Fails where a tensor is not a parameter of `layout` or has another shape. Tensors may be missing: a momentum
    /// has no buffer for a head without loss.
    pub fn check_names(&self, layout: &Layout) -> Result<()> {
        for (name, tensor) in self.iter() {
            let Some(parameter) = layout.parameter(name) else {
                return Err(Error::invalid(
                    format!("tensor {name}"),
                    format!("shape {:?}: not a parameter of the plans' network", tensor.shape),
                ));
            };
            if parameter.shape != tensor.shape {
                return Err(Error::invalid(
                    format!("tensor {name}"),
                    format!(
                        "has shape {:?}, the plans expect {:?}",
                        tensor.shape, parameter.shape
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The length (L2) of the difference to `other`, over the tensors that both have in the same shape.
    pub fn distance(&self, other: &StateDict) -> f64 {
        let mut squares = 0.0;
        for (name, tensor) in self.iter() {
            if let Some(other) = other.get(name).filter(|other| other.shape == tensor.shape) {
                let pairs = tensor.data.iter().zip(&other.data);
                squares += pairs
                    .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                    .sum::<f64>();
            }
        }
        squares.sqrt()
    }

    /// Fails where a value is NaN or infinite, naming tensor and position.
    pub fn check_finite(&self) -> Result<()> {
        for (name, tensor) in self.iter() {
            if let Some(position) = tensor.data.iter().position(|v| !v.is_finite()) {
                return Err(Error::invalid(
                    format!("tensor {name}"),
                    format!(
                        "value {position} of {} is {}",
                        tensor.data.len(),
                        tensor.data[position]
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl IntoIterator for StateDict {
    type Item = (String, Tensor32);
    type IntoIter = indexmap::map::IntoIter<String, Tensor32>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}
