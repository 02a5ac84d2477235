//! Pass 1: what can be summed without knowing the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    coarse,
    exact_sum::{Sum, SumOfSquares},
    sample::{CaseSamples, add_counts, halves, over_cases, samples_per_case},
};
use crate::{
    Error, Result,
    dataset::{RawCase, RawDataset},
    progress::Observer,
};

/// What some cases contribute to the fingerprint. Merging is independent of order and of how cases are sharded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// N: the number of cases of all sites, on which the number of samples of a case depends.
    pub cases_in_total: u64,
    /// One entry per case, sorted.
    pub cases: Vec<CaseShape>,
    /// The number of cases without any foreground.
    pub without_foreground: u64,
    /// One entry per channel.
    pub channels: Vec<ChannelScan>,
    /// Whether a bin stands for neighbours that held too few samples.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approximate: bool,
}

/// The grid of a case. Spacings are kept as bits so that they sort and compare exactly; all are positive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseShape {
    /// Voxels (z, y, x) after cropping to nonzero.
    pub after: [u64; 3],
    /// Bits of the spacing (z, y, x) in mm.
    pub spacing_bits: [u64; 3],
    /// Voxels (z, y, x) before cropping.
    pub before: [u64; 3],
}

/// The samples of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelScan {
    /// The number of samples.
    pub count: u64,
    /// The exact sum of the samples.
    pub sum: Sum,
    /// The exact sum of their squares.
    pub sum_of_squares: SumOfSquares,
    /// How many samples have each high half of the ordered float bits.
    pub high: BTreeMap<u16, u64>,
}

/// Scans `cases` of a data set; `cases_in_total` counts the cases of all sites. No bin holds fewer than `least_count`
/// samples.
///
/// # Errors
/// A case that cannot be read, does not fit its segmentation, or holds NaN; fewer samples than `least_count` in all;
/// [`crate::Error::Stopped`].
pub fn scan(
    dataset: &RawDataset,
    cases: &[RawCase],
    cases_in_total: u64,
    least_count: u64,
    observer: &dyn Observer,
) -> Result<Scan> {
    let channels = dataset.dataset_json.channels();
    let mut scan = over_cases(
        dataset,
        cases,
        cases_in_total,
        observer,
        |samples| Scan::of(samples, cases_in_total),
        || Scan::empty(channels, cases_in_total),
        |mut a, b| {
            a.merge(&b)?;
            Ok(a)
        },
    )?;
    if least_count > 1 {
        for channel in &mut scan.channels {
            let groups = coarse::groups(&channel.high, least_count)?;
            channel.high = coarse::merged(&channel.high, &groups);
        }
        scan.approximate = true;
    }
    Ok(scan)
}

impl Scan {
    /// The scan of no cases, to merge others into.
    pub fn empty(channels: usize, cases_in_total: u64) -> Scan {
        let channels = vec![ChannelScan::default(); channels];
        Scan {
            cases_in_total,
            cases: Vec::new(),
            without_foreground: 0,
            channels,
            approximate: false,
        }
    }

    fn of(case: CaseSamples, cases_in_total: u64) -> Scan {
        let without_foreground = u64::from(case.channels.iter().all(Vec::is_empty));
        let channels = case.channels.iter().map(|samples| {
            let mut channel = ChannelScan::default();
            for &(value, count) in samples {
                channel.count += u64::from(count);
                channel.sum.add(value, count);
                channel.sum_of_squares.add_square(value, count);
                *channel.high.entry(halves(value).0).or_default() += u64::from(count);
            }
            channel
        });
        Scan {
            cases_in_total,
            channels: channels.collect(),
            cases: vec![case.shape],
            without_foreground,
            approximate: false,
        }
    }

    /// Adds another scan of other cases.
    ///
    /// # Errors
    /// The scans differ in their number of channels or of cases in total, or `other` contradicts itself.
    pub fn merge(&mut self, other: &Scan) -> Result<()> {
        other.check()?;
        if self.cases_in_total != other.cases_in_total {
            let (ours, theirs) = (self.cases_in_total, other.cases_in_total);
            return Err(invalid(format!(
                "one was drawn for {ours} cases in total, another for {theirs}"
            )));
        }
        if self.channels.len() != other.channels.len() {
            let (ours, theirs) = (self.channels.len(), other.channels.len());
            return Err(invalid(format!("one has {ours} channels, another {theirs}")));
        }
        let overflow = || invalid("its counts do not fit 64 bits".into());
        self.without_foreground = self
            .without_foreground
            .checked_add(other.without_foreground)
            .ok_or_else(overflow)?;
        for (channel, other) in self.channels.iter_mut().zip(&other.channels) {
            channel.count = channel.count.checked_add(other.count).ok_or_else(overflow)?;
            channel.sum.merge(&other.sum);
            channel.sum_of_squares.merge(&other.sum_of_squares);
            add_counts(&mut channel.high, &other.high).ok_or_else(overflow)?;
        }
        self.approximate |= other.approximate;
        self.cases.extend_from_slice(&other.cases);
        self.cases.sort_unstable();
        Ok(())
    }

    /// What must hold for the scan of any cases, whoever made it.
    fn check(&self) -> Result<()> {
        let cases = self.cases.len() as u64;
        if cases > self.cases_in_total || self.without_foreground > cases {
            let (without, total) = (self.without_foreground, self.cases_in_total);
            return Err(invalid(format!(
                "it has {cases} cases, {without} of them without foreground, of {total}"
            )));
        }
        let expected = (cases - self.without_foreground).checked_mul(samples_per_case(self.cases_in_total));
        for (index, channel) in self.channels.iter().enumerate() {
            let binned = channel
                .high
                .values()
                .try_fold(0u64, |sum, &count| sum.checked_add(count));
            if expected != Some(channel.count) || binned != expected {
                let (count, cases) = (channel.count, cases - self.without_foreground);
                return Err(invalid(format!(
                    "channel {index} has {count} samples of {cases} cases with foreground"
                )));
            }
        }
        let fits = |case: &CaseShape| {
            let spacing = case.spacing_bits.map(f64::from_bits);
            (0..3).all(|axis| (1..=case.before[axis]).contains(&case.after[axis]))
                && spacing.iter().all(|&s| s.is_finite() && s > 0.0)
        };
        match self.cases.iter().find(|case| !fits(case)) {
            Some(case) => Err(invalid(format!(
                "a case of {:?} voxels, {:?} after cropping, with spacing {:?}",
                case.before,
                case.after,
                case.spacing_bits.map(f64::from_bits)
            ))),
            None => Ok(()),
        }
    }
}

/// Two scans that do not fit, or one that cannot be right.
fn invalid(reason: String) -> Error {
    Error::invalid("fingerprint scan", reason)
}
