//! What travels between the sites and the average: the weights, and with them the optimiser's momentum where that is
//! averaged too.

use crate::{
    Result,
    checkpoint::safetensors,
    network::{Layout, StateDict},
};

/// What the name of something begins with that the optimiser remembers; its name in the optimiser's state follows. No
/// weight has a slash in its name.
const MOMENTUM: &str = "momentum/";

/// One site's update, or the average of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The weights.
    pub weights: StateDict,
    /// What the optimiser remembers, as in [`MomentumState`](crate::train::MomentumState); empty where it stays at the
    /// site. A head without loss has none.
    pub momentum: StateDict,
}

impl Update {
    /// As safetensors: the weights in their order, then the momentum as `momentum/<weight>.<what it is>`.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        let mut all = self.weights;
        for (name, buffer) in self.momentum {
            all.insert(format!("{MOMENTUM}{name}"), buffer)?;
        }
        Ok(safetensors::to_bytes(&all))
    }

    /// The update that `bytes` hold, for the network of `layout`. `what` names them in errors.
    ///
    /// # Errors
    /// Weights that are not exactly those of `layout`: the error names the tensor. The momentum is checked by the
    /// optimiser that takes it up.
    pub fn from_bytes(bytes: &[u8], what: &str, layout: &Layout) -> Result<Self> {
        let mut update = Self::default();
        for (name, tensor) in safetensors::from_bytes(bytes, what)? {
            match name.strip_prefix(MOMENTUM) {
                Some(remembered) => update.momentum.insert(remembered, tensor)?,
                None => update.weights.insert(name, tensor)?,
            }
        }
        update.weights.check(layout)?;
        Ok(update)
    }
}

/// The weight whose momentum a tensor of an update is; none for a weight itself. A site without a buffer counts as one
/// where it is 0: to SGD the two are the same.
pub(crate) fn weight_of_momentum(name: &str) -> Option<&str> {
    let remembered = name.strip_prefix(MOMENTUM)?;
    Some(
        remembered
            .rsplit_once('.')
            .map_or(remembered, |(weight, _)| weight),
    )
}
