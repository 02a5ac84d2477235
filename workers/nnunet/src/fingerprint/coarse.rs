//! Bins of few samples, merged with their neighbours: what lies in a bin that leaves a site is never a few cases' own.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// For each bin the one that stands for it: the fullest of its group. A group is neighbouring bins that hold `least`
/// samples together, as few of them as do; what is left at the end joins the last.
///
/// # Errors
/// All bins together hold fewer than `least` samples.
pub(super) fn groups(counts: &BTreeMap<u16, u64>, least: u64) -> Result<BTreeMap<u16, u16>> {
    let mut groups: Vec<Vec<(u16, u64)>> = Vec::new();
    let mut held = least;
    for (&bin, &count) in counts {
        if held >= least {
            groups.push(Vec::new());
            held = 0;
        }
        held = held.saturating_add(count);
        groups
            .last_mut()
            .expect("the first bin opens one")
            .push((bin, count));
    }
    if held < least {
        let rest = groups.pop().unwrap_or_default();
        let last = groups.last_mut().ok_or_else(|| {
            let reason = format!("{held} samples: fewer than a bin must hold, {least}");
            Error::invalid("fingerprint", reason)
        })?;
        last.extend(rest);
    }
    Ok(groups
        .iter()
        .flat_map(|group| {
            // The first of the fullest.
            let fullest = group.iter().rev().max_by_key(|(_, count)| *count);
            let stands = fullest.map_or(0, |(bin, _)| *bin);
            group.iter().map(move |(bin, _)| (*bin, stands))
        })
        .collect())
}

/// The counts with each group's in the bin that stands for it.
pub(super) fn merged(counts: &BTreeMap<u16, u64>, groups: &BTreeMap<u16, u16>) -> BTreeMap<u16, u64> {
    let mut merged = BTreeMap::new();
    for (bin, count) in counts {
        *merged.entry(groups[bin]).or_default() += count;
    }
    merged
}

/// The low halves of the samples that count in the high half `bin`: its own, and at its ends those of the bins it
/// stands for.
pub(super) fn lows(
    bin: u16,
    own: &BTreeMap<u16, u64>,
    high: &BTreeMap<u16, u64>,
    groups: &BTreeMap<u16, u16>,
    least: u64,
) -> Result<BTreeMap<u16, u64>> {
    if groups.get(&bin) != Some(&bin) {
        return Ok(BTreeMap::new());
    }
    let mut lows = own.clone();
    for (other, _) in groups
        .iter()
        .filter(|(other, stands)| **stands == bin && **other != bin)
    {
        let end = if *other < bin { 0 } else { u16::MAX };
        *lows.entry(end).or_default() += high[other];
    }
    let among = self::groups(&lows, least)?;
    Ok(merged(&lows, &among))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bins_join_their_neighbours() {
        let counts = BTreeMap::from([(3, 1), (5, 9), (6, 2), (9, 10), (20, 3), (30, 1)]);
        let groups = groups(&counts, 10).unwrap();
        // {3, 5}, {6, 9}, and {20, 30} with the last.
        assert_eq!(
            groups,
            BTreeMap::from([(3, 5), (5, 5), (6, 9), (9, 9), (20, 9), (30, 9)])
        );
        assert_eq!(merged(&counts, &groups), BTreeMap::from([(5, 10), (9, 16)]));
        let own = BTreeMap::from([(7, 4), (8, 5)]);
        // One sample lies below the bin, none above.
        assert_eq!(
            lows(5, &own, &counts, &groups, 5).unwrap(),
            BTreeMap::from([(7, 5), (8, 5)])
        );
        assert!(lows(6, &own, &counts, &groups, 5).unwrap().is_empty());
    }

    #[test]
    fn too_few_samples_are_an_error() {
        let error = groups(&BTreeMap::from([(3, 4)]), 5).unwrap_err().to_string();
        assert!(error.contains("4 samples") && error.contains('5'), "{error}");
        assert!(groups(&BTreeMap::new(), 5).unwrap().is_empty());
    }
}
