//! Differential privacy of what sites send.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Federation, Momentum, TrainingPayload, lax};
use crate::Invalid;

/// What a round adds to a site's weights is cut to a length, and noise is added, before it leaves the site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// The length (L2) to which it is cut.
    pub clip: f64,
    /// The standard deviation of the noise in each weight, by `clip`.
    pub noise_multiplier: f64,
    /// How likely the guarantee may not hold.
    pub delta: f64,
    /// Whose presence is hidden.
    #[serde(deserialize_with = "lax::name")]
    pub unit: PrivacyUnit,
}

/// Whose presence is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrivacyUnit {
    /// All that a site has: whether its cases took part, or none.
    Site,
}

pub(super) fn check(federation: &Federation) -> Result<(), Invalid> {
    let Some(privacy) = &federation.privacy else {
        return Ok(());
    };
    for (field, value) in [
        ("clip", privacy.clip),
        ("noise_multiplier", privacy.noise_multiplier),
    ] {
        if !(value > 0.0 && value.is_finite()) {
            let reason = format!("{value}: expected a number above 0");
            return Err(Invalid::new(format!("federation.privacy.{field}"), reason));
        }
    }
    if !(privacy.delta > 0.0 && privacy.delta < 1.0) {
        let reason = format!("{}: expected a number between 0 and 1", privacy.delta);
        return Err(Invalid::new("federation.privacy.delta", reason));
    }
    if federation.momentum == Momentum::Average {
        let reason =
            "average: cannot be combined with federation.privacy: the momentum would leave without noise";
        return Err(Invalid::new("federation.momentum", reason));
    }
    Ok(())
}

/// The rounds of an earlier job may have given away more than can be known here.
pub(super) fn check_rounds(federation: &Federation, training: &TrainingPayload) -> Result<(), Invalid> {
    if federation.privacy.is_some() && training.starting_fed_round > 0 {
        let reason = format!(
            "{}: cannot be combined with federation.privacy: what the earlier rounds gave away is not counted",
            training.starting_fed_round
        );
        return Err(Invalid::new("payload.starting_fed_round", reason));
    }
    Ok(())
}
