//! Pass 2: which samples stand at the wanted ranks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Scan, coarse,
    sample::{CaseSamples, add_counts, halves, over_cases},
};
use crate::{
    Error, Result,
    dataset::{RawCase, RawDataset},
    progress::Observer,
};

/// The percentiles of the fingerprint: 0.5, 50 and 99.5.
pub(super) const QUANTILES: [f64; 3] = [0.5 / 100.0, 50.0 / 100.0, 99.5 / 100.0];

/// The high halves, per channel, in which the wanted ranks lie: what pass 2 looks into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// N, as in [`Scan::cases_in_total`].
    pub cases_in_total: u64,
    /// Per channel.
    pub high: Vec<BTreeSet<u16>>,
}

/// How many samples of each wanted high half have each low half. Merges like a [`Scan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Per channel: wanted high half to low half to count.
    pub channels: Vec<BTreeMap<u16, BTreeMap<u16, u64>>>,
}

/// Looks into `cases` once more. No bin holds fewer than `least_count` samples, as in the scan of the same cases.
///
/// # Errors
/// As of [`scan`](super::scan()); a request for another number of channels.
pub fn select(
    dataset: &RawDataset,
    cases: &[RawCase],
    wanted: &Wanted,
    least_count: u64,
    observer: &dyn Observer,
) -> Result<Selection> {
    let (asked, expected) = (wanted.high.len(), dataset.dataset_json.channels());
    if asked != expected {
        return Err(invalid(format!(
            "it is wanted of {asked} channels, but dataset.json names {expected}"
        )));
    }
    let coarse = least_count > 1;
    let looked = over_cases(
        dataset,
        cases,
        wanted.cases_in_total,
        observer,
        |samples| Looked::of(&samples, wanted, coarse),
        || Looked::nowhere(wanted),
        Looked::and,
    )?;
    match coarse {
        true => looked.coarse(least_count),
        false => Ok(looked.selection),
    }
}

/// A selection, with the whole histogram of the same samples where small bins are to be merged.
struct Looked {
    selection: Selection,
    high: Vec<BTreeMap<u16, u64>>,
}

impl Looked {
    fn nowhere(wanted: &Wanted) -> Self {
        Self {
            selection: Selection::empty(wanted),
            high: vec![BTreeMap::new(); wanted.high.len()],
        }
    }

    fn of(case: &CaseSamples, wanted: &Wanted, with_histogram: bool) -> Self {
        let mut looked = Self::nowhere(wanted);
        looked.selection.add(case);
        if with_histogram {
            for (high, samples) in looked.high.iter_mut().zip(&case.channels) {
                for &(value, count) in samples {
                    *high.entry(halves(value).0).or_default() += u64::from(count);
                }
            }
        }
        looked
    }

    fn and(mut self, other: Self) -> Result<Self> {
        self.selection.merge(&other.selection)?;
        for (high, other) in self.high.iter_mut().zip(&other.high) {
            add_counts(high, other).ok_or_else(overflow)?;
        }
        Ok(self)
    }

    fn coarse(self, least: u64) -> Result<Selection> {
        let mut selection = self.selection;
        for (bins, high) in selection.channels.iter_mut().zip(&self.high) {
            let groups = coarse::groups(high, least)?;
            for (&bin, lows) in bins {
                *lows = coarse::lows(bin, lows, high, &groups, least)?;
            }
        }
        Ok(selection)
    }
}

/// numpy's linear interpolation: the ranks around a quantile of `count` values, and the weight of the upper.
pub(super) fn ranks_around(count: u64, quantile: f64) -> (u64, u64, f64) {
    let last = count - 1;
    let position = last as f64 * quantile;
    let lower = position.floor();
    if position >= last as f64 {
        return (last, last, 0.0);
    }
    (lower as u64, lower as u64 + 1, position - lower)
}

impl Wanted {
    /// Where the ranks of minimum, maximum, median and the two percentiles lie, once all scans are merged.
    ///
    /// # Errors
    /// A channel without any sample: no case of any site has foreground. Cases are missing or too many.
    pub fn of(scan: &Scan) -> Result<Wanted> {
        let (found, expected) = (scan.cases.len() as u64, scan.cases_in_total);
        if found != expected {
            return Err(invalid(format!(
                "{found} cases were scanned, but there are {expected} in total"
            )));
        }
        let mut high = Vec::with_capacity(scan.channels.len());
        for channel in &scan.channels {
            if channel.count == 0 {
                return Err(invalid("no case has any foreground".into()));
            }
            let mut wanted: BTreeSet<u64> = BTreeSet::from([0, channel.count - 1]);
            for quantile in QUANTILES {
                let (lower, upper, _) = ranks_around(channel.count, quantile);
                wanted.extend([lower, upper]);
            }
            let mut bins = BTreeSet::new();
            let mut below = 0;
            for (&bin, &count) in &channel.high {
                if wanted.range(below..below + count).next().is_some() {
                    bins.insert(bin);
                }
                below += count;
            }
            high.push(bins);
        }
        Ok(Wanted {
            cases_in_total: scan.cases_in_total,
            high,
        })
    }
}

impl Selection {
    /// The selection of no cases, to merge others into.
    pub fn empty(wanted: &Wanted) -> Selection {
        let bins = |high: &BTreeSet<u16>| high.iter().map(|&bin| (bin, BTreeMap::new())).collect();
        Selection {
            channels: wanted.high.iter().map(bins).collect(),
        }
    }

    /// Adds the samples of a case that lie in the wanted bins.
    fn add(&mut self, case: &CaseSamples) {
        for (bins, samples) in self.channels.iter_mut().zip(&case.channels) {
            for &(value, count) in samples {
                let (high, low) = halves(value);
                if let Some(lows) = bins.get_mut(&high) {
                    *lows.entry(low).or_default() += u64::from(count);
                }
            }
        }
    }

    /// Adds another selection of other cases.
    ///
    /// # Errors
    /// The selections looked into different high halves.
    pub fn merge(&mut self, other: &Selection) -> Result<()> {
        let same_bins = self.channels.len() == other.channels.len()
            && self
                .channels
                .iter()
                .zip(&other.channels)
                .all(|(a, b)| a.keys().eq(b.keys()));
        if !same_bins {
            return Err(invalid(
                "two selections looked into different parts of the histogram".into(),
            ));
        }
        for (bins, other) in self.channels.iter_mut().zip(&other.channels) {
            for (lows, other) in bins.values_mut().zip(other.values()) {
                add_counts(lows, other).ok_or_else(overflow)?;
            }
        }
        Ok(())
    }
}

fn overflow() -> Error {
    invalid("its counts do not fit 64 bits".into())
}

/// Selections that do not fit each other, the scan, or the data.
pub(super) fn invalid(reason: String) -> Error {
    Error::invalid("fingerprint selection", reason)
}
