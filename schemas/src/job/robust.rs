//! Which averages withstand a poisoned update, and what they cannot be combined with.

use super::{Algorithm, Federation, Momentum};
use crate::Invalid;

/// Sites below which nothing tells a poisoned update from the others.
const LEAST: usize = 3;

/// `sites`: how many take part.
pub(super) fn check(federation: &Federation, sites: usize) -> Result<(), Invalid> {
    // A round may go on with so many.
    let least = federation.min_sites.map_or(sites, |least| least as usize);
    trim(federation, least)?;
    let path = "federation.norm_bound";
    if let Some(bound) = federation.norm_bound {
        if !(bound > 0.0 && bound.is_finite()) {
            return Err(Invalid::new(path, format!("{bound}: expected a number above 0")));
        }
        if by_coordinate(federation) {
            let reason = "given, but the algorithm is neither fedavg nor fedprox";
            return Err(Invalid::new(path, reason));
        }
    }
    let field = match federation.norm_bound {
        Some(_) => path,
        None if by_coordinate(federation) => "federation.algorithm",
        None => return Ok(()),
    };
    if least < LEAST {
        let reason =
            format!("guards against nothing where a round may go on with {least} sites: expected {LEAST}");
        return Err(Invalid::new(field, reason));
    }
    if federation.momentum == Momentum::Average {
        let reason = format!("average: cannot be combined with {field}, which does not guard the momentum");
        return Err(Invalid::new("federation.momentum", reason));
    }
    Ok(())
}

fn by_coordinate(federation: &Federation) -> bool {
    matches!(federation.algorithm, Algorithm::Median | Algorithm::TrimmedMean)
}

fn trim(federation: &Federation, least: usize) -> Result<(), Invalid> {
    let wrong = |reason: String| Err(Invalid::new("federation.trim", reason));
    match (federation.algorithm, federation.trim) {
        (Algorithm::TrimmedMean, None) => {
            wrong("missing: algorithm trimmed-mean needs how many sites are cut at each end".into())
        }
        (Algorithm::TrimmedMean, Some(trim)) if trim == 0 || 2 * trim as usize >= least => wrong(format!(
            "{trim}: expected at least 1, and twice it below the {least} sites that a round may go on with"
        )),
        (Algorithm::TrimmedMean, Some(_)) | (_, None) => Ok(()),
        (_, Some(_)) => wrong("given, but the algorithm is not trimmed-mean".into()),
    }
}
