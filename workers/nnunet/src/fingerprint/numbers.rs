//! What a site adds to the fingerprint as lists of numbers that add up place by place, modulo 2^64: such lists can be
//! hidden in their sum ([`secure_sum::hide`](crate::secure_sum::hide)). Shapes and spacings are values, not sums, and stand
//! beside them.

use serde::{Deserialize, Serialize};

use super::{
    CaseShape, ChannelScan, Scan, Selection, Wanted,
    exact_sum::{Sum, SumOfSquares},
};
use crate::{Error, Result};

/// The values of a half of a float's bits.
const BINS: usize = 1 << 16;
/// Numbers of a channel's scan: the count, the sum, the sum of squares, the histogram.
const OF_CHANNEL: usize = 1 + Sum::HALVES + SumOfSquares::HALVES + BINS;

/// A [`Scan`] as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScanNumbers {
    /// As of the scan.
    pub cases_in_total: u64,
    /// As of the scan.
    pub cases: Vec<CaseShape>,
    /// As of the scan.
    pub approximate: bool,
    /// How many cases have no foreground, then the channels one after the other: see the scan of one.
    pub numbers: Vec<u64>,
}

/// A [`Selection`] as numbers: for each channel and wanted high half the counts of all low halves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionNumbers {
    /// The counts.
    pub numbers: Vec<u64>,
}

impl From<Scan> for ScanNumbers {
    fn from(scan: Scan) -> Self {
        let mut numbers = Vec::with_capacity(1 + OF_CHANNEL * scan.channels.len());
        numbers.push(scan.without_foreground);
        for channel in &scan.channels {
            numbers.push(channel.count);
            numbers.extend(channel.sum.halves());
            numbers.extend(channel.sum_of_squares.halves());
            put_bins(&mut numbers, &channel.high);
        }
        Self {
            cases_in_total: scan.cases_in_total,
            cases: scan.cases,
            approximate: scan.approximate,
            numbers,
        }
    }
}

impl ScanNumbers {
    /// Adds the numbers of other cases.
    ///
    /// # Errors
    /// They are of another number of channels or of cases in total.
    pub fn add(&mut self, other: Self) -> Result<()> {
        if self.cases_in_total != other.cases_in_total {
            let (ours, theirs) = (self.cases_in_total, other.cases_in_total);
            let reason = format!("one was drawn for {ours} cases in total, another for {theirs}");
            return Err(Error::invalid("fingerprint scan", reason));
        }
        add(&mut self.numbers, &other.numbers, "fingerprint scan")?;
        self.cases.extend(other.cases);
        self.approximate |= other.approximate;
        Ok(())
    }

    /// The scan of which these are the numbers.
    ///
    /// # Errors
    /// They are of no scan: one of the lists that were added is wrong, or hidden for another sum.
    pub fn scan(mut self) -> Result<Scan> {
        let wrong = || {
            Error::invalid(
                "fingerprint scan",
                format!("{} numbers: no scan has so many", self.numbers.len()),
            )
        };
        let (without_foreground, channels) = self.numbers.split_first().ok_or_else(wrong)?;
        if channels.len() % OF_CHANNEL != 0 {
            return Err(wrong());
        }
        self.cases.sort_unstable();
        let mut scan = Scan::empty(channels.len() / OF_CHANNEL, self.cases_in_total);
        let read = Scan {
            cases_in_total: self.cases_in_total,
            without_foreground: *without_foreground,
            channels: channels.chunks_exact(OF_CHANNEL).map(channel).collect(),
            cases: self.cases,
            approximate: self.approximate,
        };
        // Which holds it against itself.
        scan.merge(&read)?;
        Ok(scan)
    }
}

fn channel(numbers: &[u64]) -> ChannelScan {
    let (count, rest) = numbers.split_at(1);
    let (sum, rest) = rest.split_at(Sum::HALVES);
    let (squares, bins) = rest.split_at(SumOfSquares::HALVES);
    ChannelScan {
        count: count[0],
        sum: Sum::from_halves(sum),
        sum_of_squares: SumOfSquares::from_halves(squares),
        high: counts(bins),
    }
}

impl From<&Selection> for SelectionNumbers {
    fn from(selection: &Selection) -> Self {
        let mut numbers = Vec::new();
        for lows in selection.channels.iter().flat_map(|bins| bins.values()) {
            put_bins(&mut numbers, lows);
        }
        Self { numbers }
    }
}

impl SelectionNumbers {
    /// Adds the numbers of other cases.
    ///
    /// # Errors
    /// They are of another number of bins.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        add(&mut self.numbers, &other.numbers, "fingerprint selection")
    }

    /// The selection of which these are the numbers.
    ///
    /// # Errors
    /// They are not of so many bins.
    pub fn selection(&self, wanted: &Wanted) -> Result<Selection> {
        let mut selection = Selection::empty(wanted);
        let bins = selection.channels.iter().map(|bins| bins.len()).sum::<usize>();
        if self.numbers.len() != bins * BINS {
            let reason = format!("{} numbers: expected {}", self.numbers.len(), bins * BINS);
            return Err(Error::invalid("fingerprint selection", reason));
        }
        let lows = selection.channels.iter_mut().flat_map(|bins| bins.values_mut());
        for (lows, numbers) in lows.zip(self.numbers.chunks_exact(BINS)) {
            *lows = counts(numbers);
        }
        Ok(selection)
    }
}

fn put_bins(numbers: &mut Vec<u64>, counts: &std::collections::BTreeMap<u16, u64>) {
    let first = numbers.len();
    numbers.resize(first + BINS, 0);
    for (&bin, &count) in counts {
        numbers[first + usize::from(bin)] = count;
    }
}

fn counts(numbers: &[u64]) -> std::collections::BTreeMap<u16, u64> {
    let bins = (0..=u16::MAX).zip(numbers);
    bins.filter(|(_, count)| **count > 0)
        .map(|(bin, count)| (bin, *count))
        .collect()
}

fn add(numbers: &mut [u64], other: &[u64], what: &str) -> Result<()> {
    if numbers.len() != other.len() {
        let reason = format!("one has {} numbers, another {}", numbers.len(), other.len());
        return Err(Error::invalid(what, reason));
    }
    for (number, other) in numbers.iter_mut().zip(other) {
        *number = number.wrapping_add(*other);
    }
    Ok(())
}
