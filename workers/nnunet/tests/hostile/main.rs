//! Data that are broken, lie, or mean harm.

mod data;
mod documents;
mod harms;
mod mutated;
mod scans;
mod stored;
