//! Secure aggregation: the orchestrator learns the sum of the sites' weights, and of their fingerprints' counts, and no
//! site's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Algorithm, Federation, Momentum, Weighting, lax};
use crate::Invalid;

/// The fewest sites whose sum tells nobody's own weights.
const LEAST: u32 = 3;
/// The most: what they tell each other has to fit in one message.
const MOST: u32 = 32;

/// Secure aggregation (Bonawitz et al. 2017); `{}` takes the defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecureAggregation {
    /// Sites that must answer to take the masks off; the default is two thirds of all, rounded up.
    #[serde(
        deserialize_with = "lax::optional_u32",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 3, max = 32))]
    pub threshold: Option<u32>,
    /// How long (L2) what a round added to a site's weights may be: beyond it the site sends nothing and fails. The
    /// orchestrator cannot look at a single update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_norm: Option<f64>,
}

impl SecureAggregation {
    /// How many of `sites` must answer: at least 3 and more than half, so that no two groups of so many exist that could
    /// be told unlike stories.
    pub fn threshold(&self, sites: usize) -> usize {
        let default = (2 * sites).div_ceil(3).max(sites / 2 + 1).max(LEAST as usize);
        self.threshold.map_or(default, |threshold| threshold as usize)
    }
}

/// `sites`: how many take part.
pub(super) fn check(federation: &Federation, sites: usize) -> Result<(), Invalid> {
    let Some(secure) = &federation.secure_aggregation else {
        return Ok(());
    };
    let path = "federation.secure_aggregation";
    let wrong = |field: &str, reason: String| Err(Invalid::new(field, reason));
    if !(LEAST as usize..=MOST as usize).contains(&sites) {
        return wrong(path, format!("{sites} data sets: expected {LEAST} to {MOST}"));
    }
    let threshold = secure.threshold(sites);
    if threshold < LEAST as usize || 2 * threshold <= sites || threshold > sites {
        return wrong(
            "federation.secure_aggregation.threshold",
            format!(
                "{threshold}: expected at least {LEAST}, more than half of the {sites} sites, and at most all"
            ),
        );
    }
    if let Some(least) = federation.min_sites.filter(|least| (*least as usize) < threshold) {
        return wrong(
            "federation.min_sites",
            format!("{least}: expected at least federation.secure_aggregation.threshold, {threshold}"),
        );
    }
    if let Some(norm) = secure
        .largest_norm
        .filter(|norm| !(*norm > 0.0 && norm.is_finite()))
    {
        return wrong(
            "federation.secure_aggregation.largest_norm",
            format!("{norm}: expected a number above 0"),
        );
    }
    let with = format!("cannot be combined with {path}");
    if !matches!(federation.algorithm, Algorithm::Fedavg | Algorithm::Fedprox) {
        return wrong(
            "federation.algorithm",
            format!("{with}: the orchestrator sees the sum alone"),
        );
    }
    if federation.norm_bound.is_some() {
        return wrong(
            "federation.norm_bound",
            format!("{with}: the orchestrator sees no single update; largest_norm is held at the sites"),
        );
    }
    if federation.momentum == Momentum::Average {
        return wrong("federation.momentum", format!("average: {with}"));
    }
    if federation.round_seconds.is_some() {
        return wrong(
            "federation.round_seconds",
            format!("{with}: what a site counts must be known before it trains"),
        );
    }
    if federation.weighting == Weighting::Iterations {
        return wrong(
            "federation.weighting",
            format!("iterations: {with}; all sites do the same number, so equal is the same"),
        );
    }
    Ok(())
}
