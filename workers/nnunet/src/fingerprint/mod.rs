//! The data set fingerprint, exact over any number of sites.
//!
//! nnU-Net draws `1e8 // N` foreground voxels of each case, N being the number of all cases, with the same seed
//! for each case (nnunetv2/experiment_planning/dataset_fingerprint/fingerprint_extractor.py). With N known,
//! every site draws what the pooled run would draw, and sends integers that add up in any order:
//!
//! 1. [`scan`]: counts, exact sums, and how many samples have each high half of the ordered float bits;
//! 2. [`select`]: for the halves in which a wanted rank lies, how many samples have each low half;
//! 3. [`finish`]: the values at those ranks, interpolated as numpy does.
//!
//! A site may ask that no bin holds fewer than so many samples: smaller ones are merged with their neighbours (`coarse`),
//! and the fingerprint says that it is approximate. What a site adds can be told as numbers that are hidden in a sum
//! (`numbers`).
//!
//! Percentiles, median, minimum and maximum equal nnU-Net's bit for bit. Mean and deviation are exact here;
//! nnU-Net rounds them in float32.

mod coarse;
mod exact_sum;
mod finish;
mod numbers;
mod sample;
mod scan;
mod select;
#[cfg(test)]
mod tests;

pub use exact_sum::{ExactSum, Sum, SumOfSquares};
pub use finish::{extract, finish};
pub use numbers::{ScanNumbers, SelectionNumbers};
pub use scan::{CaseShape, ChannelScan, Scan, scan};
pub use select::{Selection, Wanted, select};
