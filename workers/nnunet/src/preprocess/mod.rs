//! From raw scans to the cases that the network sees.

pub mod crop;
