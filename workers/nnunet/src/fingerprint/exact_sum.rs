//! Sums without rounding.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A sum in fixed point, in two's complement over 64 bits times `LIMBS`, least significant limb first.
///
/// Adding is exact and so independent of order. Serialised as hex, most significant digit first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExactSum<const LIMBS: usize> {
    limbs: [u64; LIMBS],
}

impl<const LIMBS: usize> Default for ExactSum<LIMBS> {
    fn default() -> Self {
        Self { limbs: [0; LIMBS] }
    }
}

impl<const LIMBS: usize> Serialize for ExactSum<LIMBS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:x?}", self.limbs))
    }
}

impl<'de, const LIMBS: usize> Deserialize<'de> for ExactSum<LIMBS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        todo!("{text}")
    }
}
