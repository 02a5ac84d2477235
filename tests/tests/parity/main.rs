//! Rounds against Python nnU-Net 2.8.1, part by part. These tests never skip for lack of Python.

mod learning;
mod network;

mod augment;
mod bfloat16;
mod checkpoints;
mod configurations;
mod continued;
mod data;
mod formats;
mod formats_written;
mod inference;
mod model;
mod payloads;
mod plan;
mod preprocess;
mod resample;
mod stages;
mod trainers;
